"""The stage `measure`: one unit for each landing file and measure that the recipe's rules need of its kind.

    units = measure_units(recipe, landing, kinds)      # by landing file, none for a file whose kind is not measured
    run_map(store, "tables", engine, MeasureTask(store, recipe), flat(units))

A measure's file has one row per occurrence in landing's order, null where there is nothing to measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from imglish.ingest.measures.base import Measure
from imglish.ingest.measures.registry import make_measure, needed_names
from imglish.recipe import Recipe
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Output, Store

STAGE = "measure"
VERSION = 1
FOLDER = "tables"
BATCH_BYTES = 1 << 20
"""Payload measured at once: larger batches leave the cache (8.7 MB/s at 1 MiB, 6.9 at 4 MiB)."""
_BATCH_ROWS = 1024
T = TypeVar("T")


def measure_units(recipe: Recipe, landing: Sequence[Output], kinds: Sequence[str]) -> list[list[Unit]]:
    """Units of each landing file, whose kind stands beside it."""
    measures = [make_measure(name, recipe) for name in needed_names(recipe)]
    return [
        [_unit(measure, file) for measure in measures if kind in measure.kinds]
        for file, kind in zip(landing, kinds, strict=True)
    ]


def _unit(measure: Measure, file: Output) -> Unit:
    params = {"measure": measure.name, "version": measure.version, "params": dict(measure.params)}
    return Unit(STAGE, VERSION, params, [file.sha256], {"landing": file.path})


@dataclass(frozen=True)
class MeasureTask:
    """Writes one measure of one landing file."""

    store: Store
    recipe: Recipe

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        measure = make_measure(unit.params["measure"], self.recipe)
        columns = ["kind", "status", "payload", "captions"]
        tables = [
            _measured(measure, batch)
            for rows in self.store.read_batches(unit.spec["landing"], _BATCH_ROWS, columns)
            for batch in batches(rows.to_pylist(), BATCH_BYTES, lambda row: len(row["payload"] or b""))
        ]
        whole = pa.concat_tables([measure.schema.empty_table(), *tables])
        return commit(
            {"rows": self.store.put_table(f"{FOLDER}/{STAGE}", whole)}, {f"{measure.name}_rows": whole.num_rows}
        )


def _measured(measure: Measure, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A row for each, null where there is no payload of a kind that is measured."""
    usable = [row["status"] == "ok" and row["kind"] in measure.kinds for row in rows]
    found = measure.call([row for row, good in zip(rows, usable, strict=True) if good])
    places = iter(range(found.num_rows))
    return found.take(pa.array([next(places) if good else None for good in usable], pa.int64()))


def batches(items: Iterable[T], size: int, bytes_of: Any = len) -> Iterator[list[T]]:
    """Consecutive items of about `size` bytes together."""
    batch: list[T] = []
    held = 0
    for item in items:
        batch.append(item)
        held += bytes_of(item)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
