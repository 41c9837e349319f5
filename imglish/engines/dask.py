"""The embedded engine: Dask, on an own local cluster or on a scheduler that is already there.

    with DaskEngine(workers=2, memory="4GB", scratch="corpus/scratch") as engine:
        receipts = run_map(store, "tables", engine, task, units)

The cluster starts at the first piece of work, so a build that has nothing to do starts none. `map` submits
units as futures. `group` cuts every loaded table by bucket into Arrow IPC pieces and lets Dask's own
peer-to-peer shuffle bring a bucket's pieces together; only two flat columns, `bucket` and `rows`, cross it.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
from distributed import Client, Future, LocalCluster, as_completed

from imglish.errors import ImglishError, StageError
from imglish.stages import Load, Receipt, Reduce, Task, Unit

_PIECE_BYTES = 64 << 20
"""Largest shuffled cell; a bigger bucket of one piece travels in several cells."""
_SEAM = pd.DataFrame({"bucket": pd.Series(dtype="int32[pyarrow]"), "rows": pd.Series(dtype=pd.ArrowDtype(pa.binary()))})
_RECEIPTS = pd.DataFrame({"receipt": pd.Series(dtype=pd.ArrowDtype(pa.binary()))})


class DaskEngine:
    """Both verbs of the seam on Dask; see `imglish.stages.Engine`."""

    def __init__(
        self, workers: int | None = None, memory: str = "4GB", address: str | None = None, scratch: str | None = None
    ) -> None:
        """`workers` processes of one thread each; `scratch` is a folder of its own for what shuffles spill."""
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
        """Run a task on every unit; StageError names the unit that failed."""
        client = self._connect()
        futures = {client.submit(task, unit, key=f"{unit.stage}-{uuid.uuid4().hex}"): unit for unit in units}
        for future in as_completed(list(futures)):
            yield _result(future, f"{futures[future].stage}, unit {futures[future].id}", futures)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        """Shuffle all pieces' rows by bucket and reduce each bucket once, empty ones too."""
        client = self._connect()
        with dask.config.set({"dataframe.shuffle.method": "p2p", "dataframe.convert-string": False}):
            frame = dd.from_map(_cut, list(pieces), load=load, meta=_SEAM)
            shuffled = frame.shuffle("bucket", npartitions=min(len(buckets), max(len(pieces), self._width())))
            reduced = shuffled.map_partitions(_reduce_partition, reduce=reduce, meta=_RECEIPTS)
            futures = client.compute(reduced.to_delayed())
        seen: set[int] = set()
        for future in as_completed(futures):
            for cell in _result(future, reduce.stage, futures)["receipt"]:
                receipt = Receipt.from_json(bytes(cell))
                seen.add(int(receipt.notes["bucket"]))
                yield receipt
        absent = [bucket for bucket in buckets if bucket not in seen]
        if absent:
            empty = client.submit(_Empty(load), pieces[0], pure=False)
            lonely = [client.submit(reduce, bucket, empty, pure=False) for bucket in absent]
            for future in as_completed(lonely):
                yield _result(future, reduce.stage, lonely)

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
            if self.address is None:
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
            self._client = Client(self.address or self._cluster)
        return self._client

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
        what = f"{type(error).__name__}: {error}"
        raise StageError(f"{where}: {what}; finished units are kept, run the same command again") from error


@dataclass(frozen=True)
class _Empty:
    """The empty table of a load, for buckets that no row fell into."""

    load: Load

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        return self.load(piece).slice(0, 0)


def _cut(piece: Mapping[str, Any], load: Load) -> pd.DataFrame:
    """A loaded table as cells (bucket, Arrow IPC of its rows)."""
    table = load(piece).combine_chunks()
    bucket = table.column("bucket").to_numpy()
    order = np.argsort(bucket, kind="stable")
    table, bucket = table.take(order), bucket[order]
    starts = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]]) if len(bucket) else np.zeros(0, dtype=np.int64)
    stops = np.r_[starts[1:], len(bucket)].astype(np.int64)
    cells: list[tuple[int, bytes]] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        rows = table.slice(start, stop - start)
        step = max(1, int(rows.num_rows * _PIECE_BYTES // max(1, rows.nbytes)))
        cells += [(int(bucket[start]), _ipc(rows.slice(i, step))) for i in range(0, rows.num_rows, step)]
    columns = [
        pa.array([bucket for bucket, _ in cells], pa.int32()),
        pa.array([rows for _, rows in cells], pa.binary()),
    ]
    return pa.table(columns, names=["bucket", "rows"]).to_pandas(types_mapper=pd.ArrowDtype)


def _ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _reduce_partition(cells: pd.DataFrame, reduce: Reduce) -> pd.DataFrame:
    """Reduce every bucket of a partition; one receipt a row."""
    receipts = []
    for bucket, group in cells.groupby("bucket", sort=True):
        tables = [pa.ipc.open_stream(cell).read_all() for cell in group["rows"]]
        receipts.append(reduce(int(bucket), pa.concat_tables(tables)).to_json())
    return pd.DataFrame({"receipt": pd.array(receipts, dtype=pd.ArrowDtype(pa.binary()))})
