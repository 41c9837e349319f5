"""The long matrices: one claim a function, one result a file, resumable.

    make proof                          # every claim that has no result for this source
    make proof CLAIMS="sigkill-build"   # these, again

A claim gets the folder of the demo (made by `make demo`; built here when it is missing), does what it says with the
real commands in processes of their own, and returns numbers; an assertion that fails is written down as a failure.
Results are `benchmarks/results/proof/<claim>.json`, with command, date, machine and versions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imglish.progress import Reporter, reporter
from imglish.trainer.metrics import TIMED, read_metrics

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "proof"
DEMO = ROOT / "demo"
WORK = ROOT / "proof"
RECIPE = "recipes/demo.toml"
IMGLISH = [sys.executable, "-m", "imglish"]

Numbers = dict[str, Any]
Claim = Callable[[], Numbers]


def second_build() -> Numbers:
    """`imglish build` again: nothing is rebuilt, within 10 seconds, same manifest digest."""
    before = _state(DEMO / "corpus")
    seconds = _build(DEMO / "corpus")
    assert _state(DEMO / "corpus") == before, "a second build changed files"
    assert seconds < 10, f"a second build took {seconds:.1f} s"
    return {"seconds": seconds, "digest": _digest(DEMO / "corpus"), "files": len(before)}


def rebuild() -> Numbers:
    """Delete everything but landing and the lock; rebuild with 1 and with 2 workers: same manifest, same shards."""
    numbers: Numbers = {"digest": _digest(DEMO / "corpus")}
    expected = _products(DEMO / "corpus")
    for workers in (1, 2):
        work = _landing_only(f"rebuild-{workers}")
        numbers[f"seconds_{workers}_workers"] = _build(work, "--workers", str(workers))
        assert _products(work) == expected, f"{workers} workers gave other bytes"
        shutil.rmtree(work)
    return numbers | {"shards": len(expected) // 2}


def sigkill_build() -> Numbers:
    """Kill the build with SIGKILL three times at random moments and finish it: same digests, no orphans after gc."""
    work = _landing_only("sigkill")
    rng = random.Random(0)
    killed = []
    for _ in range(3):
        child = subprocess.Popen(
            _command("build", work), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        moment = rng.uniform(5, 25)  # a whole build takes about 90 seconds
        try:
            child.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            killed.append(round(moment, 1))
    assert len(killed) == 3, f"the build ended before it could be killed three times: {killed}"
    seconds = _build(work)
    assert _products(work) == _products(DEMO / "corpus"), "a killed build ended with other bytes"
    _run(_command("gc", work))
    left = [
        str(path) for path in work.rglob("*") if ".tmp-" in path.name or (path.is_file() and "scratch" in path.parts)
    ]
    assert not left, left
    again = subprocess.run(_command("gc", work), cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert again.startswith("removed 0 files"), again
    shutil.rmtree(work)
    return {"killed_after_seconds": killed, "last_build_seconds": seconds, "digest": _digest(DEMO / "corpus")}


def train_resume() -> Numbers:
    """40 steps, against 20 steps + SIGKILL + resume to 40: identical losses, bit for bit."""
    whole, cut = WORK / "train-whole", WORK / "train-cut"
    for folder in (whole, cut):
        shutil.rmtree(folder, ignore_errors=True)
    options = ["train.steps=40", "train.checkpoint_every=20", "train.max_minutes=60", "train.warmup=10"]
    began = time.perf_counter()
    _run([*_command("train", DEMO / "corpus"), *options, "-o", str(whole)])
    seconds = time.perf_counter() - began
    child = subprocess.Popen([*_command("train", DEMO / "corpus"), *options, "-o", str(cut)], cwd=ROOT)
    while len(_records(cut)) < 20 + 5 and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    reached = len(_records(cut))
    _run([*_command("train", DEMO / "corpus"), *options, "-o", str(cut)])
    first, second = _records(whole), _records(cut)
    assert sorted(first) == sorted(second) == list(range(1, 41))
    assert first == second, "losses differ"
    loss = first[40]["loss_nats"]
    return {"killed_after_step": reached, "seconds_40_steps": round(seconds, 1), "loss_step_40_nats": loss}


def train_killed_alone() -> Numbers:
    """60 steps on one process, against 60 with a SIGKILL at a random instant and a resume, ten times: bit for bit."""
    from benchmarks import proof_training

    return proof_training.killed_runs(1, WORK / "killed-1")


def train_killed_ranks() -> Numbers:
    """The same on 2 ranks (DDP, gloo), one of which is killed: the other ends too; bit for bit."""
    from benchmarks import proof_training

    return proof_training.killed_runs(2, WORK / "killed-2")


def train_same_losses() -> Numbers:
    """1, 2 and 4 ranks, DDP and FSDP2, parts, shards loaded elsewhere: same batches, losses within 1e-5, 30 steps."""
    from benchmarks import proof_training

    return proof_training.same_losses(WORK / "same-losses")


def train_torn() -> Numbers:
    """A checkpoint torn at 100 places of every file is never loaded as good; the one before it is."""
    from benchmarks import proof_training

    return proof_training.torn_checkpoints(WORK / "torn")


def webdataset_reads() -> Numbers:
    """Unmodified webdataset, 0.2.111 and 1.0.2, reads every sample member of every tar."""
    shards = sorted((DEMO / "corpus" / "shards").glob("*.tar"))
    with tempfile.TemporaryDirectory() as folder:
        newer = Path(folder) / "bin" / "python"
        venv.create(folder, with_pip=True)
        subprocess.run([newer, "-m", "pip", "install", "-qq", "webdataset==1.0.2"], check=True)
        script = [str(ROOT / "benchmarks" / "webdataset_reads.py"), *map(str, shards)]
        found = [
            json.loads(subprocess.run([python, *script], check=True, capture_output=True).stdout)
            for python in (newer, sys.executable)
        ]
    versions = [result.pop("webdataset") for result in found]
    assert versions[0] != versions[1] and found[0] == found[1], (versions, found)
    return {"webdataset": versions, **found[0]}


def fresh_demo() -> Numbers:
    """A fresh clone in an empty folder: `make demo` is green within 15 minutes, installation included."""
    return _fresh("demo", 15)


def fresh_test() -> Numbers:
    """A fresh clone in an empty folder: `make test` is green within 10 minutes, installation included."""
    return _fresh("test", 10)


def _fresh(target: str, minutes: int) -> Numbers:
    clone, log = WORK / f"clone-{target}", WORK / f"make-{target}.txt"
    shutil.rmtree(clone, ignore_errors=True)
    _run(["git", "clone", "--quiet", str(ROOT), str(clone)])
    began = time.perf_counter()
    with log.open("w") as file:
        ran = subprocess.run(["make", target], cwd=clone, stdout=file, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - began
    assert ran.returncode == 0, f"make {target} failed; see {log}"
    assert seconds <= 60 * minutes, f"make {target} took {seconds:.0f} s"
    (RESULTS.parent / log.name).write_text(log.read_text().replace(str(clone), "."))
    return {f"make_{target}_seconds": round(seconds)}


def byte_sweep() -> Numbers:
    """Every single byte of a small shard flipped in turn: verify finds each; the reader never yields wrong data."""
    from benchmarks import proof_shards

    return proof_shards.byte_sweep()


def audit_report() -> Numbers:
    """The report over 5 M samples, metadata only, in under 60 seconds and 4 GB on 2 cores."""
    from benchmarks import proof_audit

    return proof_audit.audit_report(WORK)


def look_pages() -> Numbers:
    """Pages over 35 M rows: filters and leafing within a second, words within one with the index, 15 without."""
    from benchmarks import proof_audit

    return proof_audit.look_pages(WORK)


def near_guides() -> Numbers:
    """Two architectures of the installation guide: recall >= 98 % from Jaccard 0.85, within 2 points of the curve."""
    from benchmarks import proof_match

    return proof_match.near_guides()


def near_photographs() -> Numbers:
    """Photographs re-encoded, resized, cropped, brightened, watermarked: recall of each; none merge that differ."""
    from benchmarks import proof_match

    return proof_match.near_photographs()


def same_decisions() -> Numbers:
    """Texts, pictures and an evaluation set matched: one decisions digest under Dask and Spark, 1, 2 and 4 workers,
    files shuffled."""
    from benchmarks import proof_match

    return proof_match.same_decisions()


def redecide() -> Numbers:
    """Another threshold decides anew in under 10 s without a payload; tokenize encodes what is newly kept, pack
    rewrites the shards that change."""
    from benchmarks import proof_redecide

    return proof_redecide.redecide(DEMO, WORK, RECIPE, ROOT)


def scale_signatures_dask() -> Numbers:
    """30 M synthetic signatures through buckets (Dask) and components: peak memory under 12 GB."""
    from benchmarks import proof_match

    return proof_match.scale_signatures("dask")


def scale_signatures_spark() -> Numbers:
    """30 M synthetic signatures through buckets (Spark) and components: peak memory under 12 GB."""
    from benchmarks import proof_match

    return proof_match.scale_signatures("spark")


def scale_manifest() -> Numbers:
    """A manifest of 50 M synthetic samples: open, next batch after resume, memory, replay."""
    from benchmarks import scale

    return scale.scale_manifest()


def scale_urls() -> Numbers:
    """A list of 21 M URLs (Parquet and TSV, hosts by Zipf's law) planned and split into units in < 2 min and < 1 GB."""
    from benchmarks import scale_urls

    return scale_urls.scale_urls(WORK / "urls")


def scale_receipts() -> Numbers:
    """Receipts of 21 M + 14 M records: a second build of a finished corpus ends in under 10 seconds, start of Python
    included."""
    from benchmarks import scale_receipts

    return scale_receipts.scale_receipts(WORK / "receipts")


def scale_rows_dask() -> Numbers:
    """35 M rows of metadata through decide, shard assignment, manifest and planner on Dask (half an hour)."""
    from benchmarks import scale_ingest

    return scale_ingest.scale_rows("dask", WORK / "rows-dask")


def scale_rows_spark() -> Numbers:
    """35 M rows of metadata through decide, shard assignment, manifest and planner on Spark (half an hour)."""
    from benchmarks import scale_ingest

    return scale_ingest.scale_rows("spark", WORK / "rows-spark")


def same_bytes_dask() -> Numbers:
    """One landing of 8,900 records under Dask, 1, 2 and 4 workers of this machine, disk and S3: one manifest."""
    from benchmarks import proof_engines

    return proof_engines.embedded("dask")


def same_bytes_spark() -> Numbers:
    """The same landing under Spark, local[1], [2] and [4], disk and S3: the same manifest."""
    from benchmarks import proof_engines

    return proof_engines.embedded("spark")


def same_bytes_dask_cluster() -> Numbers:
    """The same landing on a Dask scheduler with 1, 2 and 4 workers as processes, disk and S3: the same manifest."""
    from benchmarks import proof_engines

    return proof_engines.clustered("dask")


def same_bytes_spark_cluster() -> Numbers:
    """The same landing submitted with the wheel to a Spark master, 1, 2 and 4 cores, disk and S3: the same manifest."""
    from benchmarks import proof_engines

    return proof_engines.clustered("spark")


def same_bytes_dask_killed() -> Numbers:
    """A Dask worker, then the driver are killed with SIGKILL in the middle; the rerun ends with the same bytes."""
    from benchmarks import proof_engines

    return proof_engines.killed("dask")


def same_bytes_spark_killed() -> Numbers:
    """A Spark executor, then the driver are killed with SIGKILL in the middle; the rerun ends with the same bytes."""
    from benchmarks import proof_engines

    return proof_engines.killed("spark")


def no_hang() -> Numbers:
    """2,000 URLs on 40 hosts, of which 300 never answer: every row has a status within the documented bound."""
    from benchmarks import proof_fetch

    return proof_fetch.no_hang()


CLAIMS: dict[str, Claim] = {
    "second-build": second_build,
    "rebuild": rebuild,
    "sigkill-build": sigkill_build,
    "train-resume": train_resume,
    "train-killed-alone": train_killed_alone,
    "train-killed-ranks": train_killed_ranks,
    "train-same-losses": train_same_losses,
    "train-torn": train_torn,
    "webdataset-reads": webdataset_reads,
    "byte-sweep": byte_sweep,
    "audit-report": audit_report,
    "look-pages": look_pages,
    "near-guides": near_guides,
    "near-photographs": near_photographs,
    "same-decisions": same_decisions,
    "redecide": redecide,
    "scale-signatures-dask": scale_signatures_dask,
    "scale-signatures-spark": scale_signatures_spark,
    "scale-manifest": scale_manifest,
    "scale-urls": scale_urls,
    "scale-receipts": scale_receipts,
    "scale-rows-dask": scale_rows_dask,
    "scale-rows-spark": scale_rows_spark,
    "same-bytes-dask": same_bytes_dask,
    "same-bytes-spark": same_bytes_spark,
    "same-bytes-dask-cluster": same_bytes_dask_cluster,
    "same-bytes-spark-cluster": same_bytes_spark_cluster,
    "same-bytes-dask-killed": same_bytes_dask_killed,
    "same-bytes-spark-killed": same_bytes_spark_killed,
    "no-hang": no_hang,
    "fresh-demo": fresh_demo,
    "fresh-test": fresh_test,
}
WITHOUT_DEMO = (
    "byte-sweep",
    "audit-report",
    "look-pages",
    "no-hang",
    "fresh-demo",
    "fresh-test",
    *(n for n in CLAIMS if n.startswith(("scale-", "same-", "near-", "train-")) and n != "train-resume"),
)
"""Claims that need no demo corpus."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make proof", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("claims", nargs="*", help=f"of {', '.join(CLAIMS)}; all that have no result when left out")
    wanted = parser.parse_args().claims
    unknown = set(wanted) - set(CLAIMS)
    if unknown:
        parser.error(f"unknown claim {min(unknown)}; there are {', '.join(CLAIMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clusters and servers of a claim end with it
    WORK.mkdir(exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with reporter() as report:
        todo = wanted or [name for name in CLAIMS if not _proven(name)]
        failed = [name for name in todo if not _prove(name, report)]
    sys.exit(1 if failed else 0)


def _prove(name: str, report: Reporter) -> bool:
    claim = CLAIMS[name]
    report.note(f"== {name}: {claim.__doc__}")
    if name not in WITHOUT_DEMO and not (DEMO / "corpus" / "manifest.json").exists():
        report.note("no demo corpus yet: making one first")
        _run([*IMGLISH, "demo"])
    began = time.perf_counter()
    try:
        numbers, failure = claim(), None
    except (AssertionError, subprocess.CalledProcessError) as error:
        numbers, failure = {}, str(error)
    result = {
        "claim": claim.__doc__,
        "command": f"make proof CLAIMS={name}",
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - began, 1),
        "source": _source(),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()},
        "numbers": numbers,
        "failure": failure,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    report.note(f"{'FAILED ' + failure if failure else 'holds'}: {json.dumps(numbers)}")
    return failure is None


def _proven(name: str) -> bool:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    return result["failure"] is None and result["source"] == _source()


def _source() -> str:
    """The git tree of the package: results hold for it alone."""
    ran = subprocess.run(["git", "rev-parse", "HEAD:imglish"], cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _command(verb: str, work: Path) -> list[str]:
    places = [f"root={DEMO / 'packages'}", f"work={work}"]
    return [*IMGLISH, verb, RECIPE, *places]


def _build(work: Path, *options: str) -> float:
    began = time.perf_counter()
    _run([*_command("build", work), *options])
    return round(time.perf_counter() - began, 1)


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _landing_only(name: str) -> Path:
    """A copy of the demo's corpus with nothing but landing and the lock."""
    work = WORK / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.copytree(DEMO / "corpus" / "landing", work / "landing")
    shutil.copy(DEMO / "corpus" / "lock.json", work / "lock.json")
    return work


def _digest(work: Path) -> str:
    return str(json.loads((work / "manifest.json").read_text())["digest"])


def _products(work: Path) -> dict[str, bytes | int]:
    """The manifest's bytes, and shards and metadata by name (their names are their content)."""
    shards = {path.name: path.stat().st_size for path in (work / "shards").iterdir()}
    return {"manifest.json": (work / "manifest.json").read_bytes(), **shards}


def _state(work: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in work.rglob("*") if path.is_file() and "run" not in path.relative_to(work).parts)
    return {
        str(path.relative_to(work)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if path.name != ".held"
    }


def _records(run: Path) -> dict[int, dict[str, Any]]:
    """What every step logged, less what the clock decides."""
    path = run / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    return {record["step"]: {k: v for k, v in record.items() if k not in TIMED} for record in records}


if __name__ == "__main__":
    main()
