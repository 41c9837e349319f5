"""Headers and padding of tar members against what they must be, many at a time.

A shard is a row of 512-byte records: a header, the records of its payload, the next header. So headers are rows of one
array and are compared with an array of expected ones, which keeps verify near the speed of SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imglish.shards import format as fmt
from imglish.shards.checksums import Data

I64 = NDArray[np.int64]
_CHUNK = 512
"""Members compared at once: arrays of 256 KB, which stay in a core's cache."""
_WORDS = fmt.RECORD // 8
_BEHIND = (np.arange(fmt.RECORD) >= np.arange(fmt.RECORD)[:, None]).astype(np.uint8) * np.uint8(255)
"""By the size of a payload's last piece: the bytes of its record that are padding."""


def member_places(start: int, sizes: I64) -> tuple[I64, int]:
    """Where the headers of members of these sizes lie, int64 [n], and where the last member ends."""
    steps = fmt.RECORD + sizes + -sizes % fmt.RECORD
    ends = start + np.cumsum(steps)
    return ends - steps, int(ends[-1]) if len(ends) else start


def member_faults(data: Data, names: NDArray[np.bytes_], places: I64, sizes: I64) -> Iterator[tuple[int, str]]:
    """(number of the member, problem) of members whose header or padding is wrong; `places` are multiples of 512."""
    records = np.frombuffer(data, np.uint64, len(data) // fmt.RECORD * _WORDS).reshape(-1, _WORDS)
    masks = _BEHIND.view(np.uint64)
    first_records, rests = places // fmt.RECORD, sizes % fmt.RECORD
    last_records = first_records + 1 + sizes // fmt.RECORD
    for first in range(0, len(names), _CHUNK):
        part = slice(first, first + _CHUNK)
        expected = fmt.headers(names[part], sizes[part]).view(np.uint64)
        wrong = np.flatnonzero((records[first_records[part]] != expected).any(axis=1))
        yield from ((first + int(n), "its tar header is not that of this member") for n in wrong)
        padded = np.flatnonzero(rests[part])
        dirty = padded[(records[last_records[part][padded]] & masks[rests[part][padded]]).any(axis=1)]
        yield from ((first + int(n), "its padding is not zero") for n in dirty)
