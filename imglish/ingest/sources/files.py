"""What readers share: finding the files of a source, its options, opening and cutting into parts.

    for file in find_files(config, root, (".jpg", ".png")):    # File(url, name, size, stamp), sorted by name
        payload = read_payload(Row(file.name), file.url)        # a Row: ok, or why there is no payload

`path` of a source may be a file, a folder (searched below, hidden names skipped) or a glob, local or any fsspec
URL. Names are relative to the fixed part of the path, so a source that moves keeps its rows and units.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources.base import Row
from imglish.recipe import Section, SourceConfig
from imglish.records import Kind

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
PART_FILES = 500
"""Files in one part, on average."""
PART_BYTES = 128 << 20
"""A part is closed when it holds this much; a unit keeps its payloads in memory."""
PAYLOAD_BYTES = 256 << 20
"""A longer single file is `too_large`: no image or document of use is, and a sparse file can claim anything."""

Options = TypeVar("Options", bound=Section)
Item = TypeVar("Item")


@dataclass(frozen=True)
class File:
    """One file of a source; `name` is its path below the source's folder, `stamp` its mtime or etag."""

    url: str
    name: str
    size: int
    stamp: str

    def fingerprint(self) -> list[Any]:
        return [self.name, self.size, self.stamp]


def read_options(config: SourceConfig, schema: type[Options]) -> Options:
    """The source's options as `schema`; RecipeError names a wrong one and the nearest known."""
    known = list(schema.model_fields)
    for key in config.options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else f"format {config.format!r} takes {', '.join(known) or 'none'}"
            )
            raise RecipeError(f"source {config.name!r}: unknown option {key}; {hint}")
    try:
        return schema.model_validate(config.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"source {config.name!r}: option {key} = {config.options.get(key)!r}: {message}") from None


def expect_kind(config: SourceConfig, kinds: Sequence[Kind], otherwise: str) -> None:
    """RecipeError unless the source's kind is one that its format can give."""
    if config.kind not in kinds:
        raise RecipeError(
            f"source {config.name!r}: format {config.format!r} gives {' or '.join(kinds)}, "
            f"not {config.kind}; {otherwise}"
        )


def source_present(config: SourceConfig, root: str) -> bool:
    """Whether anything is at the source's path."""
    fs, path = filesystem(locate(config.path, root))
    return bool(fs.exists(path) or (_has_magic(path) and fs.glob(path)))


def find_files(config: SourceConfig, root: str, suffixes: Sequence[str]) -> list[File]:
    """The source's files whose lower-cased name ends in one of `suffixes`, in byte order of their names.

    Raises SourceError when nothing is there.
    """
    url = locate(config.path, root)
    fs, path = filesystem(url)
    try:
        base, found = _listing(fs, path)
    except (OSError, ValueError) as error:
        raise SourceError(f"source {config.name!r}: cannot list {url}: {error}") from None
    if not found:
        raise SourceError(f"source {config.name!r}: nothing at {url}; check its path and the recipe's root")
    files = [_file(fs, base, name, info) for name, info in found.items() if _is_file(info)]
    wanted = [file for file in files if file.name.lower().endswith(tuple(suffixes)) and not _hidden(file.name)]
    if not wanted:
        raise SourceError(f"source {config.name!r}: no {', '.join(suffixes)} among {len(files)} files at {url}")
    return sorted(wanted, key=lambda file: file.name.encode())


def locate(path: str, root: str) -> str:
    """The path or URL of a source; relative paths are below `root`."""
    if "://" in path or path.startswith("/"):
        return path
    return f"{root.rstrip('/')}/{path}"


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL and the path in it; no chained or guessed protocols for local paths."""
    if "://" in url:
        fs, path = fsspec.core.url_to_fs(url)
        return fs, str(path)
    return LocalFileSystem(), url


def _listing(fs: fsspec.AbstractFileSystem, path: str) -> tuple[str, dict[str, Any]]:
    """(fixed folder, info by path) of a file, a folder or a glob; nothing found is an empty dictionary."""
    if path.startswith(("http://", "https://")):  # a web server has files; asking for a folder would download them
        return path.rpartition("/")[0], {path: fs.info(path)} if fs.exists(path) else {}
    if fs.isdir(path):
        return str(fs._strip_protocol(path)), fs.find(path, detail=True)
    if fs.exists(path):
        info = fs.info(path)
        return str(fs._parent(info["name"])), {info["name"]: info}
    if not _has_magic(path):
        return path, {}
    found: dict[str, Any] = {}
    for name, info in fs.glob(path, detail=True).items():
        found |= fs.find(name, detail=True) if info["type"] == "directory" else {name: info}
    fixed = path[: min(path.index(mark) for mark in "*?[" if mark in path)].rpartition("/")[0]
    return str(fs._strip_protocol(fixed)), found


def _has_magic(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _file(fs: fsspec.AbstractFileSystem, base: str, name: str, info: dict[str, Any]) -> File:
    relative = name.removeprefix(base.rstrip("/")).lstrip("/")
    keys = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "created")
    stamp = next((str(info[key]) for key in keys if info.get(key) is not None), "")
    url = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    return File(url, printable(relative), int(info["size"] or 0), stamp)


def _is_file(info: dict[str, Any]) -> bool:
    """A file or a link; a pipe or device would block whoever reads it."""
    return info["type"] == "file" or bool(info.get("islink"))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def printable(text: str) -> str:
    """Text that UTF-8 can carry: undecodable bytes of a name as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_files(
    files: Iterable[File], members: Callable[[File], Sequence[File]] = lambda file: [file]
) -> list[list[File]]:
    """Runs of files for parts: a run ends where a name's CRC-32 says so (one in PART_FILES) or at PART_BYTES.

    A file that comes or goes so changes its own part only, not all that follow. `members` are the files
    that are read with one.
    """
    return cut(
        files,
        lambda file: zlib.crc32(file.name.encode()) % PART_FILES == 0,
        lambda file: sum(member.size for member in members(file)),
    )


def cut(items: Iterable[Item], ends: Callable[[Item], bool], size: Callable[[Item], int]) -> list[list[Item]]:
    """Consecutive runs; each ends after an item that `ends` it or when its sizes reach PART_BYTES."""
    runs: list[list[Item]] = []
    current: list[Item] = []
    total = 0
    for item in items:
        current.append(item)
        total += size(item)
        if ends(item) or total >= PART_BYTES:
            runs.append(current)
            current, total = [], 0
    return [*runs, current] if current else runs


def open_file(url: str) -> BinaryIO:
    """A file opened for reading."""
    fs, path = filesystem(url)
    return fs.open(path, "rb")  # type: ignore[no-any-return]


def is_inside(path: str) -> bool:
    """Whether a relative path from untrusted data stays below its folder."""
    parts = path.replace("\\", "/").split("/")
    return not (
        path.startswith(("/", "\\")) or ".." in parts or "://" in path or parts[0].endswith(":") or "\0" in path
    )


def is_local(url: str) -> bool:
    """Whether a path or URL is on a local disk."""
    return "://" not in url or url.startswith("file://")


def read_payload(row: Row, url: str) -> Row:
    """The row with a whole file as payload, or with the status that says why not."""
    try:
        with open_file(url) as file:
            payload = file.read(PAYLOAD_BYTES + 1)
    except OSError as error:
        return replace(row, status="missing_file", detail=printable(f"{row.row}: {error.strerror or error}"))
    if len(payload) > PAYLOAD_BYTES:
        return replace(row, status="too_large", detail=f"more than {PAYLOAD_BYTES} bytes")
    return replace(row, payload=payload)


def caption_lines(data: bytes) -> list[str] | None:
    """The captions of a text file, one a line; None when it is not UTF-8."""
    try:
        return [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        return None


def not_utf8(row: Row, where: str, data: bytes) -> Row:
    """The row for text that does not decode, naming the first bad byte."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return replace(row, status="not_utf8", detail=f"{where}: byte {data[error.start]:#04x} at offset {error.start}")
    raise ValueError(f"{where} is UTF-8")
