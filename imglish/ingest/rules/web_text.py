"""C4's line and page rules and FineWeb's own filters.

C4 removes lines by edits and drops what is left with too few sentences. Its list of bad words is not part of any
variant: it is not shipped with any package that we could depend on.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from imglish.ingest.measures.texts import (
    BRACE,
    C4_LINE,
    ELLIPSIS,
    END,
    JAVASCRIPT,
    LONG,
    LOREM,
    POLICIES,
    QUOTE_END,
)
from imglish.ingest.rules.base import Check, Edit, Family, Finding, first_failure, floats, mask, ratio
from imglish.recipe import Section


class C4(Section):
    """Thresholds of `c4`."""

    min_words_per_line: int = Field(default=5, ge=0)
    """Words of a line that stays."""
    min_sentences: int = Field(default=3, ge=0)
    """Sentences of a page once lines are gone."""
    terminal_punctuation: bool = True
    """Whether a line has to end in a mark and not in three dots."""
    single_quote_ends: bool = False
    """Whether ' is an end mark."""
    count_citations: bool = False
    """Whether [1] counts as a word of its line."""
    remove_citations: bool = True
    """Whether [1], [edit] and [citation needed] are removed."""


def c4(rows: pa.Table, limits: C4) -> Finding:
    """Removes lines that are no sentences, drops pages with few (Raffel et al. 2020; c4_utils.py of TFDS)."""
    lines, owner = _lines(rows)
    flags = lines["flags"]
    kept, page = _judged(lines, limits)
    sentences = np.bincount(owner[kept], lines["sentences"][kept], minlength=rows.num_rows)
    none_left = np.bincount(owner[kept], minlength=rows.num_rows) == 0
    measured = mask(rows.column("c4_lines").is_valid())
    lorem, brace = (np.bincount(owner[page & (flags & flag > 0)], minlength=rows.num_rows) for flag in (LOREM, BRACE))
    counted = np.where(measured, np.where(none_left, 0, sentences), np.nan)
    checks = [
        Check("lorem_ipsum", lorem.astype(np.float64), ">=", 1),
        Check("curly_brackets", brace.astype(np.float64), ">=", 1),
        Check("sentences", counted, "<", max(1, limits.min_sentences)),
    ]
    found = first_failure(rows.num_rows, checks)
    edits = _removals(rows, lines, owner, kept, measured & ~found.fired)
    if limits.remove_citations:
        _remove_citations(rows, measured & ~found.fired, edits)
    return Finding(found.fired, found.score, found.threshold, found.detail, edits)


def _lines(rows: pa.Table) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """The lines of all documents, C4_LINE, and the row of each."""
    packed = [cell or b"" for cell in rows.column("c4_lines").to_pylist()]
    lines = np.frombuffer(b"".join(packed), C4_LINE)
    return lines, np.repeat(np.arange(len(packed)), [len(cell) // C4_LINE.itemsize for cell in packed])


def _judged(lines: NDArray[np.void], limits: C4) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which lines stay, and which are asked whether their page goes; in the order of the reference code."""
    flags = lines["flags"]
    ended = (flags & (END | QUOTE_END if limits.single_quote_ends else END)) > 0
    asked = (flags & LONG) == 0
    if limits.terminal_punctuation:
        asked &= ended & ((flags & ELLIPSIS) == 0)
    words = lines["words"].astype(np.int64) - (0 if limits.count_citations else lines["citations"].astype(np.int64))
    asked &= words >= limits.min_words_per_line
    scripted = asked & (flags & JAVASCRIPT > 0)
    page = (asked & (flags & LOREM > 0)) | (asked & ~scripted & (flags & BRACE > 0))
    return asked & ~scripted & ((flags & (POLICIES | LOREM | BRACE)) == 0), page


def _removals(
    rows: pa.Table,
    lines: NDArray[np.void],
    owner: NDArray[np.int64],
    kept: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
) -> dict[int, list[Edit]]:
    """Runs of lines that go as spans of bytes, with their line feeds; a last one takes the line feed before it."""
    edits: dict[int, list[Edit]] = {}
    bounds = np.searchsorted(owner, np.arange(rows.num_rows + 1))
    for row in np.flatnonzero(wanted).tolist():
        stays = kept[bounds[row] : bounds[row + 1]]
        if stays.all():
            continue
        ends = np.concatenate([[0], np.cumsum(lines["bytes"][bounds[row] : bounds[row + 1]], dtype=np.int64)])
        change = np.flatnonzero(np.diff(np.concatenate([[True], stays, [True]]).astype(np.int8)))
        size = int(ends[-1])
        spans = [(int(ends[a]), int(ends[b])) for a, b in zip(change[::2], change[1::2], strict=True)]
        edits[row] = [(-1, first - (last == size and first > 0), last, "") for first, last in spans]
    return edits


def _remove_citations(rows: pa.Table, wanted: NDArray[np.bool_], edits: dict[int, list[Edit]]) -> None:
    for row, cell in enumerate(rows.column("c4_citations").to_pylist()):
        if cell and wanted[row]:
            spans = np.frombuffer(cell, "<u4").reshape(-1, 2).tolist()
            edits.setdefault(row, []).extend((-1, first, last, "") for first, last in spans)


class FineWeb(Section):
    """Thresholds of `fineweb`; None sets no limit."""

    min_marked_lines: float | None = Field(default=0.12, ge=0)
    """Share of lines that end in punctuation."""
    max_short_lines: float | None = Field(default=0.67, ge=0)
    """Share of lines of at most 30 characters."""
    max_repeated: float | None = Field(default=0.1, ge=0)
    """Characters in lines that repeat."""
    repeated_at_limit: bool = True
    """Whether exactly `max_repeated` fails (the paper's >= 0.1) or passes (the code's > 0.01)."""
    max_newlines: float | None = Field(default=None, ge=0)
    """Line feeds for each word."""
    quotes_end: bool = True
    """Whether quotation marks end a line as . ! ? do."""


_FINEWEB = (
    "lines_filled", "lines_marked", "lines_quoted", "lines_short", "filled_repeat_characters", "text_characters",
    "newlines", "tokens",
)  # fmt: skip


def fineweb(rows: pa.Table, limits: FineWeb) -> Finding:
    """Drops lists and fragments (FineWeb, Penedo et al. 2024, section 3.6; datatrove's code)."""
    column = {name: floats(rows, name) for name in _FINEWEB}
    lines = column["lines_filled"]
    marked = column["lines_quoted" if limits.quotes_end else "lines_marked"]
    repeated = ratio(column["filled_repeat_characters"], column["text_characters"] - column["newlines"])
    checks = [
        Check("marked_lines", ratio(marked, lines), "<", limits.min_marked_lines),
        Check("short_lines", ratio(column["lines_short"], lines), ">", limits.max_short_lines),
        Check("repeated_characters", repeated, ">=" if limits.repeated_at_limit else ">", limits.max_repeated),
        Check("newlines_per_word", ratio(column["newlines"], column["tokens"]), ">", limits.max_newlines),
    ]
    return first_failure(rows.num_rows, checks)


_DATATROVE = C4(min_words_per_line=3, min_sentences=5, single_quote_ends=True, count_citations=True)
FAMILIES = (
    Family(
        "c4",
        1,
        ("c4_lines", "c4_citations"),
        c4,
        {
            "reference": C4(),
            "datatrove": _DATATROVE,
            "fineweb": _DATATROVE.model_copy(update={"terminal_punctuation": False}),
        },
    ),
    Family(
        "fineweb",
        1,
        _FINEWEB,
        fineweb,
        {
            "paper": FineWeb(),
            "datatrove": FineWeb(max_repeated=0.01, repeated_at_limit=False, max_newlines=0.3, quotes_end=False),
        },
    ),
)
