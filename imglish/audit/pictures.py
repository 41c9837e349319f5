"""Pictures: sizes of the originals, and bytes, brightness and sharpness of what is stored, once a sample."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.histograms import add_all, bins, quantiles

ASPECT_EDGES = (0, 333, 500, 667, 750, 900, 1112, 1334, 1501, 2001, 3001)
"""Bins of width over height in thousandths, about 1:3, 1:2, 2:3, 3:4, square, 4:3, 3:2, 2:1, 3:1."""
BRIGHTNESS_EDGES = tuple(range(0, 256, 32))
DARK, BRIGHT, BLURRED = 16, 239, 100
"""Mean luma below and above which a picture is nearly black or white; variance of the Laplacian below which it is
called blurred by convention (Pech-Pacheco et al. 2000 on full-size photographs; look at yours)."""
STORED = ("bytes", "brightness", "sharpness")
COLUMNS = ("width", "height", "merged", *STORED)


class Pictures:
    """Histograms over shards."""

    def __init__(self) -> None:
        self.short_side: Counter[int] = Counter()
        self.long_side: Counter[int] = Counter()
        self.aspect: Counter[int] = Counter()
        self.stored: dict[str, Counter[int]] = {name: Counter() for name in STORED}

    def add(self, occurrences: pa.Table) -> None:
        """The occurrence rows of one shard; the survivors' count."""
        rows = occurrences.filter(pc.invert(occurrences.column("merged")))
        sized = rows.filter(pc.and_(pc.is_valid(rows.column("width")), pc.is_valid(rows.column("height"))))
        width = sized.column("width").to_numpy().astype(np.int64)
        height = sized.column("height").to_numpy().astype(np.int64)
        add_all(self.short_side, np.minimum(width, height))
        add_all(self.long_side, np.maximum(width, height))
        add_all(self.aspect, width * 1000 // np.maximum(height, 1))
        for name, histogram in self.stored.items():
            add_all(histogram, rows.column(name).drop_null().to_numpy().astype(np.int64))

    def values(self) -> dict[str, Any]:
        """The finished numbers."""
        brightness, sharpness = self.stored["brightness"], self.stored["sharpness"]
        return {
            "short_side": described(self.short_side),
            "long_side": described(self.long_side),
            "aspect_thousandths": {**quantiles(self.aspect), "bins": bins(self.aspect, ASPECT_EDGES)},
            "stored_bytes": described(self.stored["bytes"]),
            "brightness": {**quantiles(brightness), "bins": bins(brightness, BRIGHTNESS_EDGES)},
            "sharpness": described(sharpness),
            "nearly_black": sum(count for value, count in brightness.items() if value < DARK),
            "nearly_white": sum(count for value, count in brightness.items() if value > BRIGHT),
            "blurred": sum(count for value, count in sharpness.items() if value < BLURRED),
        }


def described(histogram: Counter[int]) -> dict[str, Any]:
    """Quantiles and bins."""
    return {**quantiles(histogram), "bins": bins(histogram)}
