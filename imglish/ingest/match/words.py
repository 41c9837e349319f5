"""Texts as words, and the words of many texts hashed at once.

    words_of("The  CAT\\tsat")                   # ["the", "cat", "sat"]: the definition
    batch = read_words(["The  CAT\\tsat", ...])  # the same words as 64-bit hashes, those of all texts in one array
    normal_digest(batch.forms[0])               # equal for texts that differ in case, white space or composition only

A text is normalised (Unicode NFC, case folded, white space as separator); characters of scripts that do not space
their words are words of their own. `read_words` joins the folded texts as UTF-8 in one buffer with a single space
after each word; all that follows is a few passes of numpy over the bytes, then over the words, and nothing is done in
Python for each word. A word's hash is taken from its length and its bytes, eight at a time, each step a multiplication
by an odd constant and a fold of the upper half onto the lower. It is not cryptographic.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f])")
"""A character of Chinese, kana, Thai, Lao, Khmer or Burmese, which do not space their words; case folding keeps it."""
_SPACE = 32
_ASCII = bytes(_SPACE if c < 128 and chr(c).isspace() else c for c in range(256)).lower()
"""ASCII in lower case and its white space as spaces; other bytes as they are."""
_KNOWN = 0x3001
"""Code points of `_classes`: Latin to Georgian, punctuation, symbols; others are always normalised."""
_INERT, _BLANK, _CHANGES = range(3)
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
"""The lowest bytes of eight."""
_GOLDEN, _ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
"""Multipliers of splitmix64 (see `imglish.seeds`)."""
_LONG = 64
"""Bytes of the longest word that is not hashed by xxh3: longer ones are links and Base64."""


def words_of(text: str) -> list[str]:
    """The words of a text after normalisation."""
    return _folded(text).split()


def normal_digest(form: bytes | memoryview) -> bytes:
    """16-byte BLAKE2b of a normalised text: equal for texts that differ in case, white space or composition only."""
    return hashlib.blake2b(form, digest_size=16).digest()


@dataclass(frozen=True)
class Words:
    """Of n texts: text i has the words `hashes[starts[i]:starts[i + 1]]`; `forms[i]` is them with spaces between."""

    hashes: U64
    starts: I64
    forms: Sequence[memoryview]


def read_words(texts: Sequence[str]) -> Words:
    """The words of `words_of`, hashed."""
    buffer, edges = _joined(texts)
    ends = np.flatnonzero(buffer[: edges[-1]] == _SPACE)
    starts = np.searchsorted(ends, edges).astype(np.int64)
    view = buffer.data
    forms = [view[low : max(low, high - 1)] for low, high in pairwise(edges.tolist())]
    return Words(_hashes(buffer, ends), starts, forms)


def _joined(texts: Sequence[str]) -> tuple[U8, I64]:
    """Bytes with one space after each word and eight zeros at the end, and where each text begins and the last ends."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    raw, places, classes = _marked(parts)
    changing = places[classes == _CHANGES]
    if len(changing):
        limits = _edges(len(one) + 1 for one in parts)
        for text in np.unique(np.searchsorted(limits, changing, "right") - 1).tolist():
            parts[text] = _folded(texts[text]).encode("utf-8", "surrogatepass")
        raw, places, classes = _marked(parts)
    blank = places[classes == _BLANK]
    raw[blank] = raw[blank + 1] = _SPACE
    raw[blank[raw[blank + 2] & 0xC0 == 0x80] + 2] = _SPACE
    kept = raw != _SPACE
    kept[1:] |= kept[:-1].copy()
    limits = _edges(len(one) + 1 for one in parts).tolist()
    edges = _edges(int(np.count_nonzero(kept[low:high])) for low, high in pairwise(limits))
    found = np.zeros(int(edges[-1]) + 8, dtype=np.uint8)
    np.compress(kept[: limits[-1]], raw[: limits[-1]], out=found[: edges[-1]])
    return found, edges


def _marked(parts: Sequence[bytes]) -> tuple[U8, I64, U8]:
    """Texts with a space after each, places of their characters beyond ASCII, and what these are."""
    raw = np.frombuffer(bytearray(b" ".join([*parts, b"  "]).translate(_ASCII)), np.uint8)
    places = np.flatnonzero(raw >= 0xC2)  # first bytes
    lead, second = raw[places].astype(np.int32), raw[places + 1] & 0x3F
    two, three = (lead & 0x1F) << 6 | second, (lead & 0x0F) << 12 | second.astype(np.int32) << 6
    code = np.where(lead < 0xE0, two, three | raw[places + 2] & 0x3F)
    known = np.where((lead < 0xF0) & (code < _KNOWN), code, _KNOWN)
    return raw, places, _classes()[known]


@cache
def _classes() -> U8:
    """Of each code point below `_KNOWN`, and of the others, whether it is white space, or may not stay as it is.

    It may when it folds to itself, composes with nothing before it, and belongs to a script that spaces its words.
    """
    found = np.full(_KNOWN + 1, _CHANGES, dtype=np.uint8)
    composing = {
        unicodedata.decomposition(chr(c)).split()[-1] for c in range(_KNOWN) if unicodedata.decomposition(chr(c))
    }
    for code in range(128, _KNOWN):
        one = chr(code)
        if one.isspace():
            found[code] = _BLANK
        elif not (
            one.casefold() != one
            or unicodedata.normalize("NFC", one) != one
            or unicodedata.combining(one)
            or 0x1100 <= code < 0x1200  # parts of Hangul syllables
            or f"{code:04X}" in composing
            or UNSPACED.match(one)
        ):
            found[code] = _INERT
    return found


def _edges(sizes: Iterable[int]) -> I64:
    """Where each of some things that lie one after another begins, and where the last ends."""
    return np.array([0, *accumulate(sizes)], dtype=np.int64)


def _folded(text: str) -> str:
    """A text after composition and case folding, words of unspaced scripts apart."""
    text = unicodedata.normalize("NFC", text)
    if UNSPACED.search(text):
        text = UNSPACED.sub(r" \1 ", text)
    return text.casefold()


def _hashes(buffer: U8, ends: I64) -> U64:
    """A hash of each word that ends before a space at `ends`, from the zeros after the last word on read as nothing."""
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    sizes = ends - starts
    eights = np.ndarray((len(buffer) - 7,), "<u8", buffer.data, strides=(1,))
    found = (eights[starts] & _MASKS.take(np.minimum(sizes, 8))) + sizes.astype(np.uint64) * _GOLDEN
    found = _fold(found)
    left = np.flatnonzero(sizes > 8)
    long = left[sizes[left] > _LONG]
    step = 8
    while len(left):
        rest = np.minimum(sizes[left] - step, 8)
        found[left] = _fold(found[left] + (eights[starts[left] + step] & _MASKS.take(rest)))
        step += 8
        left = left[(sizes[left] > step) & (sizes[left] <= _LONG)]
    for word in long.tolist():
        found[word] = xxhash.xxh3_64_intdigest(buffer[starts[word] : ends[word]].data)
    return found


def _fold(values: U64) -> U64:
    values = values * _ODD
    values ^= values >> np.uint64(32)
    return np.asarray(values)
