"""`url-list`: tables of image URLs and captions (csv, tsv, jsonl, each also compressed, and parquet).

    url,caption                                         [[source]]
    https://example.org/cat.jpg,A cat on a wall         format = "url-list"
                                                        options = { captions = ["caption"] }

    options = { preset = "cc12m" }                      cc12m.tsv: URL, tab, caption; no header

Rows come out with status TO_FETCH; `imglish.ingest.lanes` fetches them. Options name the columns: `url`,
`captions` (as in tables.py), `sha256` (hexadecimal; other content is refused) and `licence`; `preset` sets them for the
published lists below. A part holds about `unit_rows` rows of a plain file; a compressed one cannot be cut and is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from imglish.ingest.sources.base import TO_FETCH, Part, Row
from imglish.ingest.sources.files import File, expect_kind, find_files, printable, read_options
from imglish.ingest.sources.parquets import ParquetTable
from imglish.ingest.sources.tables import (
    caption_row,
    described,
    named,
    part_rows,
    require_columns,
    table_part,
)
from imglish.ingest.sources.tabular import SUFFIXES, CsvTable, JsonTable, TableLayout, open_table
from imglish.ingest.sources.url_columns import COLUMNS, binary_join, url_columns
from imglish.recipe import SourceConfig

CHUNK_ROWS = 1 << 15
"""Rows of a list that are held as objects at once, about 50 MB with all that is made of them."""
PRESETS: dict[str, dict[str, Any]] = {
    "cc3m": {"header": ["caption", "url"]},  # Train_GCC-training.tsv
    "cc12m": {"header": ["url", "caption"]},  # cc12m.tsv
    "laion": {"url": "URL", "captions": ["TEXT"]},  # also WIDTH, HEIGHT, NSFW, similarity, LICENSE
    "coyo": {"url": "url", "captions": ["text"]},  # COYO-700M
    "datacomp": {"url": "url", "captions": ["text"], "sha256": "sha256"},  # also uid, face_bboxes
}
"""Options by the name of a published list; sources: the columns of the files as their authors publish them."""


class UrlListOptions(TableLayout):
    """Which column holds what."""

    preset: Literal["cc3m", "cc12m", "laion", "coyo", "datacomp"] | None = None
    """Column names of a published list; the options below override them."""
    url: str = "url"
    """Where the image is."""
    captions: list[str] | str = Field(default=["caption"])
    """Text columns, or one column that holds a list of texts; for kind pair."""
    sha256: str | None = None
    """SHA-256 of the image, hexadecimal, where it is known."""
    licence: str | None = None
    """Licence of the row; the source's licence where it is empty."""
    multiline: bool = False
    """Whether quoted cells of a csv may hold line breaks. Such a file cannot be cut: it is one unit."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**PRESETS.get(values.get("preset") or "", {}), **values}

    def columns(self, kind: str) -> list[str]:
        """The columns that rows of a kind are made of, distinct."""
        captions = [self.captions] if isinstance(self.captions, str) else self.captions
        more = [name for name in (self.sha256, self.licence) if name is not None]
        return list(dict.fromkeys([self.url, *(captions if kind == "pair" else []), *more]))


class UrlList:
    """URLs to fetch, about `unit_rows` of them a part."""

    name = "url-list"
    version = 2
    fetched = True

    def __init__(self, unit_rows: int = 100_000) -> None:
        self.unit_rows = unit_rows

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, UrlListOptions)
        expect_kind(config, ("pair", "image"), "only images are fetched")
        parts: list[Part] = []
        for file in find_files(config, root, [suffix for found in SUFFIXES.values() for suffix in found]):
            table = open_table(file, options)
            require_columns(config, table, file, options.columns(config.kind))
            parts += [table_part(file, cut, []) for cut in table.cuts(self.unit_rows)]
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, UrlListOptions)
        for row, values in part_rows(part, options, tuple(SUFFIXES), options.columns(config.kind)):
            yield _row_or_not(row, values, options, config.kind)

    def tables(self, config: SourceConfig, part: Part) -> Iterator[tuple[pa.Table, list[Row]]]:
        """The part by columns, batch by batch: (plain rows as COLUMNS, Row objects of the others).

        What cannot be taken so (JSON lines, quoted cells with line breaks, what stands behind a damage) is read row
        by row.
        """
        taken = 0
        with suppress(OSError, _OddError):  # `rows` says what is wrong
            for plain, others in self._batches(config, part):
                yield plain, others
                taken += plain.num_rows + len(others)
            return
        rest = islice(self.rows(config, part), taken, None)
        while chunk := list(islice(rest, CHUNK_ROWS)):
            yield COLUMNS.empty_table(), chunk

    def _batches(self, config: SourceConfig, part: Part) -> Iterator[tuple[pa.Table, list[Row]]]:
        options, name = read_options(config, UrlListOptions), part.spec["file"]
        table = open_table(File(part.files[0], name, 0, ""), options, tuple(SUFFIXES))
        if isinstance(table, JsonTable) or (isinstance(table, CsvTable) and table.multiline):
            raise _OddError
        assert isinstance(table, ParquetTable | CsvTable)
        for places, cells, records in table.batches(part.spec["cut"], options.columns(config.kind)):
            names = binary_join(f"{name}#", places.cast(pa.string()))
            found = url_columns(cells, names, options, config.kind)
            if found is None:
                raise _OddError
            plain, usual = found
            unusual = pc.invert(usual)
            odd = zip(names.filter(unusual).to_pylist(), cells.filter(unusual).to_pylist(), strict=True)
            others: list[tuple[Row, Mapping[str, Any] | None]] = [(Row(row), values) for row, values in odd]
            others += [(named(record, name), record.values) for record in records]
            yield plain, [_row_or_not(row, values, options, config.kind) for row, values in others]


class _OddError(Exception):
    """A part that is not taken by columns."""


def _row_or_not(row: Row, values: Mapping[str, Any] | None, options: UrlListOptions, kind: str) -> Row:
    return row if values is None else _row(row, values, options, kind)


def _row(row: Row, values: Mapping[str, Any], options: UrlListOptions, kind: str) -> Row:
    row = described(row, values, options.licence, None)
    url, sha256 = values.get(options.url), values.get(options.sha256 or "")
    if not isinstance(url, str) or not url.strip():
        return replace(row, status="bad_row", detail=f"column {options.url} holds no URL")
    # one Row for all of it: `replace` takes as long as the rest
    found = Row(row.row, None, None, printable(url), row.licence, TO_FETCH, None, _digest(sha256))
    if kind != "pair":
        return found
    if isinstance(options.captions, str):
        listed = caption_row(replace(found, status="ok"), values, options.captions)
        return replace(listed, status=TO_FETCH) if listed.status == "ok" else listed
    found.captions = [values[name] for name in options.captions if values.get(name) is not None]
    return found


def _digest(cell: Any) -> str | None:
    """The expected digest in hexadecimal; a list may hold it as text or as its 32 bytes."""
    if isinstance(cell, bytes):
        return cell.hex()
    return cell.strip() if isinstance(cell, str) and cell.strip() else None
