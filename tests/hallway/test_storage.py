"""Files appear whole or not at all, under names that are their content."""

from __future__ import annotations

import errno
import hashlib
import resource
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imglish.errors import StorageError
from imglish.storage import PARQUET_ROW_GROUP_BYTES, Store


def write_twice(file: BinaryIO) -> int:
    file.write(b"one ")
    file.write(b"two")
    return 2


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = store.put("a/b", ".bin", write_twice), store.put("a/b", ".bin", write_twice)
    assert first == second
    assert first.path == f"a/b/{hashlib.sha256(b'one two').hexdigest()[:32]}.bin"
    assert (first.bytes, first.rows, store.read(first.path)) == (7, 2, b"one two")
    assert list(store.files()) == [first.path]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def full(file: BinaryIO) -> int:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(StorageError, match=r"No space left on device; free space or fix permissions and run the same"):
        store.put("shards", ".tar", full)
    assert list(store.files()) == []


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the operating system, in a process of its own."""
    script = (
        "import resource, signal, sys; from imglish.storage import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Store(sys.argv[1]).put('shards', '.tar', lambda file: file.write(b'x' * 5000))"
    )
    assert resource.RLIMIT_FSIZE
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "StorageError" in ran.stderr and "File too large" in ran.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_named_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_as("lock.json", b"1")
    store.put_as("lock.json", b"22")
    assert store.read("lock.json") == b"22" and list(store.files()) == ["lock.json"]


def test_tables_have_row_groups_of_bounded_size(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = pa.table({"payload": pa.array([b"x" * (1 << 20)] * 80, pa.binary()), "n": list(range(80))})
    output = store.put_table("landing", rows)
    facts = pq.ParquetFile(store.path(output.path)).metadata
    assert facts.num_row_groups >= 3
    assert max(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups)) <= PARQUET_ROW_GROUP_BYTES
    assert store.read_table(output.path).equals(rows)
    assert sum(batch.num_rows for batch in store.read_batches(output.path, 7, ["n"])) == 80


def test_tables_are_brought_in_order_a_row_group_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = pa.table({"payload": pa.array([bytes([n]) * (1 << 20) for n in range(80)], pa.binary())})
    order = pa.array(list(reversed(range(80))), pa.int64())
    assert store.put_table("a", rows, order=order).sha256 == store.put_table("b", rows.take(order)).sha256
    none = store.put_table("c", rows.slice(0, 0), order=order.slice(0, 0))
    assert store.read_table(none.path).equals(rows.slice(0, 0))


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="run 'imglish build' to make it again"):
        Store(tmp_path).read("tables/gone.parquet")
    assert Store(tmp_path).size("tables/gone.parquet") is None


def test_a_store_may_be_any_fsspec_url() -> None:
    store = Store("memory://corpus-of-a-test")
    output = store.put("shards", ".bin", write_twice)
    assert store.read(output.path) == b"one two" and store.size(output.path) == 7
    assert list(store.files("shards")) == [output.path]
    with pytest.raises(StorageError, match="not on a local disk"):
        store.path("x")
    fsspec.filesystem("memory").store.clear()
