"""Pairs of records that share a key, with the cap that keeps a popular key from becoming quadratic.

    found = capped_pairs(sizes)              # of groups that lie one after another: (left, right) places, groups capped
    near = near_pairs(hashes, sizes, 8)      # only pairs whose 64-bit hashes differ in at most 8 bits

In a group of up to `ALL_PAIRS` records every pair is proposed; above that each record with the `FEW` first ones. Groups
are in order of record ids, so the result does not depend on where rows came from.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

ALL_PAIRS, FEW = 64, 16
"""Largest group whose pairs are all proposed, and how many records stand for a larger one: part of the version."""
DENSE = 16
"""Pairs a record that a large group of hashes may keep after their distances are known; with more it is capped."""
SCANNED = 1 << 14
"""Largest group of hashes in which all distances are taken: 0.1 s."""
_STRIP = 512


class Pairs(NamedTuple):
    """Places of the left and right records, left before right, and how many groups were capped."""

    left: I64
    right: I64
    capped: int


def capped_pairs(sizes: I64) -> Pairs:
    """Pairs within groups of the given sizes that lie one after another."""
    starts = np.cumsum(sizes) - sizes
    found = [
        _all_pairs(starts[sizes == size], int(size)) for size in np.unique(sizes[(sizes > 1) & (sizes <= ALL_PAIRS)])
    ]
    large = np.flatnonzero(sizes > ALL_PAIRS)
    found += [_few_pairs(int(starts[group]), int(sizes[group])) for group in large]
    return _joined(found, len(large))


def _all_pairs(starts: I64, size: int) -> tuple[I64, I64]:
    left, right = np.triu_indices(size, 1)
    return (starts[:, None] + left).ravel(), (starts[:, None] + right).ravel()


def _few_pairs(start: int, size: int) -> tuple[I64, I64]:
    left, right = np.meshgrid(np.arange(FEW), np.arange(size))
    kept = left < right
    return start + left[kept], start + right[kept]


def near_pairs(hashes: U64, sizes: I64, radius: int) -> Pairs:
    """`capped_pairs` whose hashes differ in at most `radius` bits.

    A distance costs nanoseconds, a comparison of pictures a file: so groups of up to `SCANNED` records are looked
    through whole, and only those that stay dense after it are capped.
    """
    small = np.where(sizes <= ALL_PAIRS, sizes, 0)
    starts = np.cumsum(sizes) - sizes
    plain = capped_pairs(small)
    moved = _moved(plain, small, starts)
    found, capped = [_within(hashes, *moved, radius)], 0
    for group in np.flatnonzero(sizes > ALL_PAIRS).tolist():
        start, size = int(starts[group]), int(sizes[group])
        whole = _scan(hashes[start : start + size], start, radius) if size <= SCANNED else None
        if whole is None:
            capped += 1
            whole = _within(hashes, *_few_pairs(start, size), radius)
        found.append(whole)
    return _joined(found, capped)


def _moved(pairs: Pairs, sizes: I64, starts: I64) -> tuple[I64, I64]:
    """Places among groups of `sizes` as places where each group begins at its start."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    shift = starts - (np.cumsum(sizes) - sizes)
    return pairs.left + shift[group[pairs.left]], pairs.right + shift[group[pairs.right]]


def _within(hashes: U64, left: I64, right: I64, radius: int) -> tuple[I64, I64]:
    close = np.bitwise_count(hashes[left] ^ hashes[right]) <= radius
    return left[close], right[close]


def _scan(hashes: U64, start: int, radius: int) -> tuple[I64, I64] | None:
    """All close pairs of one group, or None when there are more than DENSE for each record."""
    lefts, rights, left_over = [], [], DENSE * len(hashes)
    for low in range(0, len(hashes), _STRIP):
        close = np.bitwise_count(hashes[low : low + _STRIP, None] ^ hashes[None, :]) <= radius
        left, right = np.nonzero(close)
        kept = left + low < right
        left_over -= int(np.count_nonzero(kept))
        if left_over < 0:
            return None
        lefts.append(start + low + left[kept])
        rights.append(start + right[kept])
    return np.concatenate(lefts), np.concatenate(rights)


def _joined(found: list[tuple[I64, I64]], capped: int) -> Pairs:
    nothing = np.zeros(0, dtype=np.int64)
    left = np.concatenate([nothing, *(pair[0] for pair in found)])
    right = np.concatenate([nothing, *(pair[1] for pair in found)])
    return Pairs(left, right, capped)


def block_keys(hashes: U64, radius: int) -> U64:
    """Keys of 64-bit hashes, uint64 [n, keys], such that two hashes within `radius` bits share at least one.

    The bits are cut into radius + 2 blocks; at most `radius` of them differ, so two blocks are equal, and a key is a
    pair of blocks with their numbers (multi-index hashing, Norouzi et al. 2012; pairs of blocks as Manku et al. 2007).
    """
    edges = np.linspace(0, 64, radius + 3).astype(int)
    masks = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in pairwise(edges.tolist())]
    keys = [
        (hashes & np.uint64(masks[one] | masks[two])) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(one * 64 + two)
        for one, two in combinations(range(len(masks)), 2)
    ]
    return np.stack(keys, axis=1)
