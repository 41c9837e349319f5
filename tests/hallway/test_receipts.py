"""Receipts are found by listing, on any store; what is lost or torn counts for nothing; the index may go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from imglish.receipts import FEW, INDEX_FROM, Receipt, find_receipt, find_receipts, receipt_path
from imglish.stages import Unit, run_map
from imglish.storage import Output, Store

COUNT = INDEX_FROM + 20


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "disk":
        yield Store(tmp_path)
        return
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        yield Store("memory://receipts")
        memory.rm("/receipts", recursive=True)
        return
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="receipts")
    yield Store("s3://receipts/build")
    server.stop()


class Counted(Store):
    """A store that says what it was asked for."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        self.asked += paths
        return super().read_many(paths)

    def size(self, path: str) -> int | None:
        self.asked.append(path)
        return super().size(path)


@dataclass(frozen=True)
class Write:
    """A task that writes one small file a unit."""

    store: Store
    done: list[int] = field(default_factory=list)

    def __call__(self, unit: Unit) -> Receipt:
        number = int(unit.params["number"])
        self.done.append(number)
        output = write(self.store, number)
        receipt = Receipt(unit.id, unit.stage, {"rows": output}, {"number": number}, {}, {"seconds": 0.5})
        self.store.put_as(receipt_path("tables", unit.stage, unit.id), receipt.to_json())
        return receipt


class Plain:
    """An engine that loops."""

    def map(self, task: Any, units: Sequence[Unit]) -> Iterator[Receipt]:
        return (task(unit) for unit in units)

    def group(self, load: Any, pieces: Any, buckets: Any, reduce: Any) -> Iterator[Receipt]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


def write(store: Store, number: int) -> Output:
    data = f"content {number}".encode()
    path = f"tables/write/{number:04d}.bin"
    store.put_as(path, data)
    return Output(path, f"{number:064x}", len(data), 1)


def units(count: int = COUNT) -> list[Unit]:
    return [Unit("write", 1, {"number": number}, []) for number in range(count)]


def build(store: Store, count: int = COUNT) -> list[int]:
    """Numbers of the units that were run, in order."""
    task = Write(store)
    found = run_map(store, "tables", Plain(), task, units(count))
    assert [receipt.counts["number"] for receipt in found] == list(range(count))
    return task.done


def path_of(number: int) -> str:
    return receipt_path("tables", "write", units()[number].id)


def test_finished_units_are_found_and_only_others_run(store: Store) -> None:
    assert build(store, 30) == list(range(30))
    assert build(store, 40) == list(range(30, 40))
    ids = [unit.id for unit in units(40)]
    assert list(find_receipts(store, "tables", "write", [*reversed(ids), "0" * 32])) == [*reversed(ids)]
    assert find_receipt(store, "tables", "write", ids[7]) == find_receipts(store, "tables", "write", ids)[ids[7]]
    assert find_receipts(store, "tables", "nothing-like-it", ids) == {}


@pytest.mark.parametrize("count", [FEW, FEW + 5])
def test_a_lost_or_shorter_output_and_a_torn_receipt_run_again(store: Store, count: int) -> None:
    build(store, count)
    store.remove("tables/write/0003.bin")
    store.put_as("tables/write/0005.bin", b"half")
    store.put_as(path_of(8), store.read(path_of(8))[:-30])
    store.put_as(path_of(9), store.read(path_of(10)))
    store.put_as(path_of(11), b'{"unit":"x"}')
    store.put_as(path_of(12), b"[]")
    assert build(store, count) == [3, 5, 8, 9, 11, 12]
    assert build(store, count) == []


def test_the_index_saves_reads_and_may_be_lost_torn_or_old(tmp_path: Path) -> None:
    build(Store(tmp_path))
    ids = [unit.id for unit in units()]
    index = "index/tables-write.parquet"

    def asked() -> int:
        """Files asked for one by one, beside the index itself."""
        counted = Counted(str(tmp_path))
        assert list(find_receipts(counted, "tables", "write", ids)) == ids
        return len(counted.asked) - 1

    assert asked() == COUNT
    assert asked() == 0
    store = Store(tmp_path)
    store.remove(index)
    assert asked() == COUNT
    data = store.read(index)
    store.put_as(index, data[: len(data) // 2])
    assert asked() == COUNT
    assert asked() == 0
    store.put_as(path_of(4), store.read(path_of(4)).replace(b'"seconds":0.5', b'"seconds":0.75'))
    assert asked() == 1
    assert find_receipts(store, "tables", "write", ids)[ids[4]].run == {"seconds": 0.75}
    store.remove(path_of(6))
    assert ids[6] not in find_receipts(store, "tables", "write", ids)


def test_a_store_that_cannot_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Store(tmp_path))

    def refuse(*arguments: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("imglish.storage.os.replace", refuse)
    assert len(find_receipts(Store(tmp_path), "tables", "write", [unit.id for unit in units()])) == COUNT


def test_units_of_one_content_are_done_once(tmp_path: Path) -> None:
    task = Write(Store(tmp_path))
    steps: list[tuple[int, int]] = []
    twice = [*units(3), *units(3)]
    found = run_map(task.store, "tables", Plain(), task, twice, lambda stage, done, total: steps.append((done, total)))
    assert task.done == [0, 1, 2] and len(found) == 6
    assert steps[0] == (0, 6) and steps[-1] == (6, 6)
