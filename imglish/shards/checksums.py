"""CRC-32C of many pieces of one buffer at once, at little more than the cost of the bytes.

    wrong_pieces(data, starts, sizes, sums)         numbers of the pieces whose checksum is another
    joined(sums, 1024)                              checksums of rows of equal pieces laid end to end
    joined_members(heads, sums, sizes)              checksums of tar members laid end to end, from those of their parts
    joined_runs(sums, sizes)                        the checksum of everything, from those of samples

A checksum of AB is M(checksum of A) xor checksum of B, where M, linear over bits, appends as many zero bytes as B has
(zlib's crc32_combine). So a section of a shard is checked by one pass over all its headers, payloads and padding
(`RunningSums`, while the file is read) and some steps over the checksums of its fields or blocks; only where the two
differ each part is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_BASE = 256


def wrong_pieces(data: Data, starts: I64, sizes: I64, sums: U32) -> I64:
    """Numbers of the pieces [start, start + size) whose CRC-32C is not the one said."""
    pieces = map(memoryview(data).__getitem__, map(slice, starts.tolist(), (starts + sizes).tolist()))
    found = np.fromiter(map(crc32c, pieces), np.uint32, len(starts))
    return np.flatnonzero(found != sums)


class RunningSums:
    """CRC-32C of byte ranges [start, end) of a file that comes piece by piece, each still in a core's cache."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.sums = [0] * len(ranges)
        self._ranges, self._place = ranges, 0

    def update(self, piece: Data) -> None:
        """Take the next piece of the file."""
        for number, (start, end) in enumerate(self._ranges):
            part = piece[max(0, start - self._place) : max(0, end - self._place)]
            self.sums[number] = crc32c(part, self.sums[number])
        self._place += len(piece)


def joined_blocks(sums: U32, size: int, per_run: int) -> U32:
    """Checksums u32 [runs] of runs of `per_run` blocks of `size` bytes, the last perhaps shorter, from u32 [n]."""
    runs = -(-len(sums) // per_run)
    last = len(sums) - (runs - 1) * per_run
    padded = np.zeros(runs * per_run, dtype=np.uint32)
    padded[: (runs - 1) * per_run] = sums[: (runs - 1) * per_run]
    padded[len(padded) - last :] = sums[len(sums) - last :]  # in front of a run, zero is the checksum of nothing
    return joined(padded.reshape(runs, per_run), size)


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
        found = _moved(_by_records(0)[1], found) ^ heads[:, member]
        found = _moved_by(found, (sizes[:, member] + padding[:, member]) // RECORD)
        found = found ^ _moved_each(_by_bytes(), padding[:, member], sums[:, member]) ^ _zero_sums()[padding[:, member]]
    return found


def joined_runs(sums: U32, sizes: I64) -> int:
    """The checksum of n pieces laid end to end, from their own, u32 [n]; `sizes` int64 [n] are whole records."""
    moved = _moved_by(sums, (sizes.sum() - np.cumsum(sizes)) // RECORD)
    return int(np.bitwise_xor.reduce(moved, initial=0))


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


def _moved_by(sums: U32, records: I64) -> U32:
    """What so many records of zeros behind make of each checksum, digit by digit to the base 256."""
    level = 0
    while records.any():
        sums, records, level = _moved_each(_by_records(level), records % _BASE, sums), records // _BASE, level + 1
    return sums


@cache
def _by_bytes() -> U32:
    """Tables of 0 to 511 zero bytes, u32 [512, 4, 256]: 2 MB."""
    return _powers(_zeros_behind(1), RECORD)


@cache
def _by_records(level: int) -> U32:
    """Tables of 0 to 255 times 256 ** level records of zeros, u32 [256, 4, 256]: 1 MB."""
    if level == 0:
        return _powers(_zeros_behind(RECORD), _BASE)
    below = _by_records(level - 1)
    return _powers(_moved(below[1], below[-1]), _BASE)


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
