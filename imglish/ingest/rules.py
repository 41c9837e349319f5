"""Rules: named, versioned predicates over annotations.

A rule sees the annotations of one landing file and says where it fired, with the score, the threshold
and a detail for people. It never reads a payload. A rule may edit instead of dropping: `caption_length`
removes single captions and drops a pair only when none is left.

    finding = RULES[1].judge(annotations, config)      # image_size@1
    finding.fired[i], finding.score[i], finding.threshold

A rule's place in `RULES` is its bit in `decisions.fired`. The first rule that fired decides. A change of
what a rule means is a new version; a change of a threshold is a change of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.recipe import DecideConfig

Edit = tuple[int, int, int, str]
"""(caption number or -1 for a text, start byte, end byte, replacement); removing a whole caption replaces it by ""."""


@dataclass(frozen=True)
class Finding:
    """Where a rule fired on n rows: `fired` bool [n], `score` float [n] (NaN = none), details and edits by row."""

    fired: NDArray[np.bool_]
    score: NDArray[np.float64]
    threshold: float | None
    detail: dict[int, str] = field(default_factory=dict)
    edits: dict[int, list[Edit]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """A named, versioned predicate; `str(rule)` is what decisions record."""

    name: str
    version: int
    judge: Callable[[pa.Table, DecideConfig], Finding]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def _payload(rows: pa.Table, config: DecideConfig) -> Finding:
    """Drops occurrences without a usable payload; the detail is the status and what landing or the decoder said."""
    fired = _mask(pc.not_equal(rows.column("status"), "ok"))
    bad = rows.select(["status", "detail"]).filter(pa.array(fired)).to_pydict()
    words = (f"{status}: {detail}" if detail else status for status, detail in zip(*bad.values(), strict=True))
    said = dict(zip(np.flatnonzero(fired).tolist(), words, strict=True))
    return Finding(fired, np.full(len(fired), np.nan), None, said)


def _image_size(rows: pa.Table, config: DecideConfig) -> Finding:
    """Drops small images (DataComp basic and COYO: shorter side 200 pixels)."""
    width, height = _floats(rows, "width"), _floats(rows, "height")
    short = np.fmin(width, height)
    fired = short < config.image.min_side
    said = {int(i): f"{width[i]:.0f} x {height[i]:.0f} pixels" for i in np.flatnonzero(fired)}
    return Finding(fired, short, float(config.image.min_side), said)


def _image_aspect(rows: pa.Table, config: DecideConfig) -> Finding:
    """Drops elongated images (DataComp basic and COYO: long side over short side 3)."""
    aspect = _floats(rows, "aspect")
    return Finding(aspect > config.image.max_aspect, aspect, config.image.max_aspect)


def _caption_length(rows: pa.Table, config: DecideConfig) -> Finding:
    """Removes captions outside [min_words, max_words] (CC12M, COYO: 3 to 256); drops a pair left without any."""
    fired = np.zeros(rows.num_rows, dtype=bool)
    score = np.full(rows.num_rows, np.nan)
    edits: dict[int, list[Edit]] = {}
    low, high = config.caption.min_words, config.caption.max_words
    packed = rows.column("captions").combine_chunks()
    measured = np.flatnonzero(_mask(packed.is_valid())).tolist()
    for i, text in zip(measured, packed.drop_null().to_pylist(), strict=True):
        captions = orjson.loads(text)
        words = [caption["words"] for caption in captions]
        score[i] = max(words, default=0)
        bad = [n for n, count in enumerate(words) if not low <= count <= high]
        if bad:
            edits[i] = [(n, 0, captions[n]["bytes"], "") for n in bad]
        fired[i] = len(bad) == len(captions)
    said = {int(i): f"no caption of {low} to {high} words" for i in np.flatnonzero(fired)}
    return Finding(fired, score, float(low), said, edits)


def _text_length(rows: pa.Table, config: DecideConfig) -> Finding:
    """Drops short documents (Gopher, Rae et al. 2021, table A1: 50 words)."""
    words = _floats(rows, "words")
    return Finding(words < config.text.min_words, words, float(config.text.min_words))


def _text_language(rows: pa.Table, config: DecideConfig) -> Finding:
    """Drops documents of other languages or of an uncertain one (FineWeb: fastText 0.65)."""
    is_text = _mask(pc.equal(rows.column("kind"), "text"))
    score = np.where(is_text, _floats(rows, "language_score"), np.nan)
    allowed = pa.array(config.text.languages, pa.string())
    other = ~_mask(pc.is_in(rows.column("language"), value_set=allowed)) if len(allowed) else np.zeros(len(score), bool)
    fired = is_text & (other | (score < config.text.min_score)) & ~np.isnan(score)
    languages = rows.column("language").filter(pa.array(fired)).to_pylist()
    said = {i: f"language {word}" for i, word in zip(np.flatnonzero(fired).tolist(), languages, strict=True)}
    return Finding(fired, score, config.text.min_score, said)


RULES: tuple[Rule, ...] = (
    Rule("payload", 1, _payload),
    Rule("image_size", 1, _image_size),
    Rule("image_aspect", 1, _image_aspect),
    Rule("caption_length", 1, _caption_length),
    Rule("text_length", 1, _text_length),
    Rule("text_language", 1, _text_language),
)
EXACT_DUPLICATE = "exact_duplicate@1"
"""Deciding rule of merges: the surviving occurrence has the same record id (DESIGN section 4)."""


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as float64, nulls as NaN (every comparison with NaN is false, so rules skip them)."""
    return np.asarray(pc.cast(rows.column(name), pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _mask(values: Any) -> NDArray[np.bool_]:
    """A boolean Arrow array without nulls as numpy."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)
