"""The stage "land": from sources to landing, one row per occurrence with its payload as received.

    receipts = land(store, engine, recipe)         # {"photos": [Receipt, ...], ...}; only missing units run

A unit is one part of a source. Its id covers what the source is (name, kind, format, licence, options), the part and
its fingerprint, never where the files lie nor the source's priority. Its task reads the rows, fetches those that are
URLs, checks captions and texts, and commits Parquet files of bounded size, each sorted by (record_id, source, row):
outputs "rows/000000", "rows/000001", ... (`landing.py`). `landing_files` lists those of many units.

`landing/index.json` says which units make up each source. Landing is self-sufficient: when a source's files are gone,
what the index has for the same configuration is used as it is, and `note` is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from imglish.digests import canonical_json, json_digest
from imglish.ingest.fetch import fetch_rows
from imglish.ingest.landing import FOLDER, LandingFiles, progress_path
from imglish.ingest.sources import reader, reader_version
from imglish.ingest.sources.base import TO_FETCH, Part, Reader, Row
from imglish.ingest.sources.files import source_present
from imglish.ingest.sources.urls import UrlList
from imglish.recipe import FetchConfig, Recipe, SourceConfig, content_fields
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipts, run_map
from imglish.storage import Output, Store

STAGE = "land"
VERSION = 2
INDEX = "landing/index.json"


def land(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Receipt]]:
    """Land all sources of a recipe; the receipts of each source's units, in the order of its parts.

    `note` gets a sentence for each source whose files are gone and whose landing is used as it is.
    Raises SourceError when a source can neither be listed nor found in the index.
    """
    index = read_index(store)
    kept: dict[str, list[Receipt]] = {}
    units: dict[str, list[Unit]] = {}
    for source in recipe.source:
        found = None if source_present(source, recipe.root) else _landed(store, index, recipe, source)
        if found is None:
            units[source.name] = land_units(recipe, source)
        else:
            kept[source.name] = found
            note(f"source {source.name}: nothing at {source.path}; its {len(found)} landed units are used as they are")
    every = [unit for found in units.values() for unit in found]
    receipts = iter(run_map(store, FOLDER, engine, LandTask(store.root, recipe.fetch), every, progress))
    landed = {name: [next(receipts) for _ in found] for name, found in units.items()} | kept
    ordered = {source.name: landed[source.name] for source in recipe.source}
    _write_index(store, recipe, ordered)
    return ordered


def landing_files(receipts: Iterable[Receipt]) -> list[Output]:
    """The landing files of units, in the order of units and of their rows."""
    return [receipt.outputs[name] for receipt in receipts for name in sorted(receipt.outputs)]


def land_units(recipe: Recipe, source: SourceConfig) -> list[Unit]:
    """The units of one source, one per part, in the order of its parts."""
    found = _reader(source, recipe)
    content = {"source": source_content(recipe, source), "reader": reader_version(source, recipe.root)}
    return [
        Unit(
            stage=STAGE,
            version=VERSION,
            params={**content, "part": part.name, "fingerprint": list(part.fingerprint), "spec": _plain(part.spec)},
            inputs=[],
            spec={"source": source, "part": part, "root": recipe.root},
        )
        for part in found.parts(source, recipe.root)
    ]


def source_content(recipe: Recipe, source: SourceConfig) -> dict[str, Any]:
    """What of a source's configuration changes its landing: neither path nor priority."""
    content = {key: value for key, value in content_fields(source).items() if key not in ("path", "priority")}
    if source.format == UrlList.name:
        content["fetch"] = content_fields(recipe.fetch)
    return content


def _reader(source: SourceConfig, recipe: Recipe) -> Reader:
    found = reader(source, recipe.root)
    return UrlList(recipe.fetch.unit_rows) if isinstance(found, UrlList) else found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def read_index(store: Store) -> dict[str, Any]:
    """`{source: {"config": digest, "units": [ids]}}`; empty when nothing has landed."""
    return dict(json.loads(store.read(INDEX))) if store.exists(INDEX) else {}


def _write_index(store: Store, recipe: Recipe, landed: Mapping[str, Sequence[Receipt]]) -> None:
    index = {
        source.name: {
            "config": json_digest(source_content(recipe, source)),
            "units": [receipt.unit for receipt in landed[source.name]],
        }
        for source in recipe.source
    }
    data = canonical_json(index)
    if not store.exists(INDEX) or store.read(INDEX) != data:
        store.put_as(INDEX, data)


def _landed(store: Store, index: Mapping[str, Any], recipe: Recipe, source: SourceConfig) -> list[Receipt] | None:
    """The receipts that the index has for a source under this configuration, if every one is whole."""
    entry = index.get(source.name)
    if entry is None or entry["config"] != json_digest(source_content(recipe, source)):
        return None
    receipts = find_receipts(store, FOLDER, STAGE, entry["units"])
    return list(receipts.values()) if len(receipts) == len(entry["units"]) else None


@dataclass(frozen=True)
class LandTask:
    """Lands one part: reads, fetches, checks, commits file by file."""

    root: str  # of the store
    fetch: FetchConfig

    def __call__(self, unit: Unit) -> Receipt:
        store = Store(self.root)
        commit = Commit(store, FOLDER, STAGE, unit.id)
        source: SourceConfig = unit.spec["source"]
        part: Part = unit.spec["part"]
        with LandingFiles(store, unit.id, source) as files:
            rows = islice(reader(source, unit.spec["root"]).rows(source, part), files.taken, None)
            for row in rows:
                if row.status != TO_FETCH:
                    files.add(row)
                    continue
                for fetched in self._fetched([row, *islice(rows, self.fetch.unit_rows - 1)]):
                    files.add(fetched)
                files.cut()  # what came over the network is not asked for again
            outputs, counts = files.finish()
        receipt = commit(outputs, counts)
        store.remove(progress_path(unit.id))
        return receipt

    def _fetched(self, rows: list[Row]) -> list[Row]:
        """The rows with the payloads that were behind URLs, in the same order."""
        wanted = [number for number, row in enumerate(rows) if row.status == TO_FETCH]
        fetched = fetch_rows([rows[number] for number in wanted], self.fetch)
        for number, row in zip(wanted, fetched, strict=True):
            rows[number] = row
        return rows
