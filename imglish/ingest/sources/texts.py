"""`text`: documents from `.txt` and `.md` files and from `.jsonl` files with a text field (also .gz, .zst).

A `.txt` or `.md` file is one document, or with `split = "paragraphs"` (separated by blank lines) or "lines" as many as
it has of those. A row is named by its file: `essays/one.txt`, `essays/one.txt#4` for the fifth paragraph,
`corpus.jsonl#1048576` for the object at that byte. Plain jsonl is read in ranges of 64 MB; a compressed one cannot be
split, is one part and is held in memory, so split large ones into files of up to about 1 GB uncompressed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import BinaryIO, Literal

from pydantic import field_validator

from imglish.errors import SourceError
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    COMPRESSED,
    File,
    expect_kind,
    find_files,
    open_stream,
    printable,
    read_options,
    read_payload,
    skip,
    split_files,
    stream_lines,
)
from imglish.ingest.sources.tables import described, text_row
from imglish.ingest.sources.tabular import LINE_BYTES, parse_json
from imglish.recipe import Section, SourceConfig

DOCUMENTS = (".txt", ".md")
OBJECTS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
RANGE_BYTES = 64 << 20
"""Bytes of a plain jsonl file in one part."""
_SAMPLE = 100  # lines whose keys are looked at when a part is listed
_PARAGRAPHS = re.compile(r"\n[ \t\r]*\n\s*")


class TextOptions(Section):
    """How documents are found in files."""

    split: Literal["file", "paragraphs", "lines"] = "file"
    """What of a .txt or .md file is one document."""
    encoding: str = "utf-8"
    """Of .txt and .md files; what does not decode strictly is `not_utf8`."""
    text: str = "text"
    """Field of a jsonl object that holds the document."""
    url: str | None = None
    """Field of a jsonl object that says where it came from."""
    licence: str | None = None
    """Field of a jsonl object with its licence."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError("Python knows no such encoding") from None
        return value


class Texts:
    """Plain text and jsonl documents."""

    name = "text"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, TextOptions)
        expect_kind(config, ("text",), "use format 'folder' for images")
        files = find_files(config, root, (*DOCUMENTS, *OBJECTS))
        parts = [
            Part(
                name=run[0].name,
                files=[file.url for file in run],
                fingerprint=[file.fingerprint() for file in run],
                spec={"documents": [file.name for file in run]},
            )
            for run in split_files([file for file in files if file.name.lower().endswith(DOCUMENTS)])
        ]
        for file in files:
            if file.name.lower().endswith(OBJECTS):
                _require_field(config, file, options.text)
                parts += _ranges(file)
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, TextOptions)
        if "documents" not in part.spec:
            yield from _objects(part, options)
            return
        for name, url in zip(part.spec["documents"], part.files, strict=True):
            yield from _documents(name, url, options)


def _documents(name: str, url: str, options: TextOptions) -> Iterator[Row]:
    """The documents of one file, re-encoded as UTF-8 without byte order mark."""
    row = read_payload(Row(name), url)
    if row.payload is None:
        yield row
        return
    try:
        text = row.payload.decode(options.encoding).removeprefix("\ufeff")
        whole = text.encode("utf-8")
    except UnicodeError as error:
        yield replace(row, payload=None, status="not_utf8", detail=f"{name}: {printable(str(error))[:200]}")
        return
    if options.split == "file":
        yield replace(row, payload=whole)
        return
    pieces = _PARAGRAPHS.split(text) if options.split == "paragraphs" else text.split("\n")
    for number, piece in enumerate(piece.strip() for piece in pieces):
        if piece:
            yield Row(f"{name}#{number}", payload=piece.encode("utf-8"))


def _ranges(file: File) -> list[Part]:
    """The parts of a jsonl file: byte ranges, or the whole when it is compressed."""
    whole = file.name.lower().endswith(tuple(COMPRESSED))
    step = max(file.size, 1) if whole else RANGE_BYTES
    return [
        Part(
            name=f"{file.name}#{start}",
            files=[file.url],
            fingerprint=[file.fingerprint()],
            spec={"file": file.name, "start": start, "stop": None if whole else start + step},
        )
        for start in range(0, max(file.size, 1), step)
    ]


def _objects(part: Part, options: TextOptions) -> Iterator[Row]:
    """The rows of the lines that begin in a part's range."""
    name, start, stop = part.spec["file"], part.spec["start"], part.spec["stop"]
    offset = start
    try:
        with open_stream(part.files[0]) as stream:
            for offset, line in _lines_from(stream, start):
                if stop is not None and offset >= stop:
                    return
                if line.strip():
                    yield _object(Row(f"{name}#{offset}"), line, options)
    except OSError as error:
        detail = f"{name}: cannot be read after the line at byte {offset}: {printable(str(error))}"
        yield Row(f"{name}#{offset}+", status="bad_row", detail=detail)


def _lines_from(stream: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines that begin at `start` or later."""
    if start == 0:
        return stream_lines(stream, 0, LINE_BYTES)
    skip(stream, start - 1)
    return islice(stream_lines(stream, start - 1, LINE_BYTES), 1, None)  # the first is what is left of another


def _object(row: Row, line: bytes, options: TextOptions) -> Row:
    record = parse_json(line, 0, row.row)
    if record.values is None:
        return replace(row, status=record.status, detail=record.detail)
    row = described(row, record.values, options.licence, options.url)
    return text_row(row, record.values.get(options.text), options.text)


def _require_field(config: SourceConfig, file: File, field: str) -> None:
    """SourceError when none of the first objects has the field."""
    keys: dict[str, None] = {}
    try:
        with open_stream(file.url) as stream:
            for offset, line in islice(stream_lines(stream, 0, LINE_BYTES), _SAMPLE):
                keys |= dict.fromkeys(parse_json(line, 0, f"{file.name}#{offset}").values or {})
    except OSError:
        return  # the rows will say where it breaks off
    if keys and field not in keys:
        raise SourceError(
            f"source {config.name!r}: {file.name} has no field {field!r}; it has {', '.join(map(printable, keys))}; "
            "name the right one as option text"
        )
