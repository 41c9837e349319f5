"""The reading half of pack: what each shard will hold (light), and its rows (heavy).

`DigestRows` reads members, images and documents of one landing file, never its payloads, and writes one (shard, row
digest) per row; `pack_units` makes one digest a shard of them. `LoadRows` reads the same tables for the shards of one
round, makes the stored JPEGs again from landing and refuses one that differs from what the codes were made from.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imglish.errors import ImageError, StageError
from imglish.recipe import StoredConfig
from imglish.records import DOCUMENTS, IMAGES, MEMBERS
from imglish.shards.images import store_image
from imglish.shards.placement import Placement
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Store

PARTS = {"members": MEMBERS, "images": IMAGES, "documents": DOCUMENTS}
_CARRIED = ("source", "row", "merged", "priority", "url", "licence", "language", "captions", "caption_ids")

ROWS = pa.schema(
    [
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("part", pa.string(), nullable=False),  # a key of PARTS
        pa.field("record_id", pa.binary(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        *(MEMBERS.field(name).with_nullable(True) for name in _CARRIED),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("jpeg", pa.binary()),
        pa.field("views", pa.binary()),
        pa.field("codes", pa.binary()),
        pa.field("ids", pa.binary()),
    ]
)
"""Rows across the seam: occurrences (members), stored images and documents."""


@dataclass(frozen=True)
class DigestRows:
    """A task: (shard, digest) of every row that one landing file gives to shards.

    `notes["shards"]` says which shards those are, as a bitmap in hex: see `shards_of`.
    """

    store: Store
    folder: str
    placement: Placement

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, self.folder, unit.stage, unit.id)
        table = digest_rows(self.placement, {part: self.store.read_table(unit.spec[part]) for part in PARTS})
        present = np.zeros(len(self.placement), bool)
        present[table.column("shard").to_numpy()] = True
        output = self.store.put_table(f"{self.folder}/{unit.stage}", table)
        return commit({"rows": output}, {"rows": table.num_rows}, {"shards": np.packbits(present).tobytes().hex()})


def digest_rows(placement: Placement, tables: Mapping[str, pa.Table]) -> pa.Table:
    """(shard, digest) of every row of the tables, by part."""
    shards = [_ordinals(placement, part, rows) for part, rows in tables.items()]
    digests = [digest for part, rows in tables.items() for digest in _row_digests(part, rows)]
    columns = {"shard": pa.array(np.concatenate(shards), pa.int32()), "digest": pa.array(digests, pa.binary(16))}
    return pa.table(columns)


def shards_of(receipt: Receipt) -> NDArray[np.bool_]:
    """Whether a landing file gives some row to each shard, bool [shards, rounded up to eight]."""
    bits = np.frombuffer(bytes.fromhex(receipt.notes["shards"]), np.uint8)
    return np.unpackbits(bits).astype(bool)


@dataclass(frozen=True)
class LoadRows:
    """A load: the rows that some landing files and their tables give to `shards`."""

    store: Store
    placement: Placement
    stored: StoredConfig
    shards: Sequence[int]

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        return pa.concat_tables([self._part(part, paths) for paths in piece["files"] for part in PARTS])

    def _part(self, part: str, paths: Mapping[str, str]) -> pa.Table:
        rows = self.store.read_table(paths[part])
        shards = _ordinals(self.placement, part, rows)
        wanted = np.isin(shards, np.asarray(self.shards, dtype=np.int32))
        rows = rows if wanted.all() else rows.filter(pa.array(wanted))
        extra: dict[str, Any] = {"bucket": shards[wanted], "part": [part] * rows.num_rows}
        if part == "images":
            extra["jpeg"] = self._jpegs(paths["landing"], rows)
        if part == "documents":
            extra["kind"] = ["text"] * rows.num_rows
        columns = [
            pa.array(extra[field.name], field.type)
            if field.name in extra
            else rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in ROWS
        ]
        return pa.table(columns, schema=ROWS)

    def _jpegs(self, landing: str, images: pa.Table) -> list[bytes]:
        """Stored JPEGs of the rows of an images table."""
        ids = images.column("record_id").to_pylist()
        wanted = dict(zip(ids, images.column("stored_sha256").to_pylist(), strict=True))
        made: dict[bytes, bytes] = {}
        if wanted:
            with self.store.open(landing) as file:
                for record_id, payload in _payloads(pq.ParquetFile(file), sorted(wanted)):
                    if record_id not in made:
                        made[record_id] = self._jpeg(record_id, payload, wanted[record_id], landing)
        absent = next((record_id for record_id in ids if record_id not in made), None)
        if absent is not None:
            raise StageError(f"pack: record {absent.hex()} has codes but no payload in {landing}; run tokenize again")
        return [made[record_id] for record_id in ids]

    def _jpeg(self, record_id: bytes, payload: bytes, sha256: bytes, landing: str) -> bytes:
        try:
            jpeg = store_image(payload, self.stored).jpeg
        except ImageError as error:
            raise StageError(f"pack: record {record_id.hex()} of {landing} was encoded but now is {error}") from error
        found = hashlib.sha256(jpeg).digest()
        if found != sha256:
            raise StageError(
                f"pack: record {record_id.hex()} of {landing}: stored image is {found.hex()[:16]}... but its codes "
                f"were made from {sha256.hex()[:16]}...; image libraries changed or differ between "
                "workers; tokenize again"
            )
        return jpeg


def _ordinals(placement: Placement, part: str, rows: pa.Table) -> Any:
    kinds = ["text"] * rows.num_rows if part == "documents" else rows.column("kind")
    return placement.ordinals(rows.column("split"), kinds, rows.column("record_id"))


def _payloads(file: pq.ParquetFile, ids: Sequence[bytes]) -> Any:
    """(record id, payload) of the rows of landing with these ids, by row groups that can hold them."""
    wanted = pa.array(ids, pa.binary())
    column = file.schema_arrow.get_field_index("record_id")
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max and not _overlaps(ids, statistics.min, statistics.max):
            continue
        for batch in file.iter_batches(256, row_groups=[group], columns=["record_id", "payload"]):
            hits = batch.filter(pc.is_in(batch.column("record_id"), value_set=wanted))
            yield from zip(hits.column("record_id").to_pylist(), hits.column("payload").to_pylist(), strict=True)


def _overlaps(ids: Sequence[bytes], low: bytes, high: bytes) -> bool:
    first = bisect.bisect_left(ids, low)
    return first < len(ids) and ids[first] <= high


def _row_digests(part: str, rows: pa.Table) -> list[bytes]:
    """BLAKE2b-128 of every row: part, then per column in name order a tag, a length and the value.

    The bytes of a row are joined by Arrow, which is four times as fast as going through its cells in Python.
    """
    cells = [cell for name in sorted(PARTS[part].names) for cell in _cells(rows.column(name).combine_chunks())]
    joined = pc.binary_join_element_wise(pa.scalar(part.encode(), pa.binary()), *cells, b"")
    return [hashlib.blake2b(row, digest_size=16).digest() for row in joined.to_pylist()]


def _cells(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Tag with length, and value, of every cell: "-" and nothing for null, "+", 8 bytes and its bytes otherwise."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = pc.if_else(column, "True", "False")
    elif not (pa.types.is_binary(kind) or pa.types.is_string(kind)):
        column = column.cast(pa.string())
    values = pc.fill_null(column.cast(pa.binary()), b"")
    tags = np.zeros(len(values), np.dtype([("tag", "S1"), ("length", "<i8")]))
    tags["tag"], tags["length"] = b"+", pc.binary_length(values).to_numpy()
    lengths = pa.Array.from_buffers(pa.binary(9), len(values), [None, pa.py_buffer(tags.tobytes())])
    return pc.if_else(column.is_valid(), lengths.cast(pa.binary()), b"-"), values
