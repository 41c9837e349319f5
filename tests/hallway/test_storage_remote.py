"""Stores behind URLs: an S3 API on loopback, and a file system whose uploads appear bit by bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pytest

from imglish.errors import StorageError
from imglish.lease import lease
from imglish.storage import Store, default_scratch
from tests.s3 import serve_s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture
def store(bucket: str, request: pytest.FixtureRequest) -> Store:
    return Store(f"{bucket}/{request.node.name}")


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The object keys of all uploads of this process."""
    from s3fs import S3FileSystem

    seen: list[str] = []
    call = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **options: Any) -> Any:
        if method in ("put_object", "create_multipart_upload"):
            seen.append(options["Key"])
        return await call(self, method, *args, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    return seen


def one(file: BinaryIO) -> int:
    return file.write(b"one") and 1


def test_an_object_is_named_by_its_content_and_uploaded_once(store: Store, uploads: list[str]) -> None:
    first, second = store.put("a", ".bin", one), store.put("a", ".bin", one)
    assert first == second and len(uploads) == 1
    assert store.read(first.path) == b"one" and list(store.files()) == [first.path]


def test_an_object_of_another_size_is_replaced(store: Store, uploads: list[str]) -> None:
    first = store.put("a", ".bin", one)
    store.put_as(first.path, b"half of it")
    assert store.put("a", ".bin", one) == first and store.read(first.path) == b"one"
    assert len(uploads) == 3


def test_what_another_process_wrote_is_seen_at_once(store: Store) -> None:
    assert list(store.files("a")) == [] and store.size("a/x") is None
    script = "import sys; from imglish.storage import Store; Store(sys.argv[1]).put_as('a/x', b'12')"
    subprocess.run([sys.executable, "-c", script, store.root], check=True)
    assert list(store.files("a")) == ["a/x"] and store.size("a/x") == 2
    subprocess.run(
        [sys.executable, "-c", script.replace("put_as('a/x', b'12')", "remove('a/x')"), store.root], check=True
    )
    assert list(store.files("a")) == [] and not store.exists("a/x")


def test_the_address_may_come_from_the_configuration_of_fsspec(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    script = "import sys; from imglish.storage import Store; Store(sys.argv[1]).put_as('a', b'1')"
    subprocess.run([sys.executable, "-c", script, store.root], check=True)
    assert store.read("a") == b"1"


def test_a_large_upload_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    call = S3FileSystem._call_s3

    async def broken(self: Any, method: str, *args: Any, **options: Any) -> Any:
        if method == "upload_part" and options["PartNumber"] == 2:
            raise OSError("the network is gone")
        return await call(self, method, *args, **options)

    def large(file: BinaryIO) -> int:
        return file.write(b"x" * (11 << 20)) and 1

    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, **_: 5 << 20)
    monkeypatch.setattr(S3FileSystem, "_call_s3", broken)
    with pytest.raises(StorageError, match="the network is gone"):
        store.put("a", ".tar", large)
    monkeypatch.undo()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    assert list(store.files()) == []
    assert not fs.call_s3("list_multipart_uploads", Bucket=store.root.split("/")[2]).get("Uploads")
    assert store.put("a", ".tar", large).bytes == 11 << 20


def test_tables_are_read_by_columns(store: Store) -> None:
    table = pa.table({"a": list(range(1000)), "b": [str(n) for n in range(1000)]})
    output = store.put_table("tables", table)
    assert store.read_table(output.path, ["b"]).equals(table.select(["b"]))
    assert sum(batch.num_rows for batch in store.read_batches(output.path, 300)) == 1000


def test_a_store_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"s3://no-such-bucket: The specified bucket does not exist"):
        Store("s3://no-such-bucket").put_as("x", b"")
    with pytest.raises(StorageError, match=r"nowhere://x/y: .*run the same command again"):
        Store("nowhere://x").read("y")


def test_of_many_that_write_a_new_file_one_succeeds(store: Store, tmp_path: Path) -> None:
    for place in (store, Store(tmp_path)):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, place=place: place.put_new("held", str(n).encode()), range(8)))
        assert sum(won) == 1 and place.read("held") == str(won.index(True)).encode()


def test_a_folder_in_use_is_refused_and_free_afterwards(store: Store) -> None:
    with (
        lease(store, ".held", beat=0.05),
        pytest.raises(StorageError, match="in use by another imglish command, process"),
        lease(store, ".held"),
    ):
        pass
    with lease(store, ".held"):
        pass
    assert len(list(store.files(".held"))) == 1


def test_a_command_killed_on_this_machine_lets_go_at_once(store: Store) -> None:
    script = (
        "import os, signal, sys; from imglish.storage import Store; from imglish.lease import lease\n"
        "with lease(Store(sys.argv[1]), '.held'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, store.root]).returncode == -9
    with lease(store, ".held", stale=3600):
        pass


def test_a_silent_holder_elsewhere_is_taken_over_and_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()
    said: list[str] = []

    def hold() -> None:
        try:
            with lease(store, ".held", beat=3600):
                entered.set()
                leave.wait(60)
        except StorageError as error:
            said.append(str(error))

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(60)
    with lease(store, ".held", stale=0):
        leave.set()
        holder.join()
    assert "took over" in said[0]


def test_uploads_that_appear_bit_by_bit_get_their_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`local://` is a remote store for us, like HDFS or SFTP."""
    from fsspec.implementations.local import LocalFileSystem

    store = Store(f"local://{tmp_path}/far")
    output = store.put("a", ".bin", one)
    store.put_as("lock.json", b"1")
    store.put_as("lock.json", b"22")
    assert store.read("lock.json") == b"22" and list(store.files()) == [output.path, "lock.json"]

    def half(self: Any, source: str, target: str, **_: Any) -> None:
        Path(target.removeprefix("local://")).write_bytes(Path(source).read_bytes()[:1])
        raise OSError("gone")

    monkeypatch.setattr(LocalFileSystem, "put_file", half)
    with pytest.raises(StorageError, match="gone"):
        store.put_as("b/new", b"xyz")
    assert list(store.files()) == [output.path, "lock.json"]


def test_engines_spill_to_a_disk_of_this_machine(tmp_path: Path) -> None:
    assert default_scratch(str(tmp_path)) == f"{tmp_path}/scratch"
    assert default_scratch("s3://b/a").startswith("/") and default_scratch("s3://b/a") != default_scratch("s3://b/c")
