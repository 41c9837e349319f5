"""Claims on "Same bytes": one landing, built in every way there is, gives one manifest digest.

The landing (`benchmarks.mixed`) is fetched once; every build starts from a copy of it, in an empty folder or bucket,
with the real command in a process of its own, and fits its own tokenizers. Clusters are processes that a claim starts
(`benchmarks.clusters`); what goes to a Spark master is submitted with the wheel.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyspark

from benchmarks.clusters import BUCKET, dask_cluster, kill_workers, s3_server, spark_cluster, wheel
from benchmarks.mixed import landing
from imglish.shards.verify import verify
from imglish.storage import Store

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "proof" / "same-bytes"
PACKAGES = ROOT / "demo" / "packages"
WORKERS = (1, 2, 4)
CLUSTERS = {"dask": dask_cluster, "spark": spark_cluster}
Numbers = dict[str, Any]


def embedded(engine: str) -> Numbers:
    """1, 2 and 4 workers of this machine, on a local disk and on an S3 API."""
    recipe = landing(FOLDER, PACKAGES)
    numbers = _facts()
    with _stores(engine) as stores:
        for workers in WORKERS:
            for place, root in stores.items():
                work = f"{root}/{engine}-{workers}"
                command = _build(recipe, work, engine, workers)
                numbers[f"seconds_{workers}_workers_{place}"] = _timed(command, work)
    return numbers


def clustered(engine: str) -> Numbers:
    """1, 2 and 4 workers of a cluster of processes, on a local disk and on an S3 API."""
    recipe = landing(FOLDER, PACKAGES)
    numbers = _facts()
    with _stores(f"{engine}-cluster") as stores:
        for workers in WORKERS:
            folder = _empty(f"{engine}-cluster-{workers}")
            with CLUSTERS[engine](workers, folder, _variables(engine)) as (address, _):
                for place, root in stores.items():
                    work = f"{root}/{engine}-cluster-{workers}"
                    command = _build(recipe, work, engine, workers, address)
                    numbers[f"seconds_{workers}_workers_{place}"] = _timed(command, work)
    return numbers


def killed(engine: str) -> Numbers:
    """A worker of a cluster is killed in the middle of a build, then the driver; the same command finishes it."""
    recipe = landing(FOLDER, PACKAGES)
    numbers = _facts()
    folder = _empty(f"{engine}-killed-cluster")
    with (
        _stores(f"{engine}-killed") as stores,
        CLUSTERS[engine](2, folder, _variables(engine)) as (address, (daemon, *_)),
    ):
        for place, root in stores.items():
            work = f"{root}/{engine}-killed"
            command = _build(recipe, work, engine, 2, address)
            numbers |= {f"{name}_{place}": value for name, value in _kill(command, work, engine, daemon).items()}
            numbers[f"seconds_last_build_{place}"] = _timed(command, work, fresh=False)
            assert not verify(f"{work}/manifest.json"), work
    return numbers


def _kill(command: list[str], work: str, engine: str, daemon: int) -> Numbers:
    """Kill a worker when a part of the units is done, and the driver when more are."""
    _copy_landing(work)
    rng = random.Random(work)
    store = Store(work)
    whole = _receipts(Store(FOLDER / "reference"))
    first, second = sorted(rng.sample(range(whole // 4, whole * 9 // 10), 2))
    with (
        (FOLDER / f"{engine}-driver.log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=log, stderr=log) as driver,
    ):
        _wait(driver, store, first)
        kill_workers(daemon, "spawn_main" if engine == "dask" else "CoarseGrainedExecutorBackend")
        _wait(driver, store, second)
        os.killpg(driver.pid, signal.SIGKILL)  # of Spark both halves, Java and Python
    reached = _receipts(store)
    assert not store.exists("manifest.json"), "the build ended before it could be killed"
    return {"worker_killed_at_receipts": first, "driver_killed_at_receipts": reached, "of_receipts": whole}


def _wait(driver: subprocess.Popen[bytes], store: Store, receipts: int) -> None:
    while _receipts(store) < receipts:
        assert driver.poll() is None, f"the build ended with {driver.returncode} before {receipts} receipts"
        time.sleep(0.1)


def _receipts(store: Store) -> int:
    return sum(1 for _ in store.files("tables/receipts"))


def _facts() -> Numbers:
    manifest = json.loads((FOLDER / "reference" / "manifest.json").read_bytes())
    sources = manifest["sources"].values()
    verdicts = {name: sum(source[name] for source in sources) for name in ("keep", "merge", "drop")}
    return {"digest": manifest["digest"], "occurrences": sum(verdicts.values()), **verdicts}


@contextmanager
def _stores(name: str) -> Iterator[dict[str, str]]:
    """A local folder and a bucket, both empty."""
    folder = _empty(f"{name}-local")
    python = {"PYSPARK_PYTHON": sys.executable}
    with s3_server(FOLDER / f"{name}-s3.log") as variables, patch.dict(os.environ, variables | python):
        yield {"disk": str(folder), "s3": f"s3://{BUCKET}"}
    shutil.rmtree(folder)


def _variables(engine: str) -> dict[str, str]:
    """Of a cluster, beside those of the store: where our code is, under Dask; Spark gets the wheel."""
    return {"PYTHONPATH": str(ROOT) if engine == "dask" else ""}


def _build(recipe: Path, work: str, engine: str, workers: int, address: str | None = None) -> list[str]:
    arguments = ["build", str(recipe), f"work={work}", "--engine", engine, "--workers", str(workers), "--memory", "2GB"]
    if address is None or engine == "dask":
        return [sys.executable, "-m", "imglish", *arguments, *(["--address", address] if address else [])]
    run = _wheel().with_name("run.py")
    run.write_text("from imglish.cli import main\n\nmain()\n")
    submit = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", address]
    submit += ["--total-executor-cores", str(workers), "--executor-cores", "1", "--executor-memory", "1g"]
    submit += ["--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.driver.bindAddress=127.0.0.1"]
    return [*submit, "--py-files", str(_wheel()), str(run), *arguments]


@cache
def _wheel() -> Path:
    return wheel(ROOT, FOLDER / f"wheel-{os.getpid()}")


def _timed(command: list[str], work: str, fresh: bool = True) -> float:
    """Seconds of a build that must give the reference's manifest, byte for byte."""
    if fresh:
        _copy_landing(work)
    began = time.perf_counter()
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stdout[-2000:]}"
    seconds = round(time.perf_counter() - began, 1)
    assert Store(work).read("manifest.json") == Store(FOLDER / "reference").read("manifest.json"), work
    sys.stderr.write(f"{work}: {seconds} s\n")
    return seconds


def _copy_landing(work: str) -> None:
    here, there = Store(FOLDER / "reference"), Store(work)
    for path in here.files("landing"):
        there.put_as(path, here.read(path))


def _empty(name: str) -> Path:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
