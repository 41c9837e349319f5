"""Headers and padding of tar members against what they must be, many at a time.

A shard is a row of 512-byte records: a header, the records of its payload, the next header. So headers are rows of one
array and are compared with an array of expected ones, which keeps verify near the speed of SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from imglish.shards import format as fmt

I64 = NDArray[np.int64]
_CHUNK = 4096
"""Members compared at once: some 10 MB of arrays."""


def member_places(start: int, sizes: I64) -> tuple[I64, int]:
    """Where the headers of members of these sizes lie, int64 [n], and where the last member ends."""
    steps = fmt.RECORD + sizes + -sizes % fmt.RECORD
    ends = start + np.cumsum(steps)
    return ends - steps, int(ends[-1]) if len(ends) else start


def member_faults(data: bytes, names: Sequence[str], places: I64, sizes: I64) -> Iterator[tuple[int, str]]:
    """(number of the member, problem) of members whose header or padding is wrong; `places` are multiples of 512."""
    records = np.frombuffer(data, np.uint8, len(data) // fmt.RECORD * fmt.RECORD).reshape(-1, fmt.RECORD)
    for first in range(0, len(names), _CHUNK):
        part = slice(first, first + _CHUNK)
        found = records[places[part] // fmt.RECORD]
        wrong = np.flatnonzero((found != fmt.headers(names[part], sizes[part])).any(axis=1))
        yield from ((first + int(n), "its tar header is not that of this member") for n in wrong)
        padded = np.flatnonzero(sizes[part] % fmt.RECORD)
        last = (places[part] + fmt.RECORD + sizes[part])[padded] // fmt.RECORD
        behind = np.arange(fmt.RECORD) >= (sizes[part][padded] % fmt.RECORD)[:, None]
        dirty = padded[(records[last] * behind).any(axis=1)]
        yield from ((first + int(n), "its padding is not zero") for n in dirty)
