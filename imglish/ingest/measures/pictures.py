"""Measures of pixels: `picture` (entropy, sharpness) and what scorers say (`nsfw`).

A picture is looked at at one size, so that its numbers can be compared with those of others: grey, short side 256, by
Pillow's box filter, never enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imglish.errors import ImageError
from imglish.shards.images import upright_rgb
from imglish.shards.safe_image import open_image

SHORT_SIDE = 256
"""Pixels; sharpness depends on size, so all are measured at one."""


def measure_pictures(payloads: Sequence[bytes], max_pixels: int) -> list[tuple[float, float] | None]:
    """(entropy in bits, variance of the Laplacian) of each image, None for one that does not decode."""
    return [None if grey is None else _detail(grey) for grey in (_grey(payload, max_pixels) for payload in payloads)]


def _grey(payload: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    try:
        with open_image(payload, max_pixels) as image:
            flat = upright_rgb(image).convert("L")
    except ImageError:
        return None
    scale = SHORT_SIDE / min(flat.size)
    if scale < 1:
        flat = flat.resize(
            (max(1, round(flat.width * scale)), max(1, round(flat.height * scale))), Image.Resampling.BOX
        )
    return np.asarray(flat)


def _detail(grey: NDArray[np.uint8]) -> tuple[float, float]:
    share = np.bincount(grey.reshape(-1), minlength=256) / grey.size
    entropy = -float(np.sum(share[share > 0] * np.log2(share[share > 0])))
    laplacian: Any = cv2.Laplacian(grey, cv2.CV_16S)
    sharpness = float(laplacian.astype(np.int64).var())
    return round(abs(entropy), 6), round(sharpness, 4)
