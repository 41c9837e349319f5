"""`csv`, `tsv`, `jsonl`, `parquet`: tables that name image files or hold image bytes or texts, with captions.

    [[source]]                               # shots.csv:  file,english,german
    name = "shots"
    format = "csv"
    kind = "pair"
    path = "shots.csv"
    options = { image = "file", captions = ["english", "german"] }

`image` is a path relative to the table's folder (or `folder` below it), or, in Parquet, bytes or a struct with
`bytes`. `captions` is a list of text columns, or the name of one column that holds a list (a JSON list in csv and
tsv). `text` is the column of documents for kind text. `licence` and `url` name optional columns; options of
`TableLayout` describe csv and tsv files without header or with other quoting. `preset` names the columns of a known
layout. A row is named by where it begins: `<file>#<byte>`, in Parquet `<file>#<row number>`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from imglish.digests import json_digest
from imglish.errors import SourceError
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import File, filesystem, find_files, is_inside, printable, read_options, read_payload
from imglish.ingest.sources.parquets import ParquetTable, Record
from imglish.ingest.sources.tabular import (
    SUFFIXES,
    JsonTable,
    Table,
    TableLayout,
    open_table,
)
from imglish.recipe import SourceConfig

PRESETS: dict[str, dict[str, Any]] = {
    "huggingface": {"image": "image", "captions": ["text"]},  # Image feature: struct<bytes, path>
    "img2dataset": {"image": "jpg", "captions": ["caption"], "url": "url", "status": "status"},
}


class TableOptions(TableLayout):
    """Which column holds what."""

    preset: Literal["huggingface", "img2dataset"] | None = None
    """Column names of Hugging Face image datasets (`image`, `text`) and of img2dataset's Parquet output (`jpg`,
    `caption`, `url`); the options below override them."""
    image: str = "image"
    """Image paths or bytes, for kinds pair and image."""
    captions: list[str] | str = Field(default=["caption"])
    """Text columns, or one column that holds a list of texts; for kind pair."""
    text: str = "text"
    """Documents, for kind text."""
    licence: str | None = None
    """Licence of the row; the source's licence where it is empty."""
    url: str | None = None
    """Where the row came from."""
    status: str | None = None
    """Column that says whether the row has an image: any text but "success" is the reason why not."""
    folder: str = "."
    """Folder of the images, relative to the table's."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**PRESETS.get(values.get("preset") or "", {}), **values}

    def columns(self, kind: str) -> list[str]:
        """The columns that rows of a kind are made of, distinct."""
        captions = [self.captions] if isinstance(self.captions, str) else self.captions
        wanted = {"pair": [self.image, *captions], "image": [self.image], "text": [self.text]}[kind]
        more = (self.licence, self.url, self.status if kind != "text" else None)
        return list(dict.fromkeys([*wanted, *(name for name in more if name is not None)]))


class Tables:
    """Tables of one format; `name` is one of tabular.SUFFIXES."""

    version = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, TableOptions)
        parts: list[Part] = []
        for file in find_files(config, root, SUFFIXES[self.name]):
            table = open_table(file, options, [self.name])
            require_columns(config, table, file, options.columns(config.kind))
            for cut in table.cuts():
                stamps = _stamps(table, cut, config.kind, options, file)
                parts.append(table_part(file, cut, [json_digest(stamps)] if stamps else []))
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, TableOptions)
        folder = image_folder(part.files[0], options.folder)
        for row, values in part_rows(part, options, [self.name], options.columns(config.kind)):
            if values is None:
                yield row
                continue
            row = described(row, values, options.licence, options.url)
            if config.kind == "text":
                yield text_row(row, values.get(options.text), options.text)
                continue
            said = values.get(options.status) if options.status is not None else None
            if isinstance(said, str) and said != "success":
                yield replace(row, status="fetch_error", detail=f"column {options.status} says {printable(said)[:200]}")
                continue
            row = _image_row(row, values.get(options.image), options.image, folder)
            if row.status == "ok" and config.kind == "pair":
                row = caption_row(row, values, options.captions)
            yield row


def require_columns(config: SourceConfig, table: Table, file: File, wanted: list[str]) -> None:
    """SourceError naming file, column and the columns that exist."""
    known = table.columns()
    if not known and isinstance(table, JsonTable):
        return  # no object to be read; the rows say why
    for column in wanted:
        if column not in known:
            raise SourceError(
                f"source {config.name!r}: {file.name} has no column {column!r}; it has {', '.join(known) or 'none'}; "
                "name the right one in the source's options"
            )


def table_part(file: File, cut: Mapping[str, Any], more: list[Any]) -> Part:
    """A cut of one file as a part."""
    spec = {"file": file.name, "cut": dict(cut)} | ({"rows": cut["rows"]} if "rows" in cut else {})
    return Part(f"{file.name}#{cut['start']}", [file.url], [file.fingerprint(), *more], spec)


def part_rows(
    part: Part, layout: TableLayout, formats: Sequence[str], columns: list[str]
) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
    """(row, its values) for each record of a part; values are None for one that cannot be read."""
    name = part.spec["file"]
    table = open_table(File(part.files[0], name, 0, ""), layout, formats)
    for record in table.read(part.spec["cut"], columns):
        yield named(record, name), record.values


def named(record: Record, name: str) -> Row:
    """The row of a record of the file `name`, without its values."""
    return Row(f"{name}#{record.place}", status=record.status, detail=record.detail)


def described(row: Row, values: Mapping[str, Any], licence: str | None, url: str | None) -> Row:
    """The row with the cells of its licence and url columns, where they hold text."""
    if licence is None and url is None:
        return row
    return replace(row, licence=_cell_text(values, licence), url=_cell_text(values, url))


def _cell_text(values: Mapping[str, Any], column: str | None) -> str | None:
    cell = values.get(column) if column is not None else None
    return printable(cell) if isinstance(cell, str) and cell else None


def text_row(row: Row, cell: Any, column: str) -> Row:
    """The row with a document as payload."""
    if isinstance(cell, bytes):
        return replace(row, payload=cell)
    if not isinstance(cell, str):
        return replace(row, status="bad_row", detail=f"column {column} holds {_shown(cell)} instead of text")
    try:
        return replace(row, payload=cell.encode("utf-8"))
    except UnicodeEncodeError:
        return replace(row, status="not_utf8", detail=f"column {column} holds half a surrogate pair")


def caption_row(row: Row, values: Mapping[str, Any], captions: list[str] | str) -> Row:
    """The row with its captions; landing drops the empty ones."""
    if not isinstance(captions, str):
        return replace(row, captions=[values[name] for name in captions if values.get(name) is not None])
    cell = values.get(captions)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            cell = None
    if not isinstance(cell, list):
        wanted = f"column {captions} does not hold a list; for plain text write captions = [{captions!r}]"
        return replace(row, payload=None, status="bad_row", detail=wanted)
    return replace(row, captions=cell)


def image_folder(table_url: str, folder: str) -> str:
    """The folder that image paths are relative to."""
    protocol, separator, path = table_url.rpartition("://")
    return protocol + separator + posixpath.normpath(f"{path.rpartition('/')[0]}/{folder}")


def _image_row(row: Row, cell: Any, column: str, folder: str) -> Row:
    """The row with an image: inline bytes, a struct with bytes, or a file below `folder`."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return replace(row, payload=cell)
    if not isinstance(cell, str) or not cell:
        return replace(row, status="bad_row", detail=f"column {column} holds {_shown(cell)} instead of an image")
    if not is_inside(cell):
        return replace(row, status="refused", detail=f"{printable(cell)[:200]!r} leads out of the folder of the images")
    return read_payload(row, f"{folder}/{cell}")


def _shown(cell: Any) -> str:
    return "nothing" if cell is None or cell == "" else f"a {type(cell).__name__}"


def _stamps(
    table: Table, cut: Mapping[str, Any], kind: str, options: TableOptions, file: File
) -> list[tuple[str, int, str]]:
    """(path, size, mtime or etag) of the image files that a part names, so that changed files are read again."""
    if kind == "text" or (isinstance(table, ParquetTable) and not _is_text(table.schema().field(options.image).type)):
        return []
    folder = image_folder(file.url, options.folder)
    stamps = []
    for record in table.read(cut, [options.image]):
        cell = (record.values or {}).get(options.image)
        if isinstance(cell, str) and cell and is_inside(cell):
            stamps.append((printable(cell), *_stamp(f"{folder}/{cell}")))
    return stamps


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _stamp(url: str) -> tuple[int, str]:
    fs, path = filesystem(url)
    try:
        info = fs.info(path)
    except OSError:
        return -1, ""
    return int(info["size"] or 0), str(info.get("mtime") or info.get("ETag") or info.get("created") or "")
