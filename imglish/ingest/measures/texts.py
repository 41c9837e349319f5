"""Measure `text`: what the rules of Gopher, C4 and FineWeb compare, once per document, for all their variants.

    table = measure_texts([b"First document.", b"Second."])        # schema TEXT, one row a document

Counts are integers, so nothing drifts; rules divide. Words are `str.split`'s, tokens part punctuation from words
(`Texts.tokens`), lines lie between line feeds. What a C4 rule needs of each line is packed into `c4_lines`, so that
words a line and sentences a page can be changed without the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imglish.ingest.measures.marks import END_MARKS, characters_of
from imglish.ingest.measures.repetition import DUPLICATE, TOP, repeated, token_measures, word_measures
from imglish.ingest.measures.spans import ALPHA, PUNCT, Ints, Spans, Texts

STOP_WORDS = (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")
"""Rae et al. 2021, appendix A."""
_END_MARKS = characters_of(END_MARKS)
SHORT_LINE = 30
"""Characters of a short line (FineWeb, Penedo et al. 2024)."""
LONG_WORD = 1000
"""Characters; a line with a longer word is dropped by C4 (reference code)."""
POLICY = (b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"use of cookies", b"use cookies")
"""C4's reference code."""
ABBREVIATIONS = (
    b"mr.",
    b"mrs.",
    b"ms.",
    b"dr.",
    b"prof.",
    b"st.",
    b"vs.",
    b"cf.",
    b"no.",
    b"fig.",
    b"inc.",
    b"ltd.",
    b"etc.",
)
"""After these a sentence is taken to go on."""

C4_LINE = np.dtype([("bytes", "<u4"), ("words", "<u2"), ("sentences", "<u2"), ("citations", "<u2"), ("flags", "<u2")])
"""A line of `c4_lines`: bytes with its line feed; words and citations that stand alone, cut at 65,535."""
END, QUOTE_END, ELLIPSIS, JAVASCRIPT, POLICIES, LONG, BRACE, LOREM = (1 << bit for bit in range(8))
"""Flags of a line: ends in . ? ! or a double quote, in a single quote, in three dots; has each of these."""
_CITATION = re.compile(rb"\[\d*\]|\[edit\]|\[citation needed\]")

_COUNTS = (
    "text_words", "word_characters", "words_alpha", "words_symbol", "stop_words", "stop_words_distinct",
    "tokens", "tokens_solid", "token_characters", "tokens_alpha", "stop_tokens_distinct",
    "text_characters", "newlines", "hashes", "ellipses",
    "lines", "lines_filled", "lines_bullet", "lines_bullet_plain", "lines_ellipsis", "lines_ellipsis_plain",
    "lines_marked", "lines_quoted", "lines_short",
    "runs", "run_repeats", "run_repeat_characters", "paragraphs", "paragraph_repeats", "paragraph_repeat_characters",
    "line_copies", "line_copy_characters", "filled_repeat_characters",
    *(f"top_{n}" for n in TOP), *(f"dup_{n}_{what}" for n in DUPLICATE for what in ("covered", "copies", "all")),
    *(f"token_top_{n}" for n in TOP), *(f"token_dup_{n}" for n in DUPLICATE),
)  # fmt: skip
TEXT = pa.schema(
    [
        *(pa.field(name, pa.int64()) for name in _COUNTS),
        pa.field("word_length_median", pa.float64()),
        pa.field("c4_lines", pa.binary()),  # C4_LINE of every line
        pa.field("c4_citations", pa.binary()),  # (start, end) u32 LE in bytes of the document
    ]
)
"""Columns of the measure, null for what is no text."""


def measure_texts(documents: Sequence[bytes]) -> pa.Table:
    """One row a document."""
    texts = Texts(documents)
    if not documents:
        return TEXT.empty_table()
    columns = _of_words(texts) | _of_tokens(texts) | _of_lines(texts) | _of_c4(texts)
    return pa.table([pa.array(columns[field.name], field.type) for field in TEXT], schema=TEXT)


def _of_words(texts: Texts) -> dict[str, Ints]:
    words = texts.words
    hashes, lengths = texts.hashes(words), texts.characters(words)
    symbols = np.union1d(texts.find(b"#"), texts.find("…".encode()))
    marked = np.searchsorted(symbols, words.ends) > np.searchsorted(symbols, words.starts)
    stops, distinct = _stop_words(words, hashes)
    return {
        "text_words": np.diff(words.bounds),
        "word_characters": words.sums(lengths),
        "word_length_median": _medians(words, lengths),
        "words_alpha": words.sums(texts.any_of(words, ALPHA)),
        "words_symbol": words.sums(marked),
        "stop_words": stops,
        "stop_words_distinct": distinct,
        "text_characters": texts.characters(texts.whole),
        "newlines": texts.lines.bounds[1:] - texts.lines.bounds[:-1] - 1,
        "hashes": texts.count(texts.find(b"#")),
        "ellipses": texts.count(texts.find(b"...")) + texts.count(texts.find("…".encode())),
        **word_measures(words, hashes, lengths),
    }


def _of_tokens(texts: Texts) -> dict[str, Ints]:
    tokens = texts.tokens
    hashes, lengths = texts.hashes(tokens), texts.characters(tokens)
    solid = texts.any_of(tokens, 0xFF & ~PUNCT & ~128) | ~texts.any_of(tokens, PUNCT)
    return {
        "tokens": np.diff(tokens.bounds),
        "tokens_solid": tokens.sums(solid),
        "token_characters": tokens.sums(np.where(solid, lengths, 0)),
        "tokens_alpha": tokens.sums(texts.any_of(tokens, ALPHA)),
        "stop_tokens_distinct": _stop_words(tokens, hashes)[1],
        **token_measures(tokens, hashes, lengths),
    }


def _stop_words(words: Spans, hashes: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Occurrences and different ones by text."""
    listed = Texts(STOP_WORDS)
    count = len(words.bounds) - 1
    found = np.stack([np.bincount(words.text[hashes == stop], minlength=count) for stop in listed.hashes(listed.whole)])
    return found.sum(axis=0), (found > 0).sum(axis=0)


def _medians(words: Spans, lengths: Ints) -> NDArray[np.float64]:
    """Median length of a word by text, 0 without any."""
    ordered = np.sort(words.text << 32 | lengths) & 0xFFFFFFFF
    count = np.diff(words.bounds)
    low = np.minimum(words.bounds[:-1] + np.maximum(count - 1, 0) // 2, max(len(ordered) - 1, 0))
    high = np.minimum(words.bounds[:-1] + count // 2, max(len(ordered) - 1, 0))
    middle = (ordered[low] + ordered[high]) / 2 if len(ordered) else np.zeros(len(count))
    return np.where(count > 0, middle, 0.0)


def _of_lines(texts: Texts) -> dict[str, Ints]:
    lines = texts.lines
    bare = texts.stripped(lines)
    filled = bare.ends > bare.starts
    lengths, hashes = texts.characters(lines), texts.hashes(lines)
    copies = repeated(lines, hashes, lengths)
    some = lines.where(filled)
    runs, paragraphs = _runs(texts), _paragraphs(texts)
    of_runs, of_paragraphs = (repeated(x, texts.hashes(x), texts.characters(x)) for x in (runs, paragraphs))
    trailing = (lines.ends == lines.starts)[lines.bounds[1:] - 1]  # the empty piece behind a last line feed is no line
    return {
        "lines": np.diff(lines.bounds) - trailing,
        "lines_filled": lines.sums(filled),
        "lines_bullet": lines.sums(_begins(texts, bare, ("•", "-"))),
        "lines_bullet_plain": lines.sums(_begins(texts, lines, ("*", "-"))),
        "lines_ellipsis": lines.sums(_finishes(texts, bare, ("...", "…"))),
        "lines_ellipsis_plain": lines.sums(_finishes(texts, lines, ("…",))),
        "lines_marked": lines.sums(filled & _marked(texts, lines)),
        "lines_quoted": lines.sums(filled & _finishes(texts, lines, ".'\"!?")),
        "lines_short": lines.sums(filled & (lengths <= SHORT_LINE)),
        "runs": np.diff(runs.bounds),
        "run_repeats": of_runs.repeats,
        "run_repeat_characters": of_runs.repeat_lengths,
        "paragraphs": np.diff(paragraphs.bounds),
        "paragraph_repeats": of_paragraphs.repeats,
        "paragraph_repeat_characters": of_paragraphs.repeat_lengths,
        "line_copies": copies.copies,
        "line_copy_characters": copies.copy_lengths,
        "filled_repeat_characters": repeated(some, hashes[filled], lengths[filled]).repeat_lengths,
    }


def _runs(texts: Texts) -> Spans:
    """Pieces between runs of line feeds, as `re.split("\\n+")` has them: an empty first or last one counts."""
    lines = texts.lines
    empty = lines.ends == lines.starts
    edge = np.zeros(len(lines), dtype=bool)
    edge[lines.bounds[:-1]] = edge[lines.bounds[1:] - 1] = True
    return lines.where(~empty | edge)


def _paragraphs(texts: Texts) -> Spans:
    """Pieces of the stripped text between two or more line feeds."""
    whole = texts.stripped(texts.whole)
    data = texts.data
    feed = np.flatnonzero((data[:-1] == 10) & (data[1:] == 10))  # first of a pair
    inside = feed[_between(feed, whole)]
    begins = inside[np.concatenate([[True], np.diff(inside) > 1])] if len(inside) else inside
    after = inside[np.concatenate([np.diff(inside) > 1, [True]])] + 2 if len(inside) else inside
    starts = np.sort(np.concatenate([whole.starts, after]), kind="stable")
    ends = np.sort(np.concatenate([whole.ends, begins]), kind="stable")
    pieces = np.searchsorted(begins, whole.ends) - np.searchsorted(begins, whole.starts) + 1
    return Spans(starts, ends, np.concatenate([[0], np.cumsum(pieces)]))


def _between(places: Ints, spans: Spans) -> NDArray[np.bool_]:
    """Whether each place lies in one of the spans, which are in order."""
    owner = np.searchsorted(spans.starts, places, side="right") - 1
    return np.asarray((owner >= 0) & (places < spans.ends[np.maximum(owner, 0)]))


def _begins(texts: Texts, spans: Spans, marks: Sequence[str]) -> NDArray[np.bool_]:
    found = np.zeros(len(spans), dtype=bool)
    for mark in marks:
        found |= _is_at(texts, spans.starts, spans, mark.encode())
    return found


def _finishes(texts: Texts, spans: Spans, marks: Sequence[str]) -> NDArray[np.bool_]:
    found = np.zeros(len(spans), dtype=bool)
    for mark in marks:
        found |= _is_at(texts, spans.ends - len(mark.encode()), spans, mark.encode())
    return found


def _marked(texts: Texts, spans: Spans) -> NDArray[np.bool_]:
    """Whether each span ends in an end mark: ASCII by its byte, others only where the last byte is not ASCII."""
    found = _finishes(texts, spans, ".!?")
    last = np.flatnonzero(spans.ends > spans.starts)
    for place in last[texts.data[spans.ends[last] - 1] >= 0x80].tolist():
        found[place] = texts.raw[spans.starts[place] : spans.ends[place]].decode()[-1] in _END_MARKS
    return found


def _is_at(texts: Texts, places: Ints, spans: Spans, mark: bytes) -> NDArray[np.bool_]:
    """Whether `mark` stands at each place and inside the span."""
    fits = (places >= spans.starts) & (places + len(mark) <= spans.ends)
    for offset, byte in enumerate(mark):
        fits &= texts.data[np.where(fits, places + offset, 0)] == byte
    return np.asarray(fits)


def _of_c4(texts: Texts) -> dict[str, list[bytes]]:
    lines = texts.lines
    bare = texts.stripped(lines)
    hits = np.array([found.span() for found in _CITATION.finditer(texts.raw)], dtype=np.int64).reshape(-1, 2)
    line_of_hit = np.searchsorted(lines.ends, hits[:, 0])
    ends = _before_citations(bare, hits, line_of_hit)
    words = texts.words
    line_of_word = np.searchsorted(lines.ends, words.starts)
    packed = np.zeros(len(lines), C4_LINE)
    packed["bytes"] = lines.ends - lines.starts + 1
    packed["bytes"][lines.bounds[1:] - 1] -= 1  # the last line of a document has no line feed
    packed["words"] = _capped(np.bincount(line_of_word, minlength=len(lines)))
    packed["citations"] = _capped(np.bincount(line_of_hit[_alone(hits, words)], minlength=len(lines)))
    packed["sentences"] = _capped(_sentences(texts, words, line_of_word, bare))
    packed["flags"] = _flags(texts, lines, Spans(bare.starts, ends, bare.bounds), words, line_of_word)
    cuts = np.searchsorted(hits[:, 0], np.append(texts.starts, len(texts.data)))
    relative = (hits - np.repeat(texts.starts, np.diff(cuts))[:, None]).astype("<u4")
    return {
        "c4_lines": [
            packed[a:b].tobytes() for a, b in zip(lines.bounds[:-1].tolist(), lines.bounds[1:].tolist(), strict=True)
        ],
        "c4_citations": [relative[a:b].tobytes() for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)],
    }


def _capped(counts: Ints) -> NDArray[np.uint16]:
    return np.minimum(counts, 0xFFFF).astype(np.uint16)


def _before_citations(bare: Spans, hits: Ints, line_of_hit: Ints) -> Ints:
    """Where each stripped line ends once citations at its end are gone."""
    ends = bare.ends.copy()
    for (start, end), line in zip(hits[::-1].tolist(), line_of_hit[::-1].tolist(), strict=True):
        if ends[line] == end:
            ends[line] = start
    return ends


def _alone(hits: Ints, words: Spans) -> NDArray[np.bool_]:
    """Citations that are a word by themselves."""
    number = np.minimum(np.searchsorted(words.starts, hits[:, 0]), max(len(words) - 1, 0))
    return np.asarray((words.starts[number] == hits[:, 0]) & (words.ends[number] == hits[:, 1]))


def _sentences(texts: Texts, words: Spans, line_of_word: Ints, bare: Spans) -> Ints:
    """Sentences of each line: words that end in . ! or ? and that another word follows, and one."""
    data, last = texts.data, words.ends - 1
    for _ in range(3):  # closing quotes and brackets behind the mark
        last = np.where(np.isin(data[last], np.frombuffer(b"\"')]}", np.uint8)) & (last > words.starts), last - 1, last)
    ended = np.isin(data[last], np.frombuffer(b".!?", np.uint8))
    followed = np.concatenate([line_of_word[1:] == line_of_word[:-1], [False]])[: len(words)]
    chosen = np.flatnonzero(ended & followed)
    dots = np.searchsorted(np.flatnonzero(data == ord(".")), np.stack([words.starts[chosen], last[chosen]]))
    point = data[last[chosen]] == ord(".")
    short = last[chosen] - words.starts[chosen] == 1  # an initial
    listed = _abbreviated(texts, words.starts[chosen], words.ends[chosen])
    goes_on = point & ((dots[1] > dots[0]) | (short & (data[words.starts[chosen]] >= ord("A"))) | listed)
    ends = np.bincount(line_of_word[chosen[~goes_on]], minlength=len(bare))
    return np.asarray(np.where(bare.ends > bare.starts, ends + 1, 0))


def _abbreviated(texts: Texts, starts: Ints, ends: Ints) -> NDArray[np.bool_]:
    raw = texts.raw
    found = np.zeros(len(starts), dtype=bool)
    for place in np.flatnonzero(ends - starts <= max(map(len, ABBREVIATIONS))).tolist():
        found[place] = raw[starts[place] : ends[place]].lower() in ABBREVIATIONS
    return found


def _flags(texts: Texts, lines: Spans, bare: Spans, words: Spans, line_of_word: Ints) -> NDArray[np.uint16]:
    flags = np.zeros(len(lines), np.uint16)
    flags[_finishes(texts, bare, '.?!"')] |= END
    flags[_finishes(texts, bare, "'")] |= QUOTE_END
    flags[_finishes(texts, bare, ("...",))] |= ELLIPSIS
    lower = texts.raw.lower()
    for flag, needles in (
        (JAVASCRIPT, (b"javascript",)),
        (POLICIES, POLICY),
        (BRACE, (b"{",)),
        (LOREM, (b"lorem ipsum",)),
    ):
        for needle in needles:
            flags[np.searchsorted(lines.ends, texts.find(needle, lower))] |= flag
    flags[line_of_word[texts.characters(words) > LONG_WORD]] |= LONG
    return flags
