"""Gopher's rules on documents (Rae et al. 2021, appendix A and table A1), in the readings that are in use.

rae2021 takes the paper by its words; dolma and datatrove are those tools' code. They share the paper's numbers and part
in what they count (docs/rules.md).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from imglish.ingest.rules.base import Check, Family, Finding, first_failure, floats, ratio
from imglish.recipe import Section


class GopherQuality(Section):
    """Thresholds of `gopher_quality`; None sets no limit."""

    min_words: int | None = Field(default=50, ge=0)
    """Words in a document."""
    max_words: int | None = Field(default=100_000, ge=0)
    """Words in a document."""
    min_word_length: float | None = Field(default=3, ge=0)
    """Characters of a word."""
    max_word_length: float | None = Field(default=10, ge=0)
    """Characters of a word."""
    max_symbols: float | None = Field(default=0.1, ge=0)
    """Hash signs, and ellipses, for each word."""
    max_bullets: float | None = Field(default=0.9, ge=0)
    """Share of lines that begin with a bullet."""
    max_ellipses: float | None = Field(default=0.3, ge=0)
    """Share of lines that end in an ellipsis."""
    min_alpha: float | None = Field(default=0.8, ge=0)
    """Share of words with a letter."""
    min_stop_words: int | None = Field(default=2, ge=0)
    """Of the, be, to, of, and, that, have, with."""
    words: Literal["words", "tokens"] = "words"
    """What a word is: a run without white space, or a token (punctuation apart)."""
    length: Literal["mean", "median"] = "mean"
    """Which word length."""
    symbols: Literal["characters", "words"] = "characters"
    """Symbols counted one by one ("..." too), or words that hold # or the one-character ellipsis."""
    lines: Literal["stripped", "plain"] = "stripped"
    """Bullets • and - after blanks, or * and - at the very start; likewise at the end."""
    stop_words: Literal["distinct", "occurrences"] = "distinct"
    """Different stop words, or all their occurrences."""


_QUALITY = (
    "text_words", "word_characters", "word_length_median", "words_alpha", "words_symbol", "stop_words",
    "stop_words_distinct", "tokens", "tokens_solid", "token_characters", "tokens_alpha", "stop_tokens_distinct",
    "hashes", "ellipses", "newlines", "lines", "lines_bullet", "lines_bullet_plain", "lines_ellipsis",
    "lines_ellipsis_plain",
)  # fmt: skip


def gopher_quality(rows: pa.Table, limits: GopherQuality) -> Finding:
    """Drops documents that do not look like prose (Rae et al. 2021, appendix A.1.1)."""
    column = {name: floats(rows, name) for name in _QUALITY}
    tokens = limits.words == "tokens"
    words = column["tokens" if tokens else "text_words"]
    solid = column["tokens_solid"] if tokens else words
    mean = ratio(column["token_characters" if tokens else "word_characters"], solid)
    length = mean if limits.length == "mean" else column["word_length_median"]
    plain = "_plain" if limits.lines == "plain" else ""
    lines = column["newlines"] + 1 if limits.lines == "plain" else column["lines"]
    stops = "stop_tokens_distinct" if tokens else "stop_words_distinct"
    checks = [
        Check("words", solid, "<", limits.min_words),
        Check("words", solid, ">", limits.max_words),
        Check(f"{limits.length}_word_length", length, "<", limits.min_word_length),
        Check(f"{limits.length}_word_length", length, ">", limits.max_word_length),
        *_symbols(column, words, limits),
        Check("bullet_lines", ratio(column[f"lines_bullet{plain}"], lines), ">", limits.max_bullets),
        Check("ellipsis_lines", ratio(column[f"lines_ellipsis{plain}"], lines), ">", limits.max_ellipses),
        Check("alpha_words", ratio(column["tokens_alpha" if tokens else "words_alpha"], words), "<", limits.min_alpha),
        Check(
            "stop_words", column[stops if limits.stop_words == "distinct" else "stop_words"], "<", limits.min_stop_words
        ),
    ]
    return first_failure(rows.num_rows, checks)


def _symbols(column: dict[str, np.ndarray], words: np.ndarray, limits: GopherQuality) -> list[Check]:
    if limits.symbols == "words":
        return [Check("symbol_words", ratio(column["words_symbol"], words), ">", limits.max_symbols)]
    return [
        Check(f"{name}_per_word", ratio(column[name], words), ">", limits.max_symbols)
        for name in ("hashes", "ellipses")
    ]


class GopherRepetition(Section):
    """Thresholds of `gopher_repetition`, shares; None sets no limit."""

    lines: float | None = Field(default=0.3, ge=0)
    """Lines that repeat."""
    paragraphs: float | None = Field(default=0.3, ge=0)
    """Paragraphs that repeat."""
    line_characters: float | None = Field(default=0.2, ge=0)
    """Characters in lines that repeat."""
    paragraph_characters: float | None = Field(default=0.2, ge=0)
    """Characters in paragraphs that repeat."""
    top: tuple[float, float, float] = (0.20, 0.18, 0.16)
    """Characters in the most frequent 2-, 3- and 4-gram of words."""
    duplicate: tuple[float, float, float, float, float, float] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Characters in 5- to 10-grams that occur more than once."""
    counts: Literal["covered", "copies", "skipped"] = "covered"
    """How duplicates count, `imglish.ingest.measures.repetition`: the paper's words, dolma's, datatrove's."""


_REPETITION = (
    "text_characters", "word_characters", "newlines", "runs", "run_repeats", "run_repeat_characters", "paragraphs",
    "paragraph_repeats", "paragraph_repeat_characters", "line_copies", "line_copy_characters",
    *(f"{name}top_{n}" for name in ("", "token_") for n in (2, 3, 4)),
    *(f"dup_{n}_{what}" for n in range(5, 11) for what in ("covered", "copies", "all")),
    *(f"token_dup_{n}" for n in range(5, 11)),
)  # fmt: skip


def gopher_repetition(rows: pa.Table, limits: GopherRepetition) -> Finding:
    """Drops documents that repeat themselves (Rae et al. 2021, table A1)."""
    column = {name: floats(rows, name) for name in _REPETITION}
    size = column["text_characters"]
    lines = ratio(column["run_repeats"], column["runs"])
    line_characters = ratio(column["run_repeat_characters"], size)
    if limits.counts == "copies":
        lines = ratio(column["line_copies"], column["newlines"] + 1)
        line_characters = ratio(column["line_copy_characters"], column["word_characters"])
    checks = [
        Check("duplicate_paragraphs", ratio(column["paragraph_repeats"], column["paragraphs"]), ">", limits.paragraphs),
        Check(
            "duplicate_paragraph_characters",
            ratio(column["paragraph_repeat_characters"], size),
            ">",
            limits.paragraph_characters,
        ),
        Check("duplicate_lines", lines, ">", limits.lines),
        Check("duplicate_line_characters", line_characters, ">", limits.line_characters),
    ]
    for n, limit in zip((2, 3, 4), limits.top, strict=True):
        checks.append(Check(f"top_{n}_gram", _top(column, n, limits), ">", limit))
    for n, limit in zip(range(5, 11), limits.duplicate, strict=True):
        checks.append(Check(f"duplicate_{n}_grams", _duplicate(column, n, limits), ">", limit))
    return first_failure(rows.num_rows, checks)


def _top(column: dict[str, np.ndarray], n: int, limits: GopherRepetition) -> np.ndarray:
    if limits.counts == "skipped":
        return ratio(column[f"token_top_{n}"], column["text_characters"])
    return ratio(column[f"top_{n}"], column["word_characters"])


def _duplicate(column: dict[str, np.ndarray], n: int, limits: GopherRepetition) -> np.ndarray:
    if limits.counts == "skipped":
        return ratio(column[f"token_dup_{n}"], column["text_characters"])
    if limits.counts == "copies":
        return ratio(column[f"dup_{n}_copies"], column[f"dup_{n}_all"])
    return ratio(column[f"dup_{n}_covered"], column["word_characters"])


FAMILIES = (
    Family(
        "gopher_quality",
        1,
        _QUALITY,
        gopher_quality,
        {
            "rae2021": GopherQuality(),
            "dolma": GopherQuality(length="median", symbols="words", lines="plain", stop_words="occurrences"),
            "datatrove": GopherQuality(words="tokens"),
        },
    ),
    Family(
        "gopher_repetition",
        1,
        _REPETITION,
        gopher_repetition,
        {
            "rae2021": GopherRepetition(),
            "dolma": GopherRepetition(counts="copies", paragraphs=None, paragraph_characters=None, line_characters=0.3),
            "datatrove": GopherRepetition(counts="skipped"),
        },
    ),
)
