"""`archive`: members of tar and zip files: npm packages, zipped folders, tars of tars.

    fluent-emoji.tgz#package/assets/1f600.webp          kind image
    00012.tar#000120003.jpg + 000120003.txt or .json    kind pair
    books.zip#emma.txt                                  kind text

    winter21.tar#n01440764.tar#n01440764_18.JPEG        with `nested = true`: archives inside the archive
    openwebtext.tar#openwebtext/urlsf_subset00-1_data.xz#0000001-abc.txt

`captions = "folder"` takes the class of an image (its folder, or the archive inside the archive that holds it) for the
caption; `classes` names a file that says what the classes are called (labels.py). An archive is one part, but a large
plain tar is cut by its headers; one that is damaged gives the rows before the damage and one that says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

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
from imglish.ingest.sources.labels import ClassNames, read_classes, with_class
from imglish.ingest.sources.tabular import parse_json
from imglish.ingest.sources.tars import (
    BROKEN,
    MEMBER_BYTES,
    TAR_SUFFIXES,
    ZIP_SUFFIXES,
    Archive,
    Cut,
    Member,
    is_hidden,
    open_archive,
    read_member,
    tar_cuts,
)
from imglish.recipe import Section, SourceConfig

CAPTION_BYTES = 1 << 20
"""A longer caption member is `too_large`."""
_INNER_SUFFIXES = (*TAR_SUFFIXES, *ZIP_SUFFIXES, ".xz", ".gz", ".bz2")
_BOMB_RATIO = 100
_BOMB_BYTES = 2 << 30


class ArchiveOptions(Section):
    """What of the archive is read."""

    captions: str = "caption"
    """Field of a `.json` beside an image that holds its caption or a list of captions (`.txt` needs none), or "folder":
    the image's class."""
    classes: str | None = None
    """File of class names, one "n01440764 tench, Tinca tinca" a line, relative to the recipe's `root`."""
    nested: bool = False
    """Whether the members to read are in archives inside the archive."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Payloads of one archive together, decompressed; None is 2 GiB or 100 times the archive."""


class Archives:
    """Images, pairs or documents in tar and zip files."""

    name = "archive"
    version = 2

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, ArchiveOptions)
        names, stamp = read_classes(config, root, options.classes)
        more = [] if stamp is None else [stamp]
        parts = []
        for file in find_files(config, root, (*TAR_SUFFIXES, *ZIP_SUFFIXES)):
            beside = config.kind == "pair" and options.captions != "folder"  # captions may be anywhere in it
            cuts = [Cut()] if beside else tar_cuts(file, lambda a, b: True, few=options.nested)
            limit = options.max_bytes or max(_BOMB_BYTES, _BOMB_RATIO * file.size)
            for cut in cuts:
                spec = {"file": file.name, "cut": cut.to_json(), "limit": limit, "classes": names}
                name = file.name if cut.start == 0 else f"{file.name}@{cut.start}"
                parts.append(Part(name, [file.url], [file.fingerprint(), *more], spec))
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, ArchiveOptions)
        name, url, cut = part.spec["file"], part.files[0], Cut(**part.spec["cut"])
        captions: dict[str, Row] = {}
        if config.kind == "pair" and options.captions != "folder":
            found = _members(name, url, cut, (".txt", ".json"), CAPTION_BYTES, options.nested)
            captions = {_stem(row.row): row for row in found}
        suffixes = (".txt", ".md") if config.kind == "text" else IMAGE_SUFFIXES
        left = part.spec["limit"]
        for row in _members(name, url, cut, suffixes, MEMBER_BYTES, options.nested):
            left -= len(row.payload or b"")
            if row.payload is not None and left < 0:
                said = f"the archive's payloads are more than {part.spec['limit']} bytes; raise max_bytes if it is well"
                row = replace(row, payload=None, status="too_large", detail=said)
            if config.kind == "pair" and row.status == "ok":
                row = _captioned(row, captions, options, part.spec["classes"])
            yield row


def _captioned(row: Row, captions: Mapping[str, Row], options: ArchiveOptions, classes: ClassNames) -> Row:
    if options.captions != "folder":
        return _with_captions(row, captions.get(_stem(row.row)), options.captions)
    path = row.row.split("#")
    folder = path[-1].rpartition("/")[0].rpartition("/")[2] or path[-2].rpartition("/")[2].partition(".")[0]
    return with_class(row, folder, classes)


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
    return with_json_captions(row, found, field)


def with_json_captions(row: Row, found: Row, field: str) -> Row:
    """The row with the text or the list in one field of a JSON member."""
    record = parse_json(found.payload or b"", 0, found.row)
    if record.values is None:
        return replace(row, status=record.status, detail=record.detail)
    captions: Any = record.values.get(field)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list):
        return replace(row, status="no_caption", detail=f"{found.row}: no text or list in field {field!r}")
    return replace(row, captions=captions)


def _members(archive: str, url: str, cut: Cut, suffixes: tuple[str, ...], limit: int, nested: bool) -> Iterator[Row]:
    """A row for each member with one of the suffixes; the last one says so if the archive breaks off."""
    wanted = _INNER_SUFFIXES if nested else suffixes
    done = 0
    try:
        with ExitStack() as stack:
            opened = open_archive(archive, stack.enter_context(open_file(url)), stack, cut)
            for row, member in _named(archive, opened, wanted, cut.seen):
                done += 1
                if row.status != "ok":
                    yield row
                elif nested:
                    yield from _inner(opened, member, row, suffixes, limit)
                else:
                    yield read_member(opened, member, row, limit)
    except BROKEN as error:
        yield _broken(archive, cut.start, done, error)


def _inner(outer: Archive, member: Member, row: Row, suffixes: tuple[str, ...], limit: int) -> Iterator[Row]:
    """The rows of an archive inside an archive; damage ends it, not the one around it."""
    if member.why_not is not None:
        yield replace(row, status="refused", detail=member.why_not)
        return
    done = 0
    try:
        with ExitStack() as stack:
            file = outer.open(member)
            if file is None:
                return
            opened = open_archive(member.name, stack.enter_context(file), stack)
            for inner, found in _named(row.row, opened, suffixes, {}):
                done += 1
                yield inner if inner.status != "ok" else read_member(opened, found, inner, limit)
    except BROKEN as error:
        yield _broken(row.row, 0, done, error)


def _named(
    archive: str, opened: Archive, suffixes: tuple[str, ...], before: Mapping[str, int]
) -> Iterator[tuple[Row, Member]]:
    """(row, member) of the wanted members; one whose name came before is a bad row."""
    seen = Counter(before)
    for member in opened.members():
        if not member.name.lower().endswith(suffixes) or (member.why_not is None and is_hidden(member.name)):
            continue
        seen[member.name] += 1
        count = seen[member.name]
        if count == 1:
            yield Row(f"{archive}#{member.name}"), member
        else:
            said = f"{member.name} is in the archive more than once; the first counts"
            yield Row(f"{archive}#{member.name}~{count}", status="bad_row", detail=said), member


def _broken(archive: str, start: int, done: int, error: BaseException) -> Row:
    where = f" behind byte {start}" if start else ""
    said = f"{archive}: cannot be read after {done} members{where}: {printable(str(error))[:200]}"
    return Row(f"{archive}#{f'@{start}' if start else ''}", status="bad_row", detail=said)
