"""Both verbs of the seam, on every engine: the same body runs under each."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.digests import table_digest
from imglish.engines.dask import DaskEngine, more, spread
from imglish.engines.spark import SparkEngine
from imglish.errors import ImageError, SampleError, StageError, TokenizerError
from imglish.ingest.land import land, landing_files
from imglish.recipe import make_recipe
from imglish.stages import Commit, Engine, Receipt, Unit, counts_of, run_group, run_map
from imglish.storage import Store
from tests.ingest.engine_helpers import Inline
from tests.ingest.web_helpers import Web, body, image_bytes, redirect
from tests.shards.remote_helpers import wait_until

ENGINES = {"dask": DaskEngine, "spark": SparkEngine}


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    scratch = str(tmp_path_factory.mktemp("scratch"))
    with ENGINES[request.param](workers=2, memory="2GB", scratch=scratch) as opened:
        yield opened


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


def test_units_of_one_id_all_have_the_receipt(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    receipts = run_map(store, "tables", engine, Square(store), [*units(2), *units(2)])
    assert [receipt.counts["total"] for receipt in receipts] == [0, 1, 0, 1]


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


ERRORS = {
    "TokenizerError": TokenizerError("no pieces"),
    "ImageError": ImageError("truncated", "at byte 7"),
    "SampleError": SampleError("bad codes", "pair", 3, 17),
}


@dataclass(frozen=True)
class Fail:
    """A task, a load and a reduce that raises an error of ours."""

    name: str
    stage: str = "fail"

    def __call__(self, *_: Any) -> Any:
        raise ERRORS[self.name]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_ours_comes_through_with_its_type_and_values(engine: Engine, name: str) -> None:
    with pytest.raises(type(ERRORS[name])) as raised:
        list(engine.map(Fail(name), units(2)))
    assert type(raised.value) is type(ERRORS[name])
    assert str(raised.value) == str(ERRORS[name]) and vars(raised.value).items() >= vars(ERRORS[name]).items()


def test_an_error_of_ours_comes_through_a_shuffle(engine: Engine) -> None:
    with pytest.raises(ImageError, match="truncated: at byte 7"):
        list(engine.group(Fail("ImageError"), [{"start": 0}, {"start": 100}], range(5), Fail("TokenizerError")))
    with pytest.raises(TokenizerError, match="no pieces"):
        list(engine.group(Numbers(), [{"start": 0}], range(5), Fail("TokenizerError")))


def test_a_piece_that_cannot_be_read_is_named(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StageError, match=r'collect, reading {"start": "x"}: TypeError: '):
        list(engine.group(Numbers(), [{"start": 0}, {"start": "x"}], range(5), Collect(store)))


def test_an_error_carries_the_traceback_of_the_worker(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(StageError) as raised:
        list(engine.map(Square(Store(tmp_path), poison=0), units(1)))
    assert "in __call__" in "".join(raised.value.__notes__)


@dataclass(frozen=True)
class DieOnce:
    """Ends its worker at the first attempt at each odd unit, the hard way."""

    store: Store
    folder: str

    def __call__(self, unit: Unit) -> Receipt:
        mark = Path(self.folder, unit.id)
        if unit.params["number"] % 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Square(self.store)(unit)


def test_a_killed_worker_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "marks").mkdir()
    receipts = run_map(store, "tables", engine, DieOnce(store, str(tmp_path / "marks")), units(4))
    assert counts_of(receipts) == {"total": 14}
    assert len(list((tmp_path / "marks").iterdir())) == 2


@dataclass(frozen=True)
class AlwaysDies:
    def __call__(self, unit: Unit) -> Receipt:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_unit_that_kills_every_worker_is_named(engine: Engine) -> None:
    (unit,) = units(1)
    with pytest.raises(StageError, match=f"square, unit {unit.id}: .*finished units are kept"):
        list(engine.map(AlwaysDies(), [unit]))


@dataclass(frozen=True)
class Gated:
    """One unit ends only when the driver has seen all others."""

    folder: str
    store: Store
    late: int = 3

    def __call__(self, unit: Unit) -> Receipt:
        end = time.monotonic() + 60
        while unit.params["number"] == self.late and not Path(self.folder, "go").exists():
            assert time.monotonic() < end
        return Square(self.store)(unit)


def test_receipts_come_while_units_run(engine: Engine, tmp_path: Path) -> None:
    came = []
    for receipt in engine.map(Gated(str(tmp_path), Store(tmp_path)), units(4)):
        came.append(receipt.counts["total"])
        if len(came) == 3:
            (tmp_path / "go").touch()
    assert sorted(came[:3]) == [0, 1, 4] and came[3] == 9


def test_no_unit_waits_behind_a_long_one_for_the_same_worker(tmp_path: Path) -> None:
    came = []
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),  # which would hide it, a second later
        DaskEngine(workers=2, memory="2GB", scratch=str(tmp_path / "scratch")) as engine,
    ):
        for receipt in engine.map(Gated(str(tmp_path), Store(tmp_path), late=0), units(4)):
            came.append(receipt.counts["total"])
            if len(came) == 3:
                (tmp_path / "go").touch()
    assert sorted(came[:3]) == [1, 4, 9] and came[3] == 0


@given(st.integers(1, 3000), st.integers(1, 8), st.randoms())
def test_units_are_submitted_ahead_but_not_the_last_ones(left: int, width: int, draw: random.Random) -> None:
    running = 0
    while left or running:
        count = more(left, running, width)
        left, running = left - count, running + count
        assert running >= min(width, left + running)  # no worker idles
        assert count == 0 or running <= max(width, min(64 * width, (left + count) // 4))
        running -= draw.randint(1, running)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 12))
def test_buckets_are_spread_evenly_and_neighbours_lie_on_different_workers(
    buckets: int, partitions: int, workers: int
) -> None:
    partitions = min(buckets, partitions)
    found = spread(buckets, partitions, workers)
    sizes = np.bincount(found, minlength=partitions)
    assert len(found) == buckets and sizes.max() - sizes.min() <= 1
    on = [workers * partition // partitions for partition in found]
    if partitions >= 2 * workers > 2:
        assert all(one != other for one, other in pairwise(on[:workers]))


def noise(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(25 << 20)


@dataclass(frozen=True)
class Large:
    """Three rows of 25 MB for bucket 0 that do not compress, and a row for bucket 1."""

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        payloads = [*[noise(piece["seed"])] * 3, b"small"]
        return pa.table({"payload": pa.array(payloads, pa.binary()), "bucket": pa.array([0, 0, 0, 1], pa.int32())})


@dataclass(frozen=True)
class Weigh:
    store: Store
    stage: str = "weigh"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        digest = sorted(hashlib.sha256(payload.as_buffer()).hexdigest() for payload in rows.column("payload"))
        commit = Commit(self.store, "tables", "weigh", f"{bucket}")
        return commit(
            {}, {"bytes": sum(map(len, rows.column("payload").to_pylist()))}, {"bucket": bucket, "all": digest}
        )


def test_large_rows_cross_the_shuffle_whole(engine: Engine, tmp_path: Path) -> None:
    receipts = {
        r.notes["bucket"]: r
        for r in engine.group(Large(), [{"seed": 1}, {"seed": 2}], range(2), Weigh(Store(tmp_path)))
    }
    assert receipts[0].counts == {"bytes": 150 << 20} and receipts[1].counts == {"bytes": 10}
    assert receipts[0].notes["all"] == sorted(hashlib.sha256(noise(n)).hexdigest() for n in (1, 2) * 3)


def test_what_a_shuffle_spilled_goes_when_it_is_over(engine: Any, tmp_path: Path) -> None:
    def left() -> int:
        total = 0
        for path in Path(engine.scratch).rglob("*"):
            with suppress(FileNotFoundError):  # it is going right now
                total += path.stat().st_size if path.is_file() else 0
        return total

    for _ in range(2):
        list(engine.group(Large(), [{"seed": 1}, {"seed": 2}], range(2), Weigh(Store(tmp_path))))
        wait_until(lambda: left() < 10 << 20)  # engines remove files beside the work that follows


def test_what_is_fetched_lands_in_the_same_bytes(engine: Engine, tmp_path: Path) -> None:
    """Every sort of answer in a few units, one of them from a host that robots.txt closes."""
    pictures = {f"/{n}.jpg": body(image_bytes(side=20 + n)) for n in range(4)}
    answers = pictures | {"/page": body(b"<html>"), "/moved": redirect("/3.jpg")}
    closed = {"/robots.txt": body(b"User-agent: *\nDisallow: /", "Content-Type: text/plain")}
    with Web(answers) as one, Web(answers, address="127.0.0.2") as two, Web(closed, address="127.0.0.3") as barred:
        asked = [web.url(path) for web in (one, two) for path in ("/page", "/moved", "/gone", *pictures)]
        urls = [*asked, barred.url("/0.jpg"), "http://127.0.0.4/private"]
        (tmp_path / "list.csv").write_text("url\n" + "".join(f"{url}\n" for url in urls))
        fetch = {"allow_private": [one.host, two.host, barred.host], "unit_rows": 7, "host_delay": 0.0, "retries": 0}
        source = {"name": "list", "format": "url-list", "kind": "image", "path": "list.csv"}
        landed = {}
        for name, chosen in (("cluster", engine), ("here", Inline())):
            given = {"name": "t", "root": str(tmp_path), "work": str(tmp_path / name), "source": [source]}
            made = make_recipe(given | {"fetch": fetch})
            landed[name] = land(Store(made.work), chosen, made)["list"]
    files = {name: [file.sha256 for file in landing_files(receipts)] for name, receipts in landed.items()}
    assert files["cluster"] == files["here"] and len(files["here"]) > 1
    found = {word.partition("/")[2]: count for word, count in counts_of(landed["cluster"]).items() if "/" in word}
    assert found == {"ok": 10, "not_image": 2, "http_404": 2, "robots_disallowed": 1, "refused": 1}
