"""Forget: take samples out of a corpus for good, from its shards and from the landing that it was built from.

    forgot = forget("corpus/manifest.json", keys=["00ff..."], urls=["https://example.org/alice/*"])
    forgot.occurrences, forgot.removal.manifest.digest

Three steps, each of which may be repeated after a crash: what to forget is written beside landing first, so no build
brings it back; then rows of landing lose payload, captions and URL; then the shards get tombstones and the manifest is
issued again without renumbering anything (`imglish.shards.tombstones`). A URL counts as the source's list spells it. A
picture that one matching URL led to is forgotten with all its occurrences, under other URLs and in other sources too.

Files that the removal replaced, and what intermediate tables hold, go with the next build and `imglish gc`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import record_key
from imglish.errors import RecipeError
from imglish.ingest.forgotten import DETAIL, STATUS, Forgotten, pattern_regex, url_digest
from imglish.ingest.land import INDEX, STAGE
from imglish.ingest.landing import FOLDER, put_landing
from imglish.ingest.trail import follow
from imglish.lock import exclusive
from imglish.records import LANDING, table
from imglish.shards.manifest import load_manifest
from imglish.shards.ranges import parent
from imglish.shards.tombstones import Removal, tombstone
from imglish.stages import Commit, Progress, Receipt, find_receipt
from imglish.storage import Output, Store

_KEPT = ("source", "row", "kind", "attempts")


@dataclass(frozen=True)
class Forgot:
    """What `forget` did: record ids, rows of landing that it emptied, and the tombstones; None on a dry run."""

    keys: frozenset[str]
    occurrences: int
    removal: Removal | None


def forget(
    manifest_path: str,
    keys: Collection[str] = (),
    urls: Collection[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Forgot:
    """Forget record ids (hex) and URL patterns; the landing beside the manifest is searched when there is one.

    RecipeError when neither is given or a key is no record id; ManifestError and ShardError as for `tombstone`;
    StorageError when another command holds the folder.
    """
    if not keys and not urls:
        raise RecipeError("nothing to forget; give --key or --url")
    wanted = frozenset(_record_key(key) for key in keys)
    load_manifest(manifest_path)  # before anything is changed: a wrong path must not cost a row of landing
    store = Store(parent(manifest_path))
    with exclusive(store):
        return _forget(store, manifest_path, wanted, tuple(urls), dry_run, progress)


def _forget(
    store: Store,
    manifest_path: str,
    wanted: frozenset[str],
    urls: tuple[str, ...],
    dry_run: bool,
    progress: Progress | None,
) -> Forgot:
    asked = Forgotten(wanted, frozenset(), urls)
    landed = list(_landed(store))
    every = wanted | {row["record_id"].hex() for row in _rows(store, landed, asked) if row["record_id"] is not None}
    asked = asked.joined(every, (), ())
    seen = [row["url"] for row in _rows(store, landed, asked)]
    if dry_run:
        return Forgot(every, len(seen), None)
    found = Forgotten.read(store).joined(every, (url_digest(url) for url in seen if url is not None), urls)
    if landed:
        found.write(store)
    for receipt in landed:
        _empty(store, receipt, asked)
    where = None
    if urls:
        where = pc.match_substring_regex(pc.field("url"), "|".join(pattern_regex(pattern) for pattern in urls))
    return Forgot(every, len(seen), tombstone(manifest_path, every, where, progress=progress))


def _landed(store: Store) -> Iterator[Receipt]:
    """The receipts of all that landed, by source and unit."""
    if not store.exists(INDEX):
        return
    for entry in json.loads(store.read(INDEX)).values():
        for unit in entry["units"]:
            receipt = find_receipt(store, FOLDER, STAGE, unit)
            if receipt is not None:
                yield receipt


def _rows(store: Store, landed: Collection[Receipt], asked: Forgotten) -> Iterator[dict[str, Any]]:
    """url and record_id of the rows to forget."""
    for receipt in landed:
        for output in receipt.outputs.values():
            rows = store.read_table(output.path, ["record_id", "url"])
            yield from rows.filter(_mask(rows, asked)).to_pylist()


def _mask(rows: pa.Table, asked: Forgotten) -> pa.Array:
    """Which rows have one of the record ids or match one of the patterns."""
    keys = pa.array([bytes.fromhex(key) for key in sorted(asked.keys)], pa.binary())
    mask = pc.is_in(rows.column("record_id"), keys)
    if asked.patterns:
        regex = "|".join(pattern_regex(pattern) for pattern in asked.patterns)
        mask = pc.or_(mask, pc.fill_null(pc.match_substring_regex(rows.column("url"), regex), False))
    return mask


def _empty(store: Store, receipt: Receipt, asked: Forgotten) -> None:
    """Write the landing files of one unit without the rows to forget, under the receipt of the same unit."""
    commit = Commit(store, FOLDER, STAGE, receipt.unit)
    outputs = {name: _emptied(store, output, asked) for name, output in receipt.outputs.items()}
    if outputs == receipt.outputs:
        return
    follow(store, {old.path: outputs[name].path for name, old in receipt.outputs.items()})
    commit(outputs, _counts(store, outputs.values()), receipt.notes)
    for path in {old.path for old in receipt.outputs.values()} - {new.path for new in outputs.values()}:
        store.remove(path)


def _emptied(store: Store, old: Output, asked: Forgotten) -> Output:
    """One landing file without the rows to forget; the file itself when it has none."""
    gone = _mask(store.read_table(old.path, ["record_id", "url"]), asked)
    if not pc.any(gone).as_py():
        return old
    rows = store.read_table(old.path)
    emptied = [
        dict.fromkeys(LANDING.names) | row | {"status": STATUS, "detail": DETAIL}
        for row in rows.filter(gone).select(list(_KEPT)).to_pylist()
    ]
    left = pa.concat_tables([rows.filter(pc.invert(gone)), table(emptied, LANDING)])
    return put_landing(store, left)


def _counts(store: Store, outputs: Iterable[Output]) -> dict[str, int]:
    """What landing counts: occurrences, bytes, and rows by status."""
    rows = pa.concat_tables([store.read_table(output.path, ["status", "bytes"]) for output in outputs])
    statuses = Counter(f"status/{status}" for status in rows.column("status").to_pylist())
    total = pc.sum(rows.column("bytes"), min_count=0).as_py()
    return {"occurrences": rows.num_rows, "bytes": total, **dict(sorted(statuses.items()))}


def _record_key(key: str) -> str:
    try:
        return record_key(key)
    except ValueError as error:
        raise RecipeError(f"--key {error}") from None
