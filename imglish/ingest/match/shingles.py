"""Texts as sets of hashed word runs, and how much two sets share.

    batch = shingles(["The cat sat on the mat today.", ...], length=5)     # all runs of five words, hashed
    jaccard(as_set(batch.of(0)), as_set(batch.of(1)))                      # true Jaccard of two texts

A run is hashed by a polynomial over the hashes of its words (`imglish.ingest.match.words`) modulo 2**64 and a bijective
mixer: no string is joined. A text of fewer words than `length` is one run of all its words. `as_set` and `jaccard`
compare all 64 bits, so they decide what signatures (`imglish.ingest.match.minhash`) only propose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imglish.ingest.match.words import I64, U64, Words, read_words
from imglish.seeds import mix

TEXT_VERSION = 2
"""Of normalisation, words, hashes and signatures: part of every unit that reads them."""
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that powers of it are invertible modulo 2**64; the golden ratio, as in splitmix64."""


@dataclass(frozen=True)
class Shingles:
    """Runs of n texts: `hashes` uint64 of all, `starts` int64 [n + 1]: text i has [starts[i], starts[i+1])."""

    hashes: U64
    starts: I64

    def of(self, text: int) -> U64:
        """Hashes of one text's runs, with repeats."""
        return self.hashes[self.starts[text] : self.starts[text + 1]]


def shingles(texts: Sequence[str], length: int) -> Shingles:
    """Every run of `length` words of every text; a text without a word has none."""
    return shingles_of(read_words(texts), length)


def shingles_of(words: Words, length: int) -> Shingles:
    """`shingles` of texts whose words are hashed already."""
    counts = np.diff(words.starts)
    whole = _polynomial(words.hashes, length)
    kept = np.ones(len(whole), dtype=bool)
    for back in range(1, length):
        kept[words.starts[1:][counts >= back] - back] = False
    for size in range(1, length):
        first = words.starts[:-1][counts == size]
        whole[first] = _horner([words.hashes[first + step] for step in range(size)])
        kept[first] = True
    runs = np.where(counts == 0, 0, np.maximum(1, counts - length + 1))
    starts = np.concatenate([[0], np.cumsum(runs)]).astype(np.int64)
    found = whole[kept]
    return Shingles(mix(found) if len(found) else found, starts)


def _polynomial(hashes: U64, length: int) -> U64:
    """For every i the polynomial of hashes[i : i + length]; zero where fewer are left."""
    whole = np.zeros(len(hashes), dtype=np.uint64)
    size = len(hashes) - length + 1
    if size > 0:
        whole[:size] = _horner([hashes[step : step + size] for step in range(length)])
    return whole


def _horner(terms: Sequence[NDArray[np.uint64]]) -> U64:
    """sum over j of terms[j] * BASE**(len(terms) - 1 - j) mod 2**64, elementwise."""
    total = terms[0].copy()
    for term in terms[1:]:
        total *= np.uint64(_BASE)
        total += term
    return total


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
