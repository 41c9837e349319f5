"""What both engines do around their own scheduling: run a unit, cut loaded tables into cells, reduce a bucket.

    for bucket, cell in cut(piece, load, reduce.stage, buckets): ...      # on a worker; cells go through the shuffle
    receipt = reduce_bucket(bucket, cells, reduce)                        # on the worker that got a bucket's cells

Two flat columns cross a shuffle, `bucket` (int32) and `rows` (an Arrow IPC stream of at most `CELL_BYTES`). The cells
of the first piece include an empty one for every bucket, so that a bucket without rows is reduced like any other.

A worker raises ImglishErrors only: those of a task as they are, anything else as a StageError that names the unit, with
the worker's traceback as a note. `Failure` carries them where exceptions cannot travel.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from imglish import errors
from imglish.errors import ImglishError, StageError
from imglish.stages import Load, Receipt, Reduce, Task, Unit
from imglish.versions import code_facts

CELL_BYTES = 64 << 20
"""Largest shuffled cell; more rows of one bucket from one piece travel in several cells."""
PATIENCE_SECONDS = 120.0
"""How long a cluster may take to run a first, empty task."""
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
"""A bucket's cells lie in memory beside the rows that are made of them; packed they are a third, for a second a GB."""
_SHOWN = 200
"""Characters of a piece that a message shows."""

Value = TypeVar("Value")
WAY_OUT = "finished units are kept, run the same command again"


def run_unit(task: Task, unit: Unit, code: Mapping[str, str]) -> Receipt:
    """Do one unit on a worker whose code is the driver's."""
    check_code(code)
    return attempt(f"{unit.stage}, unit {unit.id}", task, unit)


def attempt(where: str, function: Callable[..., Value], *arguments: Any) -> Value:
    """The value of a call; what is no ImglishError becomes a StageError that says where it happened."""
    try:
        return function(*arguments)
    except ImglishError:
        raise
    except Exception as error:
        found = StageError(f"{where}: {type(error).__name__}: {error}; {WAY_OUT}")
        found.add_note(traceback.format_exc())
        raise found from error


def check_code(code: Mapping[str, str]) -> None:
    """StageError when this worker's code or libraries are not those of the driver."""
    mine = code_facts()
    if mine != code:
        names = sorted(name for name in {*mine, *code} if mine.get(name) != code.get(name))
        told = ", ".join(f"{name} {mine.get(name, 'missing')} (driver: {code.get(name, 'missing')})" for name in names)
        raise StageError(
            f"a worker runs other code than the driver and might write other bytes: {told}; give both the same wheel "
            "and libraries (docs/clusters.md)"
        )


def cut(piece: Mapping[str, Any], load: Load, stage: str, empty: Sequence[int] = ()) -> Iterator[tuple[int, bytes]]:
    """A loaded piece as cells (bucket, Arrow IPC of its rows); an empty cell for every bucket in `empty`."""
    shown = json.dumps(dict(piece), default=str)
    where = f"{stage}, reading {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}"
    table = attempt(where, load, piece).combine_chunks()
    bucket = table.column("bucket").to_numpy()
    order = np.argsort(bucket, kind="stable")
    table, bucket = table.take(order), bucket[order]
    nothing = _ipc(table.slice(0, 0)) if empty else b""
    yield from ((one, nothing) for one in empty)
    edges = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1], True]) if len(bucket) else np.zeros(1, dtype=np.int64)
    for start, stop in pairwise(edges.tolist()):
        rows = table.slice(start, stop - start)
        step = max(1, int(rows.num_rows * CELL_BYTES // max(1, rows.nbytes)))
        yield from ((int(bucket[start]), _ipc(rows.slice(i, step))) for i in range(0, rows.num_rows, step))


def _ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_PACKED) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def reduce_bucket(bucket: int, cells: Iterable[bytes | pa.Buffer], reduce: Reduce) -> Receipt:
    """Reduce all rows of a bucket."""
    tables = [pa.ipc.open_stream(cell).read_all() for cell in cells]
    return attempt(f"{reduce.stage}, bucket {bucket}", reduce, bucket, pa.concat_tables(tables))


@dataclass(frozen=True)
class Failure:
    """An ImglishError as plain values: its class by name, constructor arguments and notes."""

    kind: str
    arguments: Sequence[Any]
    notes: Sequence[str]

    @classmethod
    def of(cls, error: ImglishError) -> Failure:
        """A class that is not in `imglish.errors`, or arguments that are no plain values, leave a StageError."""
        reduced = error.__reduce__()
        arguments = reduced[1] if isinstance(reduced, tuple) else (str(error),)
        known = getattr(errors, type(error).__name__, None) is type(error)
        plain = known and all(isinstance(value, (str, int, float)) for value in arguments)
        notes = getattr(error, "__notes__", [])
        return cls(type(error).__name__, arguments, notes) if plain else cls("StageError", [str(error)], notes)

    def error(self) -> ImglishError:
        kind: type[ImglishError] = getattr(errors, self.kind)
        found = kind(*self.arguments)
        for note in self.notes:
            found.add_note(note)
        return found
