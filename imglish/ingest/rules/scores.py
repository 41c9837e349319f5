"""Rules on what models and lists say: alignment of captions, quality of texts, bad words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from imglish.ingest.rules.base import Check, Edit, Family, Finding, first_failure, floats
from imglish.ingest.rules.captions import unpack
from imglish.recipe import Section


class Alignment(Section):
    """Thresholds of `alignment`."""

    min_score: float = Field(default=0.0, ge=-1, le=1)
    """Cosine of picture and caption. CLIP: LAION-400M B/32 0.30, LAION-2B B/32 0.28, DataComp B/32 0.25; data-juicer
    0.1. The head that is fitted here has a scale of its own: `imglish fit alignment` prints what true and wrong
    captions get."""


def alignment(rows: pa.Table, limits: Alignment) -> Finding:
    """Removes captions that do not fit their picture (Schuhmann et al. 2021: CLIP); drops a pair left without any."""
    scores, sizes = unpack(rows, "alignment_scores"), unpack(rows, "captions")
    fired, best = np.zeros(rows.num_rows, bool), np.full(rows.num_rows, np.nan)
    edits: dict[int, list[Edit]] = {}
    for i, mine in scores.items():
        known = [score for score in mine if score is not None]
        if not known:
            continue  # a picture that does not decode belongs to `payload`
        best[i] = max(known)
        bad = [number for number, score in enumerate(mine) if score < limits.min_score]
        fired[i] = len(bad) == len(mine)
        if bad:
            edits[i] = [(number, 0, sizes[i][number]["bytes"], "") for number in bad]
    said = {int(i): f"the best caption has {best[i]:.4f}" for i in np.flatnonzero(fired)}
    return Finding(fired, best, limits.min_score, said, edits)


class Quality(Section):
    """Thresholds of `quality`."""

    min_score: float = Field(default=0.5, ge=0, le=1)
    """Probability of "good" by the classifier; both classes weigh the same in its training."""


def quality(rows: pa.Table, limits: Quality) -> Finding:
    """Drops texts that look like the user's bad examples (the kind of filter: GPT-3, Brown et al. 2020; DCLM 2024)."""
    return first_failure(rows.num_rows, [Check("quality", floats(rows, "quality_score"), "<", limits.min_score)])


class BadWords(Section):
    """Thresholds of `bad_words`."""

    max_phrases: int = Field(default=0, ge=0)
    """Different phrases of the list that are let pass; C4 lets none."""


def bad_words(rows: pa.Table, limits: BadWords) -> Finding:
    """Drops texts, and removes captions, with phrases of the user's list (Raffel et al. 2020: C4, LDNOOBW's list)."""
    score = floats(rows, "bad_words")
    fired = score > limits.max_phrases
    counts, sizes = unpack(rows, "bad_words_captions"), unpack(rows, "captions")
    edits: dict[int, list[Edit]] = {}
    for i, mine in counts.items():
        bad = [number for number, count in enumerate(mine) if count > limits.max_phrases]
        score[i] = min(mine, default=0)
        fired[i] = bool(bad) and len(bad) == len(mine)
        if bad:
            edits[i] = [(number, 0, sizes[i][number]["bytes"], "") for number in bad]
    said = {int(i): f"{score[i]:.0f} phrases of the list" for i in np.flatnonzero(fired)}
    return Finding(fired, score, float(limits.max_phrases), said, edits)


FAMILIES = (
    Family(
        "alignment",
        1,
        ("alignment_scores", "captions"),
        alignment,
        {
            "head": Alignment(),
            "laion400m": Alignment(min_score=0.30),
            "laion2b": Alignment(min_score=0.28),
            "datacomp": Alignment(min_score=0.25),
        },
    ),
    Family("quality", 1, ("quality_score",), quality, {"": Quality()}),
    Family("bad_words", 1, ("bad_words", "bad_words_captions", "captions"), bad_words, {"": BadWords()}),
)
