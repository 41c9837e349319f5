"""The files of a corpus, read by ranges through a cache.

    files = Files("s3://bucket/corpus", Cache("/scratch/imglish"))
    files.read(File("shards/ab.tar", sha256, size), start, end)      # from the cache if it is there
    for start, end in files.chunks(file, first, last):
        files.fetch(file, start, end)                                # into the cache, unless it is there

A remote file is cached in chunks of the cache's size, fetched ahead of need; what is not there yet is read by a request
of its own size, so that nobody waits for a chunk to get a sample. Local files are never cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from imglish.errors import ShardError
from imglish.shards.cache import Cache
from imglish.shards.ranges import RETRY, Retry, is_local, join, open_local, other_size, read_range


@dataclass(frozen=True)
class File:
    """A file as the manifest names it."""

    path: str
    sha256: str
    bytes: int


class Read(Protocol):
    """Bytes [start, end) of a file; see `Files.read`."""

    def __call__(self, start: int, end: int, *, fresh: bool = False, keep: bool = False) -> bytes: ...


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
        self._check(file, start, end)
        if self.local or self.cache is None:
            return read_range(url, start, end - start, self.retry)
        if fresh:
            self._drop(file, start, end)
        data = self.cache.read(file.sha256, _part(start, end), 0, end - start) if keep else None
        data = self._from_chunks(file, start, end) if data is None else data
        if data is None:
            data = read_range(url, start, end - start, self.retry)
            if keep:
                self.cache.put(file.sha256, _part(start, end), data)
        return data

    @contextmanager
    def opened(self, file: File) -> Iterator[Read]:
        """`read` of one local file for many ranges, opened once."""
        with open_local(self.url(file)) as local:

            def read(start: int, end: int, *, fresh: bool = False, keep: bool = False) -> bytes:
                self._check(file, start, end)
                return local(start, end - start)

            yield read

    def chunks(self, file: File, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of the chunks that hold bytes [start, end); none without a cache."""
        if self.cache is not None:
            size = self.cache.chunk
            for low in range(start // size * size, end, size):
                yield low, min(low + size, file.bytes)

    def fetch(self, file: File, start: int, end: int) -> None:
        """Bring a chunk into the cache unless it is there. ShardError as in `read`, StorageError."""
        if self.cache is not None and not self.cache.has(file.sha256, _part(start, end)):
            data = read_range(self.url(file), start, end - start, self.retry)
            self.cache.put(file.sha256, _part(start, end), data)

    def why(self, file: File) -> str:
        """A half sentence on why a file's bytes are wrong, from its size, or nothing."""
        found = other_size(self.url(file), file.bytes)
        return f"; {found}: it was replaced" if found else ""

    def _check(self, file: File, start: int, end: int) -> None:
        if not 0 <= start <= end <= file.bytes:
            raise ShardError(f"{self.url(file)}: bytes {start} to {end} wanted but the manifest says {file.bytes}")

    def _from_chunks(self, file: File, start: int, end: int) -> bytes | None:
        assert self.cache is not None
        pieces = []
        for low, high in self.chunks(file, start, end):
            first, last = max(start, low), min(end, high)
            piece = self.cache.read(file.sha256, _part(low, high), first - low, last - first)
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def _drop(self, file: File, start: int, end: int) -> None:
        assert self.cache is not None
        for low, high in ((start, end), *self.chunks(file, start, end)):
            self.cache.drop(file.sha256, _part(low, high))


def _part(start: int, end: int) -> str:
    return f"{start}-{end}"
