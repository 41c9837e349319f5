"""`text`: documents from `.txt` and `.md` files and from `.jsonl` files with a text field, each also compressed.

A `.txt` or `.md` file is one document, or with `split = "paragraphs"` (separated by blank lines) or "lines" as many as
it has of those. A row is named by where it begins: `essays/one.txt`, `essays/one.txt#4096` for the paragraph at that
byte, `corpus.jsonl#1048576` for the object there. What is split is read in spans of 64 MB; what is compressed is one
unit, however large, that landing commits in files of bounded size (`streams.py` knows the exception).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import fastsimdjson
from pydantic import field_validator

from imglish.errors import SourceError
from imglish.ingest.sources import streams
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    PAYLOAD_BYTES,
    File,
    expect_kind,
    find_files,
    printable,
    read_options,
    split_files,
)
from imglish.ingest.sources.streams import Span, open_stream, plain_suffixes, span_lines, spans, stream_lines
from imglish.ingest.sources.tables import described, text_row
from imglish.ingest.sources.tabular import parse_json
from imglish.recipe import Section, SourceConfig

DOCUMENTS = plain_suffixes((".txt", ".md"))
OBJECTS = plain_suffixes((".jsonl", ".ndjson"))
_ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_SAMPLE = 100  # lines whose keys are looked at when a part is listed


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
    version = 2

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, TextOptions)
        expect_kind(config, ("text",), "use format 'folder' for images")
        files = find_files(config, root, (*DOCUMENTS, *OBJECTS))
        whole = [file for file in files if options.split == "file" and _is_document(file.name)]
        parts = [
            Part(
                name=run[0].name,
                files=[file.url for file in run],
                fingerprint=[file.fingerprint() for file in run],
                spec={"documents": [file.name for file in run]},
            )
            for run in split_files(whole)
        ]
        for file in files:
            if not _is_document(file.name):
                _require_field(config, file, options.text)
                parts += _span_parts(file, spans(file))
            elif options.split != "file":
                parts += _span_parts(file, spans(file) if _has_plain_breaks(options.encoding) else [Span()])
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, TextOptions)
        if "documents" in part.spec:
            for name, url in zip(part.spec["documents"], part.files, strict=True):
                yield _whole_file(name, url, options.encoding)
            return
        name, span = part.spec["file"], Span.from_json(part.spec["span"])
        if not _is_document(name):
            yield from _objects(name, part.files[0], span, options)
        elif _has_plain_breaks(options.encoding):
            yield from _pieces(name, part.files[0], span, options)
        else:
            yield from _decoded_pieces(name, part.files[0], options)


def _is_document(name: str) -> bool:
    return name.lower().endswith(DOCUMENTS)


def _has_plain_breaks(encoding: str) -> bool:
    """Whether a line break is one byte and that byte nothing else, so that bytes can be cut into lines."""
    return "\n\0".encode(encoding)[-2:] == b"\n\0" and not encoding.lower().startswith(("iso2022", "iso-2022", "hz"))


def _span_parts(file: File, found: Sequence[Span]) -> list[Part]:
    return [
        Part(
            name=f"{file.name}#{span.start}",
            files=[file.url],
            fingerprint=[file.fingerprint()],
            spec={"file": file.name, "span": span.to_json()},
        )
        for span in found
    ]


def _whole_file(name: str, url: str, encoding: str) -> Row:
    """A file as one document, re-encoded as UTF-8 without byte order mark."""
    try:
        with open_stream(url) as stream:
            data = stream.read(PAYLOAD_BYTES + 1)
    except OSError as error:
        status = "missing_file" if error.errno is not None else "bad_row"
        return Row(name, status=status, detail=printable(f"{name}: {error.strerror or error}"))
    if len(data) > PAYLOAD_BYTES:
        return Row(name, status="too_large", detail=f"more than {PAYLOAD_BYTES} bytes; set split to cut it")
    return _decoded(Row(name, payload=data), encoding, 0)


def _decoded(row: Row, encoding: str, offset: int) -> Row:
    """The row with its payload as UTF-8."""
    data = row.payload or b""
    try:
        return replace(row, payload=data.decode(encoding).removeprefix("\ufeff").encode("utf-8"))
    except UnicodeError as error:
        at = f" of the document at byte {offset}" if offset else ""
        said = f"{row.row.partition('#')[0]}: {printable(str(error))[:200]}{at}"
        return replace(row, payload=None, status="not_utf8", detail=said)


def _pieces(name: str, url: str, span: Span, options: TextOptions) -> Iterator[Row]:
    """The lines or paragraphs of a span; one that is longer than a payload may be is cut there and says so."""
    offset = span.start
    try:
        found = span_lines(url, span) if options.split == "lines" else _paragraphs(url, span)
        for offset, piece in found:
            data = piece.strip()
            if len(data) >= streams.LINE_BYTES:
                yield Row(
                    f"{name}#{offset}", status="too_large", detail=f"{name}: at byte {offset}, cut at {len(data)}"
                )
            elif data:
                yield _decoded(Row(f"{name}#{offset}", payload=data), options.encoding, offset)
    except OSError as error:
        yield _broken(name, offset, error)


def _paragraphs(url: str, span: Span) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of every paragraph whose last blank line before it begins in the span, or that begins the file.

    A paragraph that runs over the end of the span is read to its end.
    """
    ours = span.start == 0
    lines: list[bytes] = []
    begin = size = 0
    for offset, line in span_lines(url, replace(span, stop=None)):
        if not line.strip():
            if lines:
                yield begin, b"".join(lines)
                lines, size = [], 0
            if span.stop is not None and offset > span.stop:
                return
            ours = True
        elif ours:
            begin = begin if lines else offset
            if size < streams.LINE_BYTES:
                lines.append(line)
                size += len(line)
        elif span.stop is not None and offset > span.stop:
            return
    if lines:
        yield begin, b"".join(lines)


def _decoded_pieces(name: str, url: str, options: TextOptions) -> Iterator[Row]:
    """The pieces of a file whose line breaks are not single bytes; a row is named by its number."""
    whole = _whole_file(name, url, options.encoding)
    if whole.payload is None:
        yield whole
        return
    pieces = [b""]
    for line in whole.payload.split(b"\n"):
        if options.split == "lines" or not line.strip():
            pieces.append(b"")
        pieces[-1] += line + b"\n"
    for number, piece in enumerate(piece.strip() for piece in pieces if piece.strip()):
        yield Row(f"{name}#{number}", payload=piece)


def _objects(name: str, url: str, span: Span, options: TextOptions) -> Iterator[Row]:
    """The rows of the lines that begin in a span."""
    field, licence, source = options.text, options.licence, options.url
    described_by = licence is not None or source is not None
    loads, offset = fastsimdjson.loads, span.start
    try:
        for offset, line in span_lines(url, span):
            try:
                values = loads(line)
                row = Row(f"{name}#{offset}", values[field].encode(), encoded=True)
            except _ODD:  # the common case costs no call more than this
                if not line.isspace():
                    yield _odd_object(f"{name}#{offset}", line, options)
                continue
            yield described(row, values, licence, source) if described_by else row
    except OSError as error:
        yield _broken(name, offset, error)


def _odd_object(row: str, line: bytes, options: TextOptions) -> Row:
    """The row of a line that is not a plain object with a text, with the reason."""
    record = parse_json(line, 0, row)
    if record.values is None:
        return Row(row, status=record.status, detail=record.detail)
    found = described(Row(row), record.values, options.licence, options.url)
    return text_row(found, record.values.get(options.text), options.text)


def _broken(name: str, offset: int, error: OSError) -> Row:
    said = f"{name}: cannot be read after the line at byte {offset}: {printable(str(error))[:200]}"
    return Row(f"{name}#{offset}+", status="bad_row", detail=said)


def _require_field(config: SourceConfig, file: File, field: str) -> None:
    """SourceError when none of the first objects has the field."""
    keys: dict[str, None] = {}
    try:
        with open_stream(file.url) as stream:
            for offset, line in islice(stream_lines(stream, 0, streams.LINE_BYTES), _SAMPLE):
                keys |= dict.fromkeys(parse_json(line, offset, f"{file.name}#{offset}").values or {})
    except OSError:
        return  # the rows will say where it breaks off
    if keys and field not in keys:
        raise SourceError(
            f"source {config.name!r}: {file.name} has no field {field!r}; it has {', '.join(map(printable, keys))}; "
            "name the right one as option text"
        )
