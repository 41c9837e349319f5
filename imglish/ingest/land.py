"""The stage "land": from sources to landing, one row per occurrence with its payload as received.

    receipts = land(store, engine, recipe)         # {"photos": [Receipt, ...], ...}; only missing units run

A unit is one part of a source. Its id covers what the source is (name, kind, format, licence, options), the part and
its fingerprint, never where the files lie nor the source's priority. Its task reads the rows, fetches those that are
URLs, checks captions and texts, and commits one Parquet file sorted by (record_id, source, row).

`landing/index.json` says which units make up each source. Landing is self-sufficient: when a source's files are gone,
what the index has for the same configuration is used as it is, and `note` is told.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from imglish.digests import canonical_json, json_digest, record_id
from imglish.errors import SourceError
from imglish.ingest.fetch import fetch_rows
from imglish.ingest.sources import reader
from imglish.ingest.sources.base import TO_FETCH, Part, Reader, Row
from imglish.ingest.sources.files import printable, source_present
from imglish.ingest.sources.urls import UrlList
from imglish.recipe import FetchConfig, Recipe, SourceConfig, content_fields
from imglish.records import LANDING, pack_json, table
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipts, run_map
from imglish.storage import Store

STAGE = "land"
VERSION = 1
FOLDER = "landing"
INDEX = "landing/index.json"
_BATCH_BYTES = 512 << 20  # of payloads in one chunk of a table; a chunk's binary column holds under 2 GB


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


def land_units(recipe: Recipe, source: SourceConfig) -> list[Unit]:
    """The units of one source, one per part, in the order of its parts."""
    found = _reader(source, recipe.fetch)
    content = {"source": source_content(recipe, source), "reader": found.version}
    return [
        Unit(
            stage=STAGE,
            version=VERSION,
            params={**content, "part": part.name, "fingerprint": list(part.fingerprint), "spec": _plain(part.spec)},
            inputs=[],
            spec={"source": source, "part": part},
        )
        for part in found.parts(source, recipe.root)
    ]


def source_content(recipe: Recipe, source: SourceConfig) -> dict[str, Any]:
    """What of a source's configuration changes its landing: neither path nor priority."""
    content = {key: value for key, value in content_fields(source).items() if key not in ("path", "priority")}
    if source.format == UrlList.name:
        content["fetch"] = content_fields(recipe.fetch)
    return content


def _reader(source: SourceConfig, fetch: FetchConfig) -> Reader:
    found = reader(source)
    return UrlList(fetch.unit_rows) if isinstance(found, UrlList) else found


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
    """Lands one part: reads, fetches, checks, commits."""

    root: str  # of the store
    fetch: FetchConfig

    def __call__(self, unit: Unit) -> Receipt:
        store = Store(self.root)
        commit = Commit(store, FOLDER, STAGE, unit.id)
        source: SourceConfig = unit.spec["source"]
        part: Part = unit.spec["part"]
        rows = list(reader(source).rows(source, part))
        _refuse_repeats(source, part, rows)
        landed = [occurrence(source, row) for row in self._fetched(rows)]
        output = store.put_table(FOLDER, landing_table(landed))
        return commit({"rows": output}, landing_counts(landed))

    def _fetched(self, rows: list[Row]) -> list[Row]:
        """The rows with the payloads that were behind URLs, in the same order."""
        wanted = [number for number, row in enumerate(rows) if row.status == TO_FETCH]
        if wanted:
            fetched = fetch_rows([rows[number] for number in wanted], self.fetch)
            for number, row in zip(wanted, fetched, strict=True):
                rows[number] = row
        return rows


def _refuse_repeats(source: SourceConfig, part: Part, rows: Sequence[Row]) -> None:
    repeated = [name for name, count in Counter(row.row for row in rows).items() if count > 1]
    if repeated:
        raise SourceError(
            f"source {source.name!r}, part {part.name}: row {repeated[0]!r} comes more than once; "
            f"the reader of format {source.format!r} must name rows uniquely"
        )


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
        row = _check_captions(row)
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


def _check_captions(row: Row) -> Row:
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
