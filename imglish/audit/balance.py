"""Balance: samples, occurrences, captions, ids and codes by kind, source, language, licence and domain.

balance = Balance(manifest)
balance.add(ordinal, occurrences, histograms)       # of every shard
balance.values()["pairs"]["language"]["en"]["share"]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.histograms import share
from imglish.errors import ManifestError
from imglish.records import KINDS, Kind
from imglish.shards.manifest import Manifest

UNDETERMINED = "und"
"""ISO 639-2 code for a language that nothing determined."""
NO_LICENCE = "not stated"
AXES = ("source", "language", "licence")
PLURAL: dict[Kind, str] = {"pair": "pairs", "image": "images", "text": "texts"}
"""Name of a kind in `audit.json`."""
TOP_DOMAINS = 200
"""Domains that are named; the others are counted."""

_GROUP = ["kind", "source", "language", "licence", "merged"]
COLUMNS = (*_GROUP, "url", "captions", "name", "count")
_MISSING = {"language": UNDETERMINED, "licence": NO_LICENCE}
HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>\[[0-9A-Fa-f:.]*\]|[^/?#:@]+)"


class Balance:
    """Sums over shards."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._figures: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)  # kind: axis, value, figure
        self._languages: Counter[tuple[str, str, str]] = Counter()  # kind, source, language: samples
        self._domains: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)  # kind: domain, figure

    def add(self, ordinal: int, occurrences: pa.Table, histograms: pa.Table) -> None:
        """The rows of one shard; ManifestError when they are not those that the manifest counts."""
        counted = occurrences.group_by(_GROUP).aggregate([([], "count_all"), ("captions", "sum")])
        survivors: Counter[str] = Counter()
        for row in counted.to_pylist():
            figures = {"occurrences": row["count_all"], "captions": row["captions_sum"] or 0}
            if not row["merged"]:
                figures[unit(row["kind"])] = row["count_all"]
                survivors[row["kind"]] += row["count_all"]
                self._languages[row["kind"], row["source"], row["language"] or UNDETERMINED] += row["count_all"]
            self._count(row, AXES, figures)
        distinct = self.manifest.shards[ordinal].distinct
        for kind in ("pair", "image"):
            if survivors[kind] != distinct[kind]:
                raise ManifestError(
                    f"shard {ordinal}: its metadata has {survivors[kind]} samples of kind {kind} but the manifest says "
                    f"{distinct[kind]}; the two belong to different builds, run 'imglish build' again"
                )
        self._add_domains(occurrences)
        self._add_totals(histograms)

    def _add_totals(self, histograms: pa.Table) -> None:
        """Ids and codes altogether, by kind, source and language."""
        counted = histograms.group_by(["name", "kind", "source", "language"]).aggregate([("count", "sum")])
        for row in counted.to_pylist():
            if row["name"] in ("ids", "codes"):
                self._count(row, ("source", "language"), {row["name"]: row["count_sum"]})

    def _add_domains(self, occurrences: pa.Table) -> None:
        rows = occurrences.select(["kind", "merged", "url"]).filter(pc.is_valid(occurrences.column("url")))
        hosts = pc.utf8_lower(pc.struct_field(pc.extract_regex(rows.column("url"), HOST), "host"))
        counted = rows.append_column("host", hosts).group_by(["kind", "merged", "host"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            if row["host"]:
                self._domains[row["kind"]][row["host"], "occurrences"] += row["count_all"]
                self._domains[row["kind"]][row["host"], unit(row["kind"])] += 0 if row["merged"] else row["count_all"]

    def _count(self, row: dict[str, Any], axes: tuple[str, ...], figures: dict[str, int]) -> None:
        for axis in axes:
            value = row[axis] or _MISSING.get(axis, "")
            for figure, count in figures.items():
                self._figures[row["kind"]][axis, value, figure] += count

    def values(self) -> dict[str, Any]:
        """Totals of every kind, and the same figures along each axis."""
        return {PLURAL[kind]: self._kind(kind) for kind in KINDS}

    def licences(self) -> dict[str, int]:
        """Samples and documents of all kinds by licence, most first."""
        found: Counter[str] = Counter()
        for kind in KINDS:
            for (axis, value, figure), count in self._figures[kind].items():
                if axis == "licence" and figure == unit(kind):
                    found[value] += count
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _kind(self, kind: Kind) -> dict[str, Any]:
        names = _names(kind)
        total: Counter[str] = Counter()
        axes: dict[str, dict[str, Any]] = {axis: {} for axis in AXES}
        for (axis, value, figure), count in sorted(self._figures[kind].items()):
            cell = axes[axis].setdefault(value, dict.fromkeys(names[axis], 0))
            if figure in cell:
                cell[figure] = count
                total[figure] += count if axis == "source" else 0
        for cells in axes.values():
            for cell in cells.values():
                cell["share"] = share(cell[unit(kind)], total[unit(kind)])
        for (found, source, language), count in sorted(self._languages.items()):
            if found == kind:
                axes["source"][source].setdefault("languages", {})[language] = count
        for cell in axes["source"].values():
            cell.setdefault("languages", {})
        return {**{figure: total[figure] for figure in names["source"]}, **axes, **self._domain(kind)}

    def _domain(self, kind: Kind) -> dict[str, Any]:
        counts, names = self._domains[kind], (unit(kind), "occurrences")
        hosts = {host for host, _ in counts}
        ordered = sorted(hosts, key=lambda host: (-counts[host, names[0]], -counts[host, names[1]], host))
        shown = {host: {name: counts[host, name] for name in names} for host in ordered[:TOP_DOMAINS]}
        return {"domains": len(hosts), "domain": shown}


def unit(kind: str) -> str:
    """What a kind is counted in: a sample of text is a block, which has no one source."""
    return "documents" if kind == "text" else "samples"


def _names(kind: str) -> dict[str, tuple[str, ...]]:
    """Names of the figures of a kind by axis."""
    extra = {"pair": ("captions",), "image": (), "text": ()}[kind]
    counted = (unit(kind), "occurrences", *extra)
    tokens = {"pair": ("ids", "codes"), "image": ("codes",), "text": ("ids",)}[kind]
    return {"source": (*counted, *tokens), "language": (*counted, *tokens), "licence": counted}
