"""Byte ranges of files, local or behind any fsspec URL.

    read_range("corpus/shards/ab.tar", 512, 1024)
    read_range("s3://bucket/corpus/shards/ab.tar", 512, 1024, Retry(attempts=3))

A local range is one open and pread: no descriptor is held, so thousands of shards need none, and a file that was cut
short is a short read rather than the SIGBUS of a memory map. A remote range is one ranged request. What may pass (a
5xx or 429, a reset connection, a short or late answer) is tried again after a pause that doubles, shortened by a
random part so that many readers do not come back together; then a ShardError says what happened. A file that is
missing, forbidden or too short is said at once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from imglish.errors import ShardError
from imglish.seeds import draw, stream, uniform

SLOWEST = 1 << 20
"""Bytes a second that a long range may take at worst before it counts as late (ours)."""
LOCAL_PIECE = 1 << 20
"""Bytes of a local file that are read at once from start to end: a piece stays in a core's cache."""
REMOTE_PIECE = 16 << 20
"""Bytes of one request when a remote file is read from start to end."""
_STATUS_OF_A_RANGE_BEHIND_THE_END = 416  # RFC 9110, section 15.5.17
_PASSING_STATUS = (408, 425, 429)  # RFC 9110 and 8470; every other 4xx stays what it is


class _TruncatedError(Exception):
    """A file ends before the range asked for."""


_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, _TruncatedError)


@dataclass(frozen=True)
class Retry:
    """How long a remote range is tried: `attempts` requests, each at most `timeout` seconds plus a second per MiB.

    `pause` is the longest wait before the second attempt, in seconds; it doubles each time.
    """

    attempts: int = 6
    pause: float = 0.5
    timeout: float = 20.0

    def wait(self, url: str, start: int, attempt: int) -> float:
        """Seconds to wait after failed attempt 1, 2, ...: between a half and the whole of the doubled pause."""
        bits = draw(stream(0, "retry", url).keys(start), attempt)
        return float(self.pause * 2 ** (attempt - 1) * (1 - uniform(bits)[0] / 2))


RETRY = Retry()


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


def read_range(url: str, start: int, length: int, retry: Retry = RETRY) -> bytes:
    """Exactly `length` bytes from `start`; ShardError when the file is missing, shorter, or cannot be read."""
    try:
        path = url.removeprefix("file://")
        data = _local(path, start, length) if is_local(url) else _remote(url, start, length, retry)
    except OSError as error:
        raise _unreadable(url, start, length, error) from error
    return _whole(url, start, length, data)


def read_pieces(url: str, size: int, room: memoryview, retry: Retry = RETRY) -> Iterator[memoryview]:
    """The first `size` bytes of a file, piece by piece, each in the part of `room` behind the one before it.

    A shorter room, of whole pieces, is filled again from its start: a piece is valid until then. A remote piece is one
    request. ShardError as above.
    """
    step = piece_bytes(url)
    with _local_reader(url) if is_local(url) else nullcontext() as read:
        for start in range(0, size, step):
            at = start if len(room) >= size else start % len(room)
            piece = room[at : at + min(step, size - start)]
            if read is not None:
                read(start, piece)
            else:
                piece[:] = read_range(url, start, len(piece), retry)
            yield piece


def piece_bytes(url: str) -> int:
    """Bytes that are read at once when a file is read from start to end."""
    return LOCAL_PIECE if is_local(url) else REMOTE_PIECE


@contextmanager
def _local_reader(url: str) -> Iterator[Callable[[int, memoryview], None]]:
    """Fills memory from a place of one local file, opened once."""
    try:
        descriptor = os.open(local_path(url), os.O_RDONLY)
    except OSError as error:
        raise _unreadable(url, 0, 0, error) from error

    def read(start: int, piece: memoryview) -> None:
        try:
            came = os.preadv(descriptor, [piece], start)
        except OSError as error:
            raise _unreadable(url, start, len(piece), error) from error
        if came != len(piece):
            raise ShardError(f"{url}: {len(piece)} bytes wanted from {start}, but {came} came; the file is truncated")

    try:
        yield read
    finally:
        os.close(descriptor)


def other_size(url: str, expected: int) -> str | None:
    """What a remote file's size says about why its bytes are wrong; None when that is what it should be, or unknown."""
    try:
        size = None if is_local(url) else _size(url, RETRY.timeout)
    except Exception:  # noqa: BLE001  the answer only makes another error clearer
        return None
    return None if size in (None, expected) else f"the file has {size} bytes but the manifest says {expected}"


@contextmanager
def open_local(url: str) -> Iterator[Callable[[int, int], bytes]]:
    """Reads many ranges (start, length) of one local file, opened once; ShardError as `read_range`."""
    try:
        descriptor = os.open(url.removeprefix("file://"), os.O_RDONLY)
    except OSError as error:
        raise _unreadable(url, 0, 0, error) from error

    def read(start: int, length: int) -> bytes:
        try:
            data = _pread(descriptor, start, length)
        except OSError as error:
            raise _unreadable(url, start, length, error) from error
        return _whole(url, start, length, data)

    try:
        yield read
    finally:
        os.close(descriptor)


def _unreadable(url: str, start: int, length: int, error: OSError) -> ShardError:
    if isinstance(error, FileNotFoundError):
        return ShardError(f"{url} is missing; build or download it again")
    return ShardError(f"{url}: bytes {start} to {start + length} cannot be read: {error}")


def _whole(url: str, start: int, length: int, data: bytes) -> bytes:
    if len(data) != length:
        raise ShardError(
            f"{url}: bytes {start} to {start + length} wanted, but only {len(data)} came; the file is truncated"
        )
    return data


def _local(path: str, start: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _pread(descriptor, start, length)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    while data and len(data) < length:  # Linux reads at most 2 GiB at once
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _remote(url: str, start: int, length: int, retry: Retry) -> bytes:
    for attempt in range(1, retry.attempts + 1):
        try:
            return _request(url, start, length, retry.timeout + length / SLOWEST)
        except FileNotFoundError:
            raise
        except Exception as error:
            problem = _lasting(error)
            if problem is None and attempt == retry.attempts:
                problem = f"{_describe(error)}, {attempt} times; see to the server or the network and start again"
            if problem is not None:
                raise ShardError(f"{url}: bytes {start} to {start + length} cannot be read: {problem}") from error
        time.sleep(retry.wait(url, start, attempt))
    raise AssertionError("unreachable")


def _request(url: str, start: int, length: int, timeout: float) -> bytes:
    """One ranged request; every failure raises, of whatever family the filesystem has."""
    filesystem, path = fsspec.url_to_fs(url)
    if isinstance(filesystem, AsyncFileSystem):
        data = sync(filesystem.loop, _in_time, filesystem, path, start, start + length, timeout)
    else:
        data = filesystem.cat_file(path, start=start, end=start + length)
    if len(data) > length:
        raise NotImplementedError(f"the server sent {len(data)} bytes for a range of {length}: it ignores ranges")
    if len(data) < length:
        size = _size(url, timeout)
        if size is None or size >= start + length:
            raise ConnectionError(f"only {len(data)} of {length} bytes came")
        raise _TruncatedError(f"the file has only {size} bytes; it is truncated or was replaced")
    return bytes(data)


def _size(url: str, timeout: float) -> int | None:
    filesystem, path = fsspec.url_to_fs(url)
    is_async = isinstance(filesystem, AsyncFileSystem)
    info = sync(filesystem.loop, filesystem._info, path, timeout=timeout) if is_async else filesystem.info(path)
    return None if info.get("size") is None else int(info["size"])


async def _in_time(filesystem: Any, path: str, start: int, end: int, timeout: float) -> bytes:
    """The request, given up after `timeout` seconds, so that a stalled one is asked for again."""
    data: bytes = await asyncio.wait_for(filesystem._cat_file(path, start=start, end=end), timeout)
    return data


def _lasting(error: Exception) -> str | None:
    """What is wrong when another attempt cannot help, else None."""
    status = getattr(error, "status", None)
    if status == _STATUS_OF_A_RANGE_BEHIND_THE_END:
        return "the file ends before them; it is truncated or was replaced"
    if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING_STATUS:
        return f"the server answers {status}"
    return str(error) or type(error).__name__ if isinstance(error, _LASTING) else None


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
