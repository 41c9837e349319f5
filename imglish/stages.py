"""Units, receipts, and the seam to an engine.

A *unit* is the smallest restartable piece of work. Its id is a digest of everything that can change
its bytes: stage, stage version, parameters that the stage reads, digests of its inputs. A *task* is a
picklable callable that does one unit: it commits its outputs, then writes the unit's *receipt* last.
So a receipt that exists is a unit that is done, whoever did it and however often it was tried.

    receipts = run_map(store, engine, task, units)      # only units without a receipt are run

How receipts are kept and found is `imglish.receipts`. What a run was like (host, seconds, engine) goes into
their `run`, which no digest covers.
"""

from __future__ import annotations

import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from imglish.digests import json_digest
from imglish.receipts import Receipt, find_receipt, find_receipts, receipt_path
from imglish.storage import Output, Store

__all__ = [
    "Commit",
    "Engine",
    "Load",
    "Progress",
    "Receipt",
    "Reduce",
    "Task",
    "Unit",
    "counts_of",
    "find_receipt",
    "find_receipts",
    "numeric_platform",
    "run_facts",
    "run_group",
    "run_map",
]

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total), called after every finished unit."""


@dataclass(frozen=True)
class Unit:
    """One restartable piece of work of a stage.

    `params` and `inputs` (digests) make up the id; `spec` tells the task where to find things and is
    not part of it, because the same content may lie elsewhere tomorrow.
    """

    stage: str
    version: int
    params: Mapping[str, Any]
    inputs: Sequence[str]
    spec: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """32 hex digits."""
        content = {"stage": self.stage, "version": self.version, "params": dict(self.params)}
        return json_digest({**content, "inputs": list(self.inputs)})[:32]


class Task(Protocol):
    """Does one unit: commits its outputs, writes its receipt last, returns it."""

    def __call__(self, unit: Unit) -> Receipt: ...


class Load(Protocol):
    """Reads one piece into a flat table with an int32 column `bucket`."""

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table: ...


class Reduce(Protocol):
    """Gets all rows of one bucket (in any order) and commits them like a task; `stage` names it in messages."""

    @property
    def stage(self) -> str: ...

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt: ...


class Engine(Protocol):
    """The one seam to Dask and Spark; both verbs yield receipts as they come, in any order."""

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]: ...

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        """Bring each bucket's rows together by the engine's own shuffle; `reduce` runs once per bucket.

        `pieces` (at least one) are plain values, as in JSON.
        """
        ...

    def close(self) -> None: ...


class Commit:
    """Times a unit and writes its receipt.

    commit = Commit(store, "landing", unit.stage, unit.id)
    ...
    return commit(outputs={"rows": store.put_table(...)}, counts={"rows": 3})
    """

    def __init__(self, store: Store, folder: str, stage: str, unit: str) -> None:
        self.store, self.folder, self.stage, self.unit = store, folder, stage, unit
        self.began = time.perf_counter()

    def __call__(
        self,
        outputs: Mapping[str, Output],
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, Any] | None = None,
        platform: str | None = None,
    ) -> Receipt:
        """`notes` are facts of content (JSON values); run facts are added here. `platform` is the numeric platform when
        it is more than this machine's CPU."""
        run = {"seconds": round(time.perf_counter() - self.began, 3), **run_facts()}
        if platform is not None:
            run["platform"] = platform
        receipt = Receipt(self.unit, self.stage, outputs, counts or {}, notes or {}, run)
        self.store.put_as(receipt_path(self.folder, self.stage, self.unit), receipt.to_json())
        return receipt


def run_map(
    store: Store,
    folder: str,
    engine: Engine,
    task: Task,
    units: Sequence[Unit],
    progress: Progress | None = None,
) -> list[Receipt]:
    """Run the units that have no receipt yet; the receipts of all units, in their order."""
    done: dict[str, Receipt] = {}
    for stage in dict.fromkeys(unit.stage for unit in units):
        done |= find_receipts(store, folder, stage, [unit.id for unit in units if unit.stage == stage])
    left = Counter(unit.id for unit in units if unit.id not in done)
    finished = len(units) - left.total()
    _advance(progress, units, finished)
    if left:
        for receipt in engine.map(task, list({unit.id: unit for unit in units if unit.id in left}.values())):
            done[receipt.unit] = receipt
            finished += left.pop(receipt.unit, 0)
            _advance(progress, units, finished)
    return [done[unit.id] for unit in units if unit.id in done]


def spans_of(rows: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Consecutive files [first, end) of at most `most` rows together, or one file: pieces of a grouping, whose cells
    would go with the square of the number of small files."""
    edges, held = [0], 0
    for number, count in enumerate(rows):
        if held and held + count > most:
            edges.append(number)
            held = 0
        held += count
    return list(pairwise([*edges, len(rows)]))


def run_group(
    store: Store,
    folder: str,
    engine: Engine,
    unit: Unit,
    load: Load,
    pieces: Sequence[Mapping[str, Any]],
    buckets: Sequence[int],
    reduce: Reduce,
    progress: Progress | None = None,
) -> Receipt:
    """Group all pieces into buckets as one unit; its receipt holds every bucket's outputs.

    Outputs are named `<bucket, 6 digits>/<name>`. Each bucket also has a receipt of its own, keyed by the
    digest of its rows, so a rerun after a crash or a change upstream rewrites only what differs.
    """
    found = find_receipt(store, folder, unit.stage, unit.id)
    if found is not None:
        _advance(progress, [unit], 1)
        return found
    commit = Commit(store, folder, unit.stage, unit.id)
    outputs: dict[str, Output] = {}
    receipts: list[Receipt] = []
    for receipt in engine.group(load, pieces, buckets, reduce):
        receipts.append(receipt)
        bucket = int(receipt.notes["bucket"])
        outputs |= {f"{bucket:06d}/{name}": output for name, output in receipt.outputs.items()}
        if progress is not None:
            progress(unit.stage, len(receipts), len(buckets))
    return commit(dict(sorted(outputs.items())), counts_of(receipts))


def _advance(progress: Progress | None, units: Sequence[Unit], done: int) -> None:
    if progress is not None and units:
        progress(units[0].stage, done, len(units))


def counts_of(receipts: Iterable[Receipt]) -> dict[str, int]:
    """The sum of the receipts' counts, by name."""
    total: dict[str, int] = {}
    for receipt in receipts:
        for name, count in receipt.counts.items():
            total[name] = total.get(name, 0) + count
    return total


@cache
def run_facts() -> dict[str, Any]:
    """Where a unit ran: host, process-independent; the numeric platform decides on float results."""
    return {"host": socket.gethostname(), "platform": numeric_platform()}


@cache
def numeric_platform(accelerator: str | None = None) -> str:
    """CPU architecture and the vector features that numeric libraries dispatch on, and the accelerator if there is one.

    Two machines with the same word give the same codes; pack refuses mixed ones unless told.
    """
    flags: list[str] = []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        line = next((text for text in lines if text.startswith(("flags", "Features"))), "")
        wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
        flags = [flag for flag in wanted if flag in line.split()]
    return "+".join([platform.machine(), *flags, *([accelerator] if accelerator else [])])
