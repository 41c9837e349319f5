"""How many rows of each kind a global batch holds, and how many came before it.

    mixture = Mixture({"pair": 8, "text": 4}, [(1000, {"pair": 16, "text": 8})])
    mixture.counts(999)   -> {"pair": 8, "image": 0, "text": 4}
    mixture.prefix(1001)  -> {"pair": 8016, "image": 0, "text": 4008}

Counts are exact in every batch. A schedule changes them at given positions (a batch-size warm-up, say); the
rows of a kind are numbered through, so a change neither skips nor repeats a row.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from imglish.errors import OrderError
from imglish.records import KINDS, Kind

Schedule = Sequence[tuple[int, Mapping[Kind, int]]]
"""Changes as (first position, counts per kind from there on), positions ascending from 1."""

MAX_CHANGES = 10
"""Changes in a schedule: the loader's state carries them and stays below 1 KB."""


class Mixture:
    """Counts per kind for every position; OrderError when a count, a kind or a position is impossible."""

    def __init__(self, batch: Mapping[Kind, int], schedule: Schedule | None = None) -> None:
        changes = [(0, batch), *(schedule or ())]
        if len(changes) - 1 > MAX_CHANGES:
            raise OrderError(f"the schedule has {len(changes) - 1} changes; at most {MAX_CHANGES} are possible")
        self.starts = [_position(start) for start, _ in changes]
        if any(later <= earlier for earlier, later in zip(self.starts, self.starts[1:], strict=False)):
            raise OrderError(f"the schedule's positions must ascend from 1, not {self.starts[1:]}")
        self.shapes = [_counts(counts) for _, counts in changes]

    def counts(self, position: int) -> dict[Kind, int]:
        """Rows of each kind in one global batch."""
        return dict(next(shape for start, shape in self._backwards() if start <= position))

    def prefix(self, position: int) -> dict[Kind, int]:
        """Rows of each kind in all global batches before this one."""
        total = dict.fromkeys(KINDS, 0)
        end = position
        for start, shape in self._backwards():
            if start < end:
                total = {kind: total[kind] + shape[kind] * (end - start) for kind in KINDS}
                end = start
        return total

    def kinds(self) -> list[Kind]:
        """The kinds that appear in some batch."""
        return [kind for kind in KINDS if any(shape[kind] for shape in self.shapes)]

    def check_world(self, world_size: int) -> None:
        """OrderError unless `world_size` divides every count."""
        for start, shape in zip(self.starts, self.shapes, strict=True):
            uneven = [f"{count} {kind} rows" for kind, count in shape.items() if count % world_size]
            if uneven:
                raise OrderError(
                    f"the global batch from position {start} has {' and '.join(uneven)}, which {world_size} ranks "
                    f"cannot share equally; choose multiples of {world_size}, or another number of ranks"
                )

    def to_json(self) -> list[list[int]]:
        """Rows of (position, pairs, images, texts)."""
        return [[start, *shape.values()] for start, shape in zip(self.starts, self.shapes, strict=True)]

    def _backwards(self) -> list[tuple[int, dict[Kind, int]]]:
        return list(zip(self.starts, self.shapes, strict=True))[::-1]


def check_kinds(names: Mapping[Kind, int], what: str) -> None:
    """OrderError when a name is no kind."""
    for name in names:
        if name not in KINDS:
            near = difflib.get_close_matches(str(name), KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"kinds are {', '.join(KINDS)}"
            raise OrderError(f"{what} names the unknown kind {name!r}; {hint}")


def _counts(batch: Mapping[Kind, int]) -> dict[Kind, int]:
    check_kinds(batch, "batch")
    for kind, count in batch.items():
        if type(count) is not int or count < 0:
            raise OrderError(f"batch[{kind!r}] is {count!r}; it is a whole number from 0")
    if not any(batch.values()):
        raise OrderError("the batch is empty; give at least one kind a count, for example batch={'pair': 8}")
    return {kind: batch.get(kind, 0) for kind in KINDS}


def _position(start: int) -> int:
    if type(start) is not int or start < 0:
        raise OrderError(f"the schedule names position {start!r}; it is a whole number from 1")
    return start
