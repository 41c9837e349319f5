"""Digests that do not depend on how a thing is laid out.

Three kinds, one per question:

- `record_id`: which content is this? BLAKE2b-128 of ("image" or "text", bytes); hostile input rules
  out faster non-cryptographic hashes.
- `json_digest`: which parameters are these? SHA-256 of RFC 8785 canonical JSON.
- `table_digest`: which rows are these? SHA-256 over a fixed encoding of the values in key order, so
  Parquet versions, chunking and row order do not move it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rfc8785
from numpy.typing import NDArray


def record_key(text: str) -> str:
    """A record id as people write it, in lower case; ValueError when it is none."""
    try:
        if len(bytes.fromhex(text)) == 16:
            return text.lower()
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no record id: 32 hex digits, as in the member names of a shard")


def record_id(content: str, payload: bytes) -> bytes:
    """16-byte id of a payload; `content` is "image" (pairs too) or "text"."""
    if content not in ("image", "text"):
        raise ValueError(f"content must be 'image' or 'text', not {content!r}")
    digest = hashlib.blake2b(digest_size=16)
    digest.update(content.encode() + b"\0")
    digest.update(payload)
    return digest.digest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value: sorted keys, no blanks, one spelling per number."""
    if _spelled_alike(value):
        with suppress(UnicodeEncodeError):  # a lone surrogate, which rfc8785 refuses by name
            return _ENCODER.encode(value).encode()
    return rfc8785.dumps(value)


def json_digest(value: Any) -> str:
    """SHA-256 (hex) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots, so that two can be compared field by field; lists stay values."""
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [flatten(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_halves(ids: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """High and low 64 bits, big-endian, of a column of record ids, uint64 [n] each; zero for a null.

    (high, low) sorts like the ids. Raises ValueError for an id that is not 16 bytes long.
    """
    fixed = pc.fill_null(ids.cast(pa.binary(16)), bytes(16)).combine_chunks()
    data = fixed.buffers()[1] if len(fixed) else b""
    halves = np.frombuffer(data, ">u8")[2 * fixed.offset :][: 2 * len(fixed)].reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def table_digest(table: pa.Table, keys: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of a flat table's values in the order of `keys`, or as they stand when there are none.

    Columns enter in name order as (name, type, one validity byte a row, values); fixed-width values
    are little-endian with nulls as zero, strings and binaries are int64 lengths then the bytes.
    """
    rows = sort_rows(table, keys)
    digest = hashlib.sha256(f"{rows.num_rows}\n".encode())
    for name in sorted(rows.column_names):
        column = rows.column(name)
        digest.update(f"{name}:{_logical_type(column.type)}\n".encode())
        digest.update(_validity(column))
        _hash_values(digest, column)
    return digest.hexdigest()


def sort_rows(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The table in ascending order of `keys`, byte order for strings."""
    if table.num_rows < 2 or not keys:
        return table
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]))


_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
"""In C, five times as fast as rfc8785, which counts for a manifest of 3,000 shards."""
_EXACT = 1 << 53
"""Integers of at least this size are refused by RFC 8785."""


def _spelled_alike(value: Any) -> bool:
    """Whether the standard library spells a value as RFC 8785 does: keys in ASCII, no large integers, plain floats.

    Both spell a float by its shortest digits; they part for whole numbers and where Python writes an exponent.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_EXACT < value < _EXACT)
    if kind is float:
        return 1e-4 <= abs(value) < 1e15 and not value.is_integer()
    if kind is dict:
        return all(type(key) is str and key.isascii() for key in value) and all(map(_spelled_alike, value.values()))
    return (kind is list or kind is tuple) and all(map(_spelled_alike, value))


def _logical_type(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "utf8"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary"
    return str(kind)


def _validity(column: pa.ChunkedArray) -> bytes:
    """A byte a row: 1, or 0 for a null."""
    if not column.null_count:
        return b"\1" * len(column)
    return bytes(column.is_valid().to_numpy().astype(np.uint8).tobytes())


def _hash_values(digest: Any, column: pa.ChunkedArray) -> None:
    """Fills only what has nulls: most tables are small, and have few, so that calls cost more than bytes."""
    kind = _logical_type(column.type)
    if kind in ("utf8", "binary"):
        _hash_bytes(digest, column)
        return
    filled = pc.fill_null(column, False if kind == "bool" else 0) if column.null_count else column
    values = filled.to_numpy()
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def _hash_bytes(digest: Any, column: pa.ChunkedArray) -> None:
    """The lengths of all cells as int64, then the cells; those of nulls are empty."""
    if column.null_count == len(column):
        digest.update(bytes(8 * len(column)))
        return
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.large_binary())
    if column.null_count:
        column = pc.fill_null(column, "" if _logical_type(column.type) == "utf8" else b"")
    digest.update(pc.binary_length(column).to_numpy().astype("<i8").tobytes())
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        if len(chunk) and data is not None:
            ends = np.frombuffer(offsets, "<i8" if wide else "<i4")
            digest.update(memoryview(data)[int(ends[chunk.offset]) : int(ends[chunk.offset + len(chunk)])])
