"""The funnel: what became of every occurrence, by source, kind and rule, from the decisions tables.

A rule is known by the bit it has in `fired`: in a dropped row the lowest bit belongs to the rule that decided, so the
tables themselves say which bit is whose. A rule that never came first is named by the manifest's list of rules if that
agrees with the tables, else `bit <n>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

VERDICTS = {"keep": "kept", "merge": "merged", "drop": "dropped"}
EXAMPLES = 3
"""Occurrences shown for every rule."""

_GROUP = ["source", "kind", "verdict", "rule", "fired", "edited"]
COLUMNS = ("source", "row", "kind", "verdict", "rule", "fired", "edits", "score", "threshold", "detail")
_EXAMPLE = ["source", "row", "score", "threshold", "detail"]
_PAYLOAD_RULE = "payload@"
_STATUS = r"^(?P<word>[a-z0-9_]+)"
_FIGURES = ("dropped", "merged", "fired", "alone")


class Funnel:
    """Counts over decisions tables."""

    def __init__(self, rules: Sequence[str]) -> None:
        self.rules = rules
        """What the manifest lists, by bit."""
        self._groups: Counter[tuple[Any, ...]] = Counter()
        self._statuses: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, Any]]] = {}

    def add(self, rows: pa.Table) -> None:
        """One table, with `COLUMNS`."""
        rows = rows.append_column("edited", pc.is_valid(rows.column("edits")))
        counted = rows.group_by(_GROUP).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            self._groups[tuple(row[name] for name in _GROUP)] += row["count_all"]
        dropped = rows.filter(pc.equal(rows.column("verdict"), "drop"))
        _count_statuses(dropped, self._statuses)
        _take_examples(dropped, self._examples)

    def values(self) -> dict[str, Any]:
        """Counts under stable names: totals, `source.<name>.<kind>`, `rule.<name@version>`, `payload.<status>`."""
        return {
            **_totals(self._groups),
            "source": _by_source(self._groups),
            "rule": _by_rule(self._groups, self._examples, self.rules),
            "payload": dict(sorted(self._statuses.items())),
        }


def _count_statuses(dropped: pa.Table, statuses: Counter[str]) -> None:
    """Why payloads are unusable: the word before the first colon of the detail."""
    payload = dropped.filter(pc.starts_with(dropped.column("rule"), _PAYLOAD_RULE)).column("detail")
    words = pc.struct_field(pc.extract_regex(payload, _STATUS), "word")
    for item in pc.value_counts(words.combine_chunks()).to_pylist():
        statuses[item["values"] or "unknown"] += item["counts"]


def _take_examples(dropped: pa.Table, examples: dict[str, list[dict[str, Any]]]) -> None:
    """The first rows of each rule; tables are in record-id order, so they are a fair draw."""
    for rule in pc.unique(dropped.column("rule")).drop_null().to_pylist():
        missing = EXAMPLES - len(examples.setdefault(rule, []))
        if missing > 0:
            first = dropped.filter(pc.equal(dropped.column("rule"), rule)).slice(0, missing)
            examples[rule] += first.select(_EXAMPLE).to_pylist()


def _blank() -> dict[str, Any]:
    return {"occurrences": 0, "kept": 0, "merged": 0, "dropped": 0, "edited": 0}


def _totals(groups: Counter[tuple[Any, ...]]) -> dict[str, int]:
    total = _blank()
    for (_, _, verdict, _, _, edited), count in groups.items():
        _count(total, verdict, edited, count)
    return total


def _count(into: dict[str, Any], verdict: str, edited: bool, count: int) -> None:
    into["occurrences"] += count
    into[VERDICTS[verdict]] += count
    into["edited"] += count if edited else 0


def _by_source(groups: Counter[tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for (source, kind, verdict, rule, _, edited), count in sorted(groups.items(), key=repr):
        cell = found.setdefault(source, {}).setdefault(kind, {**_blank(), "rule": {}})
        _count(cell, verdict, edited, count)
        if verdict == "drop":
            cell["rule"][rule] = cell["rule"].get(rule, 0) + count
    return dict(sorted(found.items()))


def _by_rule(
    groups: Counter[tuple[Any, ...]], examples: dict[str, list[dict[str, Any]]], listed: Sequence[str]
) -> dict[str, Any]:
    """Per rule: occurrences that it dropped (came first), merged, fired on, and that it alone would have dropped."""
    seen = {_lowest(fired): rule for _, _, verdict, rule, fired, _ in groups if verdict == "drop" and fired}
    names = _names(seen, listed)
    found: dict[str, Any] = {}

    def count(rule: str, source: str, kind: str, figure: str, number: int) -> None:
        cell = found.setdefault(rule, dict.fromkeys(_FIGURES, 0) | {"source": {}, "examples": examples.get(rule, [])})
        inner = cell["source"].setdefault(source, {}).setdefault(kind, dict.fromkeys(_FIGURES, 0))
        cell[figure] += number
        inner[figure] += number

    for (source, kind, verdict, rule, fired, _), number in groups.items():
        if verdict != "keep":
            count(rule, source, kind, VERDICTS[verdict], number)
        for bit in range(fired.bit_length()):
            if fired >> bit & 1:
                count(names.get(bit, f"bit {bit}"), source, kind, "fired", number)
                count(names.get(bit, f"bit {bit}"), source, kind, "alone", number if fired == 1 << bit else 0)
    for cell in found.values():
        cell["source"] = {name: dict(sorted(kinds.items())) for name, kinds in sorted(cell["source"].items())}
    return dict(sorted(found.items()))


def _names(seen: dict[int, str], listed: Sequence[str]) -> dict[int, str]:
    """Rules by bit: those seen to decide, and the others when the manifest's list agrees with these."""
    told = dict(enumerate(listed))
    return told | seen if all(told.get(bit, rule) == rule for bit, rule in seen.items()) else seen


def _lowest(fired: int) -> int:
    return (fired & -fired).bit_length() - 1
