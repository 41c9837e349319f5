"""Texts as sets of hashed word runs, and the MinHash signatures of such sets.

    batch = shingles(["The cat sat on the mat today.", ...], length=5)     # all runs of five words, hashed
    signatures = minhash(batch)                                            # uint32 [texts, 112]
    jaccard(as_set(batch.of(0)), as_set(batch.of(1)))                      # true Jaccard of two texts

A text is normalised (Unicode NFC, case folded, white space as separator); characters of scripts that do not space
their words are words of their own. A word is hashed by xxh3-64, a run by a polynomial over its words' hashes modulo
2**64 and a bijective mixer: no string is joined, everything after the words is numpy. A text of fewer words than
`length` is one run of all its words.

MinHash (Broder 1997): signature number i is the smallest of (a_i x + b_i) mod 2**32 over the upper halves x of the
run hashes, a_i odd: multiply-add permutations of 32-bit integers, drawn once from `seeds.stream`. Neither hash is
cryptographic, so signatures only propose; `as_set` and `jaccard`, on all 64 bits, decide.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from imglish.seeds import mix, stream

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

TEXT_VERSION = 1
"""Of normalisation, words and hashes: part of every unit that reads them."""
HASHES = 112
"""Numbers of a signature (FineWeb and datatrove: 14 bands of 8)."""
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that powers of it are invertible modulo 2**64; the golden ratio, as in splitmix64."""
_BLOCK = 1 << 15
"""Run hashes that are permuted at once: 128 KB, which stay in the second-level cache."""
_WORDS_KEPT = 1 << 19
"""Distinct words whose hashes a process remembers, about 60 MB."""
UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f])")
"""A character of Chinese, kana, Thai, Lao, Khmer or Burmese, which do not space their words."""


class _Words(dict[str, int]):
    """Hashes of words, filled as they are met."""

    def __missing__(self, word: str) -> int:
        found = self[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        return found


_words = _Words()


def words_of(text: str) -> list[str]:
    """The words of a text after normalisation."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        if UNSPACED.search(text):
            text = UNSPACED.sub(r" \1 ", text)
    return text.casefold().split()


def normal_digest(words: Sequence[str]) -> bytes:
    """16-byte BLAKE2b of a normalised text: equal for texts that differ in case, white space or composition only."""
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Shingles:
    """Runs of n texts: `hashes` uint64 of all, `starts` int64 [n + 1]: text i has [starts[i], starts[i+1])."""

    hashes: U64
    starts: NDArray[np.int64]

    def of(self, text: int) -> U64:
        """Hashes of one text's runs, with repeats."""
        return self.hashes[self.starts[text] : self.starts[text + 1]]


def shingles(texts: Sequence[str], length: int) -> Shingles:
    """Every run of `length` words of every text; a text without a word has none."""
    return shingles_of_words([words_of(text) for text in texts], length)


def shingles_of_words(texts: Sequence[Sequence[str]], length: int) -> Shingles:
    """`shingles` of texts that are split into words already."""
    return shingles_of_hashes([hash_words(words) for words in texts], length)


def hash_words(words: Sequence[str]) -> U64:
    """A hash of each word. Words are best hashed text by text, while their strings are in the processor's cache."""
    if len(_words) > _WORDS_KEPT:
        _words.clear()
    return np.fromiter(map(_words.__getitem__, words), np.uint64, len(words))


def shingles_of_hashes(texts: Sequence[U64], length: int) -> Shingles:
    """`shingles` of texts whose words are hashed already."""
    counts = np.array([len(words) for words in texts], dtype=np.int64)
    hashed = np.concatenate([np.zeros(0, np.uint64), *texts])
    runs = np.where(counts == 0, 0, np.maximum(1, counts - length + 1))
    starts = np.concatenate([[0], np.cumsum(runs)]).astype(np.int64)
    found = np.empty(int(starts[-1]), dtype=np.uint64)
    _fill(found, starts, hashed, counts, length)
    return Shingles(mix(found) if len(found) else found, starts)


def _fill(found: U64, starts: NDArray[np.int64], hashed: U64, counts: NDArray[np.int64], length: int) -> None:
    """Polynomials of all windows over the whole batch at once, of which those inside one text are kept."""
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    long = counts >= length
    if long.any():
        whole = _polynomial(hashed, length)
        runs = np.diff(starts)
        inside = np.flatnonzero(np.repeat(long, runs))
        found[inside] = whole[inside + np.repeat(first[long] - starts[:-1][long], runs[long])]
    for text in np.flatnonzero(~long & (counts > 0)).tolist():
        found[starts[text]] = _polynomial(hashed[first[text] : first[text] + counts[text]], int(counts[text]))[0]


def _polynomial(hashed: U64, length: int) -> U64:
    """sum over j of hashed[i + j] * BASE**(length - 1 - j) mod 2**64 for every i, by Horner's rule."""
    size = len(hashed) - length + 1
    total = hashed[:size].copy()
    for step in range(1, length):
        total *= np.uint64(_BASE)
        total += hashed[step : step + size]
    return total


@cache
def _permutations() -> tuple[U32, U32]:
    bits = stream(0, "minhash", TEXT_VERSION).bits(HASHES)
    return (bits >> np.uint64(32)).astype(np.uint32) | np.uint32(1), bits.astype(np.uint32)


def minhash(batch: Shingles) -> U32:
    """Signatures uint32 [texts, HASHES]; a text without words has the largest number everywhere."""
    count = len(batch.starts) - 1
    signatures = np.full((HASHES, count), np.iinfo(np.uint32).max, dtype=np.uint32)
    upper = (batch.hashes >> np.uint64(32)).astype(np.uint32)
    for low in range(0, len(upper), _BLOCK):
        _permute(signatures, upper[low : low + _BLOCK], batch.starts, low)
    return np.ascontiguousarray(signatures.T)


def _permute(signatures: U32, block: U32, starts: NDArray[np.int64], low: int) -> None:
    """Lower the signatures of the texts that have runs in a block beginning at run `low`."""
    first = int(np.searchsorted(starts, low, side="right")) - 1
    last = int(np.searchsorted(starts, low + len(block), side="left"))
    inside = np.maximum(starts[first:last] - low, 0)
    filled = np.flatnonzero(np.diff(np.append(inside, len(block))))
    cuts, texts = inside[filled], first + filled
    permuted = np.empty_like(block)
    for number, (a, b) in enumerate(zip(*_permutations(), strict=True)):
        np.multiply(block, a, out=permuted)
        np.add(permuted, b, out=permuted)
        row = signatures[number]
        row[texts] = np.minimum(row[texts], np.minimum.reduceat(permuted, cuts))


def band_keys(signatures: U32, bands: int, rows: int) -> U64:
    """One key for each band of `rows` numbers, uint64 [texts, bands]; ValueError when a signature has too few."""
    if bands * rows > signatures.shape[1]:
        raise ValueError(f"{bands} bands of {rows} need {bands * rows} hashes; a signature has {signatures.shape[1]}")
    parts = signatures[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(bands, dtype=np.uint64)), parts.shape[:2]).copy()
    for row in range(rows):
        keys = mix(keys * np.uint64(_BASE) + parts[:, :, row]).reshape(keys.shape)
    return keys


def as_set(hashes: U64) -> U64:
    """The distinct hashes in ascending order."""
    return np.unique(hashes)


def overlap(left: U64, right: U64) -> int:
    """How many hashes two sets of `as_set` share."""
    if len(left) > len(right):
        left, right = right, left
    if not len(left):
        return 0
    place = np.searchsorted(right, left)
    place[place == len(right)] = 0
    return int(np.count_nonzero(right[place] == left))


def jaccard(left: U64, right: U64) -> float:
    """Shared over distinct; 0 when both are empty."""
    common = overlap(left, right)
    return common / max(1, len(left) + len(right) - common)


def containment(left: U64, right: U64) -> float:
    """Shared over the smaller set; 0 when one is empty."""
    return overlap(left, right) / max(1, min(len(left), len(right)))
