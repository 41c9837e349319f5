"""Tables as rows of values, whole or a cut of them: csv, tsv, jsonl (each also compressed) and parquet.

    table = open_table(file, layout)
    table.columns()                              # ["url", "caption"]
    for cut in table.cuts(): ...                 # a Span, or rows of Parquet row groups, as JSON values
    for record in table.read(cut): ...           # Record(place, values) or Record(place, None, status, detail)

A record that cannot be read carries a status instead of values; a file that breaks off gives one such record at
the break and ends. `place` is the byte where a line begins, or the row number in Parquet, so it does not depend on how
a file is cut. Cells are what the format holds: text for csv and tsv; JSON values; Arrow values.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import orjson
import pyarrow as pa

from imglish.errors import SourceError
from imglish.ingest.sources import streams
from imglish.ingest.sources.files import File, printable
from imglish.ingest.sources.lines import split_lines
from imglish.ingest.sources.parquets import Batch, ParquetTable, Record
from imglish.ingest.sources.streams import Span, open_stream, plain_suffixes, span_lines, spans
from imglish.recipe import Section

SUFFIXES = {
    "csv": plain_suffixes((".csv",)),
    "tsv": plain_suffixes((".tsv",)),
    "jsonl": plain_suffixes((".jsonl", ".ndjson")),
    "parquet": (".parquet",),
}
_LINES = 1 << 16
"""Lines that are taken by columns at once."""
_SAMPLE = 100  # records whose keys make up the columns of a jsonl file
_SAMPLE_BYTES = 64 << 10  # of a file whose mean line is wanted


class TableLayout(Section):
    """Options of a csv or tsv file that its name does not say."""

    header: list[str] | None = None
    """Names of the columns of a file whose first line is data."""
    quotes: bool | None = None
    """Whether cells may be quoted as in RFC 4180; None is yes for csv and no for tsv."""
    multiline: bool = True
    """Whether quoted cells may hold line breaks. Such a file cannot be cut: it is one unit."""


class Table(Protocol):
    """One file of rows."""

    def columns(self) -> list[str]: ...

    def cuts(self, rows: int | None = None) -> list[dict[str, Any]]:
        """Specs of consecutive parts, together the whole file; of about `rows` rows each where that is wanted."""
        ...

    def read(self, cut: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[Record]:
        """The records of one part; `columns` limits what is read where the format can."""
        ...


def open_table(file: File, layout: TableLayout | None = None, names: Sequence[str] = tuple(SUFFIXES)) -> Table:
    """The reader for a file name; SourceError for a suffix that none of the formats `names` has."""
    for form in names:
        if file.name.lower().endswith(SUFFIXES[form]):
            if form == "parquet":
                return ParquetTable(file)
            if form == "jsonl":
                return JsonTable(file)
            return CsvTable(file, "," if form == "csv" else "\t", layout or TableLayout())
    known = ", ".join(SUFFIXES[form][0] for form in names)
    raise SourceError(f"{file.name}: not a table; known names end in {known}")


def parse_json(line: bytes, place: int, where: str) -> Record:
    """A JSON object on one line as a record."""
    try:
        values = orjson.loads(line)
    except ValueError:
        return _parse_strictly(line, place, where)
    if type(values) is not dict:
        return Record(place, None, "bad_row", f"{where}: a JSON {type(values).__name__} instead of an object")
    return Record(place, values)


def _parse_strictly(line: bytes, place: int, where: str) -> Record:
    """What orjson refuses: a byte order mark, half surrogate pairs and NaN are taken, the rest is explained."""
    if len(line) >= streams.LINE_BYTES:
        return Record(place, None, "bad_row", f"{where}: line longer than {streams.LINE_BYTES} bytes")
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Record(place, None, "not_utf8", f"{where}: byte {line[error.start]:#04x} at {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return Record(place, None, "bad_row", f"{where}: not JSON: {printable(str(error))[:200]}")
    if not isinstance(values, dict):
        return Record(place, None, "bad_row", f"{where}: a JSON {type(values).__name__} instead of an object")
    return Record(place, values)


class _TextTable:
    """What line-based tables share: spans of bytes, and an end that says why."""

    def __init__(self, file: File) -> None:
        self.file = file

    def cuts(self, rows: int | None = None) -> list[dict[str, Any]]:
        step = None if rows is None else max(1, round(rows * self._mean_line()))
        return [span.to_json() for span in spans(self.file, step)]

    def read(self, cut: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Ends with the reason where the file breaks off."""
        place = cut["start"]
        try:
            for record in self._records(Span.from_json(cut)):
                place = record.place
                yield record
        except OSError as error:
            said = f"{self.file.name}: cannot be read after the row at byte {place}: {printable(str(error))[:200]}"
            yield Record(place + 1, None, "bad_row", said)

    def _mean_line(self) -> float:
        """Bytes of a line, judged by the beginning of the file."""
        try:
            with open_stream(self.file.url) as stream:
                sample = stream.read(_SAMPLE_BYTES)
        except OSError:
            return 1.0
        return max(1.0, len(sample) / max(1, sample.count(b"\n")))

    def _records(self, span: Span) -> Iterator[Record]:
        raise NotImplementedError


class CsvTable(_TextTable):
    """Comma- or tab-separated values, RFC 4180 quoting if wanted, UTF-8.

    Quoted fields over 128 KB (Python's default limit) are bad rows; long texts belong in jsonl or parquet.
    """

    def __init__(self, file: File, delimiter: str, layout: TableLayout) -> None:
        super().__init__(file)
        self.delimiter, self.header = delimiter, layout.header
        self.quotes = delimiter == "," if layout.quotes is None else layout.quotes
        self.multiline = self.quotes and layout.multiline

    def cuts(self, rows: int | None = None) -> list[dict[str, Any]]:
        return [Span().to_json()] if self.multiline else super().cuts(rows)

    def columns(self) -> list[str]:
        if self.header is not None:
            return self.header
        try:
            for _, cells in self._rows(Span()):
                if not isinstance(cells, list):
                    raise SourceError(f"{self.file.name}: the header is not a line of column names: {cells}")
                return [printable(name).removeprefix("\ufeff").strip() for name in cells]
        except OSError as error:
            raise SourceError(f"{self.file.name}: cannot be read: {error}") from None
        return []

    def _records(self, span: Span) -> Iterator[Record]:
        names = self.columns()
        rows = self._rows(span)
        if self.header is None and span.start == 0:
            next(rows, None)
        for offset, cells in rows:
            if cells:  # an empty line is no row
                yield self._record(offset, names, cells)

    def batches(self, cut: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Batch]:
        """One part by columns; OSError where the file breaks off. Not of files whose cells may hold line breaks."""
        names, span = self.columns(), Span.from_json(cut)
        numbers = {name: number for number, name in enumerate(names)}  # the last of a name, as in a record
        if not numbers.keys() >= set(columns):
            raise OSError(f"{self.file.name}: the columns are others than before")
        lines = span_lines(self.file.url, span)
        if self.header is None and span.start == 0:
            next(lines, None)
        while chunk := list(islice(lines, _LINES)):
            usual, odd = split_lines(chunk, self.delimiter, len(names), self.quotes)
            cells = ((offset, self._cells(line)) for offset, line in odd)
            others = [self._record(offset, names, found) for offset, found in cells if found]
            picked = [usual.cells[numbers[name]] for name in columns]
            yield Batch(usual.places, pa.RecordBatch.from_arrays(picked, list(columns)), others)

    def _record(self, offset: int, names: list[str], cells: list[str] | str) -> Record:
        where = f"{self.file.name}, row at byte {offset}"
        if isinstance(cells, str):
            return Record(offset, None, "bad_row", f"{where}: {cells}")
        if len(cells) != len(names):
            return Record(offset, None, "bad_row", f"{where}: {len(cells)} cells under {len(names)} columns")
        bad = next((name for name, cell in zip(names, cells, strict=True) if not _encodes(cell)), None)
        if bad is not None:
            return Record(offset, None, "not_utf8", f"{where}: column {bad}")
        return Record(offset, dict(zip(names, cells, strict=True)))

    def _rows(self, span: Span) -> Iterator[tuple[int, list[str] | str]]:
        """(offset, cells, or what is wrong) of every row that begins in a span."""
        lines = span_lines(self.file.url, span)
        if self.multiline:
            yield from self._quoted(_Lines(lines))
            return
        for offset, line in lines:
            yield offset, self._cells(line)

    def _cells(self, line: bytes) -> list[str] | str:
        """The cells of one line, none of an empty one, or what is wrong with it."""
        if len(line) >= streams.LINE_BYTES:
            return f"line longer than {streams.LINE_BYTES} bytes"
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        return self._quoted_line(text) if self.quotes else text.split(self.delimiter) if text else []

    def _quoted(self, lines: _Lines) -> Iterator[tuple[int, list[str] | str]]:
        reader = csv.reader(lines, delimiter=self.delimiter)
        while True:
            lines.first = None
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield lines.first or 0, str(error)
                continue
            if cells is None:
                return
            yield lines.first or 0, cells

    def _quoted_line(self, text: str) -> list[str] | str:
        reader = csv.reader(iter((text, "")), delimiter=self.delimiter)
        try:
            cells = next(reader, [])
        except csv.Error as error:
            return str(error)
        return cells if reader.line_num < 2 else "a quote is open at the end of the line; set multiline = true"


class _Lines:
    """Lines of a span as text, bytes that are not UTF-8 as surrogates; `first` is where the next row begins."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self.lines = lines
        self.first: int | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        offset, line = next(self.lines)
        if self.first is None:
            self.first = offset
        return line.decode("utf-8", "surrogateescape")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class JsonTable(_TextTable):
    """One JSON object a line; the columns are the keys of the first hundred."""

    def columns(self) -> list[str]:
        keys: dict[str, None] = {}
        for record in islice(self.read(Span().to_json()), _SAMPLE):
            keys |= dict.fromkeys(record.values or {})
        return list(keys)

    def _records(self, span: Span) -> Iterator[Record]:
        name = self.file.name
        for offset, line in span_lines(self.file.url, span):
            if not line.isspace():
                yield parse_json(line, offset, f"{name}, row at byte {offset}")
