"""`archive`: members of tar and zip files: npm packages, WebDataset shards, zipped folders.

    fluent-emoji.tgz#package/assets/1f600.webp          kind image
    00012.tar#000120003.jpg + 000120003.txt or .json    kind pair
    books.zip#emma.txt                                  kind text

Nothing is extracted to disk. Only plain files are read; a name that is absolute or climbs with `..`, and a link or
device with an image's name, is a row with status "refused". A member, and the archive's payloads together, are
bounded in size as decompressed. One archive is one part; one that is damaged gives the rows before the damage and one
that says so.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import IO, Any, BinaryIO, Protocol

from pydantic import Field

from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    IMAGE_SUFFIXES,
    caption_lines,
    find_files,
    not_utf8,
    open_file,
    printable,
    read_options,
)
from imglish.ingest.sources.tables import is_inside
from imglish.recipe import Section, SourceConfig

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIP_SUFFIXES = (".zip",)
MEMBER_BYTES = 64 << 20
"""A larger member is `too_large`."""
CAPTION_BYTES = 1 << 20
_DECOMPRESS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RecursionError,  # tarfile follows chains of extension headers by recursion
    NotImplementedError,  # zip methods that Python lacks
    RuntimeError,  # encrypted zip members
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class ArchiveOptions(Section):
    """What of the archive is read."""

    captions: str = "caption"
    """Field of a `.json` beside an image that holds its caption or a list of captions; `.txt` needs none."""
    max_bytes: int = Field(default=2 << 30, gt=0)
    """Payloads of one archive together, decompressed; a unit keeps them in memory."""


class Archives:
    """Images, pairs or documents in tar and zip files."""

    name = "archive"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        read_options(config, ArchiveOptions)
        files = find_files(config, root, (*TAR_SUFFIXES, *ZIP_SUFFIXES))
        return [Part(file.name, [file.url], [file.fingerprint()], {"file": file.name}) for file in files]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, ArchiveOptions)
        name, url = part.spec["file"], part.files[0]
        captions: dict[str, Row] = {}
        if config.kind == "pair":
            captions = {_stem(row.row): row for row in _members(name, url, (".txt", ".json"), CAPTION_BYTES)}
        suffixes = (".txt", ".md") if config.kind == "text" else IMAGE_SUFFIXES
        left = options.max_bytes
        for row in _members(name, url, suffixes, MEMBER_BYTES):
            left -= len(row.payload or b"")
            if row.payload is not None and left < 0:
                said = f"the archive's payloads are more than {options.max_bytes} bytes; split it or raise max_bytes"
                row = replace(row, payload=None, status="too_large", detail=said)
            if config.kind == "pair" and row.status == "ok":
                row = _with_captions(row, captions.get(_stem(row.row)), options.captions)
            yield row


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _with_captions(row: Row, found: Row | None, field: str) -> Row:
    """The row with the captions of the .txt or .json member beside it."""
    if found is None:
        return replace(row, status="no_caption", detail="no .txt or .json member beside the image")
    if found.payload is None:
        return replace(row, status=found.status, detail=found.detail)
    if found.row.lower().endswith(".txt"):
        lines = caption_lines(found.payload)
        return not_utf8(row, found.row, found.payload) if lines is None else replace(row, captions=lines)
    try:
        value = json.loads(found.payload)
        captions = value.get(field) if isinstance(value, dict) else None
    except (ValueError, RecursionError) as error:
        return replace(row, status="bad_row", detail=f"{found.row}: not JSON: {printable(str(error))[:200]}")
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list):
        return replace(row, status="no_caption", detail=f"{found.row}: no text or list in field {field!r}")
    return replace(row, captions=captions)


@dataclass(frozen=True)
class _Member:
    """A member before it is read; `why_not` is set when its name or type is refused."""

    name: str
    size: int
    handle: Any
    why_not: str | None


class _Archive(Protocol):
    """An open archive."""

    def members(self) -> Iterator[_Member]: ...

    def open(self, member: _Member) -> IO[bytes] | None: ...


def _members(archive: str, url: str, suffixes: tuple[str, ...], limit: int) -> Iterator[Row]:
    """A row for each member with one of the suffixes; the last one says so if the archive breaks off."""
    seen: dict[str, int] = {}
    try:
        with ExitStack() as stack:
            opened = _open(archive, stack.enter_context(open_file(url)), stack)
            for member in opened.members():
                if not member.name.lower().endswith(suffixes) or (member.why_not is None and _hidden(member.name)):
                    continue
                count = seen[member.name] = seen.get(member.name, 0) + 1
                row = Row(f"{archive}#{member.name}" if count == 1 else f"{archive}#{member.name}~{count}")
                yield (
                    _read(opened, member, row, limit)
                    if count == 1
                    else replace(
                        row,
                        status="bad_row",
                        detail=f"{member.name} is in the archive more than once; the first counts",
                    )
                )
    except _BROKEN as error:
        detail = f"{archive}: cannot be read after {sum(seen.values())} members: {printable(str(error))[:200]}"
        yield Row(f"{archive}#", status="bad_row", detail=detail)


def _hidden(name: str) -> bool:
    """Whether a part of a name begins with a dot, as in `._cat.jpg`, but for `.` and `..`."""
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _read(archive: _Archive, member: _Member, row: Row, limit: int) -> Row:
    if member.why_not is not None:
        return replace(row, status="refused", detail=member.why_not)
    if member.size > limit:
        return replace(row, status="too_large", detail=f"{member.size} bytes, the limit is {limit}")
    try:
        with ExitStack() as stack:
            file = archive.open(member)
            payload = b"" if file is None else stack.enter_context(file).read(limit + 1)
    except _BROKEN as error:
        return replace(row, status="bad_row", detail=f"{member.name}: {printable(str(error))[:200]}")
    if len(payload) > limit:
        return replace(row, status="too_large", detail=f"more than {limit} bytes, {member.size} announced")
    if len(payload) < member.size:
        return replace(row, status="bad_row", detail=f"{member.name}: {len(payload)} of {member.size} bytes are there")
    return replace(row, payload=payload)


def _open(name: str, file: BinaryIO, stack: ExitStack) -> _Archive:
    lower = name.lower()
    if lower.endswith(ZIP_SUFFIXES):
        return _Zip(stack.enter_context(zipfile.ZipFile(file)))
    opener = next((found for suffix, found in _DECOMPRESS.items() if lower.endswith(suffix)), None)
    stream = file if opener is None else stack.enter_context(opener(file))
    capped: Any = _Capped(stream)
    return _Tar(stack.enter_context(tarfile.TarFile(fileobj=capped, encoding="utf-8")), capped)


class _Capped:
    """A stream that refuses huge single reads: tarfile reads an extension header whole, whatever size it claims."""

    name = ""
    mode = "rb"

    def __init__(self, stream: Any) -> None:
        self.seek, self.tell, self._stream = stream.seek, stream.tell, stream

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return bytes(self._stream.read(size))


class _Tar:
    def __init__(self, file: tarfile.TarFile, stream: _Capped) -> None:
        self.file, self.stream = file, stream

    def members(self) -> Iterator[_Member]:
        for info in self.file:
            if not info.isdir():
                why = None if info.isreg() else "a link or device, not a file"
                yield _Member(printable(info.name), info.size, info, _unsafe(info.name) or why)
        self._require_end()

    def _require_end(self) -> None:
        """tarfile takes a damaged header after the first for the end; only a block of zeros is."""
        self.stream.seek(self.file.offset)
        if self.stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a header nor the end mark at byte {self.file.offset}")

    def open(self, member: _Member) -> IO[bytes] | None:
        return self.file.extractfile(member.handle)


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file

    def members(self) -> Iterator[_Member]:
        for info in self.file.infolist():
            if not info.is_dir():
                link = (info.external_attr >> 16) & 0o170000 == 0o120000  # Unix mode, S_IFLNK
                why = "a link, not a file" if link else None
                yield _Member(printable(info.filename), info.file_size, info, _unsafe(info.filename) or why)

    def open(self, member: _Member) -> IO[bytes] | None:
        return self.file.open(member.handle)


def _unsafe(name: str) -> str | None:
    return None if is_inside(name) else f"{printable(name)[:200]!r} leads out of the archive"
