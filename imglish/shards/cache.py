"""A folder of fetched parts of shards, shared by every process that names it.

    cache = Cache("/scratch/imglish", limit=50 << 30)
    cache.put(sha256, "0-8388608", data)                        # a part of the file with this digest
    cache.read(sha256, "0-8388608", start=512, length=1024)     # bytes, or None when it is not (or no longer) here

Parts are keyed by the SHA-256 that the manifest gives, so another version of a file can never be taken for this one.
A part becomes visible by one rename and is removed by one unlink; there are no locks, and whoever loses a race reads
the original again. Contents are not trusted: readers check each field's CRC-32C and drop a part that fails.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from imglish.errors import StorageError

CHUNK = 8 << 20
"""Bytes of a part that is fetched ahead: large enough that a request's latency does not count (8 to 16 MiB)."""
LIMIT = 32 << 30
"""Default bytes on disk: the windows of one of eight ranks (3.2 GB) fit ten times over."""
_SLACK = 32
"""One part in so many of the limit is written between two looks at the folder, and removed below the limit."""
_TOUCH = 60.0
"""Seconds for which a part counts as just used; reading it again does not write its time."""
_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to nobody."""


class Cache:
    """At most `limit` bytes of parts under `folder`, plus 1/32 of it per process; the longest unused go first.

    `chunk` is the size of the parts that are fetched ahead.
    """

    def __init__(self, folder: str | Path, limit: int = LIMIT, chunk: int = CHUNK) -> None:
        self.folder = str(folder)
        self.limit = limit
        self.chunk = chunk
        self._lock = threading.Lock()
        self._unseen: int | None = None  # bytes written since the last look at the folder; None: never looked

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit, "chunk": self.chunk}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def has(self, digest: str, part: str) -> bool:
        """Whether a part is here now."""
        return Path(self._path(digest, part)).exists()

    def read(self, digest: str, part: str, start: int, length: int) -> bytes | None:
        """Bytes of a part, None when it is not here or shorter; StorageError when the folder cannot be read."""
        try:
            descriptor = os.open(self._path(digest, part), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"the cache {self.folder} cannot be read: {error.strerror}; give another one") from error
        try:
            if time.time() - os.fstat(descriptor).st_mtime > _TOUCH:
                with suppress(PermissionError):  # another user's part
                    os.utime(descriptor)
            data = os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)
        return data if len(data) == length else None

    def put(self, digest: str, part: str, data: bytes) -> None:
        """Keep a part, and remove old ones above the limit; StorageError when the disk does not take it."""
        path = Path(self._path(digest, part))
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise StorageError(
                f"the cache {self.folder} cannot keep {len(data)} bytes: {error.strerror or error}; "
                f"free space, or give a limit below its {self.limit} bytes"
            ) from error
        self._grown(len(data))

    def drop(self, digest: str, part: str) -> None:
        """Remove a part, if it is here."""
        with suppress(FileNotFoundError):
            Path(self._path(digest, part)).unlink()

    def _path(self, digest: str, part: str) -> str:
        return f"{self.folder}/{digest}/{part}"

    def _grown(self, size: int) -> None:
        with self._lock:
            self._unseen = None if self._unseen is None else self._unseen + size
            if self._unseen is None or self._unseen > self.limit // _SLACK:
                self._evict()
                self._unseen = 0

    def _evict(self) -> None:
        """Remove abandoned temporary files, and the parts unused for longest until the rest is below the limit."""
        parts = sorted(self._parts())
        excess = sum(size for _, size, _ in parts) - self.limit
        if excess > 0:
            excess += self.limit // _SLACK
        now = time.time()
        for used, size, path in parts:
            unfinished = Path(path).name.startswith(".tmp-")
            if now - used > _ABANDONED if unfinished else excess > 0:
                with suppress(FileNotFoundError):
                    Path(path).unlink()
                excess -= size

    def _parts(self) -> Iterator[tuple[float, int, str]]:
        """(time of last use, bytes, path) of every file."""
        with os.scandir(self.folder) as folders:
            for folder in folders:
                if not folder.is_dir(follow_symlinks=False):
                    continue
                with os.scandir(folder.path) as files:
                    for file in files:
                        with suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime, status.st_size, file.path
