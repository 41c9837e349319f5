"""Texts as one buffer of bytes, and spans of it: characters by class, words, tokens, lines, and hashes of spans.

    texts = Texts([b"One line.\nAnother.", b"A second text."])
    words = texts.words                     # Spans: starts, ends in bytes, and which text each belongs to
    texts.hashes(words)                     # uint64 [n]; equal spans have equal hashes
    texts.characters(words)                 # int64 [n], Unicode characters

Documents lie one after another with a line feed behind each, so words and lines never cross from one to the next, and
every measure is a handful of passes of numpy over the whole buffer. A span's hash is a polynomial modulo 2^64: someone
who knows it can write a text with two different lines of one hash, which changes nothing but that text's own measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imglish.ingest.measures.marks import PUNCTUATION as _RANGES
from imglish.ingest.measures.marks import characters_of
from imglish.seeds import mix, stream

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

SPACE, ALPHA, PUNCT, DIGIT = 1, 2, 4, 8
"""Bits of a character's class: `str.isspace`, `str.isalpha`, datatrove's punctuation, `str.isdigit`."""
_KNOWN = 128
_JOINS, _RUNS = (np.isin(np.arange(256), np.frombuffer(marks, np.uint8)) for marks in (b"._'@?#(", b".-~/\\|"))
_PUNCTUATION = characters_of(_RANGES)
_MULTIPLIER = 0x9E3779B97F4A7C15 | 1
_BYTE_HASHES = stream(0, "measures", "bytes").keys(np.arange(256, dtype=np.uint64)) | np.uint64(1)
_classes = np.zeros(0x110000, dtype=np.uint8)
"""Classes of code points, filled in as they are met."""


@dataclass(frozen=True)
class Spans:
    """Spans [start, end) in bytes, in order; those of text i are `bounds[i]` to `bounds[i + 1]`."""

    starts: Ints
    ends: Ints
    bounds: Ints

    @cached_property
    def text(self) -> Ints:
        """Number of the text of each span."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))

    def __len__(self) -> int:
        return len(self.starts)

    def sums(self, values: NDArray[np.generic]) -> Ints:
        """Sum of a value of each span by text, int64."""
        total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.asarray(total[self.bounds[1:]] - total[self.bounds[:-1]])

    def where(self, mask: NDArray[np.bool_]) -> Spans:
        """Those spans where the mask holds."""
        kept = np.concatenate([[0], np.cumsum(mask)])[self.bounds]
        return Spans(self.starts[mask], self.ends[mask], kept)


class Texts:
    """UTF-8 documents in one buffer; see the module."""

    def __init__(self, documents: Sequence[bytes]) -> None:
        self.raw = b"\n".join([*documents, b""])
        self.data: Bytes = np.frombuffer(self.raw, np.uint8)
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        self.ends: Ints = np.cumsum(sizes + 1) - 1
        self.starts: Ints = self.ends - sizes

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def leads(self) -> NDArray[np.bool_]:
        """Bytes that begin a character."""
        return np.asarray((self.data & 0xC0) != 0x80)

    @cached_property
    def _counted(self) -> NDArray[np.int32]:
        return np.concatenate([np.zeros(1, np.int32), np.cumsum(self.leads, dtype=np.int32)])

    def characters(self, spans: Spans) -> Ints:
        """Unicode characters of each span."""
        return (self._counted[spans.ends] - self._counted[spans.starts]).astype(np.int64)

    @cached_property
    def whole(self) -> Spans:
        """Every text as one span."""
        return Spans(self.starts, self.ends, np.arange(len(self) + 1))

    @cached_property
    def classes(self) -> Bytes:
        """Class of the character that each byte belongs to."""
        found = _ascii_classes()[self.data]
        leads = np.flatnonzero(self.data >= 0xC0)
        if len(leads):
            points, sizes = _code_points(self.data, leads)
            classes = _classify(points)
            for offset in range(4):
                mine = sizes > offset
                found[leads[mine] + offset] = classes[mine]
        return found

    @cached_property
    def words(self) -> Spans:
        """Runs without white space, as `str.split` has them."""
        return self._runs((self.classes & SPACE) == 0)

    def _runs(self, inside: NDArray[np.bool_]) -> Spans:
        edges = np.diff(inside.view(np.int8), prepend=np.int8(0))
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        return self._spans(starts, ends)

    def _spans(self, starts: Ints, ends: Ints) -> Spans:
        return Spans(starts, ends, np.searchsorted(starts, np.append(self.starts, len(self.data))))

    @cached_property
    def tokens(self) -> Spans:
        """Words and punctuation apart, close to what spaCy's English tokenizer gives.

        A run of characters that are neither space nor punctuation is a token. Between two of those, . _ @ ? # ( stay
        inside, and , = before a digit; an apostrophe begins a new token ("it's": it 's). A run of one of the marks
        . - ~ / \\ | is a token, any other mark is one by itself.
        """
        data, classes = self.data, self.classes
        solid = (classes & (SPACE | PUNCT)) == 0
        near = np.zeros(len(data), dtype=bool)
        near[1:-1] = solid[:-2] & solid[2:]
        before_digit = np.append((data[1:] >= ord("0")) & (data[1:] <= ord("9")), False)
        inner = _JOINS[data] | ((data == ord(",")) | (data == ord("="))) & before_digit
        joined = near & inner
        solid |= joined
        space = (classes & SPACE) != 0
        starts = solid & (np.concatenate([[True], ~solid[:-1]]) | (joined & (data == ord("'"))))
        other = ~solid & ~space & self.leads
        same = np.concatenate([[False], (data[1:] == data[:-1]) & other[:-1]]) & _RUNS[data]
        starts |= other & ~same
        begin = np.flatnonzero(starts)
        return self._spans(begin, self._token_ends(begin, starts, solid, space))

    def _token_ends(
        self, begin: Ints, starts: NDArray[np.bool_], solid: NDArray[np.bool_], space: NDArray[np.bool_]
    ) -> Ints:
        """A token ends where the next begins, or a space does."""
        stops = np.flatnonzero(starts | (space & np.concatenate([[False], ~space[:-1]])))
        return stops[np.searchsorted(stops, begin, side="right")]

    @cached_property
    def lines(self) -> Spans:
        """What lies between line feeds, as `text.split("\\n")` has it, empty ones too."""
        ends = np.flatnonzero(self.data == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        return Spans(starts, ends, np.concatenate([[0], np.searchsorted(ends, self.ends) + 1]))

    def stripped(self, spans: Spans) -> Spans:
        """Spans without white space at both ends; a blank one is empty."""
        marks = np.flatnonzero((self.classes & SPACE) == 0)
        if not len(marks):
            return Spans(spans.starts, spans.starts, spans.bounds)
        first = marks[np.minimum(np.searchsorted(marks, spans.starts), len(marks) - 1)]
        last = marks[np.searchsorted(marks, spans.ends) - 1] + 1
        blank = (first >= spans.ends) | (first < spans.starts)
        return Spans(np.where(blank, spans.starts, first), np.where(blank, spans.starts, last), spans.bounds)

    @cached_property
    def _weighted(self) -> Hashes:
        return np.asarray(_BYTE_HASHES[self.data] * _powers(_MULTIPLIER, len(self.data)))

    def hashes(self, spans: Spans) -> Hashes:
        """A hash of the bytes of each span."""
        if not len(spans):
            return np.zeros(0, np.uint64)
        edges = np.stack([spans.starts, spans.ends], axis=1).reshape(-1)
        sums = np.add.reduceat(self._weighted, np.minimum(edges, len(self.data) - 1))[::2]
        sums[spans.starts == spans.ends] = 0
        return mix(
            sums * _powers(pow(_MULTIPLIER, -1, 1 << 64), len(self.data))[spans.starts]
            + spans.ends.view(np.uint64)
            - spans.starts.view(np.uint64)
        )

    def any_of(self, spans: Spans, bits: int) -> NDArray[np.bool_]:
        """Whether some character of each span, which is not empty, is of one of the classes."""
        if not len(spans):
            return np.zeros(0, bool)
        edges = np.stack([spans.starts, spans.ends], axis=1).reshape(-1)
        return np.asarray((np.bitwise_or.reduceat(self.classes, edges)[::2] & bits) != 0)

    def find(self, needle: bytes, within: bytes | None = None) -> Ints:
        """Where the bytes begin, without overlaps, in the buffer or in one of its size."""
        text, found, place = self.raw if within is None else within, [], -len(needle)
        while (place := text.find(needle, place + len(needle))) >= 0:
            found.append(place)
        return np.array(found, dtype=np.int64)

    def count(self, places: Ints) -> Ints:
        """Of sorted places in the buffer, how many lie in each text."""
        return np.searchsorted(places, self.ends) - np.searchsorted(places, self.starts)


_power_tables: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """base^0 .. base^(count - 1) modulo 2^64, kept for the next batch."""
    table = _power_tables.get(base)
    if table is None or len(table) < count:
        size = max(count, 1 << 21)
        table = np.full(size, base, np.uint64)
        table[0] = 1
        table = _power_tables[base] = np.cumprod(table)
    return table[:count]


def _class_of(character: str) -> int:
    return (
        SPACE * character.isspace()
        | ALPHA * character.isalpha()
        | PUNCT * (character in _PUNCTUATION)
        | DIGIT * character.isdigit()
    )


def _ascii_classes() -> Bytes:
    return _classify(np.arange(256))


def _classify(points: Ints) -> Bytes:
    new = np.unique(points[_classes[points] == 0])
    _classes[new] = [_KNOWN | _class_of(chr(point)) for point in new.tolist()]
    return _classes[points]


def _code_points(data: Bytes, leads: Ints) -> tuple[Ints, Ints]:
    """Code points that begin at `leads`, and their bytes."""
    first = data[leads].astype(np.int64)
    sizes = 2 + (first >= 0xE0) + (first >= 0xF0)
    padded = np.concatenate([data, np.zeros(3, np.uint8)])
    low = [padded[leads + offset].astype(np.int64) & 0x3F for offset in (1, 2, 3)]
    two = (first & 0x1F) << 6 | low[0]
    three = (first & 0x0F) << 12 | low[0] << 6 | low[1]
    four = (first & 0x07) << 18 | low[0] << 12 | low[1] << 6 | low[2]
    return np.minimum(np.select([sizes == 2, sizes == 3], [two, three], four), 0x10FFFF), sizes
