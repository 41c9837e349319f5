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


class CaptionRepetition(Section):
    """Thresholds of `caption_repetition`."""

    max_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a caption's words that occurred in it before (data-juicer 0.5, CC12M 0.2)."""


def caption_repetition(rows: pa.Table, limits: CaptionRepetition) -> Finding:
    """Removes captions that repeat words, such as lists of search terms (CC12M, Changpinyo et al. 2021: 0.2)."""
    captions = unpack(rows, "captions")

    def failed(i: int, n: int) -> bool:
        return bool(captions[i][n]["repeats"] > limits.max_share * max(1, captions[i][n]["words"]))

    return edited(
        rows, captions, failed, limits.max_share, f"every caption repeats over {limits.max_share:g} of its words"
    )


class CaptionCharacterRepetition(Section):
    """Thresholds of `caption_character_repetition`."""

    max_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a caption's runs of ten characters that repeat (data-juicer: 0.5)."""


def caption_character_repetition(rows: pa.Table, limits: CaptionCharacterRepetition) -> Finding:
    """Removes captions whose characters repeat, such as "aaaaaa" (data-juicer's character_repetition_filter: 0.5)."""
    captions, shares = unpack(rows, "captions"), unpack(rows, "caption_repetition")
    return edited(
        rows, captions, lambda i, n: shares[i][n] > limits.max_share, limits.max_share, "every caption repeats itself"
    )


class CaptionCharacters(Section):
    """Thresholds of `caption_characters`."""

    min_characters: int = Field(default=5, ge=0)
    """Characters of one caption (LAION: 5; DataComp, COYO: 6)."""
    max_characters: int = Field(default=1_000, ge=1)
    """Characters of one caption (COYO: 1,000)."""


def caption_characters(rows: pa.Table, limits: CaptionCharacters) -> Finding:
    """Removes captions outside [min_characters, max_characters] (LAION, Schuhmann et al. 2021; COYO-700M)."""
    captions, low, high = unpack(rows, "captions"), limits.min_characters, limits.max_characters
    reason = f"no caption of {low} to {high} characters"
    return edited(rows, captions, lambda i, n: not low <= captions[i][n]["characters"] <= high, float(low), reason)


class CaptionLanguage(Section):
    """Thresholds of `caption_language`."""

    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes to keep."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Confidence; short captions have little."""


def caption_language(rows: pa.Table, limits: CaptionLanguage) -> Finding:
    """Removes captions of other languages (DataComp basic, Gadre et al. 2023: fastText says English)."""
    captions = unpack(rows, "captions")

    def failed(i: int, n: int) -> bool:
        found = captions[i][n]
        return found["language"] not in limits.languages or found["score"] < limits.min_score

    return edited(rows, captions, failed, limits.min_score, f"no caption in {', '.join(limits.languages)}")


FAMILIES = (
    Family("caption_length", 1, ("captions",), caption_length, {"": CaptionLength()}),
    Family("caption_characters", 1, ("captions",), caption_characters, {"": CaptionCharacters()}),
    Family("caption_repetition", 1, ("captions",), caption_repetition, {"": CaptionRepetition()}),
    Family(
        "caption_character_repetition",
        1,
        ("captions", "caption_repetition"),
        caption_character_repetition,
        {"": CaptionCharacterRepetition()},
    ),
    Family("caption_language", 1, ("captions",), caption_language, {"": CaptionLanguage()}),
)
