"""The stage "land": from sources to landing, one row per occurrence with its payload as received.

    receipts = land(store, engine, recipe)         # {"photos": [Receipt, ...], ...}; only missing units run

A unit is one part of a source. Its id covers what the source is (name, kind, format, licence, options), the part and
its fingerprint, never where the files lie nor the source's priority. Its task reads the rows, checks captions and
texts, and commits Parquet files of bounded size, each sorted by (record_id, source, row): outputs "rows/000000",
"rows/000001", ... (`landing.py`). `landing_files` lists those of many units.

URL lists go another way: `listing` brings their rows together by host, `lanes` fetches them. A unit of theirs is the
rows of one source in a range of places. `again` names the statuses that `imglish retry` fetches once more.

`landing/index.json` says which units make up each source. Landing is self-sufficient: when a source's files are gone,
what the index has for the same configuration is used as it is, and `note` is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from imglish.digests import canonical_json, json_digest
from imglish.ingest.forgotten import Forgotten
from imglish.ingest.landing import FOLDER, LandingFiles, progress_path
from imglish.ingest.lanes import FetchJob
from imglish.ingest.listing import list_unit, listed
from imglish.ingest.retries import LiveRates, retried
from imglish.ingest.sources import reader, reader_version
from imglish.ingest.sources.base import Part
from imglish.ingest.sources.files import source_present
from imglish.recipe import Recipe, SourceConfig, content_fields
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
    again: Collection[str] = (),
) -> dict[str, list[Receipt]]:
    """Land all sources of a recipe; the receipts of each source's units, in the order of its parts or places.

    `note` gets a sentence for each source whose files are gone and whose landing is used as it is, and how fetching
    goes. `again` holds status words or classes (`retries.matches`) of URLs that are fetched once more.
    Raises SourceError when a source can neither be listed nor found in the index.
    """
    index = read_index(store)
    landed: dict[str, list[Receipt]] = {}
    units: dict[str, list[Unit]] = {}
    for source in recipe.source:
        found = None if source_present(source, recipe.root) else _landed(store, index, recipe, source)
        if found is None:
            units[source.name] = land_units(recipe, source)
        else:
            landed[source.name] = found
            note(f"source {source.name}: nothing at {source.path}; its {len(found)} landed units are used as they are")
    lists = [source for source in recipe.source if source.name in units and is_fetched(source, recipe.root)]
    plain = [source.name for source in recipe.source if source.name in units and source not in lists]
    every = [unit for name in plain for unit in units[name]]
    receipts = iter(run_map(store, FOLDER, engine, LandTask(store.root, recipe.run.landing == "zstd"), every, progress))
    landed |= {name: [next(receipts) for _ in units[name]] for name in plain}
    if lists:
        landed |= _fetch(store, engine, recipe, lists, units, index, progress, note, again)
    ordered = {source.name: landed[source.name] for source in recipe.source}
    _write_index(store, recipe, ordered)
    return ordered


def _fetch(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    lists: Sequence[SourceConfig],
    units: Mapping[str, Sequence[Unit]],
    index: Mapping[str, Any],
    progress: Progress | None,
    note: Callable[[str], None],
    again: Collection[str],
) -> dict[str, list[Receipt]]:
    """Land the URL lists: list, bring together by host, fetch."""
    rows = [unit for source in lists for unit in units[source.name]]
    found, files = listed(store, engine, rows, recipe.fetch.unit_rows, progress)
    earlier = {source.name: _earlier(store, index, recipe, source) for source in lists}
    contents = {source.name: source_content(recipe, source) for source in lists}
    live = LiveRates(note)
    job = FetchJob(store, engine, recipe, progress, live)
    done = job.run(found, files, contents, earlier, lambda receipt: retried(receipt, again))
    live.end()
    return {source.name: done.get(source.name, []) for source in lists}


def _earlier(store: Store, index: Mapping[str, Any], recipe: Recipe, source: SourceConfig) -> list[Receipt]:
    """What of a URL list landed before under the same configuration, however its list was then."""
    entry = index.get(source.name)
    if entry is None or entry["config"] != json_digest(source_content(recipe, source)):
        return []
    return list(find_receipts(store, FOLDER, STAGE, entry["units"]).values())


def landing_files(receipts: Iterable[Receipt]) -> list[Output]:
    """The landing files of units, in the order of units and of their rows."""
    return [receipt.outputs[name] for receipt in receipts for name in sorted(receipt.outputs)]


def land_units(recipe: Recipe, source: SourceConfig) -> list[Unit]:
    """The units that read one source, one per part, in the order of its parts; those of a URL list only list it."""
    found, version = reader(source, recipe.root), reader_version(source, recipe.root)
    parts = found.parts(source, recipe.root)
    content = source_content(recipe, source)
    if is_fetched(source, recipe.root):
        content.pop("fetch")
        return [list_unit(source, part, content, version, recipe.root) for part in parts]
    return [
        Unit(
            stage=STAGE,
            version=VERSION,
            params={
                "source": content,
                "reader": version,
                "part": part.name,
                "fingerprint": list(part.fingerprint),
                "spec": _plain(part.spec),
            },
            inputs=[],
            spec={"source": source, "part": part, "root": recipe.root},
        )
        for part in parts
    ]


def source_content(recipe: Recipe, source: SourceConfig) -> dict[str, Any]:
    """What of a source's configuration changes its landing: neither path nor priority."""
    content = {key: value for key, value in content_fields(source).items() if key not in ("path", "priority")}
    if is_fetched(source, recipe.root):
        fetch = content_fields(recipe.fetch)
        content["fetch"] = {name: value for name, value in fetch.items() if name != "unit_rows"}
    return content


def is_fetched(source: SourceConfig, root: str) -> bool:
    """Whether the rows of a source are URLs to fetch."""
    return bool(getattr(reader(source, root), "fetched", False))


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
    """Lands one part: reads, checks, commits file by file."""

    root: str  # of the store
    compressed: bool = True  # texts

    def __call__(self, unit: Unit) -> Receipt:
        store = Store(self.root)
        commit = Commit(store, FOLDER, STAGE, unit.id)
        source: SourceConfig = unit.spec["source"]
        part: Part = unit.spec["part"]
        forgotten = Forgotten.read(store)
        with LandingFiles(store, unit.id, source, compressed=self.compressed) as files:
            rows = reader(source, unit.spec["root"]).rows(source, part)
            for row in forgotten.filtered_all(islice(rows, files.taken, None), source.kind):
                files.add(row)
            outputs, counts = files.finish()
        receipt = commit(outputs, counts)
        store.remove(progress_path(unit.id))
        return receipt
