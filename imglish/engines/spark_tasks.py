"""What Spark runs on its workers; no Spark in it.

`Outcome`s go to the driver through `arrivals`, an accumulator: a receipt as JSON, or a `Failure` in its place. Failures
are values because an exception would lose its type in Java, and Spark would try the unit again.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa

from imglish.engines.seam import Failure, check_code, cut, reduce_bucket, run_unit
from imglish.errors import ImglishError
from imglish.stages import Load, Receipt, Reduce, Task, Unit

Outcome = tuple[str, bytes]
"""Number of a unit or bucket, and JSON: a receipt, or {"failure": ...}."""
SEAM = pa.schema([pa.field("bucket", pa.int32()), pa.field("rows", pa.binary())])
SEAM_DDL = "bucket int, rows binary"


_frozen: set[int] = set()
"""Numbers of loaded modules at which `settle` has set aside what they hold."""


def settle() -> None:
    """Keep loaded modules out of the garbage collector's way.

    Spark's Python workers collect after every task (`pyspark.daemon`), which walks all that our libraries hold: 40 ms,
    several times what a small unit takes. Frozen once for each number of modules, so that what a task leaves is found.
    """
    if len(sys.modules) not in _frozen:
        _frozen.add(len(sys.modules))
        gc.collect()
        gc.freeze()


class Arrivals(Protocol):
    """An accumulator of outcomes."""

    def add(self, term: list[Outcome]) -> None: ...


@dataclass(frozen=True)
class RunUnits:
    """Does the units of a partition (one)."""

    task: Task
    code: Mapping[str, str]
    arrivals: Arrivals

    def __call__(self, units: Iterable[tuple[int, Unit]]) -> None:
        settle()
        for number, unit in units:
            self.arrivals.add([(str(number), _outcome(run_unit, self.task, unit, self.code))])


@dataclass(frozen=True)
class CutPieces:
    """Cuts the pieces of a partition (one) into cells; `places` numbers the wanted buckets from 0.

    When a piece cannot be read, every bucket gets a cell that says so: none may be reduced without its rows.
    """

    load: Load
    stage: str
    places: Mapping[int, int]
    code: Mapping[str, str]
    arrivals: Arrivals

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        settle()
        for batch in batches:
            for row in batch.to_pylist():
                yield from self._cells(row["number"], json.loads(row["piece"]))

    def _cells(self, number: int, piece: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        empty = tuple(self.places) if number == 0 else ()
        try:
            check_code(self.code)
            for bucket, cell in cut(piece, self.load, self.stage, empty):
                yield pa.record_batch([[self.places[bucket]], [cell]], SEAM)
        except ImglishError as error:
            told = _failure(error)
            self.arrivals.add([("", told)])
            for place in self.places.values():
                yield pa.record_batch([[place], [told]], SEAM)


@dataclass(frozen=True)
class ReducePartition:
    """Reduces the one bucket of a partition; its place in `buckets` is the partition's number."""

    buckets: Sequence[int]
    reduce: Reduce
    arrivals: Arrivals

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        settle()
        cells: list[pa.Buffer] = []
        places: set[int] = set()
        for batch in batches:
            places |= set(batch.column(0).to_pylist())
            cells += [cell.as_buffer() for cell in batch.column(1)]
        for place in places:
            bucket = self.buckets[place]
            failed = next((cell for cell in cells if cell.slice(0, 1).to_pybytes() == b"{"), None)
            outcome = failed.to_pybytes() if failed else _outcome(reduce_bucket, bucket, cells, self.reduce)
            self.arrivals.add([(str(bucket), outcome)])
        yield from ()


def receipt_of(outcome: bytes) -> Receipt:
    """The receipt of an outcome; raises what the worker raised."""
    told = json.loads(outcome)
    if "failure" in told:
        raise Failure(**told["failure"]).error()
    return Receipt.from_json(outcome)


def _outcome(function: Callable[..., Receipt], *arguments: Any) -> bytes:
    try:
        return function(*arguments).to_json()
    except ImglishError as error:
        return _failure(error)


def _failure(error: ImglishError) -> bytes:
    return json.dumps({"failure": asdict(Failure.of(error))}).encode()
