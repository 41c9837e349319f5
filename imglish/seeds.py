"""Counter-based randomness: every draw is a pure function of names and a counter.

    stream(0, "views").keys(ids)          one 64-bit key per sample
    uniform(draw(keys, 3))                the fourth number of each sample's stream, in [0, 1)

A stream is a 64-bit key: BLAKE2b-64 of the canonical JSON of (seed, names). Number `i` of a key is
`mix(key + (i + 1) * GOLDEN)`, the splitmix64 generator in counter form (Steele, Lea & Flood 2014,
constants from Vigna's public-domain splitmix64.c). Everything is uint64 arithmetic modulo 2**64 on
numpy arrays, so it is the same on every machine; a golden vector in the tests holds it still.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imglish.digests import canonical_json

U64 = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def mix(values: ArrayLike) -> U64:
    """The splitmix64 finaliser, elementwise: a bijection of 64-bit integers; a scalar gives shape [1]."""
    x = np.atleast_1d(np.asarray(values, dtype=np.uint64))  # numpy warns of overflow on scalars only
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return np.asarray(x ^ (x >> np.uint64(31)))


def draw(keys: ArrayLike, counter: ArrayLike) -> U64:
    """Number `counter` of each key's sequence, uint64; the two broadcast."""
    key = np.atleast_1d(np.asarray(keys, dtype=np.uint64))
    step = np.atleast_1d(np.asarray(counter, dtype=np.uint64)) + np.uint64(1)
    return mix(key + step * _GOLDEN)


def uniform(bits: U64) -> NDArray[np.float64]:
    """Bits as floats in [0, 1): the upper 53 bits, exactly representable."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: U64, bound: ArrayLike) -> NDArray[np.int64]:
    """Bits as integers in [0, bound), for bounds under 2**32 (bias below 2**-21)."""
    return np.floor(uniform(bits) * np.asarray(bound, dtype=np.float64)).astype(np.int64)


@dataclass(frozen=True)
class Stream:
    """A named source of numbers; `key` is its 64-bit identity."""

    key: int

    def keys(self, index: ArrayLike) -> U64:
        """A sub-stream key for every element of `index` (row numbers or 64-bit ids)."""
        return draw(np.uint64(self.key), mix(np.asarray(index, dtype=np.uint64)))

    def bits(self, count: int, start: int = 0) -> U64:
        """`count` numbers of this stream from counter `start`, uint64 [count]."""
        return draw(np.uint64(self.key), np.arange(start, start + count, dtype=np.uint64))

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A permutation of range(count): ranks of the first `count` numbers, ties by place."""
        return np.argsort(self.bits(count), kind="stable").astype(np.int64)


def stream(seed: int, *names: str | int) -> Stream:
    """The stream of (seed, names); names are strings or integers, in order."""
    digest = hashlib.blake2b(canonical_json([str(seed), *[str(name) for name in names]]), digest_size=8)
    return Stream(int.from_bytes(digest.digest(), "little"))
