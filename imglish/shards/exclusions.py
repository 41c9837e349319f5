"""Rows that training must not see, as an input of the order.

An exclusions file is JSON lines; each line holds from one position (number of a global batch) on:

    {"from": 1200, "kind": "pair", "shard": 3, "row": 17}

Exclusions never change the number of rows. An excluded row is replaced by the next row of its kind in
manifest order, cyclically, that is not excluded; those replacements are the only duplicates in an epoch.
A loader's state holds the digest of the lines that took part in consumed batches, so lines that start
later may be added between two runs, and no others. The tombstones of a manifest are excluded in the same way,
at every position of a run on that manifest; they belong to the manifest's digest, not to that of the lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.digests import json_digest
from imglish.errors import OrderError
from imglish.records import KINDS, Kind

I64 = NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Exclusion:
    """One line: row `row` of `kind` in the shard with ordinal `shard`, from batch `start` on."""

    start: int
    kind: Kind
    shard: int
    row: int

    def to_json(self) -> str:
        """The line of the file."""
        return json.dumps({"from": self.start, "kind": self.kind, "shard": self.shard, "row": self.row})


class Exclusions:
    """A set of exclusions; the order of lines does not matter. `tombstones` are excluded from batch 0 on."""

    def __init__(self, lines: Iterable[Exclusion] = (), tombstones: Iterable[Exclusion] = ()) -> None:
        self.lines: Sequence[Exclusion] = tuple(sorted(set(lines)))
        self.tombstones: Sequence[Exclusion] = tuple(tombstones)

    @classmethod
    def load(cls, path: str | Path) -> Exclusions:
        """Read a file of JSON lines; OrderError names the file and the line that is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OrderError(f"exclusions file {path} cannot be read: {error}") from None
        numbered = enumerate(text.splitlines(), start=1)
        return cls(_parse(line, f"{path} line {number}") for number, line in numbered if line.strip())

    def digest(self, position: int) -> str:
        """SHA-256 of the lines that took part in batches 0 .. position - 1 (those with `from` < position)."""
        return json_digest([[x.start, x.kind, x.shard, x.row] for x in self.lines if x.start < position])

    def rows(self, kind: Kind) -> tuple[I64, I64, I64]:
        """(start, shard, row) of a kind's lines and tombstones, int64 [n] each."""
        every = (*self.lines, *self.tombstones)
        found = [(line.start, line.shard, line.row) for line in every if line.kind == kind]
        columns = np.array(found, dtype=np.int64).reshape(-1, 3).T
        return columns[0], columns[1], columns[2]


def replacements(excluded: I64, count: int) -> I64:
    """The row that stands in for each excluded one: the next of range(count), cyclically, not excluded itself.

    `excluded` is int64 [n], ascending and unique, n < count.
    """
    places = np.arange(len(excluded))
    run_goes_on = np.append(np.diff(excluded) == 1, False)
    ends = np.where(run_goes_on, len(excluded), places)
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    following = excluded[ends] + 1
    beyond_zero = following[0] if excluded[0] == 0 else 0
    return np.where(following == count, beyond_zero, following)


def _parse(line: str, where: str) -> Exclusion:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise OrderError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, Mapping) or set(value) != {"from", "kind", "shard", "row"}:
        raise OrderError(f"{where}: a line has exactly the keys from, kind, shard and row, not {line.strip()[:80]!r}")
    if value["kind"] not in KINDS:
        raise OrderError(f"{where}: kind is {value['kind']!r}; it is one of {', '.join(KINDS)}")
    return Exclusion(
        _count(value, "from", where), value["kind"], _count(value, "shard", where), _count(value, "row", where)
    )


def _count(value: Mapping[str, Any], name: str, where: str) -> int:
    number = value[name]
    if type(number) is not int or not 0 <= number < 2**62:
        raise OrderError(f"{where}: {name} is {number!r}; it is a whole number from 0")
    return number
