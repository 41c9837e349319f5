"""A permutation of range(n) that is computed one element at a time.

    permute([0, 1, 2], 3, key)      ->  for example [2, 0, 1]; the same for each element alone

The order of a billion rows is never stored: the row at a place is a keyed Feistel network over
`bit_length(n - 1)` bits, and a value that falls outside range(n) goes through the network again until it
falls inside (cycle walking, less than two passes on average). Each round replaces one half of the bits by
itself XOR a hash of the other half, which is a bijection whatever the hash. Bits are counted with integer
arithmetic only; sizes and keys may differ from element to element.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imglish.seeds import U64, draw, mix

ROUNDS = 8
"""Half-updates of one pass. Neighbours are uncorrelated from 6 on; 8 also makes all orders of five or six rows
nearly equally frequent (chi-square three times closer to its expectation than at 6)."""

_ONE = np.uint64(1)


def permute(values: ArrayLike, sizes: ArrayLike, keys: ArrayLike) -> NDArray[np.int64]:
    """Where each value goes in its own keyed permutation of range(size); int64, the shape of `values` (1-d).

    `sizes` (1 .. 2**62) and `keys` (uint64) broadcast against `values`. ValueError when a value is not in range(size).
    """
    place, size, key = np.broadcast_arrays(np.atleast_1d(values), sizes, np.asarray(keys, dtype=np.uint64))
    if np.any(place < 0) or np.any(place >= size):
        raise ValueError("a value to permute lies outside its range")
    result = place.astype(np.uint64)
    bound = size.astype(np.uint64)
    round_keys = [draw(key, number) for number in range(ROUNDS)]
    bits = bit_length(bound - _ONE)
    walking = np.arange(len(result))
    while len(walking):
        passed = _network(result[walking], bits[walking], [one[walking] for one in round_keys])
        result[walking] = passed
        walking = walking[passed >= bound[walking]]
    return result.astype(np.int64)


def bit_length(values: ArrayLike) -> U64:
    """Python's `int.bit_length`, elementwise on unsigned integers."""
    smeared = np.asarray(values, dtype=np.uint64)
    for shift in (1, 2, 4, 8, 16, 32):
        smeared = smeared | (smeared >> np.uint64(shift))
    return np.bitwise_count(smeared).astype(np.uint64)


def _network(values: U64, bits: U64, round_keys: list[U64]) -> U64:
    """One pass over a domain of 2**bits: the halves take turns, `bits // 2` high and the rest low."""
    low_bits = bits - bits // np.uint64(2)
    low_mask = (_ONE << low_bits) - _ONE
    high_mask = (_ONE << (bits - low_bits)) - _ONE
    low = values & low_mask
    high = values >> low_bits
    for number, key in enumerate(round_keys):
        if number % 2:
            high = high ^ (mix(key ^ low) & high_mask)
        else:
            low = low ^ (mix(key ^ high) & low_mask)
    return np.asarray((high << low_bits) | low)
