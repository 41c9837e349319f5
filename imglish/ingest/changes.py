"""What became of occurrences from one set of decisions to another, over the same landing.

    found = changes(store, old_trail, new_trail)
    found.rows[0]          # Change(source="book", kind="text", change="kept -> dropped", rule="language@1", count=7)

Decisions lie row by row beside landing, so two tables of one landing file are compared column by column; a file whose
decisions are the same file is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import sort_rows
from imglish.ingest.trail import Trail, TrailFile
from imglish.storage import Store

EXAMPLES = 3
"""Occurrences named for each kind of change."""
_WORDS = {"keep": "kept", "merge": "merged", "drop": "dropped"}
_COLUMNS = ["source", "row", "kind", "verdict", "rule", "edits", "sample_id", "split"]
_NAME = ["source", "row"]
_CHANGED = ("verdict", "rule", "edits", "sample_id", "split")


@dataclass(frozen=True)
class Change:
    """`count` occurrences of a source to which one thing happened, by one rule: the new one that drops or merges, or
    the old one that no longer does; None for changes that no rule names (edits, split, survivor)."""

    source: str
    kind: str
    change: str
    rule: str | None
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """Changes by source, kind, change and rule; occurrences compared, and those that only one side has.

    `same` when all decisions are, to the last score and threshold.
    """

    rows: tuple[Change, ...]
    compared: int
    appeared: int
    disappeared: int
    same: bool

    def total(self, change: str) -> int:
        return sum(row.count for row in self.rows if row.change == change)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def changes(store: Store, old: Trail, new: Trail) -> Changes:
    """What changed between the decisions of two trails in one store."""
    before = {file.landing: file for file in old.files}
    shared = [(before[file.landing], file) for file in new.files if file.landing in before]
    differing = [_pairs(store, *pair) for pair in shared if pair[0].decisions != pair[1].decisions]
    rows = pa.concat_tables(differing) if differing else None
    compared = sum(file.rows for _, file in shared)
    appeared, disappeared = (sum(file.rows for file in trail.files) - compared for trail in (new, old))
    return Changes(
        () if rows is None else tuple(_counted(rows)), compared, appeared, disappeared, old.decisions == new.decisions
    )


def _pairs(store: Store, old: TrailFile, new: TrailFile) -> pa.Table:
    """The rows of one landing file that differ: source, kind, change, rule, key."""
    left, right = (store.read_table(file.decisions, _COLUMNS) for file in (old, new))
    if not left.select(_NAME).equals(right.select(_NAME)):  # `imglish forget` put some rows elsewhere
        left, right = (sort_rows(rows, _NAME) for rows in (left, right))
    differs = pa.chunked_array([pa.array([False] * left.num_rows)])
    for name in _CHANGED:
        same = pc.fill_null(pc.equal(left[name], right[name]), False)
        neither = pc.and_(pc.is_null(left[name]), pc.is_null(right[name]))
        differs = pc.or_(differs, pc.invert(pc.or_(same, neither)))
    left, right = left.filter(differs), right.filter(differs)
    said = [_said(*pair) for pair in zip(left.to_pylist(), right.to_pylist(), strict=True)]
    keys = pc.binary_join_element_wise(right["source"], right["row"], "/")
    columns = {"source": right["source"], "kind": right["kind"], "key": keys}
    return pa.table(
        columns
        | {
            "change": pa.array([change for change, _ in said], pa.string()),
            "rule": pa.array([rule for _, rule in said], pa.string()),
        }
    )


def _said(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, str | None]:
    """In words what happened to an occurrence, and the rule that stands for it."""
    before, after = _WORDS[old["verdict"]], _WORDS[new["verdict"]]
    if before != after:
        return f"{before} -> {after}", new["rule"] if new["rule"] is not None else old["rule"]
    if old["rule"] != new["rule"]:
        return f"{after} by another rule", new["rule"]
    if old["edits"] != new["edits"]:
        return "edits changed", None
    return ("merged into another record", new["rule"]) if old["sample_id"] != new["sample_id"] else ("split", None)


def _counted(rows: pa.Table) -> Iterator[Change]:
    by = ["source", "kind", "change", "rule"]
    counted = rows.group_by(by, use_threads=False).aggregate([("key", "count"), ("key", "list")])
    found = counted.sort_by([(name, "ascending") for name in by]).to_pylist()
    for row in found:
        keys = tuple(sorted(row["key_list"])[:EXAMPLES])
        yield Change(row["source"], row["kind"], row["change"], row["rule"], row["key_count"], keys)
