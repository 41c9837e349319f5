"""What training will read, before it starts: bytes, requests, cache, live shards, epochs, shard-mates.

    order = corpus_order(corpus, batch={"pair": 2048, "image": 2048, "text": 2048})
    for kind in forecast(corpus, order, world_size=8, steps=1_000_000):
        kind.epochs, kind.cache_bytes, kind.share_chance

Sizes come from the manifest, the order of the first batch from the order itself; nothing is read. The formulas are
for shards of about equal size, which pack makes, and are checked against the order in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imglish.records import Kind
from imglish.shards.manifest import Section
from imglish.shards.order import KindOrder, Order, Rows
from imglish.shards.reader import Corpus

CHUNK_BYTES = 8 << 20
"""Bytes of one request that fills a window (8 to 16 MB: long enough that its latency does not count)."""
WINDOWS_HELD = 2
"""Windows of a lane in the cache: the one that is read and the next one."""


@dataclass(frozen=True)
class KindForecast:
    """One kind of one run. Bytes and requests of an epoch are those of all ranks, the others those of one rank."""

    kind: Kind
    rows: int
    """Index rows of an epoch."""
    shards: int
    """Shards that hold the kind."""
    batch: int
    """Rows of a global batch at the end of the run."""
    epochs: float
    """Over the whole run."""
    bytes: int
    requests: int
    lanes: int
    """Of the order; a small corpus has fewer than were asked for."""
    window: int
    """Rows."""
    live_shards: float
    """Shards that a rank reads from at a time."""
    cache_bytes: int
    share_chance: float
    """Chance that two rows of a batch come from one shard."""
    ideal_chance: float
    """The same under a global shuffle."""
    first_bytes: int
    """Read by a rank before its first batch after a cold resume: index rows of the shards touched, then samples."""
    first_requests: int
    first_shard_bytes: int
    """Bytes of this kind in the shards that the first batch touches."""


def forecast(corpus: Corpus, order: Order, world_size: int, steps: int) -> list[KindForecast]:
    """One entry per kind of the batch; OrderError when `world_size` cannot share it."""
    order.mixture.check_world(world_size)
    batch = order.mixture.counts(max(0, steps - 1))
    read = order.mixture.prefix(steps)
    first = order.rows(steps // 2)
    found = []
    for kind, one in order.kinds.items():
        share = first[kind].share(0, world_size) if kind in first else None
        found.append(_forecast(corpus, one, batch[kind], read[kind] / one.count, world_size, share))
    return found


def share_chance(order: KindOrder, batch: int) -> float:
    """Chance that two rows of a batch of `batch` rows come from one shard.

    They can when they fall into one lane, and there into its window. Lanes reach one shard together only where they
    are cut, and at other times, so that is left out.
    """
    if batch < 2:
        return 0.0
    full, rest = divmod(batch, order.lanes)
    in_one_lane = rest * math.comb(full + 1, 2) + (order.lanes - rest) * math.comb(full, 2)
    return in_one_lane / math.comb(batch, 2) * _share_in_lane(order)


def _share_in_lane(order: KindOrder) -> float:
    """The same for two rows that a lane gives at about one time: the mean over its windows as `order` cuts them."""
    lane_rows = order.count // order.lanes
    window = min(order.window, lane_rows)
    if order.lanes == 1 and window == order.count:
        return ideal_chance(order)
    shard = float(np.square(order.lengths).sum()) / order.count  # of the size that a row meets
    first = np.minimum(lane_rows, window - np.arange(order.lanes) * window // order.lanes)
    whole, last = np.divmod(lane_rows - first, window)
    parts = [(first, 1), (np.full_like(first, window), whole), (last, last > 0)]
    shared = sum((size * number * _share_in_window(np.maximum(size, 1) / shard)).sum() for size, number in parts)
    return float(shared) / (order.lanes * lane_rows)


def _share_in_window(shards: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for two rows of a window of k shards: the sum of the squared shares of the shards in it.

    A window's edge lies anywhere in a shard. Above one shard the mean is ((u**2 + (1 - u)**2) + k - 1) / k**2 over u
    in [0, 1], so (k - 1/3) / k**2; below, 1 - k/3.
    """
    return np.where(shards >= 1, (shards - 1 / 3) / np.maximum(shards, 1) ** 2, 1 - shards / 3)


def ideal_chance(order: KindOrder) -> float:
    """The same when a batch is drawn from the whole corpus: the sum of the shards' squared shares."""
    return float(np.square(order.lengths / order.count).sum())


def _forecast(
    corpus: Corpus, order: KindOrder, batch: int, epochs: float, world_size: int, first: Rows | None
) -> KindForecast:
    kind = order.kind
    sections = [corpus.manifest.shards[ordinal].sections[kind] for ordinal in order.ordinals.tolist()]
    size = sum(section.bytes + section.index_bytes for section in sections)
    lanes = order.lanes // math.gcd(order.lanes, world_size)  # rows i with i mod world_size == rank
    per_shard = order.count / len(sections)
    first_bytes, first_requests, touched = (0, 0, 0) if first is None else _first(corpus, kind, first)
    return KindForecast(
        kind=kind,
        rows=order.count,
        shards=len(sections),
        batch=batch,
        epochs=epochs,
        bytes=size,
        requests=sum(map(_requests, sections)),
        lanes=order.lanes,
        window=order.window,
        live_shards=min(len(sections), lanes * (order.window / per_shard + 1)),
        cache_bytes=min(size, round(lanes * WINDOWS_HELD * order.window * size / order.count)),
        share_chance=share_chance(order, batch),
        ideal_chance=ideal_chance(order),
        first_bytes=first_bytes,
        first_requests=first_requests,
        first_shard_bytes=touched,
    )


def _requests(section: Section) -> int:
    """One for the index rows, and one for each aligned chunk under the members."""
    return 1 + math.ceil((section.offset + section.bytes) / CHUNK_BYTES) - section.offset // CHUNK_BYTES


def _first(corpus: Corpus, kind: Kind, rows: Rows) -> tuple[int, int, int]:
    """(bytes, requests, bytes of the touched shards' sections): index rows of each shard, then a range a sample."""
    ordinals, counts = np.unique(rows.ordinal, return_counts=True)
    read = touched = 0
    for ordinal, count in zip(ordinals.tolist(), counts.tolist(), strict=True):
        shard = corpus.manifest.shards[ordinal]
        section = shard.sections[kind]
        read += section.index_bytes + round(count * section.bytes / shard.counts[kind])
        touched += section.index_bytes + section.bytes
    return read, len(ordinals) + len(rows), touched
