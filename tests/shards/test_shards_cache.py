import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imglish.errors import StorageError
from imglish.shards.cache import Cache
from imglish.shards.recent import Recent

A, B = "a" * 64, "b" * 64


def held(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def age(folder: Path, digest: str, part: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / digest / part, (then, then))


def test_a_part_comes_back_by_range_and_only_under_its_digest(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(A, "c0", b"0123456789")
    assert cache.read(A, "c0", 3, 4) == b"3456"
    assert cache.read(A, "c0", 8, 4) is None
    assert cache.read(B, "c0", 0, 1) is None and not cache.has(B, "c0")
    cache.drop(A, "c0")
    cache.drop(A, "c0")
    assert cache.read(A, "c0", 3, 4) is None


def test_the_parts_unused_for_longest_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3200)
    for number in range(3):
        cache.put(A, f"c{number}", bytes(1000))
        age(tmp_path, A, f"c{number}", 1000 - number)
    assert cache.read(A, "c0", 0, 1) == b"\0"  # used now, so it stays
    cache.put(B, "c0", bytes(1000))
    assert [cache.has(A, f"c{number}") for number in range(3)] == [True, False, True]
    assert cache.has(B, "c0")


def test_the_limit_holds_but_for_a_share_of_each_writer(tmp_path: Path) -> None:
    writers = [Cache(tmp_path, limit=100_000) for _ in range(3)]
    for number in range(600):
        writers[number % 3].put(A if number % 2 else B, f"c{number}", bytes(1000))
        assert held(tmp_path) <= 100_000 + 3 * (100_000 // 32 + 1000)
    assert held(tmp_path) > 80_000


def test_many_writers_and_readers_see_whole_parts_or_none(tmp_path: Path) -> None:
    def work(number: int) -> None:
        cache = Cache(tmp_path, limit=60_000)
        for turn in range(60):
            part = (number + turn) % 12
            cache.put(A, f"c{part}", bytes([part]) * 10_000)
            data = cache.read(A, f"c{(part + 5) % 12}", 0, 10_000)
            assert data is None or set(data) == {(part + 5) % 12}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name, seconds in ((".tmp-old", 4000), (".tmp-new", 10)):
        (tmp_path / A).mkdir(exist_ok=True)
        (tmp_path / A / name).write_bytes(b"x")
        age(tmp_path, A, name, seconds)
    cache.put(A, "c0", b"y")
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [".tmp-new", "c0"]


def test_a_folder_that_takes_no_files_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/cache cannot keep 3 bytes: .*free space"):
        Cache(tmp_path / "file" / "cache").put(A, "c0", b"abc")


def test_values_are_made_once_by_many_threads_and_the_oldest_are_given_up() -> None:
    made: list[int] = []
    at_once = threading.Barrier(4)
    recent: Recent[int, bytes] = Recent(limit=250)

    def make(key: int) -> bytes:
        made.append(key)
        return bytes(100)

    def ask(key: int) -> bytes:
        return recent.get(key, lambda: make(key), len)

    def ask_together(key: int) -> bytes:
        at_once.wait()
        return ask(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask_together, [1] * 4))
    assert made == [1]
    for key in (2, 1, 3, 1):
        ask(key)
    assert made == [1, 2, 3]
    ask(2)
    assert made == [1, 2, 3, 2]
