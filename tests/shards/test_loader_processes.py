"""Worker processes: the same batches, clear errors, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imglish.errors import SampleError, WorkerError
from imglish.records import KINDS, Kind
from imglish.seeds import stream
from imglish.shards import Corpus, open_corpus
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.loader import Loader
from imglish.shards.masks import Masks
from imglish.shards.order import Order, batch_digest
from imglish.shards.prefetch import Prefetch
from imglish.shards.workers import Workers
from tests.shards.corpus_helpers import small_corpus
from tests.shards.remote_helpers import wait_until

BATCH: dict[Kind, int] = dict.fromkeys(KINDS, 12)
ARRAYS = ("images", "codes", "image_mask", "ids", "padding_mask", "text_mask", "shown")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    small_corpus(folder, shards=3, pairs=7, images=5)
    return folder


@pytest.fixture
def corpus(root: Path) -> Corpus:
    return open_corpus(str(root / "manifest.json"))


def gone(pid: int) -> bool:
    """Whether a process has ended (or only its parent, which ended too, could still ask how)."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return True


def wait_for_the_end_of(pids: list[int]) -> None:
    wait_until(lambda: all(map(gone, pids)))


@pytest.mark.parametrize("world_size", [1, 4])
def test_none_threads_and_processes_give_identical_batches(corpus: Corpus, world_size: int) -> None:
    for rank in range(0, world_size, 3):
        ways = [{"workers": 0}, {"workers": 3}, {"workers": 2, "processes": True}]
        masks = Masks(shown="80/10/10")
        loaders = [Loader(corpus, BATCH, 5, rank, world_size, masks=masks, **way) for way in ways]  # type: ignore[arg-type]
        for _ in range(7):
            plain, *others = (next(loader) for loader in loaders)
            for other in others:
                assert (plain.position, plain.digest, plain.keys) == (other.position, other.digest, other.keys)
                for kind in KINDS:
                    for name in ARRAYS:
                        left, right = getattr(plain[kind], name), getattr(other[kind], name)
                        assert np.array_equal(left, right) and (left is None or left.dtype == right.dtype)
        for loader in loaders:
            loader.close()


def test_a_state_moves_between_threads_and_processes(corpus: Corpus) -> None:
    with Loader(corpus, BATCH, workers=2, processes=True) as first:
        for _ in range(3):
            next(first)
        state = first.state_dict()
        with Loader(corpus, BATCH, workers=1) as second:
            second.load_state_dict(state)
            assert next(second).digest == next(first).digest
        first.load_state_dict({**state, "position": 1})
        assert next(first).position == 1


def test_a_damaged_sample_is_named_with_the_line_that_excludes_it(tmp_path: Path) -> None:
    small_corpus(tmp_path, shards=1)
    corpus = open_corpus(str(tmp_path / "manifest.json"))
    file = tmp_path / corpus.manifest.shards[0].path
    data = bytearray(file.read_bytes())
    data[int(corpus.index("image", 0)[1]["codes"]["offset"]) + 1] ^= 1
    file.write_bytes(data)
    with Loader(corpus, {"image": 1}, workers=1, processes=True) as loader:
        with pytest.raises(SampleError, match="add this line to the exclusions file and resume") as caught:
            for _ in range(3):
                next(loader)
        state = loader.state_dict()
    assert (caught.value.kind, caught.value.shard, caught.value.row) == ("image", 0, 1)
    (tmp_path / "exclusions.jsonl").write_text(str(caught.value).splitlines()[-1])
    lines = Exclusions.load(tmp_path / "exclusions.jsonl")
    with Loader(corpus, {"image": 1}, workers=1, processes=True, exclusions=lines) as resumed:
        resumed.load_state_dict(state)
        assert next(resumed).replaced == 1


def test_a_worker_that_dies_is_an_error_that_says_how(corpus: Corpus) -> None:
    with Loader(corpus, BATCH, workers=1, processes=True) as loader:
        next(loader)
        (process,) = loader._steps.processes.processes  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=rf"worker process {process.pid} of the loader was ended by SIGKILL"):
            for _ in range(10):
                next(loader)


def test_pixels_from_processes_stay_as_they_are_while_somebody_holds_them(corpus: Corpus) -> None:
    with Loader(corpus, BATCH, workers=2, processes=True) as loader, Loader(corpus, BATCH, workers=0) as plain:
        held = [next(loader)["image"].images for _ in range(12)]
        assert all(np.array_equal(pixels, next(plain)["image"].images) for pixels in held)  # type: ignore[arg-type]


def test_pixels_from_processes_outlive_them(corpus: Corpus) -> None:
    with Loader(corpus, BATCH, workers=1, processes=True) as loader:
        pixels = next(loader)["image"].images
    with Loader(corpus, BATCH, workers=0) as plain:
        assert pixels is not None and np.array_equal(pixels, next(plain)["image"].images)  # type: ignore[arg-type]


def test_memory_of_processes_is_used_again_when_it_is_let_go(corpus: Corpus) -> None:
    with Loader(corpus, BATCH, workers=1, processes=True) as loader:
        for _ in range(40):
            next(loader)
        worker = loader._steps.processes._idle.get()  # type: ignore[union-attr]
    assert 1 <= len(worker._shared) <= 8  # pairs and images of at most four batches


def random_order(number: int) -> tuple[Order, int]:
    """An order over a random corpus, with lanes, windows, counts, a schedule and exclusions, and its world size."""
    draws = iter(stream(number, "random order").bits(200).tolist())

    def up_to(last: int) -> int:
        return next(draws) % (last + 1)

    world = 1 + up_to(3)
    sections = {kind: [(shard, up_to(60)) for shard in range(1 + up_to(9))] + [(10, 3)] for kind in KINDS}
    batch: dict[Kind, int] = {kind: world * (1 + up_to(30)) for kind in KINDS}
    windows: dict[Kind, int] | None = {kind: 1 + up_to(90) for kind in KINDS} if up_to(1) else None
    schedule = [(1 + up_to(5), {"pair": world * (1 + up_to(9))})]
    lines = Exclusions(Exclusion(up_to(6), kind, 10, up_to(1)) for kind in KINDS for _ in range(2))
    return Order(sections, batch, number, 1 + up_to(70), windows, schedule, lines), world


def digests_of_a_random_order(number: int) -> list[str]:
    """Digests of batches put together from the shares of all ranks."""
    order, world = random_order(number)
    found = []
    for position in (0, 1, 6, 7, 10_000):
        whole = order.rows(position)
        shares = [{kind: rows.share(rank, world) for kind, rows in whole.items()} for rank in range(world)]
        for kind, rows in whole.items():
            again = np.stack([share[kind].row for share in shares], axis=1).reshape(-1)
            assert np.array_equal(again, rows.row)
        found.append(batch_digest(whole))
    return found


def test_orders_of_random_corpora_are_the_same_in_every_process() -> None:
    ahead = Prefetch(digests_of_a_random_order, workers=2, processes=True)
    for number in range(100):
        assert ahead.get(number) == digests_of_a_random_order(number)
    ahead.close()


def fail(number: int) -> int:
    raise ZeroDivisionError(f"at {number}")


def test_an_error_that_nobody_foresaw_comes_with_its_traceback() -> None:
    workers = Workers(fail, 1)
    with pytest.raises(WorkerError, match=r"(?s)step 3 failed in a worker process:.*ZeroDivisionError: at 3"):
        workers(3)
    workers.close()


def double(number: int) -> list[np.ndarray]:
    return [np.full(1 << 21, number, dtype=np.uint8), np.arange(number)]


def test_memory_of_a_large_result_is_used_again_only_when_nobody_holds_it() -> None:
    workers = Workers(double, 1)
    first, small = workers(1)
    part = first[5:9]
    del first
    second = workers(2)[0]
    assert part.tolist() == [1] * 4 and small.tolist() == [0]
    address = second.ctypes.data
    del second
    assert workers(3)[0].ctypes.data == address
    assert workers(0)[1].shape == (0,)
    workers.close()


@pytest.fixture
def running(corpus: Corpus) -> Iterator[tuple[Loader, list[int]]]:
    loader = Loader(corpus, BATCH, workers=2, processes=True)
    next(loader)
    yield loader, [process.pid for process in loader._steps.processes.processes]  # type: ignore[union-attr, misc]
    loader.close()


def test_closing_leaves_no_process(running: tuple[Loader, list[int]]) -> None:
    loader, pids = running
    assert not any(map(gone, pids))
    loader.close()
    assert all(map(gone, pids))


def test_a_forgotten_loader_leaves_no_process(corpus: Corpus) -> None:
    loader = Loader(corpus, BATCH, workers=2, processes=True)
    next(loader)
    pids = [process.pid or 0 for process in loader._steps.processes.processes]  # type: ignore[union-attr]
    del loader
    wait_for_the_end_of(pids)


FOREVER = """
import signal, sys
from imglish.shards import open_corpus
from imglish.shards.loader import Loader
from imglish.shards.masks import Masks
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
if __name__ == "__main__":
    with Loader(open_corpus(sys.argv[1]), {"pair": 2}, workers=2, processes=True) as loader:
        print(*(process.pid for process in loader._steps.processes.processes), flush=True)
        for batch in loader:
            if batch.position == 3:
                print("running", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_no_process(root: Path, sent: signal.Signals) -> None:
    command = [sys.executable, "-c", FOREVER, str(root / "manifest.json")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stderr is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "running\n"
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does, to the workers too
        else:
            process.kill()
        errors = process.stderr.read()
        assert process.wait() == (-signal.SIGKILL if sent == signal.SIGKILL else -signal.SIGINT)
    wait_for_the_end_of(pids)
    assert errors.count("Traceback") == (sent == signal.SIGINT)
