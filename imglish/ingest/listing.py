"""URL lists before they are fetched: rows without payloads, brought together by host.

Two stages, so that what a host is asked for is known in one place (docs/adr/0013):

- `list` (map, part of a source) reads the rows of a URL list into a table `LISTED`, with the place of each;
- `hosts` (group, bucket of places) sorts them and cuts them into units: files of rows, one row group a unit, and a
  table `UNITS` that says where each lies. A host with more rows than a bucket has several.

`listed(...)` runs both and returns the units of all sources. Nothing here sends a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imglish.digests import table_digest
from imglish.ingest.addresses import host_of
from imglish.ingest.hosts import URL_BITS, Buckets, Places, place_of, places_of
from imglish.ingest.landing import FOLDER, Hashes, hashes, refuse_repeats
from imglish.ingest.sources import reader
from imglish.ingest.sources.base import TO_FETCH, Part, Reader, Row
from imglish.ingest.sources.urls import CHUNK_ROWS, UrlList
from imglish.recipe import SourceConfig
from imglish.records import pack_json, table, unpack_json
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipt, run_group, run_map
from imglish.storage import Output, Store

VERSION = 2
BUCKET_ROWS = 1 << 16
"""Rows in one bucket of hosts, about: 15 MB, a second of work, and at most as many robots.txt."""
PIECE_ROWS = 200_000
"""Rows that are loaded at once: 50 MB; a table of its own for each small list would make more cells than rows."""
COUNTED_SHARE, COUNTED_ROWS = 1 / 2048, 64
"""A part of a list counts the rows of those hosts that have this share of it and at least so many. What of a host is
not counted, in each part less than the larger of both, lies in a bucket beside that bucket's own rows."""

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

_DIFFERENT = ("row", "place", "url", "captions")
"""Columns in which no two cells are alike."""

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
    """One unit of rows to fetch: a row of UNITS, the file that it lies in, and the group of its hosts.

    `piece`, `part` and `parts` are those of the group, which several buckets may make up.
    """

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
    hosts: int

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
) -> tuple[list[Listed], list[list[Output]]]:
    """The fetch units of all lists, by group of hosts and piece, and each group's files of rows."""
    receipts = run_map(store, FOLDER, engine, ListTask(store), units, progress)
    tables = [receipt.outputs[name] for receipt in receipts for name in sorted(receipt.outputs)]
    total = sum(output.rows for output in tables)
    if not total:
        return [], []
    counted: Counter[int] = Counter()
    for receipt in receipts:
        counted.update(dict(receipt.notes["hosts"]))
    buckets = Buckets.plan(total, counted, BUCKET_ROWS, unit_rows)
    unit = Unit("hosts", VERSION, _params(buckets, unit_rows), [output.sha256 for output in tables])
    groups = buckets.groups()
    load, reduce, wanted = _Load(store, buckets), _Cut(store, unit_rows, buckets), range(groups[-1].stop)
    grouped = run_group(store, FOLDER, engine, unit, load, _pieces(tables), wanted, reduce, progress).outputs
    files = [[grouped[f"{bucket:06d}/rows"] for bucket in group] for group in groups]
    found: list[Listed] = []
    for number, group in enumerate(groups):
        indexes = [store.read_table(grouped[f"{bucket:06d}/units"].path).to_pylist() for bucket in group]
        found += _numbered(number, indexes, [file.path for file in files[number]])
    return found, files


def _params(buckets: Buckets, unit_rows: int) -> dict[str, Any]:
    return {"unit_rows": unit_rows, "bits": buckets.bits, "large": [list(host) for host in buckets.large]}


def _pieces(tables: Sequence[Output]) -> list[dict[str, Any]]:
    """Consecutive tables that are loaded together."""
    pieces: list[dict[str, Any]] = []
    room = 0
    for output in tables:
        if output.rows > room or not pieces:
            pieces.append({"paths": []})
            room = PIECE_ROWS
        pieces[-1]["paths"].append(output.path)
        room -= output.rows
    return pieces


def _numbered(group: int, indexes: Sequence[Sequence[Mapping[str, Any]]], paths: Sequence[str]) -> list[Listed]:
    """The units of a group, from the index of each of its buckets; those of one host are numbered through."""
    found: list[Listed] = []
    pieces = 0
    for rows, path in zip(indexes, paths, strict=True):
        found += [Listed(**{**row, "piece": row["piece"] + pieces}, path=path, hosts=group) for row in rows]
        pieces = found[-1].piece + 1 if found else 0
    if len(paths) == 1:
        return found
    return [replace(unit, part=unit.piece, parts=pieces) for unit in found]


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
        outputs, names, hosts = [], [], []
        for rows, named in listed_tables(found, source, unit.spec["part"]):
            outputs.append(self.store.put_table(f"{FOLDER}/lists", rows, bulky=_DIFFERENT))
            names.append(named)
            hosts.append(rows.column("place").to_numpy() >> URL_BITS)
        refuse_repeats(self.store, source, outputs, names)
        every = {f"rows/{number:06d}": output for number, output in enumerate(outputs)}
        counts = {"occurrences": sum(output.rows for output in outputs)}
        return commit(every, counts, {"hosts": common_hosts(hosts)})


def common_hosts(tables: Sequence[Places]) -> list[list[int]]:
    """[host, rows] of the hosts with a large share of a part, ascending; given as the host of every row."""
    rows = sum(map(len, tables))
    counts: Counter[int] = Counter()
    for hosts in tables:
        counts.update(dict(zip(*(found.tolist() for found in np.unique(hosts, return_counts=True)), strict=True)))
    return sorted([host, count] for host, count in counts.items() if count >= max(COUNTED_ROWS, COUNTED_SHARE * rows))


def listed_tables(found: Reader, source: SourceConfig, part: Part) -> Iterator[tuple[pa.Table, Hashes]]:
    """The rows of a part as LISTED, table by table, and hashes of their names, none of rows that are numbered.

    A reader that has `tables` gives rows by columns, 2 microseconds each instead of ten to sixteen.
    """
    if isinstance(found, UrlList):
        for plain, others in found.tables(source, part):
            yield pa.concat_tables([_with_places(source.name, plain), listed_table(source.name, others)]), hashes([])
        return
    rows = found.rows(source, part)
    while chunk := list(islice(rows, CHUNK_ROWS)):
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
    buckets: Buckets

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = pa.concat_tables([self.store.read_table(path) for path in piece["paths"]])
        bucket = self.buckets.of(rows.column("place").to_numpy())
        return rows.append_column(pa.field("bucket", pa.int32()), pa.array(bucket))


@dataclass(frozen=True)
class _Cut:
    """Sorts the rows of one bucket and cuts them into units; its own unit is known by those."""

    store: Store
    unit_rows: int
    buckets: Buckets
    stage: str = "hosts"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.drop_columns(["bucket"])
        keys = [(key, "ascending") for key in ("place", "source", "row")]
        rows = rows.take(pc.sort_indices(rows, sort_keys=keys)).combine_chunks()
        units, groups = self._units(bucket, rows)
        params = _params(self.buckets, self.unit_rows) | {"bucket": bucket}
        unit = Unit("hosts-bucket", VERSION, params, [values["digest"] for values in units])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        file = self.store.put(f"{FOLDER}/hosts", ".parquet", lambda sink: _write(groups, sink))
        index = self.store.put_table(f"{FOLDER}/units", table(units, UNITS))
        return commit({"rows": file, "units": index}, {"units": len(units)}, {"bucket": bucket})

    def _units(self, bucket: int, rows: pa.Table) -> tuple[list[dict[str, Any]], list[pa.Table]]:
        """The units of sorted rows as values of UNITS, and the rows of each."""
        units: list[dict[str, Any]] = []
        groups: list[pa.Table] = []
        pieces = self.buckets.cut(bucket, rows.column("place").to_numpy(), self.unit_rows)
        for piece, what in enumerate(pieces):
            taken = _taken(rows, what.rows)
            span = {"first": what.first, "last": what.last - 1, "part": what.part, "parts": what.parts}
            sources = sorted(pc.unique(taken.column("source")).to_pylist())
            for source in sources:
                mine = taken if len(sources) == 1 else taken.filter(pc.equal(taken.column("source"), source))
                digest = table_digest(mine, ["row"])
                place = {"source": source, "rows": mine.num_rows, "digest": digest, "group": len(groups)}
                units.append(place | span | {"piece": piece})
                groups.append(mine)
        return units, groups


def _taken(rows: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
    """Rows by their ascending numbers, without a copy where they follow each other."""
    first, last = int(numbers[0]), int(numbers[-1])
    return rows.slice(first, len(numbers)) if last - first == len(numbers) - 1 else rows.take(pa.array(numbers))


def _write(groups: Sequence[pa.Table], sink: BinaryIO) -> int:
    """One row group a unit. Its nine short columns take zstd 0.4 ms, LZ4 0.15 (33 bytes a row instead of 19)."""
    options = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(sink, LISTED, **options) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    return sum(group.num_rows for group in groups)
