"""URL lists before they are fetched: rows without payloads, brought together by host.

Two stages, so that what a host is asked for is known in one place (docs/adr/0013):

- `list` (map, part of a source) reads the rows of a URL list into a table `LISTED`, with the place of each;
- `hosts` (group, bucket of places) sorts them and cuts them into units: files of rows, one row group a unit, and a
  table `UNITS` that says where each lies.

`listed(...)` runs both and returns the units of all sources. Nothing here sends a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imglish.digests import table_digest
from imglish.ingest.addresses import host_of
from imglish.ingest.hosts import bucket_bits, bucket_of, cut, place_of, places_of
from imglish.ingest.landing import FOLDER, Hashes, hashes, refuse_repeats
from imglish.ingest.sources import reader
from imglish.ingest.sources.base import TO_FETCH, Part, Reader, Row
from imglish.ingest.sources.urls import UrlList
from imglish.recipe import SourceConfig
from imglish.records import pack_json, table, unpack_json
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipt, run_group, run_map
from imglish.storage import Output, Store

VERSION = 1
LIST_ROWS = 1 << 15
"""Rows of a list that are held as objects and written at once, about 50 MB with all that is made of them."""
BUCKET_ROWS = 1 << 16
"""Rows in one bucket of hosts, about: 15 MB, a second of work, and at most as many robots.txt."""

LISTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("captions", pa.binary()),  # JSON list
        pa.field("licence", pa.string()),
        pa.field("expected_sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)

UNITS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),  # places [first, last]
        pa.field("last", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),  # of the rows
        pa.field("group", pa.int32(), nullable=False),  # row group in the bucket's file
        pa.field("piece", pa.int32(), nullable=False),  # of the bucket; sources share it
        pa.field("part", pa.int32(), nullable=False),  # of a host with several pieces
        pa.field("parts", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Listed:
    """One unit of rows to fetch: a row of UNITS, the file that it lies in, and its bucket."""

    source: str
    first: int
    last: int
    rows: int
    digest: str
    group: int
    piece: int
    part: int
    parts: int
    path: str
    bucket: int

    def read(self, store: Store) -> list[Row]:
        """The rows, in order of their places."""
        with store.open(self.path) as file:
            found = pq.ParquetFile(file).read_row_group(self.group).to_pylist()
        return [_row(values) for values in found]


def listed(
    store: Store,
    engine: Engine,
    units: Sequence[Unit],
    unit_rows: int,
    progress: Progress | None = None,
) -> tuple[list[Listed], list[Output]]:
    """The fetch units of all lists, by bucket and piece, and each bucket's file of rows."""
    receipts = run_map(store, FOLDER, engine, ListTask(store), units, progress)
    tables = [receipt.outputs[name] for receipt in receipts for name in sorted(receipt.outputs)]
    total = sum(output.rows for output in tables)
    if not total:
        return [], []
    bits = bucket_bits(total, BUCKET_ROWS)
    params = {"unit_rows": unit_rows, "bits": bits}
    unit = Unit("hosts", VERSION, params, [output.sha256 for output in tables])
    pieces = [{"path": output.path} for output in tables if output.rows]
    load, reduce = _Load(store, bits), _Cut(store, unit_rows, bits)
    grouped = run_group(store, FOLDER, engine, unit, load, pieces, range(1 << bits), reduce, progress).outputs
    files = [grouped[f"{bucket:06d}/rows"] for bucket in range(1 << bits)]
    found = []
    for bucket, file in enumerate(files):
        rows = store.read_table(grouped[f"{bucket:06d}/units"].path).to_pylist()
        found += [Listed(**values, path=file.path, bucket=bucket) for values in rows]
    return found, files


def list_unit(source: SourceConfig, part: Part, content: Mapping[str, Any], version: int | str, root: str) -> Unit:
    """The unit that lists one part of a source; `content` is what of its configuration changes rows."""
    params = {"source": content, "reader": version, "part": part.name, "fingerprint": list(part.fingerprint)}
    spec = {"source": source, "part": part, "root": root}
    return Unit("list", VERSION, params | {"spec": dict(part.spec)}, [], spec)


@dataclass(frozen=True)
class ListTask:
    """Lists one part of a source."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, "list", unit.id)
        source: SourceConfig = unit.spec["source"]
        found = reader(source, unit.spec["root"])
        outputs, names = [], []
        for rows, named in listed_tables(found, source, unit.spec["part"]):
            outputs.append(self.store.put_table(f"{FOLDER}/lists", rows))
            names.append(named)
        refuse_repeats(self.store, source, outputs, names)
        every = {f"rows/{number:06d}": output for number, output in enumerate(outputs)}
        return commit(every, {"occurrences": sum(output.rows for output in outputs)})


def listed_tables(found: Reader, source: SourceConfig, part: Part) -> Iterator[tuple[pa.Table, Hashes]]:
    """The rows of a part as LISTED, table by table, and hashes of their names, none of rows that are numbered.

    A reader that has `tables` gives rows by columns, 1.6 microseconds each instead of ten to sixteen; those behind
    the point where it stops are read one by one.
    """
    taken = 0
    if isinstance(found, UrlList):
        for plain, odd in found.tables(source, part):
            yield pa.concat_tables([_with_places(source.name, plain), listed_table(source.name, odd)]), hashes([])
            taken += plain.num_rows + len(odd)
    if taken == part.spec.get("rows"):
        return
    rows = islice(found.rows(source, part), taken, None)
    while chunk := list(islice(rows, LIST_ROWS)):
        yield listed_table(source.name, chunk), hashes([row.row for row in chunk])


def _with_places(source: str, rows: pa.Table) -> pa.Table:
    """Plain rows as LISTED."""
    urls = rows.column("url").combine_chunks()
    places = places_of(urls)
    for number in np.flatnonzero(places < 0).tolist():
        places[number] = _place(source, rows.column("row")[number].as_py(), urls[number].as_py())
    more = {"source": pa.repeat(source, rows.num_rows), "place": pa.array(places)}
    return pa.table([more[name] if name in more else rows.column(name) for name in LISTED.names], schema=LISTED)


def _place(source: str, row: str, url: str) -> int:
    host = host_of(url)
    return place_of(host, url if host else f"{source}\0{row}")


def listed_table(source: str, rows: Iterable[Row]) -> pa.Table:
    """Rows of a reader as LISTED."""
    return table([_values(source, row) for row in rows], LISTED)


def _values(source: str, row: Row) -> dict[str, Any]:
    return {
        "source": source,
        "row": row.row,
        "place": _place(source, row.row, row.url if row.status == TO_FETCH and row.url else ""),
        "url": row.url,
        "captions": None if row.captions is None else pack_json(list(row.captions)),
        "licence": row.licence,
        "expected_sha256": row.expected_sha256,
        "status": row.status,
        "detail": row.detail,
    }


def _row(values: Mapping[str, Any]) -> Row:
    names = ("row", "url", "licence", "expected_sha256", "status", "detail")
    return Row(captions=unpack_json(values["captions"]), **{name: values[name] for name in names})


@dataclass(frozen=True)
class _Load:
    """Loads listed rows with their bucket."""

    store: Store
    bits: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = self.store.read_table(piece["path"])
        bucket = bucket_of(rows.column("place").to_numpy(), self.bits)
        return rows.append_column(pa.field("bucket", pa.int32()), pa.array(bucket))


@dataclass(frozen=True)
class _Cut:
    """Sorts the rows of one bucket and cuts them into units."""

    store: Store
    unit_rows: int
    bits: int
    stage: str = "hosts"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.drop_columns(["bucket"])
        keys = [(key, "ascending") for key in ("place", "source", "row")]
        rows = rows.take(pc.sort_indices(rows, sort_keys=keys)).combine_chunks()
        params = {"unit_rows": self.unit_rows, "bits": self.bits, "bucket": bucket}
        unit = Unit("hosts-bucket", VERSION, params, [table_digest(rows)])  # in the order of its keys
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        units: list[dict[str, Any]] = []
        groups: list[pa.Table] = []
        for piece, what in enumerate(cut(rows.column("place").to_numpy(), self.unit_rows, self.bits, bucket)):
            taken = _taken(rows, what.rows)
            span = {"first": what.first, "last": what.last - 1, "part": what.part, "parts": what.parts}
            sources = sorted(pc.unique(taken.column("source")).to_pylist())
            for source in sources:
                mine = taken if len(sources) == 1 else taken.filter(pc.equal(taken.column("source"), source))
                digest = table_digest(mine, ["row"])
                place = {"source": source, "rows": mine.num_rows, "digest": digest, "group": len(groups)}
                units.append(place | span | {"piece": piece})
                groups.append(mine)
        file = self.store.put(f"{FOLDER}/hosts", ".parquet", lambda sink: _write(groups, sink))
        index = self.store.put_table(f"{FOLDER}/units", table(units, UNITS))
        return commit({"rows": file, "units": index}, {"units": len(units)}, {"bucket": bucket})


def _taken(rows: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
    """Rows by their ascending numbers, without a copy where they follow each other."""
    first, last = int(numbers[0]), int(numbers[-1])
    return rows.slice(first, len(numbers)) if last - first == len(numbers) - 1 else rows.take(pa.array(numbers))


def _write(groups: Sequence[pa.Table], sink: BinaryIO) -> int:
    """One row group a unit."""
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(sink, LISTED, **options) as writer:  # half a unit's time is the overhead of its columns
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    return sum(group.num_rows for group in groups)
