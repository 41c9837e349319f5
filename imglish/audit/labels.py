"""A sample of decisions for a person to label: so many of each (source, rule, verdict), with what they decided on.

    strata = count_strata(opened)                      # {Stratum("book", "language@1", "drop"): 44, ...}
    items = draw(opened, strata, each=10, seed=0)      # the same whatever the order of files
    items[0].shown, items[0].other                     # pictures, captions or text of both sides

An occurrence is drawn when its own hash is among the smallest of its stratum, so a larger sample contains a smaller one
of the same seed. Payloads come from landing, only the row groups that hold a drawn row or its counterpart.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.keys import Named, occurrence, occurrences_of
from imglish.audit.lookup import OneOf, find_rows
from imglish.audit.sides import Side, make_side, mark_differences
from imglish.errors import RecipeError
from imglish.ingest.trail import Opened
from imglish.seeds import stream
from imglish.storage import read_rows

KEPT, EDITED = "(kept)", "(edited)"
"""What stands for a rule where none decided: nothing fired, or edits were made."""
_READ = ["source", "row", "record_id", "kind", "verdict", "rule", "edits"]
_TOLD = ["score", "threshold", "detail", "other_source", "other_row", "edits"]
_PAYLOAD = ["source", "row", "kind", "payload", "captions", "url", "licence"]
_RECORD = re.compile(r"\bof record ([0-9a-f]{32})\b")


class Stratum(NamedTuple):
    """Decisions that are sampled together."""

    source: str
    rule: str
    verdict: str


@dataclass(frozen=True)
class Item:
    """One decision to label, with both sides of it."""

    occurrence: str
    record: str | None
    kind: str
    stratum: Stratum
    of: int
    """Decisions of its stratum."""
    score: float | None
    threshold: float | None
    detail: str | None
    shown: Side
    other: Side | None


def count_strata(opened: Opened) -> dict[Stratum, int]:
    """How many decisions there are of each kind, in order."""
    counts: dict[Stratum, int] = {}
    for file in opened.trail.files:
        rows = opened.store.read_table(file.decisions, ["source", "verdict", "rule", "edits"])
        named = rows.select(["source", "verdict"]).append_column("rule", _rule(rows))
        for row in named.group_by(["source", "rule", "verdict"]).aggregate([([], "count_all")]).to_pylist():
            key = Stratum(row["source"], row["rule"], row["verdict"])
            counts[key] = counts.get(key, 0) + row["count_all"]
    return dict(sorted(counts.items()))


def _rule(rows: pa.Table) -> pa.ChunkedArray:
    without = pc.if_else(pc.is_valid(rows["edits"]), EDITED, KEPT)
    return pc.if_else(pc.is_valid(rows["rule"]), rows["rule"], without)


def chosen_strata(
    strata: Mapping[Stratum, int], rules: Collection[str] = (), sources: Collection[str] = ()
) -> dict[Stratum, int]:
    """Those of some rules (a name stands for its versions) and sources, or all; RecipeError for one that is none."""
    names = {stratum.rule for stratum in strata} | {stratum.rule.partition("@")[0] for stratum in strata}
    for given, known in ((rules, names), (sources, {stratum.source for stratum in strata})):
        for name in given:
            if name not in known:
                raise RecipeError(f"{name!r} decided nothing here; there are {', '.join(sorted(known))}")
    return {
        stratum: count
        for stratum, count in strata.items()
        if (not sources or stratum.source in sources)
        and (not rules or stratum.rule in rules or stratum.rule.partition("@")[0] in rules)
    }


def draw(opened: Opened, strata: Mapping[Stratum, int], each: int, seed: int) -> list[Item]:
    """Up to `each` decisions of every stratum, in order of strata and hash, with their payloads."""
    drawn = [one for found in _drawn(opened, strata, each, seed).values() for one in found]
    told = _told(opened, [one for _, one in drawn])
    others = [_counterpart(opened, row) for row in told]
    sides = _sides(opened, [one for _, one in drawn], [row["edits"] for row in told])
    beside = _sides(opened, [one for one in others if one is not None])
    items = []
    for (stratum, one), row, other in zip(drawn, told, others, strict=True):
        left, right = sides[one.key], None if other is None else beside[other.key]
        if right is not None:
            left, right = mark_differences(left, right)
        facts = {name: row[name] for name in ("score", "threshold", "detail")}
        record = None if one.record is None else one.record.hex()
        items.append(Item(one.key, record, row["kind"], stratum, strata[stratum], **facts, shown=left, other=right))
    return items


def _drawn(
    opened: Opened, strata: Mapping[Stratum, int], each: int, seed: int
) -> dict[Stratum, list[tuple[Stratum, Named]]]:
    """The `each` smallest hashes of every stratum."""
    held: dict[Stratum, list[tuple[int, str, Named]]] = {stratum: [] for stratum in strata}
    draws = stream(seed, "sample-decisions")
    for number, file in enumerate(opened.trail.files):
        rows = opened.store.read_table(file.decisions, _READ)
        names = pc.binary_join_element_wise(rows["source"], rows["row"], "/").to_pylist()
        chances = draws.keys(np.array([_hash(name) for name in names], dtype=np.uint64))
        rules, verdicts, sources = (c.to_pylist() for c in (_rule(rows), rows["verdict"], rows["source"]))
        members: dict[Stratum, list[int]] = {}
        for place, key in enumerate(map(Stratum, sources, rules, verdicts)):
            members.setdefault(key, []).append(place)
        for stratum in members.keys() & held.keys():
            best = heapq.nsmallest(each, ((int(chances[n]), names[n], n) for n in members[stratum]))
            found = [(chance, name, _name(rows, number, place)) for chance, name, place in best]
            held[stratum] = heapq.nsmallest(each, [*held[stratum], *found], key=lambda one: one[:2])
    return {stratum: [(stratum, one) for _, _, one in found] for stratum, found in held.items()}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _name(rows: pa.Table, file: int, place: int) -> Named:
    source, row, record = (rows[name][place].as_py() for name in ("source", "row", "record_id"))
    return Named(file, place, source, row, record)


def _told(opened: Opened, drawn: Sequence[Named]) -> list[dict[str, Any]]:
    """What the decisions say of each."""
    found: dict[str, dict[str, Any]] = {}
    for file, mine in _by_file(drawn).items():
        places = np.array(sorted({one.place for one in mine}))
        for rows in read_rows(opened.store, opened.trail.files[file].decisions, places, [*_READ[:4], *_TOLD]):
            found |= {f"{row['source']}/{row['row']}": row for row in rows.to_pylist()}
    return [found[one.key] for one in drawn]


def _by_file(named: Iterable[Named]) -> dict[int, list[Named]]:
    found: dict[int, list[Named]] = {}
    for one in named:
        found.setdefault(one.file, []).append(one)
    return found


def _counterpart(opened: Opened, row: Mapping[str, Any]) -> Named | None:
    """The record that the detail compares it with, else the surviving occurrence."""
    near = _RECORD.search(row["detail"] or "")
    if near is not None:
        return next(iter(occurrences_of(opened, bytes.fromhex(near[1]))), None)
    if row["other_row"] is None or row["other_source"] is None:
        return None
    return occurrence(opened, row["other_source"], row["other_row"])


def _sides(opened: Opened, named: Sequence[Named], edits: Sequence[bytes | None] = ()) -> dict[str, Side]:
    """What to show of some occurrences, by name; payloads by the row groups of landing that hold them."""
    edited = dict(zip((one.key for one in named), edits, strict=False))
    found: dict[str, Side] = {}
    for file, mine in _by_file(named).items():
        path = opened.trail.files[file].landing
        wanted = {one.key for one in mine}
        for rows in read_rows(opened.store, path, np.array(sorted({one.place for one in mine})), _PAYLOAD):
            for row in rows.to_pylist():
                key = f"{row['source']}/{row['row']}"
                if key in wanted:
                    found[key] = make_side(row, edited.get(key))
        for one in mine:  # `imglish forget` puts rows elsewhere
            if one.key not in found:
                rows = find_rows(opened.store, path, "row", OneOf([one.row]), _PAYLOAD).to_pylist()
                empty = {"source": one.source, "row": one.row, "kind": opened.trail.files[file].kind}
                found[one.key] = make_side(rows[0] if rows else empty, edited.get(one.key))
    return found
