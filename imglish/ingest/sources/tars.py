"""Archives as members, read one after the other: tar (plain or compressed) and zip, whole or a cut of a plain tar.

    with ExitStack() as stack:
        archive = open_archive("a.tgz", open_file(url), stack)
        for member in archive.members():             # Member(name, size, ..., why_not)
            payload = read_member(archive, member, Row("a.tgz#x.jpg"), limit)

Nothing is extracted to disk. Only plain files are read; a name that is absolute or climbs with `..`, a link and a
device have `why_not` set. Compressed tars are read forwards only and may not unpack to absurdly much
(streams.BOMB_RATIO).
`tar_cuts` reads the headers of a large plain tar and says where it can be cut.
"""

from __future__ import annotations

import bisect
import io
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import IO, Any, BinaryIO, Protocol

from imglish.ingest.sources.base import Row
from imglish.ingest.sources.files import PART_BYTES, File, is_inside, is_local, open_file, printable
from imglish.ingest.sources.streams import Unpacked

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ZIP_SUFFIXES = (".zip",)
MEMBER_BYTES = 64 << 20
"""A larger member is `too_large`."""
_CODINGS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_TAIL = 64 << 10
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,  # tarfile follows chains of extension headers by recursion
    NotImplementedError,  # zip methods that Python lacks
    RuntimeError,  # encrypted zip members
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a damaged or hostile archive raises."""


@dataclass(frozen=True)
class Member:
    """A member before it is read; `why_not` is set when its name or type is refused."""

    name: str
    size: int
    handle: Any
    why_not: str | None


class Archive(Protocol):
    """An open archive."""

    def members(self) -> Iterator[Member]: ...

    def open(self, member: Member) -> IO[bytes] | None: ...


@dataclass(frozen=True)
class Cut:
    """Members of a plain tar whose headers begin in [start, stop); `seen` counts names that came before."""

    start: int = 0
    stop: int | None = None
    seen: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def open_archive(name: str, file: Any, stack: ExitStack, cut: Cut | None = None) -> Archive:
    """An archive by the end of its name; one that says only how it is compressed (`x.xz`) is a tar."""
    lower = name.lower()
    if lower.endswith(ZIP_SUFFIXES):
        return _Zip(stack.enter_context(zipfile.ZipFile(file)))
    coding = next((found for suffix, found in _CODINGS.items() if lower.endswith(suffix)), None)
    cut = cut or Cut()
    stream: Any = file
    if coding is not None:
        stream = Forward(stack.enter_context(io.BufferedReader(Unpacked(file, coding), 1 << 20)))
    elif cut.start:
        file.seek(cut.start)
    capped: Any = _Capped(stream)
    return _Tar(stack.enter_context(tarfile.TarFile(fileobj=capped, encoding="utf-8")), capped, cut.stop)


def read_member(archive: Archive, member: Member, row: Row, limit: int) -> Row:
    """The row with the member's bytes, or with the status that says why there are none."""
    if member.why_not is not None:
        return replace(row, status="refused", detail=member.why_not)
    if member.size > limit:
        return replace(row, status="too_large", detail=f"{member.size} bytes, the limit is {limit}")
    try:
        with ExitStack() as stack:
            file = archive.open(member)
            payload = b"" if file is None else stack.enter_context(file).read(limit + 1)
    except BROKEN as error:
        return replace(row, status="bad_row", detail=f"{member.name}: {printable(str(error))[:200]}")
    if len(payload) > limit:
        return replace(row, status="too_large", detail=f"more than {limit} bytes, {member.size} announced")
    if len(payload) < member.size:
        return replace(row, status="bad_row", detail=f"{member.name}: {len(payload)} of {member.size} bytes are there")
    return replace(row, payload=payload)


def is_hidden(name: str) -> bool:
    """Whether a part of a name begins with a dot, as in `._cat.jpg`, but for `.` and `..`."""
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def tar_cuts(file: File, apart: Callable[[str, str], bool], few: bool = False) -> list[Cut]:
    """Cuts of about PART_BYTES of a plain tar, from its headers; one cut for whatever is small, compressed or remote.

    `apart(a, b)` says whether two neighbours may be in different cuts. `few` members are read remotely too. A tar that
    breaks off is cut as far as it can be read; its last cut runs to the end and says what is wrong.
    """
    if not file.name.lower().endswith(".tar") or file.size < 2 * PART_BYTES or not (few or is_local(file.url)):
        return [Cut()]
    starts = [0]
    names: list[str] = []
    offsets: list[int] = []
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(open_file(file.url))
            for member in open_archive(file.name, opened, stack).members():
                offset = member.handle.offset
                if offset - starts[-1] >= PART_BYTES and apart(names[-1], member.name):
                    starts.append(offset)
                names.append(member.name)
                offsets.append(offset)
    except BROKEN:
        pass  # the rows will say
    return [
        Cut(start, stop, _before(names, offsets, start))
        for start, stop in zip(starts, [*starts[1:], None], strict=True)
    ]


def _before(names: list[str], offsets: list[int], start: int) -> dict[str, int]:
    """How often each name came before `start`, of those that come more than once."""
    counts = Counter(names)
    earlier = names[: bisect.bisect_left(offsets, start)]
    return dict(Counter(name for name in earlier if counts[name] > 1))


class Forward:
    """A stream that can only be read, with the seeks that tarfile makes: forwards, and a little back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at, self._tail, self._back = stream, 0, b"", 0

    def tell(self) -> int:
        return self._at - self._back

    def seek(self, place: int) -> int:
        ahead = place - self._at
        if ahead < -len(self._tail):
            raise tarfile.ReadError(f"byte {place} of a stream that is at {self._at}")
        self._back = max(0, -ahead)
        while ahead > 0 and (data := self._pull(min(ahead, 1 << 20))):
            ahead -= len(data)
        return self.tell()

    def read(self, size: int) -> bytes:
        again = self._tail[len(self._tail) - self._back :][:size] if self._back else b""
        self._back -= len(again)
        return again + self._pull(size - len(again)) if len(again) < size else again

    def _pull(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._at += len(data)
        self._tail = (self._tail + data)[-_TAIL:] if len(data) < _TAIL else data[-_TAIL:]
        return data


class _Capped:
    """A stream that refuses huge single reads: tarfile reads an extension header whole, whatever size it claims."""

    name = ""
    mode = "rb"

    def __init__(self, stream: Any) -> None:
        self.seek, self.tell, self._stream = stream.seek, stream.tell, stream

    def seekable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return bytes(self._stream.read(size))


class _Tar:
    def __init__(self, file: tarfile.TarFile, stream: _Capped, stop: int | None) -> None:
        self.file, self.stream, self.stop = file, stream, stop

    def members(self) -> Iterator[Member]:
        for info in self.file:
            self.file.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every one it has seen
            if self.stop is not None and info.offset >= self.stop:
                return
            if not info.isdir():
                why = None if info.isreg() and not info.issparse() else "a link, device or sparse file"
                yield Member(printable(info.name), info.size, info, _unsafe(info.name) or why)
        self._require_end()

    def _require_end(self) -> None:
        """tarfile takes a damaged header after the first for the end; only a block of zeros is."""
        self.stream.seek(self.file.offset)
        if self.stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a header nor the end mark at byte {self.file.offset}")

    def open(self, member: Member) -> IO[bytes] | None:
        return self.file.extractfile(member.handle)


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file

    def members(self) -> Iterator[Member]:
        for info in self.file.infolist():
            if not info.is_dir():
                link = (info.external_attr >> 16) & 0o170000 == 0o120000  # Unix mode, S_IFLNK
                why = "a link, not a file" if link else None
                yield Member(printable(info.filename), info.file_size, info, _unsafe(info.filename) or why)

    def open(self, member: Member) -> IO[bytes] | None:
        return self.file.open(member.handle)


def _unsafe(name: str) -> str | None:
    return None if is_inside(name) else f"{printable(name)[:200]!r} leads out of the archive"
