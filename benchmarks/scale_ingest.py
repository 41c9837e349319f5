"""Ingest at web scale, rehearsed on synthetic metadata: lists of URLs, receipts, and 35 million rows.

    python -m benchmarks.scale_ingest dask --work FOLDER      # prints its numbers
    make proof CLAIMS=scale-rows-dask                         # keeps them

Rows go through the real stages (`decide`, `tally`, `select`, `pack-rows`, `pack-units`) on a real engine; only what
needs payloads is left out: annotations, members and images are made by `benchmarks.scale_rows`. Memory is the sum of
the proportional set sizes of all processes of the tree, twice a second; disk is what lies in the scratch folder and in
the build folder; CPU is the time of all processes, which says more than seconds on a machine that does other work too.
All of it is metadata: payloads would add 1.9 TB of landing and 0.75 TB of shards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc

from benchmarks.scale import write_manifest
from benchmarks.scale_rows import File, annotations, plan_files, tokenized
from imglish.digests import json_digest
from imglish.ingest.decide import decide
from imglish.ingest.tally import TallyTask, tally_units, verdicts
from imglish.plan_training import plan_training
from imglish.recipe import Recipe, make_recipe
from imglish.shards.pack import PackInput, digest_inputs
from imglish.shards.pack_units import shard_rows
from imglish.shards.placement import Placement
from imglish.stages import Commit, Engine, Receipt, Unit, counts_of, run_map
from imglish.storage import Output, Store
from imglish.tokenize.rows import LandingFile
from imglish.tokenize.select import select
from imglish.training_budget import Terms

TRAIN, VALIDATION = 3_072, 28
"""Shards, those of `benchmarks.scale`."""
STEPS = (
    "annotations",  # made up
    "decide",
    "tally",
    "select",
    "tokenized",  # made up
    "assign",
    "manifest",
)
WORKERS = 2
MEMORY = "4GB"


def recipe(work: Path) -> Recipe:
    """The corpus of `scale_rows`; DESIGN's 3,000 shards."""
    sources = [
        {"name": "web", "format": "url-list", "kind": "pair", "path": "web-*.parquet"},
        {"name": "pictures", "format": "archive", "kind": "image", "path": "pictures.tar", "priority": 1},
    ]
    pack = {"train_shards": TRAIN, "validation_shards": VALIDATION}
    decide = {"validation_share": 0.009}
    values = {"name": "rehearsal", "work": str(work), "root": str(work), "source": sources, "pack": pack}
    train = {"batch": {"pair": 2048, "image": 2048}, "steps": 1_000_000}
    return make_recipe({**values, "decide": decide, "train": train})


@dataclass(frozen=True)
class MakeAnnotations:
    """Stands in for annotate: writes the annotations of one landing file without looking at payloads."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        output = self.store.put_table("tables/annotate", annotations(File(**unit.params)))
        return commit({"rows": output}, {"occurrences": output.rows})


@dataclass(frozen=True)
class MakeTokenized:
    """Stands in for both tokenize stages; counts the images of every shard by kind."""

    store: Store
    placement: Placement

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        tables = tokenized(self.store.read_table(unit.spec["decisions"]))
        outputs = {name: self.store.put_table(f"tables/{name}", rows) for name, rows in tables.items()}
        return commit(outputs)


@dataclass(frozen=True)
class CountShards:
    """Samples of every shard by kind among many images tables."""

    store: Store
    placement: Placement

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        counts = {kind: np.zeros(len(self.placement), np.int64) for kind in ("pair", "image")}
        for path in unit.spec["images"]:
            rows = self.store.read_table(path, ["kind", "split", "record_id"])
            ordinals = self.placement.ordinals(rows["split"], rows["kind"], rows["record_id"])
            for kind, count in counts.items():
                mine = ordinals[pc.equal(rows["kind"], kind).to_numpy()]
                count += np.bincount(mine, minlength=len(count))
        return commit({}, {}, {kind: count.tolist() for kind, count in counts.items()})


def run_rows(work: Path, engine: Engine, scale: float, last: str | None) -> dict[str, Any]:
    """Rows through every stage that reads no payload; seconds and bytes of each."""
    chosen, store = recipe(work), Store(work)
    steps = Steps(work, last)
    with steps(STEPS[0]):
        units = [Unit("annotate", 0, vars(file), []) for file in plan_files(scale)]
        annotated = _tables(store, engine, MakeAnnotations(store), units)
    with steps(STEPS[1]):
        decided = decide(store, engine, chosen, annotated)
    with steps(STEPS[2]):
        tallies = run_map(store, "tables", engine, TallyTask(store), tally_units(decided.decisions))
    landing = [Output(f"landing/{n}", f"{n:064x}", 0, output.rows) for n, output in enumerate(annotated)]
    files = [LandingFile(*three) for three in zip(landing, annotated, decided.decisions, strict=True)]
    with steps(STEPS[3]):
        select(store, engine, files)
    placement = Placement(chosen.pack.train_shards, chosen.pack.validation_shards, chosen.pack.layout)
    with steps(STEPS[4]):
        units = [Unit("tokenize", 0, {}, [file.decisions.sha256], file.paths()) for file in files]
        made = run_map(store, "tables", engine, MakeTokenized(store, placement), units)
    inputs = [PackInput(file.landing, **receipt.outputs) for file, receipt in zip(files, made, strict=True)]
    with steps(STEPS[5]):
        digested = digest_inputs(store, engine, placement, inputs)
        held = shard_rows(store, "tables", engine, placement, digested)
    with steps(STEPS[6]):
        paths = [one.images.path for one in inputs]
        units = [
            Unit("count", 0, {}, paths[n : n + 512], {"images": paths[n : n + 512]}) for n in range(0, len(paths), 512)
        ]
        counted = run_map(store, "tables", engine, CountShards(store, placement), units)
        counts = {kind: sum(np.array(receipt.notes[kind]) for receipt in counted) for kind in ("pair", "image")}
        write_manifest(work, counts, TRAIN)
        planned = list(plan_training(chosen, work / "manifest.json", Terms(world_size=8)))
    found = {f"{v.kind} {v.verdict} {v.rule}".strip(): v.count for v in verdicts(counts_of(tallies))}
    return {
        "occurrences": sum(output.rows for output in annotated),
        "landing_files": len(files),
        "shards": len(held),
        "samples": {kind: int(count.sum()) for kind, count in counts.items()},
        "steps": steps.done,
        "cpu_hours": round(sum(step["cpu_seconds"] for step in steps.done.values()) / 3600, 2),
        "hours": round(sum(step["seconds"] for step in steps.done.values()) / 3600, 2),
        "peak_memory_megabytes": max(step["peak_memory_megabytes"] for step in steps.done.values()),
        "peak_scratch_megabytes": max(step["peak_scratch_megabytes"] for step in steps.done.values()),
        "verdicts": found,
        "decisions_digest": json_digest([tally.notes["decisions"] for tally in tallies]),
        "shards_digest": json_digest([list(rows) for rows in held.values()]),
        "plan": planned,
    }


def _tables(store: Store, engine: Engine, task: Any, units: Sequence[Unit]) -> list[Output]:
    return [receipt.outputs["rows"] for receipt in run_map(store, "tables", engine, task, units)]


class EndedError(Exception):
    """The wanted step is done."""


class Steps:
    """Times steps and watches each; results lie in `steps.json`, so that a run may end after any step and go on later.

    A step that finds its receipts keeps the result of the run that did the work.
    """

    def __init__(self, work: Path, last: str | None) -> None:
        self.work, self.last = work, last
        self.path = work / "steps.json"
        self.done: dict[str, dict[str, float]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name in self.done:
            yield
        else:
            before, began, cpu = _folder_bytes(self.work), time.perf_counter(), _tree_cpu()
            with Watch(self.work / "scratch") as watch:
                yield
            self.done[name] = {
                "seconds": round(time.perf_counter() - began, 1),
                "cpu_seconds": round(_tree_cpu() - cpu, 1),
                "written_megabytes": round((_folder_bytes(self.work) - before) / 1e6),
                "peak_memory_megabytes": round(watch.memory / 1e6),
                "peak_scratch_megabytes": round(watch.disk / 1e6),
            }
            self.path.write_text(json.dumps(self.done, indent=2))
            sys.stderr.write(f"{name}: {json.dumps(self.done[name])}\n")
        if name == self.last:
            raise EndedError


def open_engine(name: str, scratch: Path) -> Any:
    if name == "spark":
        from imglish.engines.spark import SparkEngine

        return SparkEngine(workers=WORKERS, memory=MEMORY, scratch=str(scratch))
    from imglish.engines.dask import DaskEngine

    return DaskEngine(workers=WORKERS, memory=MEMORY, scratch=str(scratch))


class Watch:
    """Peak memory of this process and all below it, and peak bytes of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.memory, self.disk = folder, 0, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.5):
            self.memory = max(self.memory, _tree_bytes())
            self.disk = max(self.disk, _folder_bytes(self.folder))


def _tree() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _tree_bytes() -> int:
    return sum(_pss(process.pid) for process in _tree())


def _tree_cpu() -> float:
    """Seconds of CPU of this process, those below it and those of theirs that ended."""
    total = 0.0
    for process in _tree():
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) * 1024


def _folder_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(where, name).stat().st_blocks * 512
            except OSError:
                continue
    return total


def scale_rows(engine: str, work: Path) -> dict[str, Any]:
    """Every step in a process of its own, so that a rehearsal that was stopped goes on where it was."""
    command = [sys.executable, "-m", "benchmarks.scale_ingest", engine, "--work", str(work)]
    for step in STEPS:
        subprocess.run([*command, "--last", step], check=True, stdout=subprocess.DEVNULL)
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(work)
    return dict(json.loads(ran.stdout))


def rows_through(engine_name: str, scale: float, work: Path, last: str | None = None) -> dict[str, Any]:
    """`run_rows` on a fresh engine; only up to step `last`, and then nothing, when it is given."""
    scratch = work / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with suppress(EndedError), open_engine(engine_name, scratch / "engine") as engine:
        return run_rows(work, engine, scale, last)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("engine", choices=("dask", "spark"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the corpus")
    parser.add_argument("--work", type=Path, required=True, help="folder of the build; what is done there is used")
    parser.add_argument("--last", choices=STEPS, help="end after this step")
    chosen = parser.parse_args()
    print(json.dumps(rows_through(chosen.engine, chosen.scale, chosen.work, chosen.last), indent=2))


if __name__ == "__main__":
    main()
