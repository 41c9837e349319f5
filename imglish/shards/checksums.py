"""CRC-32C of many pieces of one buffer at once, at little more than the cost of the bytes.

    wrong_pieces(data, starts, sizes, sums)         numbers of the pieces whose checksum is another
    joined(sums, 1024)                              checksums of rows of equal pieces laid end to end
    joined_members(heads, sums, sizes)              checksums of tar members laid end to end, from those of their parts

A checksum of AB is M(checksum of A) xor checksum of B, where M, linear over bits, appends as many zero bytes as B has
(zlib's crc32_combine). So a text member of 256 blocks is checked by one pass over it and eight steps over the checksums
of its blocks, and a pair of five members by one pass over all its headers, payloads and padding; only where the two
differ each part is looked at.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Data = bytes | memoryview
RECORD = 512
"""Bytes of a tar's record."""
_ONES = 0xFFFFFFFF
_MOST_RECORDS = 255


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
        sums, size = _moved(_zeros_behind(size), sums[:, 0::2]) ^ sums[:, 1::2], 2 * size
    return sums[:, 0]


def joined_members(heads: U32, sums: U32, sizes: I64) -> U32:
    """Checksums u32 [n] of m tar members laid end to end, each a header, a payload and zeros up to a full record.

    `heads` u32 [n, m] are the checksums of the headers, `sums` u32 [n, m] and `sizes` int64 [n, m] of the payloads.
    """
    found = np.zeros(len(sums), dtype=np.uint32)
    padding = -sizes % RECORD
    for member in range(sums.shape[1]):
        found = _moved(_by_records()[1], found) ^ heads[:, member]
        records = (sizes[:, member] + padding[:, member]) // RECORD
        while records.any():
            step = np.minimum(records, _MOST_RECORDS)
            found, records = _moved_each(_by_records(), step, found), records - step
        found = found ^ _moved_each(_by_bytes(), padding[:, member], sums[:, member]) ^ _zero_sums()[padding[:, member]]
    return found


def change_sums(parts: NDArray[np.uint8], places: I64, template: bytes) -> U32:
    """What writing the bytes `parts` u8 [..., k] at `places` of a record changes in the checksum of `template`.

    Changes at different places are joined by xor: that of the whole record is crc32c(template) xor all of them.
    """
    rest = len(template) - 1 - places
    changes = parts ^ np.frombuffer(template, np.uint8)[places]
    return np.asarray(np.bitwise_xor.reduce(_last_byte()[rest, changes], axis=-1))


def _moved(tables: U32, sums: U32) -> U32:
    """What zero bytes behind make of checksums, by `tables` u32 [4, 256]."""
    return np.asarray(
        tables[0][sums & 255] ^ tables[1][sums >> 8 & 255] ^ tables[2][sums >> 16 & 255] ^ tables[3][sums >> 24]
    )


def _moved_each(tables: U32, which: I64, sums: U32) -> U32:
    """The same with tables of its own for each checksum, `tables[which]` of u32 [m, 4, 256]."""
    flat, first = tables.reshape(-1), which * 1024
    found = flat[first + (sums & 255)]
    for at in (1, 2, 3):
        found ^= flat[first + (256 * at) + (sums >> np.uint32(8 * at) & 255)]
    return np.asarray(found, dtype=np.uint32)


@cache
def _by_bytes() -> U32:
    """Tables of 0 to 511 zero bytes, u32 [512, 4, 256]: 2 MB."""
    return _powers(_zeros_behind(1), RECORD)


@cache
def _by_records() -> U32:
    """Tables of 0 to 255 records of zeros, u32 [256, 4, 256]: 1 MB."""
    return _powers(_zeros_behind(RECORD), _MOST_RECORDS + 1)


def _powers(once: U32, count: int) -> U32:
    bytes_ = np.arange(256, dtype=np.uint32)
    found = [np.stack([bytes_ << np.uint32(8 * at) for at in range(4)])]
    while len(found) < count:
        found.append(_moved(once, found[-1]))
    return np.stack(found)


@cache
def _zero_sums() -> U32:
    """Checksums of 0 to 511 zero bytes."""
    return np.array([crc32c(bytes(size)) for size in range(RECORD)], dtype=np.uint32)


@cache
def _last_byte() -> U32:
    """What a change of a byte does to a checksum: u32 [512, 256], by its distance from the end and the change."""
    last = np.array([crc32c(bytes([byte])) ^ crc32c(b"\0") for byte in range(256)], dtype=np.uint32)
    return np.stack([_moved(tables, last) for tables in _by_bytes()])


@cache
def _zeros_behind(size: int) -> U32:
    """What `size` zero bytes do to a checksum, one table for each of its bytes, u32 [4, 256]."""
    zeros = bytes(size)
    columns = np.array([crc32c(zeros, _ONES ^ 1 << bit) ^ _ONES for bit in range(32)], dtype=np.uint32)
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return np.stack([np.bitwise_xor.reduce(bits * columns[8 * at : 8 * at + 8], axis=1) for at in range(4)]).astype(
        np.uint32
    )
