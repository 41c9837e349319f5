"""Every number of the report, from the manifest, the decisions and the metadata beside the shards.

    values = collect(Tables("corpus/manifest.json"), choice)
    values["pairs"]["language"]["en"]["share"]

Counts are integers. Shares are rounded to 6 decimals and perplexities to 2, each computed once from final counts, so
the same files give the same values whatever the order or number of shards. `audit.json` is this dictionary;
`audit.schema.json` beside this module says what every name means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit import balance, captions, contamination, duplicates, funnel, pictures, privacy, tokens
from imglish.audit.choice import COLUMNS as CHOICE_COLUMNS
from imglish.audit.choice import Choice, Places
from imglish.audit.fetching import fetching
from imglish.audit.findings import findings
from imglish.audit.rebuilding import rebuilding
from imglish.audit.tables import Tables
from imglish.records import Kind
from imglish.shards.manifest import Manifest

AUDIT_VERSION = 2
"""Version of the names in `audit.json`."""
STATISTICS = "tokenizer-statistics.json"
"""What the build writes beside the manifest about fertility (docs/tokenizers.md)."""

METADATA = sorted({"table", *CHOICE_COLUMNS, *balance.COLUMNS, *captions.COLUMNS, *pictures.COLUMNS, *tokens.COLUMNS})
_DECISIONS = sorted({*funnel.COLUMNS, *duplicates.COLUMNS, *privacy.COLUMNS, *contamination.COLUMNS})


def collect(
    tables: Tables,
    choice: Choice,
    places: Places,
    batch: Mapping[Kind, int] = tokens.PAPER_BATCH,
    steps: int = tokens.PAPER_STEPS,
) -> dict[str, Any]:
    """All values. `batch` and `steps` are those of the planned run.

    On the way the samples of every shard are offered to `choice`, and `places` learns where the survivors of the
    largest groups of duplicates are.

    ManifestError when a table is missing or damaged, or disagrees with the manifest.
    """
    manifest, decided = tables.manifest, _decided(tables)
    places.want((one["source"], one["row"]) for rule in decided["duplicates"].values() for one in rule["largest"])
    measured = Measured(tables)
    for ordinal, rows in tables.metadata(METADATA):
        occurrences = measured.add(ordinal, rows)
        choice.offer(ordinal, occurrences)
        places.offer(ordinal, occurrences)
    values = {
        "audit": AUDIT_VERSION,
        "identity": {**identity(manifest), "licences": measured.balance.licences()},
        "samples": {split: dict(numbers) for split, numbers in sorted(manifest.counts.items())},
        **decided,
        **measured.values(),
        "fertility": _fertility(tables),
        "plan": measured.tokens.planned(batch, steps),
        "fetch": fetching(tables.store),
        "rebuild": rebuilding(tables),
    }
    return values | {"findings": findings(values)}


class Measured:
    """What the metadata tables hold, summed over shards."""

    def __init__(self, tables: Tables) -> None:
        self.balance, self.pictures = balance.Balance(tables.manifest), pictures.Pictures()
        self.captions, self.tokens = captions.Captions(tables), tokens.Tokens(tables.manifest)

    def add(self, ordinal: int, rows: pa.Table) -> pa.Table:
        """The metadata of one shard, with the columns `METADATA`; returns its occurrence rows."""
        occurrences, histograms = (_part(rows, name) for name in ("occurrence", "histogram"))
        self.balance.add(ordinal, occurrences, histograms)
        self.pictures.add(occurrences)
        self.captions.add(ordinal, occurrences)
        self.tokens.add(histograms)
        return occurrences

    def values(self) -> dict[str, Any]:
        """The finished numbers."""
        return {
            **self.balance.values(),
            "pictures": self.pictures.values(),
            "captions": self.captions.values(),
            **self.tokens.values(),
        }

    def histograms(self) -> dict[str, Mapping[int, int]]:
        """How often each whole number occurs, by name."""
        seen = self.pictures
        sizes = {"short_side": seen.short_side, "long_side": seen.long_side, "aspect_thousandths": seen.aspect}
        return {
            **{f"pictures.{name}": counts for name, counts in (sizes | seen.stored).items()},
            "captions.words": self.captions.words,
            "captions.characters": self.captions.characters,
            **{f"lengths.{name}": counts for name, counts in self.tokens.lengths.items()},
        }

    def shares(self) -> dict[str, Mapping[Any, int]]:
        """Samples by source, language and licence of each kind, and tokens by id or code."""
        found: dict[str, Mapping[Any, int]] = {}
        for kind, values in self.balance.values().items():
            unit = "documents" if kind == "texts" else "samples"
            for axis in balance.AXES:
                found[f"{kind}.{axis}"] = {name: cell[unit] for name, cell in values[axis].items() if cell[unit]}
        return found | self.tokens.usage()


def _part(rows: pa.Table, name: str) -> pa.Table:
    """The rows of one sort; in a table that is in order they lie together and are not copied."""
    mine = pc.equal(rows.column("table"), name)
    first, count = pc.index(mine, True).as_py(), pc.sum(mine).as_py() or 0
    together = rows.slice(max(0, first), count)
    return together if pc.all(pc.equal(together.column("table"), name)).as_py() else rows.filter(mine)


def _decided(tables: Tables) -> dict[str, Any]:
    """What the decisions tables say, in one pass."""
    manifest = tables.manifest
    flow, doubles = funnel.Funnel([str(rule["rule"]) for rule in manifest.decisions.rules]), duplicates.Duplicates()
    private, leaks = privacy.Privacy(), contamination.Contamination()
    for rows in tables.decisions(_DECISIONS):
        for part in (flow, doubles, private, leaks):
            part.add(rows)
    counts = flow.values()
    return {
        "funnel": counts,
        "duplicates": doubles.values(),
        "privacy": private.values(counts, manifest),
        "contamination": leaks.values(manifest, counts),
    }


def _fertility(tables: Tables) -> dict[str, Any]:
    """By "caption" or "text" and language; empty when the build's file is not here."""
    found = tables.store.read_many([STATISTICS]).get(STATISTICS)
    whole = {} if found is None else json.loads(found)
    return {name: dict(whole[name]) for name in ("caption", "text") if name in whole}


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
