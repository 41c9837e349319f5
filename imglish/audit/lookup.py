"""Finding single rows of large tables, as few bytes as their order allows.

    rows = find_rows(store, "tables/decide/ab.parquet", "record_id", Between(low, high), ["source", "row", "verdict"])
    rows.column("place")                                # their numbers in the file

Of every row group the statistics are looked at first, then the one column that is asked about, and only where that has
a hit the other columns. Tables that decide writes are sorted by record id, so an id costs one column of one group; a
row reference or a URL costs that column of the files of its source.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imglish.errors import ManifestError, StorageError
from imglish.storage import Store, read_rows

REQUESTS = 16
"""Files behind a URL that are read at once."""
T = TypeVar("T")
R = TypeVar("R")


class Test(Protocol):
    """What is asked of a column: of a row group's smallest and largest value, and of its values."""

    def may(self, low: Any, high: Any) -> bool: ...

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray: ...


class OneOf:
    """Equal to one of some strings, or binaries."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = sorted(set(values))

    def may(self, low: Any, high: Any) -> bool:
        return bisect.bisect_left(self.values, low) < bisect.bisect_right(self.values, high)

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.is_in(values, value_set=pa.array(self.values, values.type))


@dataclass(frozen=True)
class Between:
    """From `low` to `high`, both included."""

    low: Any
    high: Any

    def may(self, low: Any, high: Any) -> bool:
        return bool(self.low <= high and low <= self.high)

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.and_(pc.greater_equal(values, self.low), pc.less_equal(values, self.high))


@dataclass(frozen=True)
class Like:
    """Matches a pattern in which * stands for any run of characters and ? for one."""

    pattern: str

    def may(self, low: Any, high: Any) -> bool:
        return True

    def mask(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        regex = re.escape(self.pattern).replace(r"\*", ".*").replace(r"\?", ".")
        return pc.match_substring_regex(values, f"^{regex}$")


def find_rows(store: Store, path: str, column: str, test: Test, columns: Sequence[str]) -> pa.Table:
    """The rows whose `column` passes, with `columns` and `place` (row of the file); ManifestError for a lost file."""
    try:
        with store.open(path) as file:
            return pa.concat_tables(_found(pq.ParquetFile(file), column, test, columns))
    except (OSError, StorageError, pa.ArrowInvalid) as error:
        raise ManifestError(f"{store.url(path)} cannot be read ({error}); run 'imglish build' once more") from None


def _found(parquet: pq.ParquetFile, column: str, test: Test, columns: Sequence[str]) -> Iterator[pa.Table]:
    number, start = parquet.schema_arrow.names.index(column), 0
    yield _placed(parquet.schema_arrow.empty_table().select(list(columns)), np.zeros(0, np.int64))
    for group in range(parquet.num_row_groups):
        facts = parquet.metadata.row_group(group)
        first, start = start, start + facts.num_rows
        statistics = facts.column(number).statistics
        if statistics is not None and statistics.has_min_max and not test.may(statistics.min, statistics.max):
            continue
        values = parquet.read_row_group(group, columns=[column]).column(0)
        hits = np.flatnonzero(pc.fill_null(test.mask(values), False).to_numpy())
        if len(hits):
            yield _placed(parquet.read_row_group(group, columns=list(columns)).take(pa.array(hits)), hits + first)


def _placed(rows: pa.Table, places: Any) -> pa.Table:
    return rows.append_column("place", pa.array(places, pa.int64()))


def row_at(store: Store, path: str, place: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """One row by its number; all columns when none are named."""
    if columns is None:
        with store.open(path) as file:
            columns = pq.read_schema(file).names
    (rows,) = read_rows(store, path, np.array([place]), columns)
    found: dict[str, Any] = rows.to_pylist()[0]
    return found


def each(store: Store, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of every item, in order; many at once when the store is behind a URL."""
    if store.local or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(work, items))
