"""How well batches are mixed, in numbers with limits: 2,000 shards of 2,000 rows, global batches of 2,048.

What a perfect shuffle gives stands beside each limit. Rows of a batch share a shard more often than chance, as lanes
visit few shards at a time; that is harmless because pack puts samples into shards by a hash of their content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.seeds import below, stream
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.order import KindOrder, Order

ROWS, SHARDS, BATCH = 4_000_000, 2000, 2048
SOURCES = 1000
I64 = NDArray[np.int64]


@pytest.fixture(scope="module")
def order() -> KindOrder:
    return KindOrder("pair", [(shard, ROWS // SHARDS) for shard in range(SHARDS)], seed=1)


def batches(order: KindOrder) -> Iterator[tuple[I64, I64]]:
    """(shard, place in the corpus) of the rows of batches from all over an epoch."""
    for batch in range(0, ROWS // BATCH, 61):
        _, section, row = order.locate(np.arange(batch * BATCH, (batch + 1) * BATCH))
        yield section, order.starts[section] + row


def meetings(labels: I64) -> float:
    """Chance that two rows of a batch have the same label."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def test_rows_of_a_batch_seldom_share_a_shard(order: KindOrder) -> None:
    shared = [meetings(shards) for shards, _ in batches(order)]
    distinct = [len(np.unique(shards)) for shards, _ in batches(order)]
    assert np.mean(shared) < 0.0075 and max(shared) < 0.013  # 0.0005 by chance
    assert np.mean(distinct) > 160 and min(distinct) > 100  # 1,283 by chance


def test_larger_windows_mix_better_and_one_window_is_a_perfect_shuffle() -> None:
    found = []
    for window in (2000, 8000, ROWS):
        order = KindOrder("pair", [(shard, ROWS // SHARDS) for shard in range(SHARDS)], seed=1, window=window)
        found.append(np.mean([meetings(shards) for shards, _ in batches(order)]))
    assert found[0] > 2 * found[1]
    assert found[2] == pytest.approx(0.0005, rel=0.05)


@pytest.mark.parametrize(
    ("source_of", "limit"),
    [
        (lambda place: below(stream(0, "source").keys(place), SOURCES), 1.03),  # as pack lays samples out
        (lambda place: place * SOURCES // ROWS, 9.0),  # what it is good for: a corpus laid out source by source
    ],
    ids=["hashed", "sorted"],
)
def test_sources_do_not_clump_in_batches(order: KindOrder, source_of: Callable[[I64], I64], limit: float) -> None:
    clumping = np.mean([meetings(source_of(places)) for _, places in batches(order)]) * SOURCES
    assert 0.97 < clumping < limit  # 1 by chance


def test_rows_near_each_other_in_a_run_are_uncorrelated(order: KindOrder) -> None:
    _, section, row = order.locate(np.arange(1_000_000, 1_400_000))
    place = (order.starts[section] + row).astype(float)
    content = below(stream(0, "score").keys(order.starts[section] + row), 1 << 30).astype(float)
    for lag in (1, 2, 4, 8, 63, 64, 65, 128, BATCH):
        assert abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 0.01
        assert abs(np.corrcoef(content[:-lag], content[lag:])[0, 1]) < 0.01
        if lag % order.lanes:  # a lane comes from one window after the other
            assert abs(np.corrcoef(place[:-lag], place[lag:])[0, 1]) < 0.1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    st.integers(3, 40),
    st.integers(1, 8),
    st.none() | st.integers(1, 60),
    st.integers(0, 2**32),
    st.data(),
)
def test_every_row_that_is_not_excluded_comes_once_per_epoch_substitutes_aside(
    lengths: list[int], size: int, lanes: int, window: int | None, seed: int, data: st.DataObject
) -> None:
    sections = list(enumerate(lengths))
    every = [(shard, row) for shard, rows in sections for row in range(rows)]
    excluded = data.draw(st.sets(st.sampled_from(every), max_size=len(every) - 1))
    lines = Exclusions(Exclusion(0, "pair", *place) for place in excluded)
    windows: dict[Kind, int] | None = None if window is None else {"pair": window}
    order = Order({"pair": sections}, {"pair": size}, seed, lanes, windows, exclusions=lines)
    steps = [order.rows(position)["pair"] for position in range(-(-2 * len(every) // size))]
    seen = [pair for rows in steps for pair in zip(rows.ordinal.tolist(), rows.row.tolist(), strict=True)]
    stands_in = np.concatenate([rows.replaced for rows in steps])
    for epoch in range(2):
        part = slice(epoch * len(every), (epoch + 1) * len(every))
        own = [place for place, other in zip(seen[part], stands_in[part], strict=True) if not other]
        assert sorted(own) == sorted(set(every) - excluded)
        assert stands_in[part].sum() == len(excluded)
        assert not excluded & set(seen[part])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(0, 6), st.integers(1, 6)), max_size=5),
    st.integers(0, 60),
)
def test_a_schedule_gives_exact_counts_and_numbers_rows_through(
    changes: list[tuple[int, int, int, int]], position: int
) -> None:
    starts = np.cumsum([change[0] for change in changes]).tolist()
    shapes = [dict(zip(KINDS, change[1:], strict=True)) for change in changes]
    first: dict[Kind, int] = {"pair": 2, "image": 3, "text": 1}
    schedule = list(zip(starts, shapes, strict=True))
    order = Order({kind: [(0, 7), (1, 5)] for kind in KINDS}, first, schedule=schedule)
    due = dict.fromkeys(KINDS, 0)
    for step in range(position + 1):
        shape = next((counts for start, counts in reversed(schedule) if start <= step), first)
        assert order.mixture.prefix(step) == due
        rows = order.rows(step)
        assert {kind: len(one) for kind, one in rows.items()} == {kind: n for kind, n in shape.items() if n}
        for kind, one in rows.items():
            epochs = [number // 12 for number in range(due[kind], due[kind] + shape[kind])]
            assert one.epoch.tolist() == epochs
        due = {kind: due[kind] + shape[kind] for kind in KINDS}
