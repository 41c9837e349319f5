"""Another threshold on the demo's corpus: what decide, tokenize and pack then read, encode and write.

Bytes are counted where the store opens files, stage by stage, with the work done in this process. That the real
command opens no file of landing is told by the kernel (inotify), with the annotations as the control.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from imglish.ingest.changes import Change, changes
from imglish.ingest.trail import Trail, open_trail
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, load_recipe
from imglish.sample import InlineEngine
from imglish.shards.manifest import load_manifest
from imglish.shards.placement import Placement
from imglish.stages import Load, Receipt, Reduce, Task, Unit
from imglish.storage import Store

SECONDS = 10.0
"""Longest that deciding anew may take, start of Python and workers included."""
_IN_OPEN = 0x20
Numbers = dict[str, Any]


class CountedStore(Store):
    """A store that counts the bytes read, by the running stage and the kind of file."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.stage = "driver"
        self.bytes: dict[str, Counter[str]] = {}

    def count(self, path: str, size: int) -> None:
        self.bytes.setdefault(self.stage, Counter())[_sort(path)] += size

    def read(self, path: str) -> bytes:
        data = super().read(path)
        self.count(path, len(data))
        return data

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        found = super().read_many(paths)
        for path, data in found.items():
            self.count(path, len(data))
        return found

    def open(self, path: str) -> BinaryIO:
        return _CountedFile(self, path, super().open(path))  # type: ignore[return-value]


class _CountedFile:
    def __init__(self, store: CountedStore, path: str, file: BinaryIO) -> None:
        self._store, self._path, self._file = store, path, file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._store.count(self._path, len(data))
        return data

    def __enter__(self) -> _CountedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _sort(path: str) -> str:
    """Payloads are the tables of landing itself; beside them lie receipts and lists of URLs."""
    if path.startswith("landing/") and path.count("/") == 1 and path.endswith(".parquet"):
        return "payloads"
    return "receipts" if path.endswith(".json") else "/".join(path.split("/")[:2])


class CountedEngine(InlineEngine):
    """Works in this process and tells the store which stage runs."""

    def __init__(self, store: CountedStore) -> None:
        super().__init__()
        self.store = store

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        with self._in(units[0].stage):
            yield from super().map(task, units)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        with self._in(reduce.stage):
            yield from super().group(load, pieces, buckets, reduce)

    @contextmanager
    def _in(self, stage: str) -> Iterator[None]:
        before, self.store.stage = self.store.stage, stage
        try:
            yield
        finally:
            self.store.stage = before


def counted(recipe: Recipe) -> tuple[Pipeline, CountedStore, CountedEngine]:
    """A pipeline in this process whose reading is counted."""
    store = CountedStore(recipe.work)
    engine = CountedEngine(store)
    pipeline = Pipeline(recipe, engine)
    pipeline.store = store
    return pipeline, store, engine


@contextmanager
def opened_files(folders: Sequence[Path]) -> Iterator[dict[str, int]]:
    """How many files directly in each folder any process opens meanwhile, by the folder's name (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    watches = {libc.inotify_add_watch(handle, str(folder).encode(), _IN_OPEN): folder.name for folder in folders}
    names: dict[str, set[bytes]] = {folder.name: set() for folder in folders}
    counts: dict[str, int] = {}
    try:
        yield counts
        while data := _events(handle):
            for watch, name in data:
                if name.endswith(b".parquet"):
                    names[watches[watch]].add(name)
        counts |= {folder: len(found) for folder, found in names.items()}
    finally:
        os.close(handle)


def _events(handle: int) -> list[tuple[int, bytes]]:
    """(watch, name) of waiting events; layout of struct inotify_event in inotify(7)."""
    try:
        data = os.read(handle, 1 << 20)
    except BlockingIOError:
        return []
    found, place = [], 0
    while place < len(data):
        watch, _, _, length = struct.unpack_from("iIII", data, place)
        found.append((watch, data[place + 16 : place + 16 + length].rstrip(b"\0")))
        place += 16 + length
    return found


def redecide(demo: Path, work: Path, recipe: str, root: Path) -> Numbers:
    """The claim, on copies of `demo`/corpus below `work`, which is first brought to this release: a finished build."""
    places = [f"root={demo / 'packages'}", f"work={demo / 'corpus'}", _allowed(demo / "corpus")]
    build = [sys.executable, "-m", "imglish", "build", recipe, *places]
    subprocess.run(build, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    numbers: Numbers = {}
    for name, threshold in (
        ("text_length", "text_length.min_words=45"),
        ("image_aspect", "image_aspect.max_aspect=3.1"),
    ):
        copy = work / f"redecide-{name}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(demo / "corpus", copy, copy_function=_link)
        places = [f"root={demo / 'packages'}", f"work={copy}", _allowed(copy), f"decide.rule.{threshold}"]
        numbers[threshold] = _one(recipe, places, copy, root)
        shutil.rmtree(copy)
    return numbers


def _link(source: str, target: str) -> None:
    """A second name: a store replaces files and changes none in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _allowed(corpus: Path) -> str:
    """The demo's own server has another port where the usual one is taken."""
    fetch = json.loads((corpus / "manifest.json").read_text())["recipe"]["fetch"]
    return f"fetch.allow_private={json.dumps(fetch['allow_private'])}"


def _one(recipe: str, overrides: Sequence[str], work: Path, root: Path) -> Numbers:
    """One threshold: the real command first, then the same in this process with its reading counted, then a build."""
    scratch = work.with_name(work.name + "-counted")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(work, scratch, copy_function=_link)
    chosen = load_recipe(recipe, [*overrides, f"work={scratch}"])
    command = [sys.executable, "-m", "imglish", "decide", recipe, *overrides]
    with opened_files([work / "landing", work / "tables" / "annotate"]) as opened:
        began = time.perf_counter()
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    dry = time.perf_counter()
    subprocess.run([*command, "--dry-run"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    numbers: Numbers = {
        "decide_seconds": round(seconds, 1),
        "dry_run_seconds": round(time.perf_counter() - dry, 1),
        "files_opened_by_decide": {"payloads": opened["landing"], "annotations": opened["annotate"]},
        **_counted_decide(chosen),
        **_counted_build(chosen),
    }
    shutil.rmtree(scratch)
    assert opened["landing"] == 0 and opened["annotate"] > 0, numbers
    assert seconds < SECONDS, numbers
    return numbers


def _counted_decide(recipe: Recipe) -> Numbers:
    pipeline, store, _ = counted(recipe)
    began = time.perf_counter()
    pipeline.decide()
    read = {stage: dict(sorted(sizes.items())) for stage, sizes in store.bytes.items()}
    total = sum(sum(sizes.values()) for sizes in read.values())
    payloads = sum(sizes.get("payloads", 0) for sizes in read.values())
    landed = sum(path.stat().st_size for path in Path(recipe.work, "landing").glob("*.parquet"))
    assert payloads == 0, read
    return {
        "decide_in_process_seconds": round(time.perf_counter() - began, 1),
        "decide_bytes_read": read,
        "decide_bytes_read_together": total,
        "decide_payload_bytes_read": payloads,
        "landing_bytes": landed,
    }


def _counted_build(recipe: Recipe) -> Numbers:
    manifest = load_manifest(f"{recipe.work}/manifest.json")
    old = open_trail(f"{recipe.work}/manifest.json").trail
    pipeline, store, engine = counted(recipe)
    result = pipeline.build()
    new = open_trail(f"{recipe.work}/manifest.json").trail
    rewritten = [
        ordinal
        for ordinal, (before, after) in enumerate(zip(manifest.shards, result.manifest.shards, strict=True))
        if before.sha256 != after.sha256
    ]
    touched = touched_shards(store, recipe, old, new)
    kept = newly_kept(store, old, new)
    done = {stage: engine.receipts[stage] for stage in ("tokenize-text", "tokenize-visual", "pack")}
    fresh = {
        name: sum(one.counts[name] - one.counts[f"{name}_reused"] for one in done[stage])
        for stage, name in (("tokenize-text", "documents"), ("tokenize-visual", "images"))
    }
    read = {stage: dict(store.bytes.get(stage, {})) for stage in done}
    numbers = {
        "changes": [_row(change) for change in changes(store, old, new).rows],
        "newly_kept": kept,
        "encoded": fresh,
        "units_run": {stage: len(receipts) for stage, receipts in done.items()},
        "shards": len(result.manifest.shards),
        "shards_rewritten": rewritten,
        "build_bytes_read": read,
    }
    assert fresh == kept, numbers
    assert rewritten == sorted(touched), (numbers, touched)
    assert len(done["pack"]) == len(rewritten), numbers
    return numbers


def _row(change: Change) -> list[Any]:
    return [change.source, change.change, change.rule, change.count]


def _decisions(store: Store, trail: Trail) -> dict[str, dict[str, Any]]:
    columns = ["source", "row", "record_id", "kind", "verdict", "sample_kind", "sample_id", "split", "edits"]
    rows = [row for file in trail.files for row in store.read_table(file.decisions, columns).to_pylist()]
    return {f"{row['source']}/{row['row']}": row for row in rows}


def newly_kept(store: Store, old: Trail, new: Trail) -> dict[str, int]:
    """Documents, and pictures of pairs and images, that are kept now and were not before."""
    before, after = _decisions(store, old), _decisions(store, new)
    kept = [row for key, row in after.items() if row["verdict"] == "keep" and before[key]["verdict"] != "keep"]
    texts = sum(row["kind"] == "text" for row in kept)
    return {"documents": texts, "images": len(kept) - texts}


def touched_shards(store: Store, recipe: Recipe, old: Trail, new: Trail) -> set[int]:
    """Shards of which a member came, went or changed, from the decisions alone."""
    before, after = _decisions(store, old), _decisions(store, new)
    pack = recipe.pack
    placement = Placement(pack.train_shards, pack.validation_shards, pack.layout)
    moved = [
        side
        for key in after
        for side in (before[key], after[key])
        if before[key] != after[key] and side["sample_id"] is not None
    ]
    if not moved:
        return set()
    columns = ([side[name] for side in moved] for name in ("split", "sample_kind", "sample_id"))
    return set(placement.ordinals(*columns).tolist())
