"""What became of occurrences from one set of decisions to another, over the same landing.

    found = changes(store, old_trail, new_trail)
    found.rows[0]          # Change(source="book", kind="text", change="kept -> dropped", rule="language@1", count=7)

Decisions lie row by row beside landing, so two tables of one landing file are compared column by column; a file whose
decisions are the same file is not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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
_Group = tuple[str, str, str, str | None]
"""Source, kind, change, rule."""
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
    counts: Counter[_Group] = Counter()
    examples: dict[_Group, list[str]] = {}
    for pair in shared:
        found = _differing(store, *pair) if pair[0].decisions != pair[1].decisions else {}
        for group, keys in found.items():
            counts[group] += len(keys)
            examples[group] = sorted([*examples.get(group, ()), *keys])[:EXAMPLES]
    rows = tuple(Change(*group, counts[group], tuple(examples[group])) for group in sorted(counts, key=_order))
    compared = sum(file.rows for _, file in shared)
    appeared, disappeared = (sum(file.rows for file in trail.files) - compared for trail in (new, old))
    return Changes(rows, compared, appeared, disappeared, old.decisions == new.decisions)


def _order(group: _Group) -> tuple[Any, ...]:
    source, kind, change, rule = group
    return source, kind, change, rule is None, rule or ""


def _differing(store: Store, old: TrailFile, new: TrailFile) -> dict[_Group, list[str]]:
    """Keys of the rows of one landing file that differ."""
    left, right = (store.read_table(file.decisions, _COLUMNS) for file in (old, new))
    if not left.select(_NAME).equals(right.select(_NAME)):  # `imglish forget` put some rows elsewhere
        left, right = (sort_rows(rows, _NAME) for rows in (left, right))
    differs = pa.chunked_array([pa.array([False] * left.num_rows)])
    for name in _CHANGED:
        same = pc.fill_null(pc.equal(left[name], right[name]), False)
        neither = pc.and_(pc.is_null(left[name]), pc.is_null(right[name]))
        differs = pc.or_(differs, pc.invert(pc.or_(same, neither)))
    left, right = left.filter(differs), right.filter(differs)
    found: dict[_Group, list[str]] = defaultdict(list)
    for was, now in zip(left.to_pylist(), right.to_pylist(), strict=True):
        found[now["source"], now["kind"], *_said(was, now)].append(f"{now['source']}/{now['row']}")
    return found


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
