"""Rules on single captions: one that fails is removed by an edit, and a pair is dropped when none is left.

captions = unpack(rows, "captions")         # {row: [{"words": 3, "bytes": 14, ...}, ...]}
finding = edited(rows, captions, failed)    # failed(row, number) -> (score, reason) or None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field, model_validator

from imglish.ingest.rules.base import Edit, Family, Finding, mask, texts_of
from imglish.recipe import Section

Captions = Mapping[int, Sequence[Mapping[str, Any]]]
"""By row, what was measured of each caption."""


def unpack(rows: pa.Table, name: str) -> dict[int, Any]:
    """A JSON column by row, where there is one."""
    return {i: orjson.loads(text) for i, text in texts_of(rows, name, mask(rows.column(name).is_valid())).items()}


def edited(
    rows: pa.Table, captions: Captions, failed: Callable[[int, int], bool], threshold: float, reason: str
) -> Finding:
    """Removes captions for which `failed(row, number)`; fires on a pair of which no caption is left."""
    fired = np.zeros(rows.num_rows, dtype=bool)
    edits: dict[int, list[Edit]] = {}
    for i, measured in captions.items():
        bad = [number for number in range(len(measured)) if failed(i, number)]
        if bad:
            edits[i] = [(number, 0, measured[number]["bytes"], "") for number in bad]
        fired[i] = len(bad) == len(measured)
    said = {int(i): reason for i in np.flatnonzero(fired)}
    return Finding(fired, np.full(rows.num_rows, np.nan), threshold, said, edits)


class CaptionLength(Section):
    """Thresholds of `caption_length`."""

    min_words: int = Field(default=1, ge=1)
    """Words of one caption (COYO and CC12M use 3; single-word names are kept by default)."""
    max_words: int = Field(default=256, ge=1)
    """Words of one caption (CC12M and COYO: 256)."""

    @model_validator(mode="after")
    def _ordered(self) -> CaptionLength:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self


def caption_length(rows: pa.Table, limits: CaptionLength) -> Finding:
    """Removes captions outside [min_words, max_words] (CC12M, COYO: 3 to 256); drops a pair left without any."""
    captions = unpack(rows, "captions")
    score = np.full(rows.num_rows, np.nan)
    for i, measured in captions.items():
        score[i] = max((caption["words"] for caption in measured), default=0)
    low, high = limits.min_words, limits.max_words
    reason = f"no caption of {low} to {high} words"
    found = edited(rows, captions, lambda i, n: not low <= captions[i][n]["words"] <= high, float(low), reason)
    return Finding(found.fired, score, found.threshold, found.detail, found.edits)


FAMILIES = (Family("caption_length", 1, ("captions",), caption_length, {"": CaptionLength()}),)
