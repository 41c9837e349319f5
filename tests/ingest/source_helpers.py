"""Sources in a temporary folder, read as landing reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imglish.ingest.sources import reader
from imglish.ingest.sources.base import Part, Row
from imglish.recipe import SourceConfig


def source(form: str, kind: Any, path: str = "data", **options: Any) -> SourceConfig:
    return SourceConfig(name="s", format=form, kind=kind, path=path, options=options)


def parts_of(config: SourceConfig, root: Path | str) -> list[Part]:
    return reader(config).parts(config, str(root))


def rows_of(config: SourceConfig, root: Path | str) -> list[Row]:
    return [row for part in parts_of(config, root) for row in reader(config).rows(config, part)]


def statuses(rows: list[Row]) -> dict[str, str]:
    return {row.row: row.status for row in rows}


def write(root: Path, files: dict[str, bytes | str]) -> None:
    """Files below `root/data`."""
    for name, content in files.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
