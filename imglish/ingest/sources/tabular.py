"""Tables as rows of values, whole or a range of them: csv, tsv, jsonl (each also .gz, .zst) and parquet.

    table = open_table(url, "list.csv")
    table.columns()                              # ["url", "caption"]
    for part in table.ranges(1000): ...          # {"start": 0, "rows": 1000, "offset": 12}
    for record in table.read(part): ...          # Record(number, values) or Record(number, None, status, detail)

A record that cannot be read carries a status instead of values; a file that breaks off gives one such record at
the break and ends. Ranges of text formats hold byte offsets, so a part reads its own bytes only (a compressed
file is decompressed up to them). Cells are what the format holds: text for csv and tsv; JSON values; Arrow values.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import SourceError
from imglish.ingest.sources.files import PART_BYTES, open_file, open_stream, printable, skip, stream_lines

SUFFIXES = {
    "csv": (".csv", ".csv.gz", ".csv.zst"),
    "tsv": (".tsv", ".tsv.gz", ".tsv.zst"),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "parquet": (".parquet",),
}
LINE_BYTES = 64 << 20
"""A longer line is a bad row."""
_BATCH_ROWS = 256
_SAMPLE = 100  # records whose keys make up the columns of a jsonl file


@dataclass(frozen=True)
class Record:
    """One row of a table; `number` counts data rows from 0."""

    number: int
    values: Mapping[str, Any] | None
    status: str = "ok"
    detail: str | None = None


class Table(Protocol):
    """One file of rows."""

    def columns(self) -> list[str]: ...

    def ranges(self, rows: int) -> list[dict[str, int]]:
        """Specs of consecutive parts of at most `rows` rows, together the whole file."""
        ...

    def read(self, spec: Mapping[str, int], columns: Sequence[str] | None = None) -> Iterator[Record]:
        """The records of one part; `columns` limits what is read where the format can."""
        ...


def open_table(url: str, name: str) -> Table:
    """The reader for a file name; SourceError for a suffix that is none of SUFFIXES."""
    for form, suffixes in SUFFIXES.items():
        if name.lower().endswith(suffixes):
            if form == "parquet":
                return ParquetTable(url, name)
            if form == "jsonl":
                return JsonTable(url, name)
            return CsvTable(url, name, "," if form == "csv" else "\t")
    known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    raise SourceError(f"{name}: not a table; known names end in {known}")


def parse_json(line: bytes, number: int, where: str) -> Record:
    """A JSON object on one line as a record."""
    if len(line) >= LINE_BYTES:
        return Record(number, None, "bad_row", f"{where}: line longer than {LINE_BYTES} bytes")
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Record(number, None, "not_utf8", f"{where}: byte {line[error.start]:#04x} at {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return Record(number, None, "bad_row", f"{where}: not JSON: {printable(str(error))[:200]}")
    if not isinstance(values, dict):
        return Record(number, None, "bad_row", f"{where}: a JSON {type(values).__name__} instead of an object")
    return Record(number, values)


class _TextTable:
    """What line-based tables share: ranges by one pass over the records, reading from a byte offset."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name

    def ranges(self, rows: int) -> list[dict[str, int]]:
        specs: list[dict[str, int]] = []
        for offset, record in self._records(None):
            if not specs or specs[-1]["rows"] >= rows or offset - specs[-1]["offset"] >= PART_BYTES:
                specs.append({"start": record.number, "rows": 0, "offset": offset})
            specs[-1]["rows"] += 1
        return specs

    def read(self, spec: Mapping[str, int], columns: Sequence[str] | None = None) -> Iterator[Record]:
        return (record for _, record in islice(self._records(spec), spec["rows"]))

    def _records(self, spec: Mapping[str, int] | None) -> Iterator[tuple[int, Record]]:
        """(byte offset, record) from a part's start, or of the whole file; ends with the reason if it breaks off."""
        number = spec["start"] if spec else 0
        offset = 0
        try:
            with open_stream(self.url) as stream:
                for offset, record in self._parse(stream, spec):
                    number = record.number + 1
                    yield offset, record
        except OSError as error:
            detail = f"{self.name}: cannot be read after row {number - 1}: {printable(str(error))}"
            yield offset, Record(number, None, "bad_row", detail)

    def _parse(self, stream: BinaryIO, spec: Mapping[str, int] | None) -> Iterator[tuple[int, Record]]:
        raise NotImplementedError


class CsvTable(_TextTable):
    """Comma- or tab-separated values with a header line, RFC 4180 quoting, UTF-8.

    Fields over 128 KB (Python's default limit) are bad rows; long texts belong in jsonl or parquet.
    """

    def __init__(self, url: str, name: str, delimiter: str) -> None:
        super().__init__(url, name)
        self.delimiter = delimiter

    def columns(self) -> list[str]:
        try:
            with open_stream(self.url) as stream:
                return self._header(_CountedLines(stream))
        except OSError as error:
            raise SourceError(f"{self.name}: cannot be read: {error}") from None

    def _header(self, lines: _CountedLines) -> list[str]:
        try:
            names = next(csv.reader(lines, delimiter=self.delimiter), [])
        except csv.Error as error:
            raise SourceError(f"{self.name}: the header is not a line of column names: {error}") from None
        return [printable(name).removeprefix("\ufeff").strip() for name in names]

    def _parse(self, stream: BinaryIO, spec: Mapping[str, int] | None) -> Iterator[tuple[int, Record]]:
        lines = _CountedLines(stream)
        names = self._header(lines)
        if spec is not None:
            skip(stream, spec["offset"] - lines.offset)
            lines.offset = spec["offset"]
        number = spec["start"] if spec else 0
        reader = csv.reader(lines, delimiter=self.delimiter)
        while True:
            offset = lines.offset
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield offset, self._bad(number, offset, str(error))
                number += 1
                continue
            if cells is None:
                return
            if cells:  # an empty line is no row
                yield offset, self._record(number, offset, names, cells)
                number += 1

    def _record(self, number: int, offset: int, names: list[str], cells: list[str]) -> Record:
        if len(cells) != len(names):
            return self._bad(number, offset, f"{len(cells)} cells under {len(names)} columns")
        bad = next((name for name, cell in zip(names, cells, strict=True) if not _encodes(cell)), None)
        if bad is not None:
            return Record(number, None, "not_utf8", f"{self.name}, row {number} at byte {offset}: column {bad}")
        return Record(number, dict(zip(names, cells, strict=True)))

    def _bad(self, number: int, offset: int, why: str) -> Record:
        return Record(number, None, "bad_row", f"{self.name}, row {number} at byte {offset}: {why}")


class _CountedLines:
    """Lines of a stream as text, bytes that are not UTF-8 as surrogates; `offset` is where the next one starts."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.offset = stream, 0

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(LINE_BYTES)
        if not line:
            raise StopIteration
        self.offset += len(line)
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
        for _, record in islice(self._records(None), _SAMPLE):
            keys |= dict.fromkeys(record.values or {})
        return list(keys)

    def _parse(self, stream: BinaryIO, spec: Mapping[str, int] | None) -> Iterator[tuple[int, Record]]:
        number, offset = (spec["start"], spec["offset"]) if spec else (0, 0)
        skip(stream, offset)
        for place, line in stream_lines(stream, offset, LINE_BYTES):
            if line.strip():
                yield place, parse_json(line, number, f"{self.name}, row {number} at byte {place}")
                number += 1


class ParquetTable:
    """A Parquet file; parts never cross row groups, so each reads one."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name

    def columns(self) -> list[str]:
        return [str(name) for name in self.schema().names]

    def schema(self) -> pa.Schema:
        """The Arrow schema; SourceError when the file is no Parquet."""
        with self._opened() as file:
            return file.schema_arrow

    def ranges(self, rows: int) -> list[dict[str, int]]:
        with self._opened() as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        specs = []
        first = 0
        for group, count in enumerate(counts):
            specs += [
                {"start": first + start, "rows": min(rows, count - start), "group": group, "skip": start}
                for start in range(0, count, rows)
            ]
            first += count
        return specs

    def read(self, spec: Mapping[str, int], columns: Sequence[str] | None = None) -> Iterator[Record]:
        number, last = spec["start"], spec["start"] + spec["rows"]
        ahead = spec["skip"]
        try:
            with self._opened() as file:
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[spec["group"]], columns=columns):
                    taken = batch.slice(min(ahead, batch.num_rows), last - number)
                    ahead -= min(ahead, batch.num_rows)
                    for values in taken.to_pylist():
                        yield Record(number, values)
                        number += 1
                    if number >= last:
                        return
        except (OSError, ValueError) as error:
            detail = f"{self.name}: rows {number} to {last - 1} cannot be read: {printable(str(error))[:200]}"
            yield Record(number, None, "bad_row", detail)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with open_file(self.url) as file:
            try:
                parquet = pq.ParquetFile(file)
            except (OSError, ValueError) as error:
                raise SourceError(
                    f"{self.name}: not a readable Parquet file: {error}; fetch it again or leave it out"
                ) from None
            with parquet:
                yield parquet
