"""What published image-text corpora ask of a pair: picture and captions in one rule.

A caption that fails is removed; a pair is dropped when its picture fails or no caption is left. What these corpora
decide by scores or by counting belongs to other rules, such as `nsfw`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from imglish.ingest.rules.base import Check, Family, Finding, first_failure, floats, is_kind
from imglish.ingest.rules.captions import edited, unpack
from imglish.recipe import Section


class PairLimits(Section):
    """Thresholds of `datacomp_basic`, `laion`, `cc12m` and `coyo`; None sets no limit."""

    min_side: int | None = Field(default=None, ge=1)
    """Shorter side of the original, pixels."""
    max_aspect: float | None = Field(default=None, ge=1)
    """Long side over short side."""
    min_bytes: int | None = Field(default=None, ge=0)
    """Bytes of the image as received."""
    min_words: int | None = Field(default=None, ge=0)
    """Words of a caption."""
    max_words: int | None = Field(default=None, ge=1)
    """Words of a caption."""
    min_characters: int | None = Field(default=None, ge=0)
    """Characters of a caption."""
    max_characters: int | None = Field(default=None, ge=1)
    """Characters of a caption."""
    max_repetition: float | None = Field(default=None, ge=0)
    """Share of a caption's words that occurred in it before."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of captions to keep; empty keeps every language."""


def pair(rows: pa.Table, limits: PairLimits) -> Finding:
    """Drops pairs whose picture or whose captions a published corpus would not have taken (`FAMILIES`)."""
    pairs = is_kind(rows, "pair")
    side, aspect, size = (np.where(pairs, floats(rows, n), np.nan) for n in ("height", "aspect", "bytes"))
    side = np.fmin(side, np.where(pairs, floats(rows, "width"), np.nan))
    captions = unpack(rows, "captions")
    cut = edited(rows, captions, lambda i, n: not fits(captions[i][n], limits), 0.0, "no caption that fits")
    checks = [
        Check("side", side, "<", limits.min_side),
        Check("aspect", aspect, ">", limits.max_aspect),
        Check("bytes", size, "<", limits.min_bytes),
        Check("captions", np.where(cut.fired, 0.0, np.nan), "<", 1),
    ]
    found = first_failure(rows.num_rows, checks)
    return Finding(found.fired, found.score, found.threshold, found.detail, cut.edits)


def fits(caption: Mapping[str, Any], limits: PairLimits) -> bool:
    """Whether a caption is within all limits."""
    ranges = (
        ("words", limits.min_words, limits.max_words),
        ("characters", limits.min_characters, limits.max_characters),
    )
    for name, low, high in ranges:
        if (low is not None and caption[name] < low) or (high is not None and caption[name] > high):
            return False
    if limits.max_repetition is not None and caption["repeats"] > limits.max_repetition * max(1, caption["words"]):
        return False
    return not limits.languages or caption["language"] in limits.languages


_READS = ("width", "height", "aspect", "bytes", "captions")
DATACOMP_BASIC = PairLimits(min_side=200, max_aspect=3.0, min_words=3, min_characters=6, languages=("en",))
"""Gadre et al. 2023, appendix: more than 2 words and 5 characters, English by fastText; smaller side 200, aspect 3."""
LAION = PairLimits(min_bytes=5_000, min_characters=5)
"""Schuhmann et al. 2021: 5 KB and 5 characters; its CLIP cut is not part of this."""
CC12M = PairLimits(min_side=401, max_aspect=2.5, min_words=3, max_words=256, max_repetition=0.2)
"""Changpinyo et al. 2021: more than 400 pixels, ratio 2.5, 3 to 256 words, word repetition 0.2."""
COYO = PairLimits(
    min_side=200, max_aspect=3.0, min_bytes=5_000, min_words=3, max_words=256, min_characters=6, max_characters=1_000
)
"""COYO-700M's card: 200 pixels, aspect 3, 5 KB, 3 to 256 words, more than 5 and at most 1,000 characters."""
FAMILIES = (
    Family("datacomp_basic", 1, _READS, pair, {"": DATACOMP_BASIC}),
    Family("laion", 1, _READS, pair, {"": LAION}),
    Family("cc12m", 1, _READS, pair, {"": CC12M}),
    Family("coyo", 1, _READS, pair, {"": COYO}),
)
