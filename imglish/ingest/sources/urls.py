"""`url-list`: tables of image URLs and captions (csv, tsv, jsonl, each also .gz or .zst, and parquet).

    url,caption
    https://example.org/cat.jpg,A cat on a wall

Rows come out with status TO_FETCH; `imglish.ingest.lanes` fetches them. Options name the columns: `url`,
`captions` (as in tables.py), `sha256` (hexadecimal; other content is refused) and `licence`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field

from imglish.ingest.sources.base import TO_FETCH, Part, Row
from imglish.ingest.sources.files import expect_kind, find_files, printable, read_options
from imglish.ingest.sources.tables import caption_row, described, part_rows, require_columns, table_part
from imglish.ingest.sources.tabular import SUFFIXES, open_table
from imglish.recipe import Section, SourceConfig


class UrlListOptions(Section):
    """Which column holds what."""

    url: str = "url"
    """Where the image is."""
    captions: list[str] | str = Field(default=["caption"])
    """Text columns, or one column that holds a list of texts; for kind pair."""
    sha256: str | None = None
    """SHA-256 of the image, hexadecimal, where it is known."""
    licence: str | None = None
    """Licence of the row; the source's licence where it is empty."""

    def columns(self, kind: str) -> list[str]:
        """The columns that rows of a kind are made of, distinct."""
        captions = [self.captions] if isinstance(self.captions, str) else self.captions
        more = [name for name in (self.sha256, self.licence) if name is not None]
        return list(dict.fromkeys([self.url, *(captions if kind == "pair" else []), *more]))


class UrlList:
    """URLs to fetch, `unit_rows` of them a part."""

    name = "url-list"
    version = 1
    fetched = True

    def __init__(self, unit_rows: int = 1000) -> None:
        self.unit_rows = unit_rows

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, UrlListOptions)
        expect_kind(config, ("pair", "image"), "only images are fetched")
        parts: list[Part] = []
        for file in find_files(config, root, [suffix for found in SUFFIXES.values() for suffix in found]):
            table = open_table(file.url, file.name)
            require_columns(config, table, file, options.columns(config.kind))
            parts += [table_part(file, spec, []) for spec in table.ranges(self.unit_rows)]
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, UrlListOptions)
        for row, values in part_rows(part, options.columns(config.kind)):
            if values is None:
                yield row
                continue
            row = described(row, values, options.licence, None)
            url, sha256 = values.get(options.url), values.get(options.sha256 or "")
            if not isinstance(url, str) or not url.strip():
                yield replace(row, status="bad_row", detail=f"column {options.url} holds no URL")
                continue
            expected = sha256.strip() if isinstance(sha256, str) and sha256.strip() else None
            row = replace(row, url=printable(url), expected_sha256=expected)
            row = caption_row(row, values, options.captions) if config.kind == "pair" else row
            yield replace(row, status=TO_FETCH) if row.status == "ok" else row
