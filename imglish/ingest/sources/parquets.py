"""Parquet files as rows of values or by columns, a part of them at a time; `tabular` has the formats of lines.

table = ParquetTable(file)
for cut in table.cuts(rows=100_000): ...         # runs of row groups, or some rows of one
for record in table.read(cut): ...               # Record(row number, values)
for places, cells, _ in table.batches(cut, ["url"]): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import SourceError
from imglish.ingest.sources.files import PART_BYTES, File, open_file, printable

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1024
_WIDE_BYTES = 64 << 20
_WIDE_ROWS = 1 << 17
_BUFFER = 4 << 20
_PARQUET_ERRORS = (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException)


@dataclass(frozen=True)
class Record:
    """One row of a table; `place` is where it begins (a byte, or a row number in Parquet)."""

    place: int
    values: Mapping[str, Any] | None
    status: str = "ok"
    detail: str | None = None


class Batch(NamedTuple):
    """Many rows by columns: the places of the usual ones, their cells, and the records of all others."""

    places: pa.Array
    cells: pa.RecordBatch
    others: list[Record]


class ParquetTable:
    """A Parquet file; a part is some row groups, or some rows of one."""

    def __init__(self, file: File) -> None:
        self.file = file

    def columns(self) -> list[str]:
        return [str(name) for name in self.schema().names]

    def schema(self) -> pa.Schema:
        """The Arrow schema; SourceError when the file is no Parquet."""
        with self._opened() as file:
            return file.schema_arrow

    def cuts(self, rows: int | None = None) -> list[dict[str, Any]]:
        with self._opened() as file:
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        return _whole_groups(sizes) if rows is None else _slices(sizes, rows)

    def read(self, cut: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[Record]:
        number, last = cut["start"], cut["start"] + cut["rows"]
        ahead = cut["skip"]
        try:
            with self._opened() as file:
                size = _batch_rows(file, cut["groups"])
                for batch in file.iter_batches(size, row_groups=cut["groups"], columns=columns):
                    taken = batch.slice(min(ahead, batch.num_rows), last - number)
                    ahead -= min(ahead, batch.num_rows)
                    for values in taken.to_pylist():
                        yield Record(number, values)
                        number += 1
                    if number >= last:
                        return
        except _PARQUET_ERRORS as error:
            said = f"{self.file.name}: rows {number} to {last - 1} cannot be read: {printable(str(error))[:200]}"
            yield Record(number, None, "bad_row", said)

    def batches(self, cut: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Batch]:
        """One part by columns, whole and valid; OSError where it cannot be read."""
        number, last, ahead = cut["start"], cut["start"] + cut["rows"], cut["skip"]
        try:
            with self._opened() as file:
                size = _batch_rows(file, cut["groups"], _WIDE_ROWS, _WIDE_BYTES)
                for batch in file.iter_batches(size, row_groups=cut["groups"], columns=columns):
                    taken = batch.slice(min(ahead, batch.num_rows), last - number)
                    ahead -= min(ahead, batch.num_rows)
                    taken.validate(full=True)
                    if taken.num_rows:
                        yield Batch(pa.array(range(number, number + taken.num_rows), pa.int64()), taken, [])
                    number += taken.num_rows
                    if number >= last:
                        return
        except _PARQUET_ERRORS as error:
            raise OSError(f"{self.file.name}: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with open_file(self.file.url) as file:
            try:
                parquet = pq.ParquetFile(file, buffer_size=_BUFFER)
            except _PARQUET_ERRORS as error:
                raise SourceError(
                    f"{self.file.name}: not a readable Parquet file: {error}; fetch it again or leave it out"
                ) from None
            with parquet:
                yield parquet


def _whole_groups(sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Runs of row groups of about PART_BYTES each."""
    cuts: list[dict[str, Any]] = []
    first, room = 0, 0
    for group, (rows, size) in enumerate(sizes):
        if not cuts or room <= 0:
            cuts.append({"start": first, "rows": 0, "groups": [], "skip": 0})
            room = PART_BYTES
        cuts[-1]["rows"] += rows
        cuts[-1]["groups"].append(group)
        first, room = first + rows, room - size
    return cuts


def _slices(sizes: Sequence[tuple[int, int]], rows: int) -> list[dict[str, Any]]:
    """At most `rows` rows of one group each."""
    cuts: list[dict[str, Any]] = []
    first = 0
    for group, (count, _) in enumerate(sizes):
        for skip in range(0, count, rows):
            taken = min(rows, count - skip)
            cuts.append({"start": first + skip, "rows": taken, "groups": [group], "skip": skip})
        first += count
    return cuts


def _batch_rows(
    file: pq.ParquetFile, groups: Sequence[int], most: int = _BATCH_ROWS, most_bytes: int = _BATCH_BYTES
) -> int:
    """Rows that are decoded at once, by the mean row of the groups."""
    metadata = [file.metadata.row_group(group) for group in groups]
    rows, size = sum(group.num_rows for group in metadata), sum(group.total_byte_size for group in metadata)
    return max(1, min(most, int(most_bytes * rows // max(1, size))))
