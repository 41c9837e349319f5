"""The planner's numbers are what the order does."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from imglish.errors import OrderError
from imglish.shards import format as fmt
from imglish.shards.forecast import KindForecast, forecast, ideal_chance, share_chance
from imglish.shards.loader import corpus_order
from imglish.shards.order import KindOrder
from imglish.shards.reader import Corpus, open_corpus
from tests.shards.corpus_helpers import small_corpus


def corpus_in(folder: Path) -> Corpus:
    small_corpus(folder, shards=3, pairs=8, images=4, ids=20_000)
    return open_corpus(str(folder / "manifest.json"))


def kinds(found: list[KindForecast]) -> dict[str, KindForecast]:
    return {one.kind: one for one in found}


def simulated(order: KindOrder, batch: int, positions: np.ndarray) -> float:
    """Share of pairs of rows in one shard, over the batches at some positions."""
    shared = 0
    for position in positions.tolist():
        _, section, _ = order.locate(np.arange(position * batch, (position + 1) * batch))
        shared += sum(comb(count, 2) for count in np.bincount(section).tolist())
    return shared / (len(positions) * comb(batch, 2))


@pytest.mark.parametrize(
    ("shards", "rows", "batch", "lanes", "window"),
    [
        (2000, 2000, 2048, 64, 8000),
        (2000, 2000, 2048, 64, 2000),
        (2000, 2000, 2048, 8, 8000),
        (2000, 2000, 2048, 64, 1000),
        (400, 500, 96, 64, None),
        (100, 300, 2048, 64, None),
        (50, 40, 64, 1, 2000),
        (50, 40, 64, 1, 10_000),
    ],
)
def test_the_chance_to_share_a_shard_is_the_orders_own(
    shards: int, rows: int, batch: int, lanes: int, window: int | None
) -> None:
    sizes = rows + np.arange(shards) % 7 - 3
    sections = np.stack([np.arange(shards), sizes], axis=1)
    order = KindOrder("pair", sections, seed=1, lanes=lanes, window=window)
    positions = np.arange(order.count // batch)  # the first epoch
    positions = positions[:: max(1, len(positions) // 500)]
    assert share_chance(order, batch) == pytest.approx(simulated(order, batch, positions), rel=0.07)


def test_the_chances_of_the_design_note() -> None:
    """Once measured for 2,000 shards of 2,000 rows and a batch of 2,048; 0.0005 under a global shuffle."""
    sections = np.stack([np.arange(2000), np.full(2000, 2000)], axis=1)
    for lanes, window, expected in ((64, 8000, 0.0035), (64, 2000, 0.010), (8, 8000, 0.029)):
        order = KindOrder("pair", sections, seed=0, lanes=lanes, window=window)
        assert share_chance(order, 2048) == pytest.approx(expected, rel=0.1)
        assert ideal_chance(order) == pytest.approx(0.0005)
    assert share_chance(order, 1) == 0.0


@pytest.mark.parametrize(("lanes", "world_size", "mine"), [(16, 4, 4), (16, 1, 16), (16, 6, 8), (16, 3, 16)])
def test_live_shards_are_those_a_rank_reads(tmp_path: Path, lanes: int, world_size: int, mine: int) -> None:
    """A rank's rows within a few batches come from about as many shards as forecast, and never from more lanes."""
    corpus = corpus_in(tmp_path)
    sections = np.stack([np.arange(400), np.full(400, 100)], axis=1)
    order = corpus_order(corpus, {"pair": 48}, lanes=lanes)
    order.kinds["pair"] = one = KindOrder("pair", sections, 0, lanes, 200)
    seen = []
    for start in range(0, 800, 40):
        rows = [np.arange(48 * position, 48 * (position + 1))[::world_size] for position in range(start, start + 8)]
        _, section, _ = one.locate(np.concatenate(rows))
        seen.append(len(np.unique(section)))
    window_shards = 200 / 100 + 1
    assert 0.6 * mine * window_shards < np.mean(seen) < 1.4 * mine * window_shards


def test_bytes_requests_epochs_and_cache_follow_from_the_manifest(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path)
    order = corpus_order(corpus, {"pair": 4, "text": 2}, lanes=4, windows={"text": 10})
    found = kinds(forecast(corpus, order, world_size=2, steps=30))
    assert set(found) == {"pair", "text"}
    for kind, rows, batch in (("pair", 24, 4), ("text", 3 * 40, 2)):
        one = found[kind]
        shards = [shard for shard in corpus.manifest.shards if shard.split == "train"]
        size = sum(shard.sections[kind].bytes + shard.sections[kind].index_bytes for shard in shards)  # type: ignore[index]
        assert (one.rows, one.shards, one.batch, one.epochs) == (rows, 3, batch, 30 * batch / rows)
        assert (one.bytes, one.requests) == (size, 2 * 3)
    text = found["text"]
    assert (text.lanes, text.window) == (4, 10)
    assert text.cache_bytes == pytest.approx(2 * 2 * 10 * text.bytes / text.rows, abs=1)
    assert found["pair"].cache_bytes == found["pair"].bytes
    assert found["pair"].live_shards == 3


def test_the_first_batch_costs_index_rows_and_its_own_samples(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path)
    order = corpus_order(corpus, {"text": 4}, windows={"text": 40})
    one = kinds(forecast(corpus, order, world_size=2, steps=10))["text"]
    touched = np.unique(order.rows(5)["text"].share(0, 2).ordinal)
    index = len(touched) * 40 * fmt.INDEX_ROW["text"].itemsize
    assert one.first_requests == len(touched) + 2
    assert index + 2 * fmt.BLOCK_BYTES < one.first_bytes < index + 2 * fmt.BLOCK_BYTES + 100
    assert one.first_shard_bytes == sum(
        corpus.manifest.shards[ordinal].sections["text"].bytes + 40 * 16 for ordinal in touched.tolist()
    )


def test_ranks_that_cannot_share_the_batch_are_refused(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path)
    with pytest.raises(OrderError, match="3 ranks"):
        forecast(corpus, corpus_order(corpus, {"pair": 4}), world_size=3, steps=1)
