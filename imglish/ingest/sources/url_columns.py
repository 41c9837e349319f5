"""URL lists by columns: what `urls._row` makes of a row, for a hundred thousand of them at once.

    plain, usual = url_columns(batch, names, options, "pair")       # a table COLUMNS and which rows of the batch it has

A row is *usual* when its URL begins with a visible ASCII character and its digest, if there is one, is hexadecimal.
All others, and all rows of a batch whose columns are not plain text, are left to Python.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.ingest.sources.base import TO_FETCH

if TYPE_CHECKING:
    from imglish.ingest.sources.urls import UrlListOptions

COLUMNS = pa.schema(
    [
        pa.field("row", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("captions", pa.binary()),  # canonical JSON, as `records.pack_json` writes it
        pa.field("licence", pa.string()),
        pa.field("expected_sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)
_VISIBLE = r"^[\x21-\x7e]"
_HEXADECIMAL = r"^[0-9A-Fa-f]*$"
_ESCAPED = r'["\\\x00-\x1f]'
"""Characters that a JSON string cannot hold as they are (RFC 8259 section 7)."""
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def url_columns(
    batch: pa.RecordBatch, names: pa.Array, options: UrlListOptions, kind: str
) -> tuple[pa.Table, pa.Array] | None:
    """The usual rows as COLUMNS and a mask of them; None when a column is not of texts."""
    captions = options.captions if kind == "pair" else []
    if isinstance(captions, str) or (kind == "pair" and not captions):
        return None
    columns: dict[str, pa.Array] = {name: _text(batch, name) for name in options.columns(kind)}
    if any(column is None for column in columns.values()):
        return None
    usual = pc.fill_null(pc.match_substring_regex(columns[options.url], _VISIBLE), False)
    if options.sha256 is not None:
        hexadecimal = pc.match_substring_regex(columns[options.sha256], _HEXADECIMAL)
        usual = pc.and_(usual, pc.fill_null(hexadecimal, True))
    columns = {name: column.filter(usual) for name, column in columns.items()}
    rows = len(columns[options.url])
    arrays = {
        "row": names.filter(usual),
        "url": columns[options.url],
        "captions": _caption_lists([columns[name] for name in captions]) if kind == "pair" else pa.nulls(rows),
        "licence": _filled(columns.get(options.licence or ""), rows),
        "expected_sha256": _filled(columns.get(options.sha256 or ""), rows),
        "status": pa.repeat(TO_FETCH, rows),
        "detail": pa.nulls(rows),
    }
    return pa.table({field.name: arrays[field.name].cast(field.type) for field in COLUMNS}, schema=COLUMNS), usual


def binary_join(*parts: Any) -> pa.Array:
    """Texts side by side, row by row."""
    return pc.binary_join_element_wise(*parts, "")


def _text(batch: pa.RecordBatch, name: str) -> Any:
    """A column as texts; None when it is something else, or there are several of this name."""
    found = batch.schema.get_all_field_indices(name)
    if len(found) != 1:
        return None
    column = batch.column(found[0])
    return (
        column.cast(pa.string()) if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else None
    )


def _filled(column: pa.Array | None, rows: int) -> pa.Array:
    """The cells that are not empty."""
    if column is None:
        return pa.nulls(rows, pa.string())
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _caption_lists(columns: list[pa.Array]) -> pa.Array:
    """The cells of each row that are not null, as a JSON list."""
    each = [pc.fill_null(binary_join(",", _json_strings(column)), "") for column in columns]
    return binary_join("[", pc.utf8_slice_codeunits(binary_join(*each), 1), "]")


def _json_strings(column: pa.Array) -> pa.Array:
    """Each text as a JSON string, nulls as they are."""
    marked = pc.fill_null(pc.match_substring_regex(column, _ESCAPED), False)
    quoted = binary_join('"', column, '"')
    if not pc.any(marked).as_py():
        return quoted
    return pc.replace_with_mask(quoted, marked, pa.array([_quoted(text) for text in column.filter(marked).to_pylist()]))
