"""The other engine: Spark, on this machine, on a master, or inside a session that is already there.

    with SparkEngine(workers=2, memory="4GB", scratch="corpus/scratch") as engine:            # local[2]
    with SparkEngine(address="spark://host:7077") as engine:                                  # or yarn, k8s://...
        receipts = run_map(store, "tables", engine, task, units)

`map` is one task per unit. `group` cuts loaded pieces into cells (`imglish.engines.seam`), and Spark's own shuffle
brings those of a bucket into the partition of that bucket, whose one task reduces it. Results reach the driver through
an accumulator, which Spark updates at the end of every task: so progress moves while a job runs, and an error of ours
comes with its type, ends the job and is not tried again. A task whose worker died is tried again, four times in all.

An active session is used as it is and left running; our settings go to a session of our own beside it.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from pyspark import Accumulator, AccumulatorParam, SparkContext
from pyspark.sql import SparkSession

from imglish.engines.seam import PATIENCE_SECONDS, WAY_OUT, check_code
from imglish.engines.spark_session import short, start_session
from imglish.engines.spark_tasks import SEAM_DDL, CutPieces, Outcome, ReducePartition, RunUnits, receipt_of
from imglish.errors import EngineError, StageError
from imglish.stages import Load, Receipt, Reduce, Task, Unit
from imglish.versions import code_facts

_POLL_SECONDS = 0.05
"""How often the driver looks for finished units."""
_CANCEL_SECONDS = 30.0
_MANAGER_SECONDS = 600.0
"""The same as `PATIENCE_SECONDS` for YARN and Kubernetes, which first start machines and pull images."""
_OWN = {
    "spark.sql.adaptive.enabled": "false",  # a partition is a bucket; nothing may be coalesced or split
    "spark.sql.classic.shuffleDependency.fileCleanup.enabled": "true",  # a shuffle's files go when it is over
    "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 << 20),
}
"""Settings of a session of ours. Cells are few and large, so batches are small."""
_LOST_TASK = re.compile(r"Task (\d+) in stage")


class SparkEngine:
    """Both verbs of the seam on Spark; see `imglish.stages.Engine`."""

    def __init__(
        self, workers: int | None = None, memory: str = "4GB", address: str | None = None, scratch: str | None = None
    ) -> None:
        """`workers` cores, or all of the machine or cluster; `scratch` is for what shuffles spill on this machine.

        See `imglish.engines.spark_session.settings` for what becomes of `memory`.
        """
        self.workers, self.memory, self.address, self.scratch = workers, memory, address, scratch
        self._session: SparkSession | None = None
        self._owned = False

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Run a task on every unit; an error names the unit that failed, and the others are cancelled."""
        context = self._connect().sparkContext
        arrivals = context.accumulator([], _Collect())
        rows = context.parallelize(list(enumerate(units)), len(units))  # two units may have one id: nothing to do twice
        run = RunUnits(task, code_facts(), arrivals)
        names = [f"unit {unit.id}" for unit in units]
        yield from self._receipts(lambda: rows.foreachPartition(run), arrivals, units[0].stage, names)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        """Shuffle all pieces' rows by bucket and reduce each bucket once, empty ones too."""
        session, ordered = self._connect(), sorted(buckets)
        context = session.sparkContext
        arrivals = context.accumulator([], _Collect())
        places = {bucket: place for place, bucket in enumerate(ordered)}
        numbered = [(number, json.dumps(dict(piece))) for number, piece in enumerate(pieces)]
        frame = session.createDataFrame(context.parallelize(numbered, len(numbered)), "number int, piece string")
        cells = frame.mapInArrow(CutPieces(load, reduce.stage, places, code_facts(), arrivals), SEAM_DDL)
        shuffled = cells.repartitionById(len(ordered), "bucket")
        reduced = shuffled.mapInArrow(ReducePartition(ordered, reduce, arrivals), SEAM_DDL)
        names = [f"bucket {bucket}" for bucket in ordered]
        yield from self._receipts(reduced.collect, arrivals, reduce.stage, names)

    def close(self) -> None:
        """Stop the session if it is our own, and clear its scratch folder."""
        if self._session is not None and self._owned:
            self._session.sparkContext.stop()
            if self.scratch is not None:
                shutil.rmtree(self.scratch, ignore_errors=True)
        self._session = None

    def _receipts(
        self, action: Callable[[], Any], arrivals: Accumulator[list[Outcome]], stage: str, names: Sequence[str]
    ) -> Iterator[Receipt]:
        """Run an action beside us and yield every receipt once, as soon as it arrives; `names` of what is expected."""
        job = _Job(self._connect().sparkContext, stage, action)
        taken, seen = 0, set()
        try:
            running = True
            while running:
                running = job.wait(_POLL_SECONDS)
                for key, outcome in arrivals.value[taken:]:
                    taken += 1
                    receipt = receipt_of(outcome)
                    if key not in seen:
                        seen.add(key)
                        yield receipt
        finally:
            job.end()
        if job.error is not None:
            raise StageError(f"{stage}{_lost(job.error, names)}: {short(job.error)}; {WAY_OUT}") from job.error
        if len(seen) != len(names):
            raise StageError(f"{stage}: Spark gave {len(seen)} receipts for {len(names)} units; {WAY_OUT}")

    def _connect(self) -> SparkSession:
        if self._session is None:
            self._owned = SparkContext._active_spark_context is None
            if self._owned:
                found = start_session(self.workers, self.memory, self.address, self.scratch)
            else:
                found = SparkSession.builder.getOrCreate()
            self._session = found.newSession()
            for name, value in _OWN.items():
                self._session.conf.set(name, value)
            if self._owned and not str(found.sparkContext.master).startswith("local"):
                self._greet(found.sparkContext)
        return self._session

    def _greet(self, context: SparkContext) -> None:
        """Wait for one empty task; EngineError when no worker takes it, or one that cannot import our code does."""
        code, master = code_facts(), context.master
        job = _Job(context, "greeting", lambda: context.parallelize([code], 1).foreach(check_code))
        patience = PATIENCE_SECONDS if str(master).startswith("spark://") else _MANAGER_SECONDS
        late = job.wait(patience)
        if late or job.error is not None:
            job.end()
            self.close()
        if late:
            raise EngineError(
                f"{master} has no worker that took a task within {patience:.0f} s; start workers, or ask for "
                f"no more than they have (--memory {self.memory})"
            )
        if job.error is not None:
            raise EngineError(
                f"a worker of {master} cannot run our code: {short(job.error)}; ship our wheel as a .zip, and "
                "have the Python and libraries of the driver there (docs/clusters.md)"
            ) from job.error


class _Job:
    """A Spark job in a thread of its own, which can be cancelled."""

    def __init__(self, context: SparkContext, stage: str, action: Callable[[], Any]) -> None:
        self.context, self.stage, self.action = context, stage, action
        self.error: Exception | None = None
        self._group = uuid.uuid4().hex
        self._thread = threading.Thread(target=self._run, name=f"spark-{stage}", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether the job is still running after at most so long."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def end(self) -> None:
        """Cancel what still runs, and wait for it."""
        if self._thread.is_alive():
            self.context.cancelJobGroup(self._group)
            self._thread.join(_CANCEL_SECONDS)

    def _run(self) -> None:
        try:
            self.context.setJobGroup(self._group, f"imglish {self.stage}", interruptOnCancel=True)
            self.action()
        except Exception as error:  # noqa: BLE001  handed to the thread that waits
            self.error = error


class _Collect(AccumulatorParam[list[Outcome]]):
    """What finished tasks have to say, in order of arrival."""

    def zero(self, value: list[Outcome]) -> list[Outcome]:
        return []

    def addInPlace(self, value1: list[Outcome], value2: list[Outcome]) -> list[Outcome]:  # noqa: N802  Spark's name
        value1 += value2
        return value1


def _lost(error: Exception, names: Sequence[str]) -> str:
    """The unit whose task Spark gave up, as Spark numbers it."""
    found = _LOST_TASK.search(str(error))
    place = int(found.group(1)) if found else len(names)
    return f", {names[place]}" if place < len(names) else ""
