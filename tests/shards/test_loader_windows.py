"""Windows are fetched before they are read, as far as the cache allows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.errors import StorageError
from imglish.records import KINDS, Kind
from imglish.shards import open_corpus
from imglish.shards.cache import Cache
from imglish.shards.loader import Loader
from imglish.shards.order import KindOrder
from tests.shards.remote_helpers import QUICK, Log, large_corpus, serve, wait_until

BATCH: dict[Kind, int] = dict.fromkeys(KINDS, 4)
CHUNK = 256 << 10


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=12).filter(any),
    st.integers(1, 16),
    st.none() | st.integers(1, 300),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 500),
    st.integers(1, 60),
)
def test_what_is_fetched_ahead_holds_every_row_that_a_rank_reads(
    lengths: list[int], lanes: int, window: int | None, world_size: int, first: int, batches: int
) -> None:
    order = KindOrder("pair", list(enumerate(lengths)), 7, lanes, window)
    first, rows = first * world_size, batches * world_size
    epoch, section, row = order.locate(np.arange(first, first + rows))
    for rank in range(world_size):
        pieces = list(order.ahead(first, first + rows, rank, world_size))
        assert all(0 <= piece.first < piece.end <= lengths[piece.ordinal] for piece in pieces)
        wanted = zip(*(a[rank::world_size].tolist() for a in (epoch, order.ordinals[section], row)), strict=True)
        for visit, ordinal, place in wanted:
            assert any(p[:2] == (visit, ordinal) and p.first <= place < p.end for p in pieces)


def test_ranks_fetch_disjoint_windows_when_they_divide_the_lanes() -> None:
    order = KindOrder("pair", [(ordinal, 640) for ordinal in range(128)], 1)
    fetched = [
        {(p.ordinal, row) for p in order.ahead(64 * 500, 64 * 520, rank, 8) for row in range(p.first, p.end)}
        for rank in range(8)
    ]
    assert sum(map(len, fetched)) == len(set().union(*fetched))
    assert all(len(rows) <= 2 * 8 * order.window for rows in fetched)


def test_the_nearest_window_comes_first() -> None:
    order = KindOrder("pair", [(ordinal, 500) for ordinal in range(8)], 3, lanes=2, window=250)
    pieces = list(order.ahead(0, 4000))
    rows = order.locate(np.arange(2))
    for section, row in zip(order.ordinals[rows[1]], rows[2], strict=True):
        near = next(i for i, p in enumerate(pieces) if p.ordinal == section and p.first <= row < p.end)
        assert near < 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    large_corpus(folder, shards=2, each=60, ids=100_000)
    return folder


@pytest.fixture
def served(root: Path) -> Iterator[tuple[str, Log]]:
    with serve(root) as (url, log):
        yield f"{url}/manifest.json", log


def test_once_the_windows_are_fetched_batches_ask_for_nothing(served: tuple[str, Log], tmp_path: Path) -> None:
    url, log = served
    cache = Cache(tmp_path, chunk=CHUNK)
    corpus = open_corpus(url, cache=cache, retry=QUICK)
    with Loader(corpus, BATCH, workers=0) as loader:
        next(loader)
        ahead = loader._ahead
        assert ahead is not None
        wait_until(lambda: not ahead._todo and not ahead._busy)
        asked = len(log.ranges)
        for _ in range(20):
            next(loader)
        assert len(log.ranges) == asked
    chunks = [(path, start) for path, start, length in log.ranges if length == CHUNK]
    assert len(chunks) == len(set(chunks)) > 10
    again = open_corpus(url, cache=cache, retry=QUICK)
    log.ranges.clear()
    with Loader(again, BATCH, workers=2, processes=True) as resumed:
        for _ in range(3):
            next(resumed)
    assert log.ranges == []


def test_a_cache_that_is_too_small_is_said_and_batches_still_come(served: tuple[str, Log], tmp_path: Path) -> None:
    small = Cache(tmp_path, limit=1 << 20)
    with (
        Loader(open_corpus(served[0], cache=small, retry=QUICK), BATCH, workers=0) as loader,
        pytest.warns(UserWarning, match="raise the limit or make windows smaller"),
    ):
        for _ in range(3):
            next(loader)


def test_a_cache_that_cannot_be_written_stops_the_loader(served: tuple[str, Log], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file")
    with (
        Loader(open_corpus(served[0], cache=cache, retry=QUICK), BATCH, workers=0) as loader,
        pytest.raises(StorageError, match="cannot be read"),
    ):
        next(loader)


def test_fetching_ends_when_the_loader_is_closed_or_forgotten(served: tuple[str, Log], tmp_path: Path) -> None:
    def fetchers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "imglish-fetch"]

    corpus = open_corpus(served[0], cache=Cache(tmp_path), retry=QUICK)
    for close in (True, False):
        loader = Loader(corpus, BATCH, workers=0)
        next(loader)
        assert fetchers()
        if close:
            loader.close()
        del loader
        wait_until(lambda: not fetchers())
