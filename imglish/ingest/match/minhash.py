"""MinHash signatures of sets of hashes, and the keys of their bands.

    signatures = minhash(shingles(texts, 5))      # uint32 [texts, 112]
    np.mean(signatures[0] == signatures[1])       # estimates the Jaccard of texts 0 and 1

Signatures are Fast Similarity Sketches (Dahlgaard, Knudsen, Thorup 2017, "Fast similarity sketching"). In each round
every hash of a set draws one of the 112 places and a value, and a place keeps the smallest value of the first round
that reached it; rounds go on until every place of the set has one. Long documents are done after a round or two, where
independent permutations would cost 112 numbers a hash; short ones take about 530 draws in all. From round 112 on each
hash draws for place `round - 112` alone, so a set of one hash fills its places too. Each number agrees in two sets with
probability equal to their Jaccard, and the mean's variance is at most that of independent permutations. The draw of
round 0 is the hash itself, those of later rounds are `seeds.draw` with it as key; equal hashes draw the same, so a set
may be given with repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imglish.ingest.match.shingles import Shingles
from imglish.ingest.match.words import I64, U64
from imglish.seeds import draw, mix

HASHES = 112
"""Numbers of a signature (FineWeb and datatrove: 14 bands of 8)."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_ROUND_BITS = np.uint64(56)
"""Bits of a value below the number of its round, which is at most 223."""
_VALUE = np.uint64((1 << 56) - 1)
_EMPTY = np.uint64(2**64 - 1)
_DRAWS = 1 << 16
"""Hashes that draw at once: 512 KB in round 0, later as many times more as rounds are drawn together."""
_AHEAD = 512
"""Draws a set is given before it is asked whether its places are filled; 112 places take about 112 ln 112 = 528."""


def minhash(batch: Shingles) -> NDArray[np.uint32]:
    """Signatures uint32 [texts, HASHES]; a text without words has the largest number everywhere."""
    sizes = np.diff(batch.starts)
    held = np.full((len(sizes), HASHES), _EMPTY, dtype=np.uint64)
    text = np.repeat(np.arange(len(sizes)), sizes)
    for low in range(0, len(text), _DRAWS):  # the draw of round 0 is the hash itself, which is mixed already
        part = batch.hashes[low : low + _DRAWS]
        _keep(held, text[low : low + _DRAWS], part, np.uint64(0))
    _fill(held, text, batch.hashes)
    return held.astype(np.uint32)


def _fill(held: U64, text: I64, hashes: U64) -> None:
    """Later rounds, for the sets that still have an empty place."""
    done = 1
    while done < HASHES:
        text, hashes = _unfilled(held, text, hashes)
        if not len(text):
            return
        mean = len(text) // (1 + int(np.count_nonzero(np.diff(text))))
        rounds = np.arange(done, min(HASHES, done + max(1, _AHEAD // mean)), dtype=np.uint64)
        for low in range(0, len(text), _DRAWS):
            part = slice(low, low + _DRAWS)
            _keep(held, text[part, None], draw(hashes[part, None], rounds), rounds)
        done += len(rounds)
    text, hashes = _unfilled(held, text, hashes)
    places = np.arange(HASHES, dtype=np.uint64)
    for low in range(0, len(text), _DRAWS // HASHES):
        part = slice(low, low + _DRAWS // HASHES)
        drawn = draw(hashes[part, None], places + np.uint64(HASHES))
        _lower(held, text[part, None] * HASHES + places.astype(np.int64), drawn, places + np.uint64(HASHES))


def _unfilled(held: U64, text: I64, hashes: U64) -> tuple[I64, U64]:
    """The hashes of the sets that have an empty place, and their sets."""
    empty = (held == _EMPTY).any(axis=1)[text]
    return text[empty], hashes[empty]


def _keep(held: U64, text: I64, drawn: U64, rounds: U64 | np.uint64) -> None:
    """Let draws of 64 bits take their places: the upper 32 bits say which one."""
    place = (drawn >> np.uint64(32)) * np.uint64(HASHES) >> np.uint64(32)
    _lower(held, place.astype(np.int64) + text * HASHES, drawn, rounds)


def _lower(held: U64, place: I64, drawn: U64, rounds: U64 | np.uint64) -> None:
    values = (drawn & _VALUE) | (rounds << _ROUND_BITS)
    np.minimum.at(held.reshape(-1), place.ravel(), values.ravel())


def band_keys(signatures: NDArray[np.uint32], bands: int, rows: int) -> U64:
    """One key for each band of `rows` numbers, uint64 [texts, bands]; ValueError when a signature has too few."""
    if bands * rows > signatures.shape[1]:
        raise ValueError(f"{bands} bands of {rows} need {bands * rows} hashes; a signature has {signatures.shape[1]}")
    parts = signatures[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(bands, dtype=np.uint64)), parts.shape[:2]).copy()
    for row in range(rows):
        keys = mix(keys * _BASE + parts[:, :, row]).reshape(keys.shape)
    return keys
