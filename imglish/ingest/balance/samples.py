"""Samples: what balance has to know of each, from decisions, annotations and the measure `concepts`.

    rows = occurrence_rows(store, paths, unit=17, buckets=4)       # kept and merged occurrences of one landing file
    found = gather(rows)                                           # of one bucket: samples, their occurrences, counts

A sample has the source, language and bytes of its surviving occurrence. Its captions are those of all its occurrences
that no edit removes, equal ones once; each counts once for every concept that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imglish.digests import record_halves
from imglish.errors import StageError
from imglish.ingest.measures.concepts import CAPTION, CONCEPTS
from imglish.records import unpack_json
from imglish.storage import Store

_DECIDED = ("source", "row", "verdict", "sample_kind", "sample_id", "edits", "priority")
ROWS = pa.schema(
    [
        pa.field("bucket", pa.int32()),
        pa.field("unit", pa.int32()),  # number of the landing file
        pa.field("place", pa.int32()),  # row in it
        pa.field("sample_id", pa.binary()),
        pa.field("sample_kind", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("priority", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("row", pa.string()),
        pa.field("language", pa.string()),
        pa.field("bytes", pa.int64()),
        *CONCEPTS,
    ]
)
"""Occurrences across the seam."""
SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.binary()),
        pa.field("sample_kind", pa.string()),
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("concepts", pa.binary()),  # u32 LE, one for each caption and concept; null without captions
    ]
)
OCCURRENCES = pa.schema([pa.field("sample", pa.int32()), pa.field("unit", pa.int32()), pa.field("place", pa.int32())])
"""`sample` is a row of SAMPLES."""
COUNTS = pa.schema([pa.field("concept", pa.int64()), pa.field("captions", pa.int64())])
"""Captions of each concept, by its number, ascending."""


class Gathered(NamedTuple):
    """SAMPLES, OCCURRENCES and COUNTS of one bucket."""

    samples: pa.Table
    occurrences: pa.Table
    counts: pa.Table


def occurrence_rows(store: Store, paths: Sequence[str], unit: int, buckets: int) -> pa.Table:
    """ROWS of what the decisions at the first path keep or merge; annotations at the second, measures at the others.

    StageError when they do not have the same number of rows.
    """
    rows = store.read_table(paths[0], list(_DECIDED))
    for path, wanted in [(paths[1], ("language", "bytes")), *((path, CONCEPTS.names) for path in paths[2:])]:
        other = _columns(store, path, wanted)
        if other.num_rows != rows.num_rows:
            raise StageError(
                f"{path} has {other.num_rows} rows and {paths[0]} {rows.num_rows}; remove both, build again"
            )
        for name in other.column_names:
            rows = rows.append_column(name, other.column(name))
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows), pa.int32()))
    rows = rows.filter(pc.not_equal(rows.column("verdict"), "drop"))
    found = {name: rows.column(name) for name in ROWS.names if name in rows.column_names}
    if CONCEPTS.names[0] in found:
        found |= _remaining(rows)
    found["unit"] = pa.repeat(pa.scalar(unit, pa.int32()), rows.num_rows)
    found["bucket"] = pa.array(record_halves(rows.column("sample_id"))[0] % np.uint64(buckets), pa.int32())
    nothing = {field.name: pa.nulls(rows.num_rows, field.type) for field in CONCEPTS}
    return pa.table([(nothing | found)[field.name].cast(field.type) for field in ROWS], schema=ROWS)


def _columns(store: Store, path: str, wanted: Sequence[str]) -> pa.Table:
    """Those of the columns that a file has."""
    with store.open(path) as file:
        parquet = pq.ParquetFile(file)
        return parquet.read(columns=[name for name in wanted if name in parquet.schema_arrow.names])


def _remaining(rows: pa.Table) -> dict[str, pa.Array]:
    """The columns of CONCEPTS without captions that an edit removes whole."""
    columns = {name: rows.column(name).to_pylist() for name in CONCEPTS.names}
    edited = rows.column("edits").is_valid().to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(edited).tolist():
        if columns["concept_captions"][place] is not None:
            edits = unpack_json(rows.column("edits")[place].as_py())
            packed, ids = (columns[name][place] for name in CONCEPTS.names)
            for name, cell in zip(CONCEPTS.names, _without_removed(packed, ids, edits), strict=True):
                columns[name][place] = cell
    return {name: pa.array(values, pa.binary()) for name, values in columns.items()}


def _without_removed(packed: bytes, ids: bytes, edits: Sequence[Sequence[object]]) -> tuple[bytes, bytes]:
    captions, numbers = np.frombuffer(packed, CAPTION), np.frombuffer(ids, "<u4")
    gone = {edit[0] for edit in edits if edit[1] == 0 and edit[3] == "" and edit[2] == _bytes(captions, edit[0])}
    stays = np.array([number not in gone for number in range(len(captions))], bool)
    return captions[stays].tobytes(), numbers[np.repeat(stays, captions["concepts"])].tobytes()


def _bytes(captions: NDArray[np.void], number: object) -> int:
    return int(captions["bytes"][number]) if isinstance(number, int) and 0 <= number < len(captions) else -1


def gather(rows: pa.Table) -> Gathered:
    """Samples of one bucket's ROWS, in order of (id, kind), whatever the order of the rows."""
    keys = ("sample_id", "sample_kind", "verdict", "priority", "source", "row")  # "keep" before "merge"
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(key, "ascending") for key in keys])).combine_chunks()
    sample = _numbers(rows)
    first = np.flatnonzero(np.diff(sample, prepend=-1))
    samples = rows.take(pa.array(first)).select(SAMPLES.names[:-1])
    concepts, counts = _concepts(rows, sample, len(first))
    samples = samples.append_column(SAMPLES.field("concepts"), concepts)
    occurrences = pa.table(
        [pa.array(sample, pa.int32()), rows.column("unit"), rows.column("place")], schema=OCCURRENCES
    )
    return Gathered(samples.cast(SAMPLES), occurrences, counts)


def _numbers(rows: pa.Table) -> NDArray[np.int64]:
    """A running number for each (sample id, kind) of sorted rows."""
    if not rows.num_rows:
        return np.zeros(0, np.int64)
    columns = [rows.column(name).combine_chunks() for name in ("sample_id", "sample_kind")]
    same = pc.and_(*(pc.equal(column[1:], column[:-1]) for column in columns)).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(~same)]).astype(np.int64)


def _concepts(rows: pa.Table, sample: NDArray[np.int64], samples: int) -> tuple[pa.Array, pa.Table]:
    """The column `concepts` of SAMPLES, and COUNTS."""
    cells = rows.column("concept_captions").to_pylist()
    captions = np.frombuffer(b"".join(cell for cell in cells if cell), CAPTION)
    ids = np.frombuffer(b"".join(cell for cell in rows.column("concept_ids").to_pylist() if cell), "<u4")
    owner = np.repeat(sample, [len(cell or b"") // CAPTION.itemsize for cell in cells])
    order = np.lexsort((captions["hash"], owner))
    twice = np.zeros(len(captions), bool)
    twice[order[1:]] = (np.diff(owner[order]) == 0) & (captions["hash"][order[1:]] == captions["hash"][order[:-1]])
    wanted = np.repeat(~twice, captions["concepts"])
    ids, owners = ids[wanted], np.repeat(owner, captions["concepts"])[wanted]
    numbers, counted = np.unique(ids, return_counts=True)
    counts = pa.table([numbers.astype(np.int64), counted.astype(np.int64)], schema=COUNTS)
    has = np.zeros(samples, bool)
    has[owner] = True
    edges = np.searchsorted(owners, np.arange(samples + 1))  # rows are sorted by sample, so owners ascend
    packed = [ids[edges[n] : edges[n + 1]].tobytes() if has[n] else None for n in range(samples)]
    return pa.array(packed, pa.binary()), counts
