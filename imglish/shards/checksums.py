"""CRC-32C of many pieces of one buffer at once, at little more than the cost of the bytes.

    wrong_pieces(data, starts, sizes, sums)         numbers of the pieces whose checksum is another
    joined(sums, 1024)                              checksums of rows of equal pieces laid end to end

A checksum of AB is M(checksum of A) xor checksum of B, where M, linear over bits, appends as many zero bytes as B has
(zlib's crc32_combine). So a text member of 256 blocks is checked by one pass over it and eight steps over the checksums
of its blocks; only where the two differ each block is looked at.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Data = bytes | memoryview
_ONES = 0xFFFFFFFF


def wrong_pieces(data: Data, starts: I64, sizes: I64, sums: U32) -> I64:
    """Numbers of the pieces [start, start + size) whose CRC-32C is not the one said."""
    pieces = map(memoryview(data).__getitem__, map(slice, starts.tolist(), (starts + sizes).tolist()))
    found = np.fromiter(map(crc32c, pieces), np.uint32, len(starts))
    return np.flatnonzero(found != sums)


def wrong_blocks(data: Data, starts: I64, size: int, per_run: int, sums: U32) -> I64:
    """The same for blocks of one size that lie end to end in runs of `per_run`, the last run perhaps shorter."""
    runs = -(-len(starts) // per_run)
    padded = np.zeros((runs * per_run,), dtype=np.uint32)
    last = len(starts) - (runs - 1) * per_run
    padded[: (runs - 1) * per_run] = sums[: (runs - 1) * per_run]
    padded[len(padded) - last :] = sums[len(sums) - last :]  # in front of a run, zero is the checksum of nothing
    sizes = np.minimum(per_run, len(starts) - np.arange(runs) * per_run) * size
    suspects = wrong_pieces(data, starts[::per_run], sizes, joined(padded.reshape(runs, per_run), size))
    places = (suspects[:, None] * per_run + np.arange(per_run)).reshape(-1)
    places = places[places < len(starts)]
    return places[wrong_pieces(data, starts[places], np.full(len(places), size), sums[places])]


def joined(sums: U32, size: int) -> U32:
    """Checksums u32 [n] of m pieces of `size` bytes laid end to end, from those of the pieces, u32 [n, m].

    ValueError unless m is a power of two.
    """
    count = sums.shape[1]
    if count & count - 1 or not count:
        raise ValueError(f"{count} pieces in a row; a power of two can be joined")
    while sums.shape[1] > 1:
        first, second, third, fourth = _zeros_behind(size)
        left = sums[:, 0::2]
        moved = first[left & 255] ^ second[left >> 8 & 255] ^ third[left >> 16 & 255] ^ fourth[left >> 24]
        sums, size = moved ^ sums[:, 1::2], 2 * size
    return sums[:, 0]


@cache
def _zeros_behind(size: int) -> U32:
    """What `size` zero bytes do to a checksum, one table for each of its bytes, u32 [4, 256]."""
    zeros = bytes(size)
    columns = np.array([crc32c(zeros, _ONES ^ 1 << bit) ^ _ONES for bit in range(32)], dtype=np.uint32)
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return np.stack([np.bitwise_xor.reduce(bits * columns[8 * at : 8 * at + 8], axis=1) for at in range(4)]).astype(
        np.uint32
    )
