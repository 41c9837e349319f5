"""Which shard a record belongs to.

    placement = Placement(train=8, validation=1, layout="mixed")
    placement.ordinals(splits, kinds, record_ids)         # int32, the shard's number in the manifest

Record ids are uniform, so shard floor(id_hi64 * n / 2**64) of n is a contiguous id range and a fair sample of the
corpus. Ordinals count train before validation, and inside a split by kind when the layout is "by-kind".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves
from imglish.records import KINDS, SPLITS, Kind, Split

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Slot:
    """One shard to be: number `number` of `of` in its split (and kind; None holds all kinds)."""

    ordinal: int
    split: Split
    kind: Kind | None
    number: int
    of: int


@dataclass(frozen=True)
class Placement:
    """Numbers of shards and their layout, from the recipe."""

    train: int
    validation: int
    layout: str

    def __len__(self) -> int:
        """The number of shards."""
        return sum(self._of(split) for split in SPLITS) * (len(KINDS) if self.layout == "by-kind" else 1)

    def slots(self) -> list[Slot]:
        """Every shard in the order of the manifest."""
        kinds: Sequence[Kind | None] = KINDS if self.layout == "by-kind" else (None,)
        places = [(split, kind, i) for split in SPLITS for kind in kinds for i in range(self._of(split))]
        return [Slot(n, split, kind, i, self._of(split)) for n, (split, kind, i) in enumerate(places)]

    def ordinals(self, splits: Sequence[str], kinds: Sequence[str], record_ids: Sequence[bytes]) -> NDArray[np.int32]:
        """The shard of every record, int32 [n]; the columns may be Arrow's."""
        sizes = np.array([self._of(split) for split in SPLITS], dtype=np.uint64)
        split, kind = _numbers(splits, SPLITS), _numbers(kinds, KINDS)
        kinds_apart = len(KINDS) if self.layout == "by-kind" else 1
        base = np.concatenate([[0], np.cumsum(sizes * np.uint64(kinds_apart))]).astype(np.uint64)
        within = share_of(record_ids, sizes[split])
        if kinds_apart > 1:
            within += kind.astype(np.uint64) * sizes[split]
        return np.asarray(base[split] + within, dtype=np.int32)

    def rounds(self, count: int) -> list[list[int]]:
        """Ordinals by round: round r takes the shards whose id range starts in the r-th part of all ids."""
        found: list[list[int]] = [[] for _ in range(count)]
        for slot in self.slots():
            found[slot.number * count // slot.of].append(slot.ordinal)
        return [ordinals for ordinals in found if ordinals]

    def _of(self, split: Split) -> int:
        return self.train if split == "train" else self.validation


def share_of(record_ids: Sequence[bytes], of: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """floor(id_hi64 * of / 2**64) without 128-bit integers; `of` below 2**32; ids big-endian."""
    high, _ = record_halves(_column(record_ids, pa.binary()))
    return np.asarray(((high >> _HALF) * of + ((high & _LOW) * of >> _HALF)) >> _HALF)


def _numbers(names: Sequence[str], of: Sequence[str]) -> NDArray[np.int64]:
    """The place of every name in `of`."""
    found = pc.index_in(_column(names, pa.string()), value_set=pa.array(of, pa.string()))
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values, kind)])
