"""Rules that read what annotate always measures: payload, size of an image, words, language.

`preset:basic` names most of them; their thresholds are mild.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from imglish.ingest.rules.base import Check, Family, Finding, NoLimits, first_failure, floats, is_kind, mask, texts_of
from imglish.recipe import Section


def payload(rows: pa.Table, limits: NoLimits) -> Finding:
    """Drops occurrences without a usable payload; the detail is the status and what landing or the decoder said."""
    fired = mask(pc.not_equal(rows.column("status"), "ok"))
    words, details = texts_of(rows, "status", fired), texts_of(rows, "detail", fired)
    said = {i: f"{word}: {details[i]}" if details[i] else word for i, word in words.items()}
    return Finding(fired, np.full(len(fired), np.nan), None, said)


class ImageSize(Section):
    """Thresholds of `image_size`."""

    min_side: int = Field(default=32, ge=1)
    """Shorter side of the original, pixels (DataComp and COYO use 200 for web photographs)."""


def image_size(rows: pa.Table, limits: ImageSize) -> Finding:
    """Drops small images (DataComp basic and COYO: shorter side 200 pixels)."""
    width, height = floats(rows, "width"), floats(rows, "height")
    short = np.fmin(width, height)
    fired = short < limits.min_side
    said = {int(i): f"{width[i]:.0f} x {height[i]:.0f} pixels" for i in np.flatnonzero(fired)}
    return Finding(fired, short, float(limits.min_side), said)


class ImageAspect(Section):
    """Thresholds of `image_aspect`."""

    max_aspect: float = Field(default=3.0, ge=1)
    """Long side over short side (DataComp basic and COYO: 3.0, CC12M 2.5, CC3M 2)."""


def image_aspect(rows: pa.Table, limits: ImageAspect) -> Finding:
    """Drops elongated images (DataComp basic and COYO: long side over short side 3)."""
    aspect = floats(rows, "aspect")
    return Finding(aspect > limits.max_aspect, aspect, limits.max_aspect)


class ImageBytes(Section):
    """Thresholds of `image_bytes`."""

    min_bytes: int = Field(default=5_000, ge=0)
    """Bytes as received (LAION-400M and COYO: 5 KB)."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Bytes as received; None sets no limit."""


def image_bytes(rows: pa.Table, limits: ImageBytes) -> Finding:
    """Drops images whose file is small (LAION-400M, Schuhmann et al. 2021; COYO-700M: 5 KB) or too large."""
    size = np.where(is_kind(rows, "pair", "image"), floats(rows, "bytes"), np.nan)
    return first_failure(
        len(size), [Check("bytes", size, "<", limits.min_bytes), Check("bytes", size, ">", limits.max_bytes)]
    )


class TextLength(Section):
    """Thresholds of `text_length`."""

    min_words: int = Field(default=50, ge=0)
    """Words in a document (Gopher: 50)."""


def text_length(rows: pa.Table, limits: TextLength) -> Finding:
    """Drops short documents (Gopher, Rae et al. 2021, table A1: 50 words); words as `annotate.count_words` has them."""
    words = floats(rows, "words")
    return Finding(words < limits.min_words, words, float(limits.min_words))


class Language(Section):
    """Thresholds of `language`."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes to keep; empty keeps every language."""
    min_score: float = Field(default=0.65, ge=0, le=1)
    """Confidence of the language (FineWeb and RefinedWeb: fastText 0.65; data-juicer 0.8)."""


def language(rows: pa.Table, limits: Language) -> Finding:
    """Drops documents of other languages or of an uncertain one (FineWeb, Penedo et al. 2024: fastText 0.65)."""
    is_text = is_kind(rows, "text")
    score = np.where(is_text, floats(rows, "language_score"), np.nan)
    allowed = pa.array(limits.languages, pa.string())
    other = ~mask(pc.is_in(rows.column("language"), value_set=allowed)) if len(allowed) else np.zeros(len(score), bool)
    fired = is_text & (other | (score < limits.min_score)) & ~np.isnan(score)
    said = {i: f"language {word}" for i, word in texts_of(rows, "language", fired).items()}
    return Finding(fired, score, limits.min_score, said)


FAMILIES = (
    Family("payload", 1, ("status", "detail"), payload, {"": NoLimits()}),
    Family("image_size", 1, ("width", "height"), image_size, {"": ImageSize()}),
    Family("image_aspect", 1, ("aspect",), image_aspect, {"": ImageAspect()}),
    Family("image_bytes", 1, ("bytes",), image_bytes, {"": ImageBytes()}),
    Family("text_length", 1, ("words",), text_length, {"": TextLength()}),
    Family("language", 1, ("language", "language_score"), language, {"": Language()}),
)
