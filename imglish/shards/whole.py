"""One shard held in memory, for work that changes shards: removing samples, coding them anew.

whole = WholeShard.read(base, shard)              # ShardError unless every byte is as the manifest says
for sample in whole.stored("pair"): ...           # payloads as they lie there, with their index rows
whole.blocks()                                    # u16 [n, 512]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imglish.errors import ShardError
from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.manifest import Shard
from imglish.shards.ranges import join, read_range
from imglish.shards.samples import U16
from imglish.shards.writer import Stored


@dataclass(frozen=True)
class WholeShard:
    """The bytes of a shard and its index rows by kind."""

    data: bytes
    rows: dict[Kind, fmt.Rows]

    @classmethod
    def read(cls, base: str, shard: Shard) -> WholeShard:
        """Fetch and check a shard; ShardError when it is missing, cut short or damaged."""
        url = join(base, shard.path)
        data = read_range(url, 0, shard.bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != shard.sha256:
            raise ShardError(
                f"{url}: sha256 {found[:16]}... but the manifest says {shard.sha256[:16]}...; "
                "find what is damaged with 'imglish verify' and bring the shard back first"
            )
        rows: dict[Kind, fmt.Rows] = {}
        for kind in KINDS:
            section = shard.sections[kind]
            rows[kind] = fmt.decode_rows(kind, data[section.index_offset : section.index_offset + section.index_bytes])
        return cls(data, rows)

    def stored(self, kind: Kind) -> Iterator[Stored]:
        """Pairs or images in key order, repeats told by their number of index rows."""
        rows = self.rows[kind]
        firsts = fmt.first_rows(kind, rows)
        repeats = np.diff(np.append(firsts, len(rows)))
        for row, count in zip(rows[firsts], repeats, strict=True):
            yield Stored(bytes(row["key"]).hex(), [self._cut(row[field]) for field in fmt.FIELDS[kind]], int(count))

    def blocks(self) -> U16:
        """All text blocks, u16 [n, 512]."""
        rows = self.rows["text"]
        cut = (self.data[int(place) : int(place) + fmt.BLOCK_BYTES] for place in rows["offset"])
        return fmt.decode_u16(b"".join(cut)).reshape(-1, fmt.BLOCK_IDS)

    def _cut(self, span: np.void) -> bytes:
        start = int(span["offset"])
        return self.data[start : start + int(span["length"])]
