"""What codes stand for: patches with the same code in other samples, and what a decoder makes of the codes.

    rows = patches_by_code(patches, codes, wanted, count=8)       {code: uint8 [n, P, P, 3]}, the most typical first
    picture = feature_picture(features, grid)                     uint8 [G, G, 3]

Both work on arrays. `tokenizer_of` opens the corpus's own tokenizer, when its file lies in the corpus and can be read
here; without it there is no picture of features and the rest is drawn all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ImglishError
from imglish.shards.manifest import VisualTokenizer
from imglish.storage import Store
from imglish.tokenize.visual import read_visual

Pixels = NDArray[np.uint8]


def cut(view: Pixels, grid: tuple[int, int]) -> Pixels:
    """The patches of a square view, uint8 [N, P, P, 3], row by row."""
    rows, columns = grid
    p, q = view.shape[0] // rows, view.shape[1] // columns
    return view.reshape(rows, p, columns, q, 3).swapaxes(1, 2).reshape(rows * columns, p, q, 3)


def frequent(codes: NDArray[np.uint16], among: NDArray[np.uint16], count: int) -> list[int]:
    """Up to `count` codes of one view, those that most patches of other views share first; ties to the lower code."""
    elsewhere = Counter(among.tolist())
    return sorted(set(codes.tolist()), key=lambda code: (-elsewhere[code], code))[:count]


def patches_by_code(patches: Pixels, codes: NDArray[np.uint16], wanted: Sequence[int], count: int) -> dict[int, Pixels]:
    """For each code the patches nearest to the mean of all that have it; `patches` [M, P, P, 3], `codes` [M]."""
    found: dict[int, Pixels] = {}
    for code in wanted:
        mine = patches[codes == code]
        if len(mine):
            flat = mine.reshape(len(mine), -1).astype(np.float32)
            order = np.argsort(((flat - flat.mean(axis=0)) ** 2).sum(axis=1), kind="stable")
            found[code] = mine[order[:count]]
    return found


def feature_picture(features: NDArray[np.float32], grid: tuple[int, int]) -> Pixels:
    """Features [N, F] as colours: their three main directions over the grid, each stretched to 0..255.

    A direction's sign is chosen so that its largest weight is positive; a grid of equal features is grey.
    """
    centred = features.astype(np.float64) - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    main = directions[:3]
    signs = np.sign(main[np.arange(len(main)), np.abs(main).argmax(axis=1)])
    values = centred @ (main * signs[:, None]).T
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high - low > 1e-6, high - low, 1.0)
    scaled = np.where(high - low > 1e-6, (values - low) / span, 0.5)
    colours = np.full((len(features), 3), 127, np.uint8)
    colours[:, : scaled.shape[1]] = np.rint(255 * scaled)
    return colours.reshape(*grid, 3)


def tokenizer_of(store: Store, visual: VisualTokenizer) -> Any | None:
    """The corpus's own tokenizer, or None when its file is not here or a library for it is missing."""
    if visual.path is None or not store.exists(visual.path):
        return None
    try:
        return read_visual(store.read(visual.path), visual.path, visual.digest)
    except (ImglishError, ImportError):
        return None


def decoded(tokenizer: Any | None, codes: NDArray[np.uint16]) -> NDArray[np.float32] | None:
    """What the tokenizer's decoder makes of the codes [N] of one view, float32 [N, F]; None without a decoder."""
    make = getattr(tokenizer, "features", None)
    found = None if make is None else make(codes[None])
    return None if found is None else np.asarray(found[0], np.float32)
