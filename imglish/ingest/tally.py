"""Tally: what was decided, counted once per decisions file, for the manifest, the summary and the alarm.

    {"gimp-help-en|pair|keep|": 812, "gimp-help-en|pair|drop|image_aspect@1": 41, ...}
    {"raised|mine@1": 3}                     and of a user's rule that raised, on how many occurrences

The receipt's `notes` hold the logical digest of the decisions and that of the occurrences (row, record id,
status), so that the manifest can be made again without reading the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import table_digest
from imglish.ingest.rules import ERROR
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Output, Store

STAGE = "tally"
VERSION = 2
FOLDER = "tables"
_RAISED = "raised"


def tally_units(decisions: Sequence[Output]) -> list[Unit]:
    """One unit per decisions file."""
    return [Unit(STAGE, VERSION, {}, [output.sha256], {"decisions": output.path}) for output in decisions]


@dataclass(frozen=True)
class TallyTask:
    """Counts one decisions file."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        rows = self.store.read_table(unit.spec["decisions"])
        counted = rows.group_by(["source", "kind", "verdict", "rule"]).aggregate([([], "count_all")]).to_pylist()
        counts = {f"{c['source']}|{c['kind']}|{c['verdict']}|{c['rule'] or ''}": c["count_all"] for c in counted}
        counts |= _raised(rows)
        occurrences = rows.select(["source", "row", "kind", "record_id"])
        notes = {
            "source": rows["source"][0].as_py() if rows.num_rows else None,  # a landing file has one source
            "decisions": table_digest(rows, ["source", "row"]),
            "occurrences": table_digest(occurrences, ["source", "row"]),
        }
        return commit({}, dict(sorted(counts.items())), notes)


def _raised(rows: pa.Table) -> dict[str, int]:
    bad = rows.filter(pc.fill_null(pc.starts_with(rows.column("detail"), ERROR), False))
    bad = bad.filter(pc.is_valid(bad.column("rule")))
    return {f"{_RAISED}|{item['values']}": item["counts"] for item in pc.value_counts(bad.column("rule")).to_pylist()}


@dataclass(frozen=True)
class Verdicts:
    """Counts of one (source, kind, verdict, rule)."""

    source: str
    kind: str
    verdict: str
    rule: str
    count: int


def verdicts(counts: Mapping[str, int]) -> list[Verdicts]:
    """Receipt counts as rows, in order of their names."""
    return [Verdicts(*_names(key), count) for key, count in sorted(counts.items()) if key.count("|") == 3]


def _names(key: str) -> tuple[str, str, str, str]:
    source, kind, verdict, rule = key.split("|")
    return source, kind, verdict, rule


def rule_errors(counts: Mapping[str, int]) -> list[str]:
    """One line for every rule that raised on some occurrences, which it dropped."""
    raised = {key.split("|")[1]: count for key, count in sorted(counts.items()) if key.count("|") == 1}
    return [
        f"{rule} RAISED on {count} occurrences and dropped them; their `detail` in the decisions says what, "
        "mend the rule and build again"
        for rule, count in raised.items()
    ]
