"""Views: which part of a stored image a model sees, and how it is rendered.

    views = draw_views(ids, sizes, ViewConfig(), seed=0)        uint16 [n, K, 5]: x, y, w, h, flip in stored pixels
    pixels = render(jpeg, views[0, 0], 224)                     uint8 [224, 224, 3]

A view's box is a random resized crop as in torchvision: area share uniform in [min_scale, 1], aspect log-uniform,
up to ten tries until it fits, then the last try is cut to the image. All draws are numbers of one counter-based
stream per record, so a view depends on nothing but seed and record id. `render` is the only renderer: the tokenizer
makes codes from the very pixels that the loader gives the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from imglish import seeds
from imglish.recipe import ViewConfig
from imglish.shards.images import RGB, decode_jpeg

Views = NDArray[np.uint16]

TRIES = 10
"""Tries before a box is cut to the image (torchvision's RandomResizedCrop: 10)."""
_DRAWS = 2 * TRIES + 3  # area and aspect of every try, then x, y, flip

# Rendering one small view is too little work to share; the threads are those of the caller. The setting is global to
# the process and harmless to set again.
cv2.setNumThreads(1)


def draw_views(record_ids: Sequence[bytes], sizes: ArrayLike, config: ViewConfig, seed: int) -> Views:
    """K views of every record, uint16 [n, K, 5] of (x, y, w, h, flip).

    `sizes` is int [n, 2] of (width, height) of the stored images; every box lies inside and has at least one pixel.
    """
    count = len(record_ids)
    size = np.asarray(sizes, dtype=np.int64).reshape(count, 1, 2)
    bits = _bits(record_ids, config.count, seed)
    boxes = _box_sizes(bits[:, :, : 2 * TRIES], size, config)
    places = seeds.below(bits[:, :, -3:-1], size - boxes + 1)
    flips = (bits[:, :, -1:] & np.uint64(1)).astype(np.int64) * int(config.flip)
    return np.concatenate([places, boxes, flips], axis=2).astype(np.uint16)


def render(image: bytes | RGB, view: ArrayLike, size: int, out: RGB | None = None) -> RGB:
    """One view of a stored JPEG (or of its decoded pixels) as uint8 [size, size, 3].

    Crop, bicubic resize (OpenCV, no antialiasing: the stored image is hardly larger), then the flip. Pass decoded
    pixels when several views of one image are wanted, and `out`, contiguous, to have the view written there.
    ValueError when the box leaves the image.
    """
    rgb = decode_jpeg(image) if isinstance(image, bytes) else image
    x, y, width, height, flip = view if isinstance(view, tuple) else np.asarray(view).tolist()
    if not (width and height and x + width <= rgb.shape[1] and y + height <= rgb.shape[0]):
        raise ValueError(
            f"view x={x} y={y} w={width} h={height} does not lie in an image of {rgb.shape[1]} x {rgb.shape[0]} pixels"
        )
    crop = rgb[y : y + height, x : x + width]
    if flip:
        return np.asarray(cv2.flip(cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC), 1, dst=out))
    return np.asarray(cv2.resize(crop, (size, size), dst=out, interpolation=cv2.INTER_CUBIC))


def _bits(record_ids: Sequence[bytes], views: int, seed: int) -> seeds.U64:
    """uint64 [n, K, draws]; the key is the low half of the id, as the high half chose the shard."""
    low = np.frombuffer(b"".join(record_ids), dtype="<u8").reshape(-1, 2)[:, 1].astype(np.uint64)
    keys = seeds.stream(seed, "views").keys(low) if len(low) else low
    counters = np.arange(views * _DRAWS, dtype=np.uint64).reshape(1, views, _DRAWS)
    return seeds.draw(keys.reshape(-1, 1, 1), counters)


def _box_sizes(bits: seeds.U64, size: NDArray[np.int64], config: ViewConfig) -> NDArray[np.int64]:
    """int64 [n, K, 2] of (w, h): the first try that fits, else the last one cut to the image."""
    share = config.min_scale + seeds.uniform(bits[:, :, 0::2]) * (1 - config.min_scale)
    ratio = np.exp((2 * seeds.uniform(bits[:, :, 1::2]) - 1) * np.log(config.max_ratio))
    area = share * np.prod(size, axis=2)[:, :, None]
    tries = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=3)
    whole = np.maximum(1, np.rint(tries)).astype(np.int64)
    fits = np.all(whole <= size[:, :, None, :], axis=3)
    fits[:, :, -1] = True
    first = np.argmax(fits, axis=2)
    chosen = np.take_along_axis(whole, first[:, :, None, None], axis=2)[:, :, 0]
    return np.asarray(np.minimum(chosen, size), dtype=np.int64)
