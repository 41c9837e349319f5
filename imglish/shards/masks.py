"""What the model must predict: block-wise masks of patches, uniform masks of text, both with exact counts.

    block_masks(keys, (14, 14), 78)                  bool [n, 196], 78 True in every row
    text_masks(keys, ids, 0.15, special=(0, 1, 2))   bool [n, T], 15 % of the other ids of every row
    shown_ids(keys, ids, masks, 64_001, (4, 64_000)) what stands there with the 80/10/10 rule

A mask is a pure function of its key, whatever else is in the batch, and the same on every machine: the
arithmetic is exact or correctly rounded (no exp or log). Samples are masked side by side; each step of
the rectangle search goes on with the samples that are not done. A grid is held as one 64-bit word a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imglish.errors import OrderError
from imglish.seeds import U64, below, draw, uniform

Mask = NDArray[np.bool_]
I64 = NDArray[np.int64]

MIN_BLOCK = 16
"""Smallest area drawn for a rectangle, patches of a 14 x 14 grid (BEiT v2's recipe)."""
MIN_BLOCK_GRID = 196
"""On smaller grids the smallest area shrinks in proportion (ours: BEiT has no smaller grids)."""
MIN_ASPECT = 0.3
"""Rectangles are 0.3 to 1 / 0.3 times as high as wide, log-uniformly (BEiT)."""
TRIES = 10
"""Rectangles in a row that may fail before the rest is filled patch by patch (BEiT)."""

SHOWN = ("mask", "80/10/10")
"""What may stand at masked ids."""
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1
"""Shares of masked ids that are shown as `<mask>` and as a random word; the rest is shown as it is (BERT)."""

_DRAWS_PER_TRY = 4
_TRIES_AT_ONCE = 4  # numbers drawn by one call
_FILL = 1 << 32  # counter of the first number used to fill up; tries never get that far
_SHOW = 1 << 33  # counter of the first number that says how a masked id is shown; masks never get that far
_ASPECT_BITS = 8
_POSITION_BITS = 16


@dataclass(frozen=True)
class Masks:
    """Shares of masked positions (BEiT-3 sections 2.2 and 2.3): patches, ids of text blocks, ids of captions.

    `shown` says what stands at masked ids: "mask" is `<mask>` everywhere, "80/10/10" is BERT's rule (`shown_ids`).
    OrderError when a share is not between 0 and 1, or for another word.
    """

    image: float = 0.4
    text: float = 0.15
    caption: float = 0.5
    shown: str = "mask"

    def __post_init__(self) -> None:
        for name in ("image", "text", "caption"):
            if not 0 < getattr(self, name) < 1:
                raise OrderError(f"masks.{name} is {getattr(self, name)}; a share is between 0 and 1")
        if self.shown not in SHOWN:
            raise OrderError(f"masks.shown is {self.shown!r}; it is one of {', '.join(SHOWN)}")

    def patches(self, grid: tuple[int, int]) -> int:
        """Masked patches of a grid: the share of all, rounded half up (78 of 196, 102 of 256)."""
        return int(self.image * grid[0] * grid[1] + 0.5)


def block_masks(keys: U64, grid: tuple[int, int], count: int) -> Mask:
    """BEiT block-wise masks, bool [n, h * w] with exactly `count` True in every row.

    `keys` is uint64 [n]; `grid` (h, w) has sides up to 64. Rectangles are added while they fit into the count; after
    `TRIES` failures in a row the missing patches are chosen uniformly, as in BEiT v2.
    """
    height, width = grid
    if not (1 <= height <= 64 and 1 <= width <= 64 and 0 <= count <= height * width):
        raise ValueError(f"cannot mask {count} patches of a {height} x {width} grid (sides are 1 to 64)")
    words = np.zeros((len(keys), height), dtype=np.uint64)
    missing = np.full(len(keys), count, dtype=np.int64)
    failures = np.zeros(len(keys), dtype=np.int64)
    active = np.arange(len(keys) if count else 0)
    number = 0
    while len(active):
        held = words[active], missing[active], failures[active]
        for drawn in _draw_tries(keys[active], number):
            held = _try(drawn, grid, *held)
        words[active], missing[active], failures[active] = held
        active = active[(missing[active] > 0) & (failures[active] < TRIES)]
        number += _TRIES_AT_ONCE
    return _fill(keys, _unpack(words, width), missing)


def text_masks(keys: U64, ids: NDArray[np.integer], share: float, special: Sequence[int]) -> Mask:
    """Uniform masks over ids [n, T] that are not in `special`, bool [n, T].

    Each row has `share` of its other ids masked, rounded half up, and at least one where there is any. T < 65,536.
    """
    maskable = ~np.isin(ids, special)
    available = maskable.sum(axis=1)
    counts = np.floor(share * available + 0.5).astype(np.int64)
    return _choose(draw(keys[:, None], np.arange(ids.shape[1])), maskable, np.maximum(counts, np.minimum(available, 1)))


def shown_ids(
    keys: U64, ids: NDArray[np.integer], masks: Mask, mask_id: int, words: tuple[int, int]
) -> NDArray[np.int64]:
    """What the model sees of ids [n, T] by BERT's rule, int64 [n, T]; the other way is `<mask>` at all masked ids.

    Of the ids in `masks` [n, T] 80 % become `mask_id`, 10 % a word drawn uniformly from range(*words), 10 % stay, each
    id by itself. A function of key and position, independent of the masks of the same keys.
    """
    first, stop = words
    places = np.arange(ids.shape[1])
    fate = uniform(draw(keys[:, None], _SHOW + 2 * places))
    other = first + below(draw(keys[:, None], _SHOW + 2 * places + 1), stop - first)
    shown = np.where(fate < SHOWN_AS_MASK, mask_id, np.where(fate < SHOWN_AS_MASK + SHOWN_AS_OTHER, other, ids))
    return np.where(masks, shown, ids).astype(np.int64)


def _draw_tries(keys: U64, first: int) -> NDArray[np.float64]:
    """Numbers of the tries from `first`, [tries, 4, n]: share of the area, root of the aspect, top and left."""
    counters = np.arange(_DRAWS_PER_TRY * _TRIES_AT_ONCE)[:, None] + _DRAWS_PER_TRY * first
    bits = draw(keys, counters).reshape(_TRIES_AT_ONCE, _DRAWS_PER_TRY, len(keys))
    numbers = uniform(bits)
    numbers[:, 1] = _ROOT_ASPECTS[bits[:, 1] >> np.uint64(64 - _ASPECT_BITS)]
    return numbers


def _try(
    drawn: NDArray[np.float64],
    grid: tuple[int, int],
    words: U64,
    missing: NDArray[np.int64],
    failures: NDArray[np.int64],
) -> tuple[U64, NDArray[np.int64], NDArray[np.int64]]:
    """Words, missing patches and failures in a row after one more try of the samples that are not done."""
    added = _rectangles(drawn, grid, missing) & ~words
    new = np.bitwise_count(added).sum(axis=1, dtype=np.int64)
    accepted = (new > 0) & (new <= missing) & (failures < TRIES)
    failures = np.where(accepted, 0, failures + 1)
    return words | added * accepted[:, None], missing - new * accepted, failures


def _rectangles(drawn: NDArray[np.float64], grid: tuple[int, int], missing: I64) -> U64:
    """One try of each sample, drawn [4, n], as words [n, h]; empty where it is not smaller than the grid."""
    height, width = grid
    share, root, down, right = drawn
    smallest = _smallest_block(grid)
    side = np.sqrt(smallest + share * (missing - smallest))
    high, wide = np.rint(side * root), np.rint(side / root)
    fits = (high < height) & (wide < width)
    top = np.floor(down * (height - high + 1))
    left = np.where(fits, right * (width - wide + 1), 0).astype(np.uint64)
    run = ((np.uint64(1) << np.where(fits, wide, 0).astype(np.uint64)) - np.uint64(1)) << left
    from_top = np.arange(height) - top[:, None]
    inside = (from_top >= 0) & (from_top < high[:, None])
    return np.asarray(inside * run[:, None])


def _smallest_block(grid: tuple[int, int]) -> int:
    patches = min(grid[0] * grid[1], MIN_BLOCK_GRID)
    return max(1, (2 * MIN_BLOCK * patches + MIN_BLOCK_GRID) // (2 * MIN_BLOCK_GRID))


def _unpack(words: U64, width: int) -> Mask:
    """Words [n, h] as bool [n, h * width]."""
    bits = (words[:, :, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    return bits.astype(np.bool_).reshape(len(words), words.shape[1] * width)


def _fill(keys: U64, masks: Mask, missing: I64) -> Mask:
    """Mask `missing` more patches of each row, uniformly among the others."""
    rows = np.flatnonzero(missing)
    scores = draw(keys[rows, None], np.arange(masks.shape[1]) + _FILL)
    masks[rows] |= _choose(scores, ~masks[rows], missing[rows])
    return masks


def _choose(scores: U64, candidates: Mask, counts: I64) -> Mask:
    """The `counts` candidates with the smallest scores of each row; places break ties, so counts are exact."""
    low = np.uint64((1 << _POSITION_BITS) - 1)
    unique = (scores & ~low) | np.arange(scores.shape[1], dtype=np.uint64)
    unique[~candidates] = np.iinfo(np.uint64).max
    ranked = np.sort(unique, axis=1)
    last = np.take_along_axis(ranked, np.maximum(counts - 1, 0)[:, None], axis=1) if scores.size else ranked
    return (unique <= last) & (counts > 0)[:, None]


def _root_aspects() -> NDArray[np.float64]:
    """Square roots of 2**8 aspects, log-uniform over [0.3, 1 / 0.3].

    Built from products and square roots only, which IEEE 754 rounds correctly everywhere, unlike exp and log.
    """
    aspects = np.full(1 << _ASPECT_BITS, MIN_ASPECT)
    factor = 1 / MIN_ASPECT**2
    index = np.arange(1 << _ASPECT_BITS)
    for bit in reversed(range(_ASPECT_BITS)):
        factor = float(np.sqrt(factor))
        aspects = np.where((index >> bit) & 1 == 1, aspects * factor, aspects)
    return np.asarray(np.sqrt(aspects * np.sqrt(factor)))


_ROOT_ASPECTS = _root_aspects()
