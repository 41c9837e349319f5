"""The embedded engine: Dask, on an own local cluster or on a scheduler that is already there.

    with DaskEngine(workers=2, memory="4GB", scratch="corpus/scratch") as engine:
        receipts = run_map(store, "tables", engine, task, units)

The cluster starts at the first piece of work, so a build that has nothing to do starts none. `map` submits
units as futures. `group` cuts every loaded table by bucket into Arrow IPC cells (`imglish.engines.seam`) and lets
Dask's own peer-to-peer shuffle bring a bucket's cells together.
"""

from __future__ import annotations

import logging
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
from distributed import Client, Future, LocalCluster, as_completed

from imglish.engines.seam import PATIENCE_SECONDS, WAY_OUT, check_code, cut, reduce_bucket, run_unit
from imglish.errors import EngineError, ImglishError, StageError
from imglish.stages import Load, Receipt, Reduce, Task, Unit
from imglish.versions import code_facts

CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer."""
_WORKERS = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
"""Dask lets its workers give memory back at every 64 KB, which also maps each larger block anew: pictures of a megabyte
cost 40 % more time to decode and shrink, all of it page faults. glibc's own thresholds follow what is freed."""
_AHEAD = 64
"""Units of a worker that are submitted at most, topped up by halves; small ones end faster than the driver answers."""
_PARTITIONS = 1024
"""Partitions of a shuffle that has as many buckets: a partition's cells are in memory together."""
_SEAM = pd.DataFrame(
    {
        "place": pd.Series(dtype="int64"),
        "bucket": pd.Series(dtype="int32[pyarrow]"),
        "rows": pd.Series(dtype=pd.ArrowDtype(pa.binary())),
    }
)
_RECEIPTS = pd.DataFrame({"receipt": pd.Series(dtype=pd.ArrowDtype(pa.binary()))})


class DaskEngine:
    """Both verbs of the seam on Dask; see `imglish.stages.Engine`."""

    def __init__(
        self, workers: int | None = None, memory: str = "4GB", address: str | None = None, scratch: str | None = None
    ) -> None:
        """`workers` processes of one thread each; `scratch` is a folder of its own for what shuffles spill.

        With the `address` of a scheduler its workers are used as they are; they spill where they were told to.
        """
        self.workers, self.memory, self.address, self.scratch = workers, memory, address, scratch
        self._client: Client | None = None
        self._cluster: LocalCluster | None = None

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        """Run a task on every unit; an error names the unit that failed, and the others are cancelled.

        Dask gives units to workers before one of them is free. On our own cluster at most a quarter of those that are
        left lies ahead, and none of the last ones, so that no worker idles while units wait behind another's.
        """
        client, code = self._connect(), code_facts()
        width = self._width() if self.address is None else len(units)
        waiting, left = iter(units), len(units)
        running: dict[Future, Unit] = {}
        ending = as_completed()
        while left or running:
            for unit in islice(waiting, count := more(left, len(running), width)):
                future = client.submit(run_unit, task, unit, code, pure=False)
                running[future] = unit
                ending.add(future)
            left -= count
            future = next(ending)
            receipt = _result(future, f"{running[future].stage}, unit {running[future].id}", running)
            del running[future]
            yield receipt

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        """Shuffle all pieces' rows by bucket and reduce each bucket once, empty ones too."""
        client = self._connect()
        width = self._width()
        partitions = min(len(buckets), max(len(pieces), width, _PARTITIONS))
        seam = {"load": load, "stage": reduce.stage, "code": code_facts(), "buckets": buckets}
        numbered = [(piece, buckets if number == 0 else ()) for number, piece in enumerate(pieces)]
        divisions = [*range(partitions + 1)]
        with dask.config.set({"dataframe.shuffle.method": "p2p", "dataframe.convert-string": False}):
            frame = dd.from_map(_cut, numbered, **seam, partitions=partitions, workers=width, meta=_SEAM)
            shuffled = frame.set_index("place", divisions=divisions)
            reduced = shuffled.map_partitions(_reduce_partition, reduce=reduce, meta=_RECEIPTS)
            futures = client.compute(reduced.to_delayed())
        for future in as_completed(futures):
            for receipt in _result(future, reduce.stage, futures)["receipt"]:
                yield Receipt.from_json(bytes(receipt))

    def close(self) -> None:
        """Stop the cluster if it is our own, and clear its scratch folder."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
            if self.scratch is not None:
                shutil.rmtree(self.scratch, ignore_errors=True)
        self._client = self._cluster = None

    def _connect(self) -> Client:
        if self._client is None:
            self._client = self._reach(self.address) if self.address is not None else self._start()
        return self._client

    def _start(self) -> Client:
        with dask.config.set(_WORKERS):
            self._cluster = LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=self.memory,
                local_directory=self.scratch,
                silence_logs=logging.CRITICAL,
            )
        return Client(self._cluster)

    def _reach(self, address: str) -> Client:
        """A scheduler that has a worker with our code; EngineError when none answers in time."""
        try:
            client = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"no Dask scheduler answers at {address} within {CONNECT_SECONDS:.0f} s ({error}); start one with "
                "'dask scheduler', or leave out the address for a cluster of this machine (docs/clusters.md)"
            ) from error
        try:
            client.submit(check_code, code_facts(), pure=False).result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            client.close()
            raise EngineError(
                f"the Dask scheduler at {address} has no worker that took a task within {PATIENCE_SECONDS:.0f} s; "
                f"start some with 'dask worker {address} --nthreads 1'"
            ) from None
        except Exception:
            client.close()
            raise
        return client

    def _width(self) -> int:
        return max(1, len(self._connect().scheduler_info(n_workers=-1)["workers"]))


def _result(future: Future, where: str, siblings: Iterable[Future]) -> Any:
    """A future's value; when it failed, its siblings are cancelled and the error names the unit."""
    try:
        return future.result()
    except Exception as error:
        future.client.cancel(list(siblings))
        if isinstance(error, ImglishError):
            raise
        raise StageError(f"{where}: {type(error).__name__}: {error}; {WAY_OUT}") from error


def _cut(
    numbered: tuple[Mapping[str, Any], Sequence[int]],
    load: Load,
    stage: str,
    code: Mapping[str, str],
    buckets: Sequence[int],
    partitions: int,
    workers: int,
) -> pd.DataFrame:
    check_code(code)
    piece, empty = numbered
    cells = list(cut(piece, load, stage, empty))
    columns = {
        "bucket": pa.array([bucket for bucket, _ in cells], pa.int32()),
        "rows": pa.array([rows for _, rows in cells], pa.binary()),
    }
    frame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)
    places = dict(zip(buckets, spread(len(buckets), partitions, workers), strict=True))
    frame.insert(0, "place", np.array([places[bucket] for bucket, _ in cells], np.int64))
    return frame


def more(left: int, running: int, width: int) -> int:
    """How many of the units that are left to submit now, to `width` workers that have `running` already."""
    ahead = max(width, min(_AHEAD * width, left // 4))
    return min(left, ahead - running) if running <= max(width - 1, ahead // 2) else 0


def spread(buckets: int, partitions: int, workers: int) -> list[int]:
    """The partition of every bucket: as many in each, and neighbours on different workers.

    Dask gives the first partitions to the first worker, and so on, of a shuffle (`_get_worker_for_range_sharding`).
    """
    mine = [workers * partition // partitions for partition in range(partitions)]
    order = sorted(range(partitions), key=lambda partition: partition - bisect_left(mine, mine[partition]))
    return [order[bucket % partitions] for bucket in range(buckets)]


def _reduce_partition(cells: pd.DataFrame, reduce: Reduce) -> pd.DataFrame:
    """Reduce every bucket of a partition; one receipt a row."""
    receipts = [
        reduce_bucket(int(bucket), group["rows"], reduce).to_json()
        for bucket, group in cells.groupby("bucket", sort=True)
    ]
    return pd.DataFrame({"receipt": pd.array(receipts, dtype=pd.ArrowDtype(pa.binary()))})
