"""One pass over a shard in little memory: its SHA-256, the checksums of its sections and the lines of its captions.

    passed = pass_over(read_pieces(url, shard.bytes, room), FileBytes(url, shard.bytes), shard)
    passed.sha256, passed.sections, passed.captions

Everything is taken from a piece while it is still in a core's cache: a second walk through memory would cost a tenth of
the hash. What a sound shard is asked for besides, its index rows and its end, is read where it lies; the whole of it is
held in memory only to say where a damaged one is damaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from imglish.records import KINDS
from imglish.shards import format as fmt
from imglish.shards.checksums import I64, Data, RunningSums
from imglish.shards.manifest import Shard
from imglish.shards.ranges import read_range


@dataclass(frozen=True)
class Passed:
    """What one pass found: the file's digest, the CRC-32C of each section in the order of KINDS, and the captions of
    all pair rows and of different ones."""

    sha256: str
    sections: list[int]
    captions: tuple[int, int]


class FileBytes:
    """A file's bytes as a sequence: slices are read when they are asked for, and all is kept once all was."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._all: bytes | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        if self._all is not None:
            return self._all[part]
        start, end, _ = part.indices(self._size)
        data = read_range(self._url, start, max(0, end - start)) if end > start else b""
        if len(data) == self._size:
            self._all = data
        return data


class LineCount:
    """Lines in ascending ranges of a file that comes piece by piece; `lines` counts the last of each, if not empty."""

    def __init__(self, starts: I64, sizes: I64) -> None:
        self._starts, self._ends, self._place = starts, starts + sizes, 0
        self.lines = int(np.count_nonzero(sizes))

    def update(self, piece: Data) -> None:
        """Take the next piece of the file."""
        first = np.searchsorted(self._ends, self._place, "right")
        behind = np.searchsorted(self._starts, self._place + len(piece), "left")
        starts = np.maximum(self._starts[first:behind] - self._place, 0)
        ends = np.minimum(self._ends[first:behind] - self._place, len(piece))
        lines = map(memoryview(piece).__getitem__, map(slice, starts.tolist(), ends.tolist()))
        self.lines += b"".join(lines).count(b"\n")
        self._place += len(piece)


def pass_over(pieces: Iterable[Data], data: Data | FileBytes, shard: Shard) -> Passed:
    """Take the pieces of a shard's file, which are all of `data`. ShardError when it cannot be read."""
    sha256, sums = hashlib.sha256(), RunningSums(section_ranges(shard))
    captions = _captions(data, shard)
    for piece in pieces:
        sha256.update(piece)
        sums.update(piece)
        for counter in captions:
            counter.update(piece)
    return Passed(sha256.hexdigest(), sums.sums, (captions[0].lines, captions[-1].lines))


def section_ranges(shard: Shard) -> list[tuple[int, int]]:
    """Where the sections begin and end, in the order of KINDS."""
    sections = [shard.sections[kind] for kind in KINDS]
    return [(section.offset, section.offset + section.bytes) for section in sections]


def _captions(data: Data | FileBytes, shard: Shard) -> list[LineCount]:
    """Counters for the captions of all pair rows and, if some repeat, of different ones; of none in a damaged index."""
    section = shard.sections["pair"]
    width = fmt.INDEX_ROW["pair"].itemsize
    raw = data[section.index_offset : section.index_offset + section.index_bytes // width * width]
    rows = fmt.decode_rows("pair", raw if fmt.checksum(raw) == section.index_crc32c else b"")
    firsts = fmt.first_rows("pair", rows)
    parts = [rows["txt"]] if len(firsts) == len(rows) else [rows["txt"], rows["txt"][firsts]]
    return [LineCount(part["offset"].astype(np.int64), part["length"].astype(np.int64)) for part in parts]
