"""Both verbs of the seam, on every engine: the same body runs under each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from imglish.digests import table_digest
from imglish.engines.dask import DaskEngine
from imglish.errors import StageError
from imglish.stages import Commit, Engine, Receipt, Unit, counts_of, run_group, run_map
from imglish.storage import Store


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with DaskEngine(workers=2, memory="2GB", scratch=str(tmp_path_factory.mktemp("scratch"))) as dask:
        yield dask


@dataclass(frozen=True)
class Square:
    store: Store
    poison: int | None = None

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        number = unit.params["number"]
        if number == self.poison:
            raise ValueError(f"number {number} is poison")
        output = self.store.put_table("tables/square", pa.table({"square": [number * number]}))
        return commit({"rows": output}, {"total": number * number})


@dataclass(frozen=True)
class Numbers:
    """Rows start .. start + 99, each in bucket n mod 5."""

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        numbers = range(piece["start"], piece["start"] + 100)
        columns = {"number": list(numbers), "text": [f"n{n}" if n % 3 else None for n in numbers]}
        return pa.table({**columns, "bucket": pa.array([n % 5 for n in numbers], pa.int32())})


@dataclass(frozen=True)
class Collect:
    store: Store
    stage: str = "collect"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        unit = Unit("collect", 1, {"bucket": bucket}, [table_digest(rows, ["number"])])
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        output = self.store.put_table("tables/collect", rows.sort_by("number"))
        return commit({"rows": output}, {"rows": rows.num_rows}, {"bucket": bucket})


def units(count: int) -> list[Unit]:
    return [Unit("square", 1, {"number": number}, []) for number in range(count)]


def test_map_runs_every_unit_once_and_a_second_run_does_nothing(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run_map(store, "tables", engine, Square(store), units(20))
    assert counts_of(first) == {"total": sum(n * n for n in range(20))}
    assert [store.read_table(r.outputs["rows"].path)["square"][0].as_py() for r in first] == [n * n for n in range(20)]
    again = run_map(store, "tables", engine, Square(store, poison=3), units(20))
    assert [receipt.unit for receipt in again] == [receipt.unit for receipt in first]


def test_a_unit_whose_output_is_lost_is_run_again(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run_map(store, "tables", engine, Square(store), units(3))
    store.remove(first[1].outputs["rows"].path)
    again = run_map(store, "tables", engine, Square(store), units(3))
    assert store.exists(again[1].outputs["rows"].path)


def test_a_failing_unit_is_named_and_the_others_are_kept(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_map(store, "tables", engine, Square(store), units(3))
    with pytest.raises(StageError, match=r"square, unit [0-9a-f]{32}: ValueError: number 5 is poison"):
        run_map(store, "tables", engine, Square(store, poison=5), units(6))
    assert len(run_map(store, "tables", engine, Square(store), units(6))) == 6


def test_group_brings_every_row_of_a_bucket_together(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    pieces = [{"start": start} for start in (0, 100, 200)]
    unit = Unit("group", 1, {}, ["x"])
    receipt = run_group(store, "tables", engine, unit, Numbers(), pieces, range(5), Collect(store))
    for bucket in range(5):
        rows = store.read_table(receipt.outputs[f"{bucket:06d}/rows"].path)
        assert rows["number"].to_pylist() == [n for n in range(300) if n % 5 == bucket]
        assert rows["text"].to_pylist() == [f"n{n}" if n % 3 else None for n in range(300) if n % 5 == bucket]


def test_group_reduces_empty_buckets_too(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    unit = Unit("group", 1, {}, ["y"])
    receipt = run_group(store, "tables", engine, unit, Numbers(), [{"start": 0}], range(7), Collect(store))
    assert [receipt.outputs[f"{bucket:06d}/rows"].rows for bucket in range(7)] == [20, 20, 20, 20, 20, 0, 0]
    assert store.read_table(receipt.outputs["000006/rows"].path).column_names == ["number", "text", "bucket"]


def test_group_gives_the_same_outputs_whatever_the_order_of_pieces(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    pieces = [{"start": start} for start in (0, 100, 200)]
    one = run_group(store, "tables", engine, Unit("g", 1, {}, ["1"]), Numbers(), pieces, range(5), Collect(store))
    two = run_group(store, "tables", engine, Unit("g", 1, {}, ["2"]), Numbers(), pieces[::-1], range(5), Collect(store))
    assert one.outputs == two.outputs
