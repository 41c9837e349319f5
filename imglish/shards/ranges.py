"""Byte ranges of files, local or behind any fsspec URL.

    read_range("corpus/shards/ab.tar", 512, 1024)
    read_range("s3://bucket/corpus/shards/ab.tar", 512, 1024)

A local range is one open and pread: no descriptor is held, so thousands of shards need none, and a file that was cut
short is a short read rather than the SIGBUS of a memory map. A remote range is one ranged request, tried three times.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec

from imglish.errors import ShardError

ATTEMPTS = 3
"""Tries of a remote range."""
_PAUSE = 0.2  # seconds before the second try, four times as long before each further one


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def join(base: str, path: str) -> str:
    """A path inside a folder or below a URL."""
    return f"{base.rstrip('/')}/{path}" if base else path


def parent(url: str) -> str:
    """The folder of a file or URL."""
    return url.rpartition("/")[0] if "/" in url else "."


def read_range(url: str, start: int, length: int) -> bytes:
    """Exactly `length` bytes from `start`; ShardError when the file is missing, shorter, or cannot be read."""
    try:
        data = _local(url, start, length) if is_local(url) else _remote(url, start, length)
    except FileNotFoundError:
        raise ShardError(f"{url} is missing; build or download it again") from None
    except OSError as error:
        raise ShardError(f"{url}: bytes {start} to {start + length} cannot be read: {error}") from error
    if len(data) != length:
        raise ShardError(
            f"{url}: bytes {start} to {start + length} wanted, but only {len(data)} came; the file is truncated"
        )
    return data


def _local(url: str, start: int, length: int) -> bytes:
    descriptor = os.open(local_path(url), os.O_RDONLY)
    try:
        data = os.pread(descriptor, length, start)
        while data and len(data) < length:  # Linux reads at most 2 GiB at once
            more = os.pread(descriptor, length - len(data), start + len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def _remote(url: str, start: int, length: int) -> bytes:
    filesystem, path = fsspec.url_to_fs(url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            data = bytes(filesystem.cat_file(path, start=start, end=start + length))
            if len(data) == length or attempt == ATTEMPTS:
                return data
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == ATTEMPTS:
                raise
        time.sleep(_PAUSE * 4 ** (attempt - 1))
    raise AssertionError("unreachable")
