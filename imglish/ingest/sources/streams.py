"""Files as streams of lines: decompressed, bounded, and cut into spans that are read apart.

    for span in spans(file):                                  # Span(start, stop, at): where its lines begin
        for offset, line in span_lines(file.url, span): ...   # every line of the file in exactly one span

A plain file is cut every SPAN_BYTES. A `.zst` file in the seekable format (independent frames and a table of them
at its end, as `zstd --seekable`, `pzstd` with a table or t2sz write it) is cut at frames; any other compressed file is
one span. A span owns the line at `start` only if start is 0, and every line whose preceding line break it reads, so no
span has to look back. Offsets are those of the decompressed file.
"""

from __future__ import annotations

import io
import lzma
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from imglish.ingest.sources.files import File, filesystem, open_file

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
SPAN_BYTES = 64 << 20
"""Bytes of one span of a file that can be cut."""
LINE_BYTES = 64 << 20
"""A longer line is cut off there and recorded."""
BOMB_RATIO = 250
"""A stream that unpacks to more than BOMB_BYTES and this many times what was read of it breaks off; text packs to a
twentieth at best, gzip's limit is 1,032."""
BOMB_BYTES = 1 << 30
_BUFFER = 1 << 18
_AHEAD = 8 << 20
"""Bytes unpacked before they are asked for. A thread that unpacks may wait 5 ms for the interpreter's lock each
time; 8 MB are 8 ms of work."""
_PACKED = 1 << 20
"""Bytes read at once of a compressed file, for the same reason; a bomb may unpack this many times BOMB_RATIO more."""
_TABLE_FOOTER = struct.Struct("<IBI")  # frames, descriptor, magic (facebook/zstd, contrib/seekable_format)
_TABLE_MAGIC = 0x8F92EAB1
_SKIPPABLE = 0x184D2A5E
_MAX_FRAMES = 1 << 24
_DAMAGE = (OSError, ValueError, EOFError, lzma.LZMAError, MemoryError)


@dataclass(frozen=True)
class Span:
    """Lines that begin in (start, stop], and at 0 when start is 0; `stop` None is the end of the file.

    `at` is where the frame that begins at `start` lies in a compressed file.
    """

    start: int = 0
    stop: int | None = None
    at: int = 0

    def to_json(self) -> dict[str, int | None]:
        """For a part's `spec`."""
        return asdict(self)

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Span:
        return cls(spec["start"], spec["stop"], spec["at"])


def coding_of(name: str) -> str | None:
    """How a file is compressed, by the end of its name."""
    return next((coding for suffix, coding in COMPRESSED.items() if name.lower().endswith(suffix)), None)


def plain_suffixes(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The suffixes as they are and with each that says a compression: .jsonl, .jsonl.gz, ..."""
    return (*suffixes, *(suffix + packed for suffix in suffixes for packed in COMPRESSED))


def spans(file: File, step: int | None = None) -> list[Span]:
    """The spans of a file, without reading it (but for the table of a seekable `.zst`)."""
    step = step or SPAN_BYTES
    coding = coding_of(file.name)
    if coding is None:
        starts = range(0, max(file.size, 1), step)
        return [Span(start, start + step if start + step < file.size else None) for start in starts]
    return _frame_spans(file, step) if coding == "zstd" else [Span()]


def span_lines(url: str, span: Span, longest: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, line) for every line of a span; OSError where the stream breaks off.

    A line over `longest` (LINE_BYTES) bytes is cut there and its rest passed over.
    """
    with open_stream(url, span.start if coding_of(url) is None else span.at, ahead=True) as stream:
        lines = stream_lines(stream, span.start, longest or LINE_BYTES)
        if span.start:
            next(lines, None)  # the end of a line that the span before owns
        for offset, line in lines:
            if span.stop is not None and offset > span.stop:
                return
            yield offset, line


def stream_lines(stream: BinaryIO, offset: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from a stream at `offset`; a line over `longest` bytes is cut there, its rest passed over."""
    while line := stream.readline(longest):
        yield offset, line
        offset += len(line)
        while not line.endswith(b"\n") and (line := stream.readline(longest)):
            offset += len(line)


def read_some(stream: Any, size: int) -> bytes:
    """At most `size` bytes, whatever can be had before the stream breaks off."""
    return bytes(getattr(stream, "read1", stream.read)(size))


def open_stream(url: str, at: int = 0, ahead: bool = False) -> BinaryIO:
    """A file opened for reading from byte `at`, decompressed by its suffix, and `ahead` of its reader by a thread.

    OSError where a damaged or truncated stream breaks off, give or take the buffer, or unpacks to absurdly much.
    """
    file = open_file(url)
    file.seek(at)
    coding = coding_of(url)
    if coding is None:
        return file
    unpacked = Unpacked(file, coding)
    return io.BufferedReader(_Ahead(unpacked) if ahead else unpacked, _BUFFER)


class Unpacked(io.RawIOBase):
    """A decompressed stream; whatever is wrong with it is an OSError, and so is a bomb.

    Everything before the damage is given: a read that fails has swallowed what it had, so it is made again, by bytes.
    """

    def __init__(self, file: BinaryIO, coding: str) -> None:
        self._file, self._coding, self._from = file, coding, file.tell()
        self._read = 0
        self._careful = False
        self._error: OSError | None = None
        self._bomb: OSError | None = None
        self._stream = self._opened()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def take(self, size: int) -> bytes:
        """At most `size` bytes; none at the end. A bomb is told by the call after the one that found it."""
        if self._bomb is not None:
            raise self._bomb
        data = self._some(size)
        self._read += len(data)
        if self._read > BOMB_BYTES and self._read > BOMB_RATIO * (self._file.tell() - self._from):
            said = f"a decompression bomb: more than {BOMB_RATIO} times its size after {self._read} bytes"
            self._bomb = OSError(said)
        return data

    def _some(self, size: int) -> bytes:
        if self._careful:
            return self._byte_by_byte(size)
        try:
            return bytes(self._stream.read(size))
        except _DAMAGE:
            pass
        self._careful = True
        self._file.seek(self._from)
        self._stream = self._opened()
        left = self._read
        while left:
            left -= len(self._stream.read(min(left, 1 << 16)))
        return self._byte_by_byte(size)

    def _byte_by_byte(self, size: int) -> bytes:
        """What there is before the damage; the call after that raises what it is."""
        data = bytearray()
        try:
            while self._error is None and len(data) < size and (byte := self._stream.read(1)):
                data += byte
        except _DAMAGE as error:
            self._error = OSError(str(error))
        if self._error is not None and not data:
            raise self._error
        return bytes(data)

    def _opened(self) -> Any:
        if self._coding == "xz":
            return lzma.LZMAFile(self._file)
        packed = pa.BufferedInputStream(pa.PythonFile(_Unclosed(self._file), mode="r"), _PACKED)
        return pa.CompressedInputStream(packed, self._coding)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()


class _Ahead(io.RawIOBase):
    """The same bytes and errors in the same order; the next _AHEAD of them are unpacked while these are used."""

    def __init__(self, stream: Unpacked) -> None:
        self._stream = stream
        self._thread = ThreadPoolExecutor(1)
        self._next = self._thread.submit(stream.take, _AHEAD)
        self._now = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._now:
            self._now = memoryview(self._next.result())
            if self._now:
                self._next = self._thread.submit(self._stream.take, _AHEAD)
        size = min(len(buffer), len(self._now))
        buffer[:size] = self._now[:size]
        self._now = self._now[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._thread.shutdown(wait=True)
            self._stream.close()
        super().close()


class _Unclosed:
    """A file that a stream over it does not close."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self.seek = file.read, file.tell, file.seek

    def close(self) -> None:
        """Its owner closes it."""


def _frame_spans(file: File, step: int) -> list[Span]:
    """Runs of frames of about `step` bytes each; the whole file when it has no table of frames."""
    found: list[Span] = []
    start, at = 0, 0
    place, packed_place = 0, 0
    for packed, unpacked in _frames(file):
        place, packed_place = place + unpacked, packed_place + packed
        if place - start >= step:
            found.append(Span(start, place, at))
            start, at = place, packed_place
    if place > start or not found:
        return [*found, Span(start, None, at)]
    return [*found[:-1], Span(found[-1].start, None, found[-1].at)]


def _frames(file: File) -> list[tuple[int, int]]:
    """(compressed, decompressed) size of every frame; empty without a table that fits the file."""
    fs, path = filesystem(file.url)
    if file.size < _TABLE_FOOTER.size:
        return []
    footer = fs.cat_file(path, start=file.size - _TABLE_FOOTER.size, end=file.size)
    count, descriptor, magic = _TABLE_FOOTER.unpack(footer)
    entry = struct.Struct("<III" if descriptor & 0x80 else "<II")
    size = 8 + count * entry.size + _TABLE_FOOTER.size
    if magic != _TABLE_MAGIC or descriptor & 0x7C or count > _MAX_FRAMES or size > file.size:
        return []
    table = fs.cat_file(path, start=file.size - size, end=file.size)
    if struct.unpack_from("<II", table) != (_SKIPPABLE, size - 8):
        return []
    frames = [fields[:2] for fields in entry.iter_unpack(table[8 : -_TABLE_FOOTER.size])]
    return frames if sum(packed for packed, _ in frames) + size == file.size else []
