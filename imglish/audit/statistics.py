"""Every number of the report, from the manifest, the decisions and the metadata beside the shards.

    values = collect(Tables("corpus/manifest.json"), choice)
    values["pair"]["language"]["en"]["share"]

Counts are integers. Shares are rounded to 6 decimals and perplexities to 2, each computed once from final counts, so
the same files give the same values whatever the order or number of shards. `audit.json` is this dictionary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.audit.choice import Choice
from imglish.audit.findings import findings
from imglish.audit.funnel import funnel
from imglish.audit.histograms import add, add_all, bins, perplexity, quantiles, share
from imglish.audit.tables import Tables
from imglish.errors import ManifestError
from imglish.records import KINDS
from imglish.shards.manifest import Manifest

AUDIT_VERSION = 1
"""Version of the names in `audit.json`."""
UNKNOWN_ID = 3
"""Id of `<unk>` (released vocabulary: `<s> <pad> </s> <unk>` are 0 to 3)."""
TOP_CODES = 12
UNDETERMINED = "und"
"""ISO 639-2 code for a language that nothing determined."""
NO_LICENCE = "not stated"

AXES = ("source", "language", "licence")
LENGTHS = ("captions", "caption_ids", "document_ids")
ASPECT_EDGES = (0, 333, 500, 667, 750, 900, 1112, 1334, 1501, 2001, 3001)
"""Bins of width over height in thousandths, about 1:3, 1:2, 2:3, 3:4, square, 4:3, 3:2, 2:1, 3:1."""

_GROUP = ["kind", "source", "language", "licence", "merged"]
_COLUMNS = ["table", "key", *_GROUP, "width", "height", "captions", "name", "value", "count"]


def collect(tables: Tables, choice: Choice) -> dict[str, Any]:
    """All values; offers the samples of every shard to `choice` on the way.

    ManifestError when a table is missing or damaged, or disagrees with the manifest.
    """
    counts = _Counts(tables.manifest)
    for ordinal, rows in tables.metadata(_COLUMNS):
        choice.offer(ordinal, rows)
        counts.add(ordinal, rows)
    values = {
        "audit": AUDIT_VERSION,
        "identity": identity(tables.manifest),
        "samples": {split: dict(numbers) for split, numbers in sorted(tables.manifest.counts.items())},
        "funnel": funnel(tables),
        **counts.values(),
    }
    return values | {"findings": findings(values)}


def identity(manifest: Manifest) -> dict[str, Any]:
    """What the corpus is, by name and by digests."""
    plain = manifest.model_dump(mode="json")
    fields = (
        "name",
        "version",
        "digest",
        "data_digest",
        "format_version",
        "tokenizers",
        "images",
        "views",
        "libraries",
    )
    sizes = {"shards": len(manifest.shards), "bytes": sum(shard.bytes for shard in manifest.shards)}
    return {**{field: plain[field] for field in fields}, **sizes, "decisions_digest": manifest.decisions.digest}


class _Counts:
    """Sums over shards."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.balance: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)  # kind: axis, value, figure
        self.short_side: Counter[int] = Counter()
        self.long_side: Counter[int] = Counter()
        self.aspect: Counter[int] = Counter()
        self.lengths: dict[str, Counter[int]] = {name: Counter() for name in LENGTHS}
        self.ids: dict[tuple[str, str], NDArray[np.int64]] = {}  # by kind and source
        self.codes: dict[tuple[str, str], NDArray[np.int64]] = {}

    def add(self, ordinal: int, rows: pa.Table) -> None:
        """The metadata of one shard."""
        occurrences = rows.filter(pc.equal(rows.column("table"), "occurrence"))
        self._add_occurrences(ordinal, occurrences)
        self._add_sizes(occurrences)
        histograms = rows.filter(pc.equal(rows.column("table"), "histogram"))
        self._add_totals(histograms)
        for name in LENGTHS:
            mine = histograms.filter(pc.equal(histograms.column("name"), name))
            add(self.lengths[name], mine.column("value").to_pylist(), mine.column("count").to_pylist())
        tokenizers = self.manifest.tokenizers
        self._add_values(histograms, "ids", self.ids, tokenizers.text.vocabulary)
        self._add_values(histograms, "codes", self.codes, tokenizers.visual.codes)

    def _add_occurrences(self, ordinal: int, rows: pa.Table) -> None:
        counted = rows.group_by(_GROUP).aggregate([([], "count_all"), ("captions", "sum")])
        survivors: Counter[str] = Counter()
        for row in counted.to_pylist():
            figures = {"occurrences": row["count_all"], "captions": row["captions_sum"] or 0}
            if not row["merged"]:
                figures[_unit(row["kind"])] = row["count_all"]
                survivors[row["kind"]] += row["count_all"]
            self._add_figures(row, AXES, figures)
        distinct = self.manifest.shards[ordinal].distinct
        for kind in ("pair", "image"):
            if survivors[kind] != distinct[kind]:
                raise ManifestError(
                    f"shard {ordinal}: its metadata has {survivors[kind]} samples of kind {kind} but the manifest says "
                    f"{distinct[kind]}; the two belong to different builds, run 'imglish build' again"
                )

    def _add_totals(self, histograms: pa.Table) -> None:
        """Ids and codes altogether, by kind, source and language."""
        counted = histograms.group_by(["name", "kind", "source", "language"]).aggregate([("count", "sum")])
        for row in counted.to_pylist():
            if row["name"] in ("ids", "codes"):
                self._add_figures(row, ("source", "language"), {row["name"]: row["count_sum"]})

    def _add_figures(self, row: dict[str, Any], axes: tuple[str, ...], figures: dict[str, int]) -> None:
        missing = {"language": UNDETERMINED, "licence": NO_LICENCE}
        for axis in axes:
            value = row[axis] or missing.get(axis, "")
            for figure, count in figures.items():
                self.balance[row["kind"]][axis, value, figure] += count

    def _add_sizes(self, occurrences: pa.Table) -> None:
        """Sizes of the originals, once a sample: the survivor's."""
        sized = pc.and_(pc.is_valid(occurrences.column("width")), pc.is_valid(occurrences.column("height")))
        rows = occurrences.filter(pc.and_(sized, pc.invert(occurrences.column("merged"))))
        width = rows.column("width").to_numpy().astype(np.int64)
        height = rows.column("height").to_numpy().astype(np.int64)
        add_all(self.short_side, np.minimum(width, height))
        add_all(self.long_side, np.maximum(width, height))
        add_all(self.aspect, width * 1000 // np.maximum(height, 1))

    def _add_values(
        self, histograms: pa.Table, name: str, into: dict[tuple[str, str], NDArray[np.int64]], size: int
    ) -> None:
        """Counts per id or code, an int64 [size] for every kind and source."""
        mine = histograms.filter(pc.equal(histograms.column("name"), name))
        groups = mine.group_by(["kind", "source", "value"]).aggregate([("count", "sum")])
        value = groups.column("value").to_numpy()
        if len(value) and not 0 <= value.min() <= value.max() < size:
            raise ManifestError(f"metadata counts {name} up to {value.max()}, but the tokenizer has only {size}")
        for pair in groups.select(["kind", "source"]).group_by(["kind", "source"]).aggregate([]).to_pylist():
            same = pc.and_(
                pc.equal(groups.column("kind"), pair["kind"]), pc.equal(groups.column("source"), pair["source"])
            )
            found = groups.filter(same)
            counts = into.setdefault((pair["kind"], pair["source"]), np.zeros(size, dtype=np.int64))
            np.add.at(counts, found.column("value").to_numpy(), found.column("count_sum").to_numpy())

    def values(self) -> dict[str, Any]:
        """The finished numbers."""
        return {
            **{kind: self._balance(kind) for kind in KINDS},
            "images": {
                "short_side": _described(self.short_side),
                "long_side": _described(self.long_side),
                "aspect_thousandths": {**quantiles(self.aspect), "bins": bins(self.aspect, ASPECT_EDGES)},
            },
            "lengths": {name: _described(self.lengths[name]) for name in LENGTHS},
            "ids": {kind: self._ids(kind) for kind in ("pair", "text")},
            "codes": self._codes(),
        }

    def _balance(self, kind: str) -> dict[str, Any]:
        """Totals of a kind, and the same figures by source, language and licence."""
        names = _figures(kind)
        total: Counter[str] = Counter()
        axes: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
        for (axis, value, figure), count in sorted(self.balance[kind].items()):
            cell = axes[axis].setdefault(value, dict.fromkeys(names[axis], 0))
            if figure in cell:
                cell[figure] = count
                total[figure] += count if axis == "source" else 0
        for cells in axes.values():
            for cell in cells.values():
                cell["share"] = share(cell[_unit(kind)], total[_unit(kind)])
        return {**{figure: total[figure] for figure in names["source"]}, **axes}

    def _ids(self, kind: str) -> dict[str, Any]:
        size = self.manifest.tokenizers.text.vocabulary
        counts = _sum_of((array for (k, _), array in sorted(self.ids.items()) if k == kind), size)
        total = int(counts.sum())
        return {
            "count": total,
            "vocabulary": size,
            "used": int(np.count_nonzero(counts)),
            "unknown": int(counts[UNKNOWN_ID]),
            "unknown_share": share(int(counts[UNKNOWN_ID]), total),
        }

    def _codes(self) -> dict[str, Any]:
        size = self.manifest.tokenizers.visual.codes
        sources = sorted({source for _, source in self.codes})
        by_source = {
            name: _sum_of((array for (_, s), array in sorted(self.codes.items()) if s == name), size)
            for name in sources
        }
        counts = _sum_of(by_source.values(), size)
        total = int(counts.sum())
        order = np.argsort(-counts, kind="stable")
        ranked = counts[order]
        top = [
            {"code": int(code), "count": int(counts[code]), "share": share(int(counts[code]), total)}
            for code in order[:TOP_CODES].tolist()
            if counts[code]
        ]
        ranks = [rank for rank in _ranks(size) if rank <= np.count_nonzero(counts)]
        return {
            "size": size,
            **_usage(counts),
            "top": top,
            "ranks": [{"rank": rank, "count": int(ranked[rank - 1])} for rank in ranks],
            "source": {name: _usage(array) for name, array in by_source.items()},
        }


def _unit(kind: str) -> str:
    """What a kind is counted in: a sample of text is a block, which has no one source."""
    return "documents" if kind == "text" else "samples"


def _figures(kind: str) -> dict[str, tuple[str, ...]]:
    """Names of the figures of a kind by axis."""
    extra = {"pair": ("captions",), "image": (), "text": ()}[kind]
    counted = (_unit(kind), "occurrences", *extra)
    tokens = {"pair": ("ids", "codes"), "image": ("codes",), "text": ("ids",)}[kind]
    return {"source": (*counted, *tokens), "language": (*counted, *tokens), "licence": counted}


def _described(histogram: Counter[int]) -> dict[str, Any]:
    return {**quantiles(histogram), "bins": bins(histogram)}


def _usage(counts: NDArray[np.int64]) -> dict[str, Any]:
    used = int(np.count_nonzero(counts))
    return {
        "count": int(counts.sum()),
        "used": used,
        "dead": len(counts) - used,
        "perplexity": perplexity(counts.tolist()),
    }


def _sum_of(arrays: Any, size: int) -> NDArray[np.int64]:
    total = np.zeros(size, dtype=np.int64)
    for array in arrays:
        total += array
    return total


def _ranks(size: int) -> list[int]:
    """Ranks at which the sorted code counts are given: 1, 2, 5, 10, 20, 50, ... and the last."""
    steps = [factor * 10**power for power in range(len(str(size))) for factor in (1, 2, 5)]
    return sorted({*(step for step in steps if step < size), size})
