import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.digests import json_digest
from imglish.errors import OrderError
from imglish.records import KINDS, Kind
from imglish.shards.order import KindOrder, Order, Rows, batch_digest

Sections = list[tuple[int, int]]
SHARDS: dict[Kind, Sections] = {
    "pair": [(0, 700), (1, 713), (2, 0), (3, 688)],
    "image": [(0, 90), (1, 77), (3, 101)],
    "text": [(1, 3), (2, 40)],
}
BATCH: dict[Kind, int] = {"pair": 24, "image": 12, "text": 6}


def section_lists() -> st.SearchStrategy[Sections]:
    rows = st.lists(st.integers(0, 90), min_size=1, max_size=12).filter(any)
    return rows.map(lambda lengths: list(enumerate(lengths)))


def every_row(sections: Sections) -> list[tuple[int, int]]:
    return [(ordinal, row) for ordinal, rows in sections for row in range(rows)]


def visited(order: KindOrder, first: int, last: int) -> list[tuple[int, int]]:
    _, section, row = order.locate(np.arange(first, last))
    return list(zip(order.ordinals[section].tolist(), row.tolist(), strict=True))


@settings(max_examples=80, deadline=None)
@given(
    section_lists(), st.integers(1, 80), st.none() | st.integers(1, 2000), st.integers(0, 2**40), st.integers(0, 10**6)
)
def test_every_row_comes_once_per_epoch(
    sections: Sections, lanes: int, window: int | None, seed: int, epoch: int
) -> None:
    order = KindOrder("pair", sections, seed, lanes, window)
    rows = visited(order, epoch * order.count, (epoch + 1) * order.count)
    assert sorted(rows) == every_row(sections)
    assert set(order.locate(np.arange(epoch * order.count, (epoch + 1) * order.count))[0].tolist()) == {epoch}


@settings(max_examples=25, deadline=None)
@given(section_lists(), st.integers(10, 500), st.integers(1, 80), st.integers(0, 2**40))
def test_batches_straddle_epochs_without_gaps_or_repeats(sections: Sections, rows: int, lanes: int, seed: int) -> None:
    order = Order({"image": sections}, {"image": rows}, seed, lanes)
    total = order.kinds["image"].count
    seen: list[tuple[int, int]] = []
    for position in range(-(-3 * total // rows)):
        batch = order.rows(position)["image"]
        assert len(batch) == rows
        seen += zip(batch.ordinal.tolist(), batch.row.tolist(), strict=True)
    for epoch in range(3):
        assert sorted(seen[epoch * total : (epoch + 1) * total]) == every_row(sections)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 4097])
def test_corpora_around_the_number_of_lanes_are_permuted_exactly(count: int) -> None:
    order = KindOrder("text", [(0, count)], 0)
    for epoch in range(3):
        assert sorted(visited(order, epoch * count, (epoch + 1) * count)) == every_row([(0, count)])


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_every_world_size_that_divides_the_counts_sees_the_same_global_batches(world_size: int) -> None:
    order = Order(SHARDS, BATCH, seed=5)
    for position in (0, 7, 88, 10**6):
        batch = order.rows(position)
        for rows in batch.values():
            shares = [rows.share(rank, world_size) for rank in range(world_size)]
            assert {len(share) for share in shares} == {len(rows) // world_size}
            for name in ("epoch", "ordinal", "row", "view", "image_mask", "text_mask", "caption"):
                together = np.empty_like(getattr(rows, name))
                for rank, share in enumerate(shares):
                    together[rank::world_size] = getattr(share, name)
                assert np.array_equal(together, getattr(rows, name))


def test_a_rank_reads_only_its_share_of_the_shards_in_an_epoch() -> None:
    order = Order({"pair": [(ordinal, 640) for ordinal in range(128)]}, {"pair": 64}, seed=1)
    read = [set[int]() for _ in range(8)]
    for position in range(0, 1280, 5):
        rows = order.rows(position)["pair"]
        for rank in range(8):
            read[rank] |= set(rows.share(rank, 8).ordinal.tolist())
    assert all(len(shards) <= 128 // 8 for shards in read)


def test_the_order_of_sampler_version_1_never_changes() -> None:
    order = Order(SHARDS, BATCH, seed=2024, windows={"pair": 20})
    assert {kind: one.lanes for kind, one in order.kinds.items()} == {"pair": 64, "image": 1, "text": 1}
    assert json_digest([batch_digest(order.rows(position)) for position in range(1000)]) == GOLDEN


GOLDEN = "973aa9f2834e5ce89c68f9064d0c1150a6a4308100f09db6b150d5d6583bcdc0"


def test_one_lane_and_one_window_is_a_permutation_of_the_whole_kind() -> None:
    sections = [(0, 1000), (1, 1000), (2, 1000)]
    order = KindOrder("pair", sections, 0, lanes=1, window=1 << 60)
    _, section, row = order.locate(np.arange(3000))
    place = (section * 1000 + row).astype(float)
    assert len(np.unique(place)) == 3000
    for lag in (1, 2, 4, 8):
        assert abs(np.corrcoef(place[:-lag], place[lag:])[0, 1]) < 5 / np.sqrt(3000)


def test_rows_that_follow_each_other_in_a_lane_are_uncorrelated() -> None:
    order = KindOrder("pair", [(ordinal, 2000) for ordinal in range(200)], 3, window=4000)
    row = order.locate(np.arange(400_000))[2].astype(float)
    for lag in (1, 2, 4, 8, 64, 128):
        assert (
            abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 0.05
        )  # windows at the ends of a lane hold part of a shard


def test_a_small_corpus_is_shuffled_as_a_whole() -> None:
    sections = [(ordinal, 300) for ordinal in range(8)]
    assert KindOrder("pair", sections, 0).lanes == 4
    assert KindOrder("pair", sections, 0, window=1 << 60).lanes == 1
    assert KindOrder("pair", [(ordinal, 300) for ordinal in range(128)], 0).lanes == 64


def test_rows_that_met_in_a_batch_seldom_meet_again() -> None:
    """Batch-mates of one epoch meet in the next about as often as any two rows do, on a corpus of 8 shards."""
    order = KindOrder("pair", [(ordinal, 300) for ordinal in range(8)], 0)
    met = [_meetings(order, epoch) for epoch in range(5)]
    again = np.mean([len(met[epoch] & met[epoch + 1]) for epoch in range(4)])
    chance = len(met[0]) ** 2 / (2400 * 2399 / 2)
    assert again < 1.5 * chance


def _meetings(order: KindOrder, epoch: int) -> set[tuple[int, int]]:
    _, section, row = order.locate(np.arange(epoch * order.count, (epoch + 1) * order.count))
    batches = np.sort((section * 300 + row).reshape(-1, 8), axis=1).tolist()
    return {(batch[i], batch[j]) for batch in batches for j in range(8) for i in range(j)}


def test_epochs_have_different_orders_and_so_have_seeds_and_kinds() -> None:
    orders = [KindOrder("pair", [(0, 500), (1, 500)], seed) for seed in (0, 1)]
    lists = [visited(orders[0], 0, 1000), visited(orders[0], 1000, 2000), visited(orders[1], 0, 1000)]
    lists.append(visited(KindOrder("image", [(0, 500), (1, 500)], 0), 0, 1000))
    for i in range(4):
        for j in range(i):
            same = sum(left == right for left, right in zip(lists[i], lists[j], strict=True))
            assert same < 20


def test_draws_belong_to_the_visit_and_captions_take_turns() -> None:
    order = Order({"pair": [(0, 10)]}, {"pair": 10}, seed=1)
    batches = [order.rows(position)["pair"] for position in range(3)]
    keys = np.concatenate([batch.view for batch in batches] + [batch.image_mask for batch in batches])
    assert len(np.unique(keys)) == 60
    turns: dict[int, list[int]] = {}
    for batch in batches:
        for row, caption in zip(batch.row.tolist(), batch.caption.tolist(), strict=True):
            turns.setdefault(row, []).append(caption % 3)
    assert all(sorted(captions) == [0, 1, 2] for captions in turns.values())


def test_a_schedule_changes_counts_without_skipping_rows() -> None:
    order = Order({"pair": [(0, 50)], "text": [(0, 50)]}, {"pair": 4}, schedule=[(5, {"pair": 6, "text": 2})])
    assert order.mixture.counts(4) == {"pair": 4, "image": 0, "text": 0}
    assert order.mixture.prefix(7) == {"pair": 32, "image": 0, "text": 4}
    assert set(order.rows(4)) == {"pair"}
    rows = [order.rows(position)["pair"].row for position in range(10)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(50))


@pytest.mark.parametrize(
    ("batch", "more", "message"),
    [
        ({"pair": 8}, {"world_size": 3}, "8 pair rows, which 3 ranks cannot share equally"),
        ({"pair": 8, "image": 4}, {}, "asks for image rows but the corpus has none"),
        ({"pairs": 8}, {}, "did you mean 'pair'"),
        ({"pair": -1}, {}, "is -1; it is a whole number"),
        ({"pair": 0}, {}, "the batch is empty"),
        ({"pair": 8}, {"lanes": 0}, "lanes is 0"),
        ({"pair": 8}, {"windows": {"pair": 0}}, "is 0; it is a whole number of rows"),
        ({"pair": 8}, {"windows": {"txt": 5}}, "did you mean 'text'"),
        ({"pair": 8}, {"schedule": [(5, {"pair": 2}), (5, {"pair": 4})]}, "must ascend"),
        ({"pair": 8}, {"schedule": [(0, {"pair": 2})]}, "must ascend from 1"),
        ({"pair": 8}, {"schedule": [(n, {"pair": 2}) for n in range(1, 20)]}, "has 19 changes"),
    ],
)
def test_an_impossible_batch_is_refused_with_the_reason(batch: dict[Kind, int], more: dict, message: str) -> None:
    with pytest.raises(OrderError, match=message):
        world_size = more.pop("world_size", 1)
        Order({"pair": [(0, 50)], "image": [(0, 0)]}, batch, **more).mixture.check_world(world_size)


def test_a_digest_tells_any_two_batches_apart() -> None:
    order = Order(SHARDS, BATCH, seed=5)
    digests = [batch_digest(order.rows(position)) for position in range(300)]
    digests += [
        batch_digest(Order(SHARDS, BATCH, seed=6).rows(0)),
        batch_digest(Order(SHARDS, {"pair": 24}, 5).rows(0)),
    ]
    assert len(set(digests)) == 302


def test_a_digest_covers_every_row_of_every_kind() -> None:
    batch = Order(SHARDS, BATCH, seed=5).rows(0)
    for kind in KINDS:
        for name in ("epoch", "ordinal", "row", "view", "image_mask", "text_mask"):
            assert batch_digest(_changed(batch, kind, name)) != batch_digest(batch)


def _changed(batch: Mapping[Kind, Rows], kind: Kind, name: str) -> dict[Kind, Rows]:
    columns = {field: getattr(batch[kind], field).copy() for field in Rows.__dataclass_fields__}
    columns[name][-1] += np.ones((), columns[name].dtype)
    return {**batch, kind: Rows(**columns)}


def test_resuming_in_three_billion_rows_takes_a_fraction_of_a_second() -> None:
    rows = np.stack([np.arange(200_000), np.full(200_000, 5000)], axis=1)
    begin = time.process_time()
    batch = Order(dict.fromkeys(KINDS, rows), dict.fromkeys(KINDS, 2048)).rows(123_456)
    assert sum(map(len, batch.values())) == 6144
    assert time.process_time() - begin < 1.0  # 0.1 s on an idle core
