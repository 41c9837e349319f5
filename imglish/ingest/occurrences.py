"""Rows of sources as rows of landing: checked, with ids and digests, in landing's order.

landed = [occurrence(source, row) for row in rows]
put_landing(store, "landing", landed)
landing_counts(landed)                    # {"occurrences": 3, "bytes": 812, "status/ok": 2, "status/empty": 1}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.digests import record_id
from imglish.errors import SourceError
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import printable
from imglish.recipe import SourceConfig
from imglish.records import LANDING, pack_json, table
from imglish.storage import PARQUET_ROW_GROUP_BYTES, Output, Store

_BATCH_BYTES = 512 << 20  # of payloads in one chunk of a table; a chunk's binary column holds under 2 GB


def landing_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Landing rows in order of (record_id, source, row), null ids last, in chunks that Arrow can address."""
    ordered = sorted(rows, key=lambda row: (row["record_id"] is None, row["record_id"], row["source"], row["row"]))
    chunks: list[list[dict[str, Any]]] = [[]]
    size = 0
    for row in ordered:
        size += row["bytes"] or 0
        if size > _BATCH_BYTES and chunks[-1]:
            chunks.append([])
            size = row["bytes"] or 0
        chunks[-1].append(row)
    return pa.concat_tables([table(chunk, LANDING) for chunk in chunks])


def put_landing(store: Store, folder: str, landed: Sequence[dict[str, Any]]) -> Output:
    """Commit rows of landing in their order; pictures are compressed already, so only texts and the rest are."""
    rows = landing_table(landed)
    packed = dict.fromkeys(LANDING.names, "zstd")
    if any(row["kind"] != "text" for row in landed):
        packed["payload"] = "none"
    size = max(1, rows.nbytes // max(1, rows.num_rows))
    group = max(1, min(1 << 20, PARQUET_ROW_GROUP_BYTES // size))

    def write(file: BinaryIO) -> int:
        pq.write_table(rows, file, row_group_size=group, compression=packed)
        return int(rows.num_rows)

    return store.put(folder, ".parquet", write)


def landing_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """occurrences, bytes of payload, and the number of rows of each status as `status/<word>`."""
    statuses = Counter(f"status/{row['status']}" for row in rows)
    return {"occurrences": len(rows), "bytes": sum(row["bytes"] or 0 for row in rows), **dict(sorted(statuses.items()))}


def occurrence(source: SourceConfig, row: Row) -> dict[str, Any]:
    """One row of landing; a payload only where the status is "ok"."""
    row = check_row(source, row)
    facts: dict[str, Any] = {
        "source": source.name,
        "row": row.row,
        "kind": source.kind,
        "record_id": None,
        "captions": None if row.captions is None else pack_json(list(row.captions)),
        "url": row.url,
        "licence": row.licence or source.licence,
        "bytes": None,
        "status": row.status,
        "detail": row.detail,
        "attempts": row.attempts,
        "receipt": None if row.receipt is None else pack_json(dict(row.receipt)),
    }
    if row.payload is not None:
        facts["payload"] = row.payload
        facts["record_id"] = record_id("text" if source.kind == "text" else "image", row.payload)
        facts["bytes"] = len(row.payload)
        facts["sha256"] = hashlib.sha256(row.payload).digest()
    return facts


def check_row(source: SourceConfig, row: Row) -> Row:
    """The row with clean captions, or with the status that says why it is no use to its kind.

    Payload and captions stay only where the status is "ok".
    """
    if row.status == "ok" and not row.payload:
        row = replace(row, status="empty", detail=row.detail or "no bytes")
    if row.status == "ok" and source.kind == "text":
        row = _check_text(row)
    if row.status == "ok" and source.kind == "pair":
        row = check_captions(row)
    if row.status != "ok":
        return replace(row, payload=None, captions=None, detail=None if row.detail is None else printable(row.detail))
    return row if source.kind == "pair" else replace(row, captions=None)


def _check_text(row: Row) -> Row:
    payload = row.payload or b""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        return replace(row, status="not_utf8", detail=f"byte {payload[error.start]:#04x} at offset {error.start}")
    return row if text.strip() else replace(row, status="empty", detail=f"{len(payload)} bytes of white space")


def check_captions(row: Row) -> Row:
    """Captions without NUL characters and without those that are empty or not encodable; none left is a status."""
    good: list[str] = []
    bad = 0
    captions: Sequence[Any] = row.captions or ()
    for caption in captions:
        if not isinstance(caption, str):
            return replace(row, status="bad_row", detail=f"a caption is {type(caption).__name__}, not text")
        clean = caption.replace("\0", "")
        if printable(clean) != clean:
            bad += 1
        elif clean.strip():
            good.append(clean)
    if good:
        return replace(row, captions=good)
    if bad:
        return replace(row, status="not_utf8", detail=f"{bad} captions with half surrogate pairs")
    return replace(row, status="no_caption", detail=f"{len(captions)} captions, none with a character")


def refuse_repeats(source: SourceConfig, part: Part, rows: Sequence[Row]) -> None:
    """SourceError when two rows of a part have one name."""
    repeated = [name for name, count in Counter(row.row for row in rows).items() if count > 1]
    if repeated:
        raise SourceError(
            f"source {source.name!r}, part {part.name}: row {repeated[0]!r} comes more than once; "
            f"the reader of format {source.format!r} must name rows uniquely"
        )
