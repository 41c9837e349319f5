"""Where the rows of URL lists go: places by hash of host, and the units and lanes that are cut from them.

    places = [place_of(host_of(url), url) for url in urls]            # 63 bits: 31 of the host, 32 of the URL
    for piece in cut(np.sort(places), unit_rows=1000): ...            # Piece(rows=[...], first, last, part, parts)

A host's rows share their upper 31 bits, so a range of places holds whole hosts. Ranges are halved until they hold at
most `unit_rows`, so a row more or less changes one unit, not all. A host with more rows than that is taken out first
and its own range halved by URL: it has numbered units, `part` of `parts`, which its lanes share.

Rows reach their units through `Buckets`: those of a range of hosts, and for a host that would fill several of these,
buckets of its own by leading bits of the URL. They cut where halving would, so units do not show how they were made.

All rows of a host lie in one *lane*, or in as many as the host may have connections; the units of a lane run one after
the other in one process. So limits on a host that a process keeps are kept by the whole cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.ingest.addresses import PLAIN_HOST

PLACE_BITS = 63
URL_BITS = 32
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Rows (numbers into the sorted places) of one range of places [first, last).

    `parts` is 0 for a range of hosts; for one host that needs more than one unit, `part` of `parts` numbers it.
    """

    rows: NDArray[np.int64]
    first: int
    last: int
    part: int = 0
    parts: int = 0


def place_of(host: str, url: str) -> int:
    """The place of a URL; a row without a host (refused, malformed) lies where its name `url` says."""
    low = int.from_bytes(hashlib.blake2b(url.encode(), digest_size=4).digest(), "little")
    return _host_place(host or f"\0{url}") << URL_BITS | low


def places_of(urls: pa.Array) -> Places:
    """`place_of(host_of(url), url)` of a column of texts; -1 where only `host_of` can tell the host."""
    found = pc.struct_field(pc.extract_regex(urls, f"^{PLAIN_HOST}"), 0)
    hosts = pc.utf8_lower(found).dictionary_encode()
    high = np.array([_host_place(host) for host in hosts.dictionary.to_pylist()] or [0], np.int64)
    low = [hashlib.blake2b(url, digest_size=4).digest() for url in urls.cast(pa.binary()).to_pylist()]
    places = high[pc.fill_null(hosts.indices, 0).to_numpy()] << URL_BITS | np.frombuffer(b"".join(low), "<u4")
    return np.where(pc.is_valid(found).to_numpy(zero_copy_only=False), places, -1)


@lru_cache(maxsize=1 << 16)
def _host_place(host: str) -> int:
    return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=4).digest(), "little") >> 1


def bucket_bits(rows: int, bucket_rows: int) -> int:
    """Number of leading bits that cut `rows` into buckets of at most about `bucket_rows`."""
    return max(0, -(-rows // bucket_rows) - 1).bit_length()


def bucket_of(places: Places, bits: int) -> NDArray[np.int32]:
    """The leading `bits` of places."""
    return (places >> (PLACE_BITS - bits)).astype(np.int32)


@dataclass(frozen=True)
class Buckets:
    """Ranges of places: `1 << bits` of hosts, then for each of the `large` hosts (ascending) `1 << its bits` of URLs.

    A *group* is what one table of robots.txt and the lanes of its hosts belong to: a bucket of hosts, or all buckets of
    one large host; groups are numbered in the order of buckets.
    """

    bits: int
    large: tuple[tuple[int, int], ...] = ()

    @classmethod
    def plan(cls, rows: int, hosts: Mapping[int, int], bucket_rows: int, unit_rows: int) -> Buckets:
        """Buckets of at most about `bucket_rows`, or of two units; `hosts` are the rows of hosts that may be large."""
        most = max(bucket_rows, 2 * unit_rows)
        large = [(host, bucket_bits(count, most)) for host, count in sorted(hosts.items()) if count > most]
        return cls(bucket_bits(rows, bucket_rows), tuple(large))

    def groups(self) -> list[range]:
        """The buckets of every group."""
        found = [range(n, n + 1) for n in range(1 << self.bits)]
        for _, bits in self.large:
            found.append(range(found[-1].stop, found[-1].stop + (1 << bits)))
        return found

    def of(self, places: Places) -> NDArray[np.int32]:
        """The bucket of every place."""
        found = bucket_of(places, self.bits)
        if not self.large or not len(places):
            return found
        hosts, bits = np.array(self.large, np.int64).T
        starts = np.array([group.start for group in self.groups()[1 << self.bits :]], np.int64)
        at = np.searchsorted(hosts, places >> URL_BITS).clip(max=len(hosts) - 1)
        low = (places & (1 << URL_BITS) - 1) >> URL_BITS - bits[at]
        return np.where(hosts[at] == places >> URL_BITS, starts[at] + low, found).astype(np.int32)

    def cut(self, bucket: int, places: Places, unit_rows: int) -> Iterator[Piece]:
        """The pieces of a bucket's sorted places; those of a large host's bucket are numbered within it."""
        group = next(n for n, buckets in enumerate(self.groups()) if bucket in buckets)
        number = group - (1 << self.bits)
        if number < 0:
            yield from cut(places, unit_rows, self.bits, bucket)
            return
        host, bits = self.large[number]
        width = 1 << URL_BITS - bits
        first = (host << URL_BITS) + (bucket - self.groups()[group].start) * width
        yield from _parts(places, 0, first, first + width, unit_rows)


def cut(places: Places, unit_rows: int, bits: int = 0, bucket: int = 0) -> Iterator[Piece]:
    """The pieces of a bucket's sorted places; each row is in exactly one, no piece is empty."""
    hosts = places >> URL_BITS
    starts = np.flatnonzero(np.r_[True, hosts[1:] != hosts[:-1]]) if len(hosts) else np.zeros(0, np.int64)
    counts = np.diff(np.r_[starts, len(hosts)])
    large = np.zeros(len(hosts), dtype=bool)
    for start, count in zip(starts[counts > unit_rows].tolist(), counts[counts > unit_rows].tolist(), strict=True):
        large[start : start + count] = True
    small = np.flatnonzero(~large)
    bounds = bucket << PLACE_BITS - bits, bucket + 1 << PLACE_BITS - bits
    for begin, end, first, last in _halve(places[small], *bounds, URL_BITS, unit_rows):
        yield Piece(small[begin:end], first, last)
    for start, count in zip(starts[counts > unit_rows].tolist(), counts[counts > unit_rows].tolist(), strict=True):
        first = int(hosts[start]) << URL_BITS
        yield from _parts(places[start : start + count], start, first, first + (1 << URL_BITS), unit_rows)


def _parts(places: Places, start: int, first: int, last: int, unit_rows: int) -> Iterator[Piece]:
    """The numbered pieces of one host's places in [first, last); they are the rows from `start` on."""
    found = list(_halve(places, first, last, 0, unit_rows))
    for part, (begin, end, low, high) in enumerate(found):
        yield Piece(np.arange(start + begin, start + end), low, high, part, len(found))


def _halve(places: Places, first: int, last: int, floor: int, unit_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(begin, end, first, last) of ranges with 1 to `unit_rows` rows, none shorter than 2**floor."""
    stack = [(0, len(places), first, last)]
    while stack:
        begin, end, low, high = stack.pop()
        if begin == end:
            continue
        if end - begin <= unit_rows or high - low <= 1 << floor:
            yield begin, end, low, high
            continue
        middle = (low + high) // 2
        at = begin + int(np.searchsorted(places[begin:end], middle))
        stack += [(at, end, middle, high), (begin, at, low, middle)]
