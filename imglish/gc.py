"""Collect garbage: remove what neither the manifest nor a unit of the current recipe names.

    removed, pending = collect(recipe)        # {"tables/decide/3f...parquet": 41822, ...}, sizes in bytes

A walk through the pipeline reads the receipt of every finished unit; those receipts and their outputs are
alive, as are the manifest's files, what its trail names, the lock's models, and what in `index/` knows of a living
one. While a build is unfinished (`pending`), nobody can say which finished units its later stages will ask for, so
only temporary files go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from imglish.errors import AlarmError
from imglish.ingest.forgotten import PATH as FORGOTTEN
from imglish.ingest.land import INDEX
from imglish.ingest.trail import FOLDER as TRAILS
from imglish.ingest.trail import read_trail, trail_path
from imglish.lock import exclusive, read_lock
from imglish.pipeline import MANIFEST, Pipeline
from imglish.receipts import INDEX_FOLDER, indexed
from imglish.recipe import Recipe
from imglish.shards.manifest import parse_manifest
from imglish.stages import Receipt
from imglish.storage import SCRATCH, Store
from imglish.tokenize.reuse import REUSE_FOLDER, remembered
from imglish.walk import NoEngine, PendingError

_FOLDERS = ("landing", "tables", "models", "shards", INDEX_FOLDER, SCRATCH)


def collect(recipe: Recipe, dry_run: bool = False) -> tuple[dict[str, int], PendingError | AlarmError | None]:
    """Remove dead files; sizes in bytes by path of what was (or with `dry_run` would be) removed."""
    store = Store(recipe.work)
    watched, pending = Pipeline(recipe, NoEngine()).walk()
    with exclusive(store):
        dead = [path for path in _files(store) if _is_temporary(path)]
        if pending is None:
            live = _live(store, watched.seen)
            others = [path for path in _files(store) if path not in live and path not in dead]
            dead += [path for path in others if not (_is_bucket_of(store, path, live) or _knows(store, path, live))]
        sizes = {path: store.size(path) or 0 for path in dead}
        if not dry_run:
            for path in dead:
                store.remove(path)
    return sizes, pending


def _files(store: Store) -> Iterator[str]:
    for folder in _FOLDERS:
        yield from store.files(folder)
    yield from (path for path in store.files() if "/" not in path and _is_temporary(path))


def _is_temporary(path: str) -> bool:
    return path.startswith(f"{SCRATCH}/") or PurePosixPath(path).name.startswith(".tmp-")


def _live(store: Store, read: set[str]) -> set[str]:
    live = {INDEX, FORGOTTEN, *_manifest_files(store), *(str(entry["path"]) for entry in read_lock(store).values())}
    for path in read:
        if _is_receipt(path):
            outputs = Receipt.from_json(store.read(path)).outputs.values()
            live |= {path, *(output.path for output in outputs)}
    for path in (*read, *live):
        if path.startswith(f"{TRAILS}/") and store.exists(path):
            live |= {path, *read_trail(store.read(path), store.url(path)).paths()}
    return live


def _is_bucket_of(store: Store, path: str, live: set[str]) -> bool:
    """Whether a file is the receipt of one bucket of a living grouping: all that it names is alive."""
    if not _is_receipt(path):
        return False
    outputs = {output.path for output in Receipt.from_json(store.read(path)).outputs.values()}
    return bool(outputs) and outputs <= live


def _knows(store: Store, path: str, live: set[str]) -> bool:
    """Whether a file of `index/` has a copy of a living receipt, or remembers a living table."""
    if path.startswith(f"{REUSE_FOLDER}/"):
        return not live.isdisjoint(remembered(store, path))
    return path.startswith(f"{INDEX_FOLDER}/") and not live.isdisjoint(indexed(store, path))


def _is_receipt(path: str) -> bool:
    return "/receipts/" in path and path.endswith(".json")


def _manifest_files(store: Store) -> Iterator[str]:
    if not store.exists(MANIFEST):
        return
    manifest = parse_manifest(store.read(MANIFEST), store.url(MANIFEST))
    for shard in manifest.shards:
        yield from (shard.path, shard.metadata.path)
    yield from (file.path for file in manifest.decisions.files)
    yield trail_path(manifest.decisions.digest)
    yield from (slab["path"] for slab in manifest.slabs)
    tokenizers = manifest.tokenizers
    visual = [model.path for model in (tokenizers.visual, *tokenizers.others)]
    for path in (tokenizers.text.path, *visual):
        if path is not None:
            yield path
