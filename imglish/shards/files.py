"""The files of a corpus, read by ranges through a cache.

    files = Files("s3://bucket/corpus", Cache("/scratch/imglish"))
    files.read(File("shards/ab.tar", sha256, size), start, end)      # from the cache if it is there
    files.fetch(file, 3)                                             # chunk 3 into the cache, unless it is there

A remote file is cached in chunks of 8 MiB, which are fetched ahead of need; what is not there yet is read by a request
of its own size, so that nobody waits for a chunk to get a sample. Local files are never cached.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imglish.errors import ShardError
from imglish.shards.cache import Cache
from imglish.shards.ranges import RETRY, Retry, is_local, join, other_size, read_range

CHUNK = 8 << 20
"""Bytes of a chunk: large enough that a request's latency does not count, small enough to hold a part of a window."""


@dataclass(frozen=True)
class File:
    """A file as the manifest names it."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Files:
    """Files under `base`; picklable, and shared by threads. `cache` may be None."""

    base: str
    cache: Cache | None = None
    retry: Retry = RETRY

    @property
    def local(self) -> bool:
        return is_local(self.base)

    def url(self, file: File) -> str:
        return join(self.base, file.path)

    def read(self, file: File, start: int, end: int, *, fresh: bool = False, keep: bool = False) -> bytes:
        """Bytes [start, end). `fresh`: from the original, dropping what the cache held. `keep`: cache this very range.

        ShardError when the file is missing, shorter than the manifest says, or cannot be read.
        """
        url = self.url(file)
        if not 0 <= start <= end <= file.bytes:
            raise ShardError(f"{url}: bytes {start} to {end} wanted but the manifest says {file.bytes}")
        if self.local or self.cache is None:
            return read_range(url, start, end - start, self.retry)
        if fresh:
            self._drop(file, start, end)
        kept = f"{start}-{end}"
        data = self.cache.read(file.sha256, kept, 0, end - start) if keep else None
        data = self._from_chunks(file, start, end) if data is None else data
        if data is None:
            data = read_range(url, start, end - start, self.retry)
            if keep:
                self.cache.put(file.sha256, kept, data)
        return data

    def chunks(self, file: File, start: int, end: int) -> Iterable[int]:
        """Numbers of the chunks that hold bytes [start, end)."""
        return range(start // CHUNK, math.ceil(end / CHUNK))

    def fetch(self, file: File, chunk: int) -> None:
        """Bring a chunk into the cache unless it is there; nothing without a cache. ShardError, StorageError."""
        if self.local or self.cache is None or self.cache.has(file.sha256, f"c{chunk}"):
            return
        start, end = chunk * CHUNK, min(file.bytes, (chunk + 1) * CHUNK)
        self.cache.put(file.sha256, f"c{chunk}", read_range(self.url(file), start, end - start, self.retry))

    def why(self, file: File) -> str:
        """A half sentence on why a file's bytes are wrong, from its size, or nothing."""
        found = other_size(self.url(file), file.bytes)
        return f"; {found}: it was replaced" if found else ""

    def _from_chunks(self, file: File, start: int, end: int) -> bytes | None:
        assert self.cache is not None
        pieces = []
        for part, low, high in self._parts(file, start, end):
            piece = self.cache.read(file.sha256, part, low, high - low)
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def _drop(self, file: File, start: int, end: int) -> None:
        assert self.cache is not None
        self.cache.drop(file.sha256, f"{start}-{end}")
        for part, _, _ in self._parts(file, start, end):
            self.cache.drop(file.sha256, part)

    def _parts(self, file: File, start: int, end: int) -> Iterator[tuple[str, int, int]]:
        """(part, first byte, end) of the chunks under [start, end), in bytes of the chunk."""
        for chunk in self.chunks(file, start, end):
            base = chunk * CHUNK
            yield f"c{chunk}", max(start - base, 0), min(end - base, CHUNK)
