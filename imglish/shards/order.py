"""Which rows the global batch at a position holds: a pure function, the same on every rank and machine.

    order = Order({"pair": [(0, 5000), (1, 4987)]}, {"pair": 8}, seed=0)
    rows = order.rows(81_237)["pair"]       # epoch, shard ordinal, row and draw keys of 8 pairs

Rows of a kind are numbered through the whole run: row p = rows in earlier batches + place in this one, and
epoch, place = divmod(p, N). In each epoch the shards are permuted and laid end to end; this axis is cut into
`lanes` equal intervals which batches visit in turn, so that a batch mixes distant shards. Inside a lane,
windows of a fixed number of rows are shuffled by a Feistel permutation; their edges are staggered so that
lanes never change shards together. The rows that do not fill all lanes come last, shuffled too. A corpus too
small to give every lane a whole window has its lanes halved until it does, down to one lane and one window,
which is the global permutation. Nothing is stored, so resuming costs as much as one batch.

Every function here is part of the sampler version: changing what it returns needs a new number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imglish.digests import canonical_json
from imglish.errors import OrderError
from imglish.records import KINDS, Kind
from imglish.seeds import U64, Stream, draw, mix, stream
from imglish.shards.exclusions import I64, Exclusions, replacements
from imglish.shards.feistel import permute
from imglish.shards.mixture import Mixture, Schedule, check_kinds

SAMPLER_VERSION = 1
LANES = 64
"""Lanes of a run, whatever the hardware (DESIGN section 9)."""
WINDOW_SHARDS = 2
"""Default window: the sections of this many average shards (DESIGN section 9)."""

_ROW_BITS = 40  # of a number that holds shard ordinal and row

Sections = Sequence[tuple[int, int]] | I64
"""(shard ordinal, rows) of one kind in manifest order; a list or int64 [shards, 2]."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind in one batch, in batch order; all arrays have one element per row.

    `view`, `image_mask` and `text_mask` are the keys of this visit's draws. Caption number `caption` mod m is due
    when the sample has m captions. `replaced` marks rows that stand in for an excluded one.
    """

    epoch: I64
    ordinal: I64
    row: I64
    view: U64
    image_mask: U64
    text_mask: U64
    caption: U64
    replaced: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)

    def share(self, rank: int, world_size: int) -> Rows:
        """The rows of one rank: those at places i with i mod world_size == rank."""
        return self._take(slice(rank, None, world_size))

    def part(self, first: int, count: int) -> Rows:
        """`count` rows from `first`, fewer at the end."""
        return self._take(slice(first, first + count))

    def _take(self, chosen: slice) -> Rows:
        return Rows(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Piece(NamedTuple):
    """Rows [first, end) of the shard with this ordinal, due in an epoch."""

    epoch: int
    ordinal: int
    first: int
    end: int


class KindOrder:
    """The endless order of one kind; O(shards) memory, O(rows asked) time after one pass over the shards per epoch."""

    def __init__(
        self, kind: Kind, sections: Sections, seed: int, lanes: int = LANES, window: int | None = None
    ) -> None:
        table = np.asarray(sections, dtype=np.int64).reshape(-1, 2)
        table = table[table[:, 1] > 0]
        self.kind = kind
        self.ordinals: I64 = np.ascontiguousarray(table[:, 0])
        self.lengths: I64 = np.ascontiguousarray(table[:, 1])
        self.starts: I64 = np.concatenate([[0], np.cumsum(self.lengths)])
        self.count = int(self.starts[-1])
        if self.count == 0:
            raise OrderError(f"the batch asks for {kind} rows but the corpus has none; set batch[{kind!r}] = 0")
        average = -(-self.count // len(table))
        self.window = WINDOW_SHARDS * average if window is None else window
        while lanes > 1 and lanes * self.window > self.count:
            lanes //= 2
        self.lanes = lanes
        self._shards = stream(seed, "order", kind, "shards")
        self._windows = stream(seed, "order", kind, "windows")
        self._recent: tuple[tuple[int, I64, I64], ...] = ()

    def locate(self, rows: I64) -> tuple[I64, I64, I64]:
        """(epoch, section, row) of row numbers int64 [n]; `section` counts non-empty sections in manifest order."""
        epoch, place = np.divmod(rows, self.count)
        axis = self._shuffle(epoch, place)
        section = np.empty_like(axis)
        row = np.empty_like(axis)
        for number in np.unique(epoch):
            chosen = epoch == number
            shards, starts = self._axis(int(number))
            found = np.searchsorted(starts, axis[chosen], side="right") - 1
            section[chosen] = shards[found]
            row[chosen] = axis[chosen] - starts[found]
        return epoch, section, row

    def ahead(self, first: int, end: int, rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
        """Runs of rows that row numbers [first, end) of one rank come from: whole windows, the nearest need first.

        Of use to fetch them before they are asked for. A rank reads every lane unless `world_size` divides the lanes.
        """
        for epoch in range(first // self.count, -(-end // self.count)):
            base = epoch * self.count
            low, high = max(first - base, 0), min(end - base, self.count)
            lanes = np.arange(self.lanes)
            if self.lanes % world_size == 0:
                lanes = lanes[(rank - base) % world_size :: world_size]
            shards, starts = self._axis(epoch)
            for left, right in self._intervals(low, high, lanes):
                section = int(np.searchsorted(starts, left, side="right")) - 1
                while left < right:
                    start = int(starts[section])
                    stop = min(right, start + int(self.lengths[shards[section]]))
                    yield Piece(epoch, int(self.ordinals[shards[section]]), left - start, stop - start)
                    left, section = stop, section + 1

    def _intervals(self, low: int, high: int, lanes: I64) -> list[tuple[int, int]]:
        """Windows on an epoch's axis which places [low, high) of these lanes visit, in order of the first visit."""
        lane_rows = self.count // self.lanes
        in_lanes = lane_rows * self.lanes
        found: list[tuple[int, int, int]] = []
        if low < in_lanes:
            steps = low // self.lanes, (min(high, in_lanes) - 1) // self.lanes
            window = min(self.window, lane_rows)
            for lane in lanes.tolist():
                shift = lane * window // self.lanes
                for number in range((steps[0] + shift) // window, (steps[1] + shift) // window + 1):
                    begin = max(0, number * window - shift)
                    stop = min(lane_rows, (number + 1) * window - shift)
                    found.append((max(begin, steps[0]), lane * lane_rows + begin, lane * lane_rows + stop))
        if high > in_lanes:
            found.append((lane_rows, in_lanes, self.count))
        return [(begin, stop) for _, begin, stop in sorted(found)]

    def _shuffle(self, epoch: I64, place: I64) -> I64:
        """The place on the epoch's axis of shards that a place in the epoch stands for."""
        lane_rows = self.count // self.lanes
        in_lanes = lane_rows * self.lanes
        window = min(self.window, lane_rows)
        step, lane = np.divmod(place, self.lanes)
        shift = lane * window // self.lanes
        number = (step + shift) // window
        low = np.maximum(0, number * window - shift)
        high = np.minimum(lane_rows, (number + 1) * window - shift)
        left_over = place >= in_lanes
        base = np.where(left_over, in_lanes, lane * lane_rows + low)
        size = np.where(left_over, self.count - in_lanes, high - low)
        inner = np.where(left_over, place - in_lanes, step - low)
        label = np.where(left_over, self.lanes << 40, (lane << 40) + number)
        return base + permute(inner, size, draw(self._windows.keys(epoch), mix(label)))

    def _axis(self, epoch: int) -> tuple[I64, I64]:
        """(sections in the epoch's order, start of each on the axis); the latest epochs are remembered."""
        for known, shards, starts in self._recent:
            if known == epoch:
                return shards, starts
        shards = Stream(int(self._shards.keys([epoch])[0])).permutation(len(self.lengths))
        starts = np.concatenate([[0], np.cumsum(self.lengths[shards])[:-1]])
        self._recent = ((epoch, shards, starts), *self._recent[:1])
        return shards, starts


class Order:
    """The global batches of a run, by position.

    `sections` per kind, `batch` and `schedule` as in `Mixture`, `windows` in rows per kind (None: the sections of
    two average shards). OrderError for an impossible batch, lane or window, an unknown kind or an exclusion of a
    row that is not there.
    """

    def __init__(
        self,
        sections: Mapping[Kind, Sections],
        batch: Mapping[Kind, int],
        seed: int = 0,
        lanes: int = LANES,
        windows: Mapping[Kind, int] | None = None,
        schedule: Schedule | None = None,
        exclusions: Exclusions | None = None,
    ) -> None:
        if not 1 <= lanes <= 1 << 16:
            raise OrderError(f"lanes is {lanes}; it is a whole number from 1 to 65536")
        chosen = _check_windows(windows or {})
        self.seed = seed
        self.lanes = lanes
        self.mixture = Mixture(batch, schedule)
        self.kinds = {
            kind: KindOrder(kind, sections.get(kind, ()), seed, lanes, chosen.get(kind))
            for kind in self.mixture.kinds()
        }
        self.windows: dict[Kind, int] = {kind: order.window for kind, order in self.kinds.items()}
        self.exclusions = exclusions or Exclusions()
        self._excluded = {kind: _excluded(order, self.exclusions) for kind, order in self.kinds.items()}
        self._latest: dict[Kind, tuple[int, I64, I64]] = {}

    def rows(self, position: int) -> dict[Kind, Rows]:
        """The whole global batch at a position: the kinds with a positive count."""
        counts = self.mixture.counts(position)
        first = self.mixture.prefix(position)
        return {kind: self._rows(kind, first[kind], count, position) for kind, count in counts.items() if count}

    def _rows(self, kind: Kind, first: int, count: int, position: int) -> Rows:
        order = self.kinds[kind]
        numbers = np.arange(first, first + count, dtype=np.int64)
        epoch, section, row = order.locate(numbers)
        place = order.starts[section] + row
        replaced = self._replace(kind, place, position)
        section = np.searchsorted(order.starts, place, side="right") - 1
        row = place - order.starts[section]
        return draws(self.seed, kind, numbers, epoch, order.ordinals[section], row, replaced)

    def _replace(self, kind: Kind, place: I64, position: int) -> NDArray[np.bool_]:
        """Move excluded places (in manifest order) to their replacements, in the array; True where that happened."""
        active, stand_ins = self._active(kind, position)
        if len(active) == 0:
            return np.zeros(len(place), dtype=np.bool_)
        found = np.minimum(np.searchsorted(active, place), len(active) - 1)
        replaced = active[found] == place
        place[replaced] = stand_ins[found[replaced]]
        return np.asarray(replaced)

    def _active(self, kind: Kind, position: int) -> tuple[I64, I64]:
        """Places excluded at a position, ascending, and what replaces each; the latest are remembered."""
        starts, places = self._excluded[kind]
        lines = int(np.searchsorted(starts, position, side="right"))
        known = self._latest.get(kind)
        if known is None or known[0] != lines:
            active = np.unique(places[:lines])
            count = self.kinds[kind].count
            if lines and len(active) == count:
                raise OrderError(
                    f"all {count} {kind} rows are excluded at position {position}; nothing can replace them"
                )
            known = (lines, active, replacements(active, count) if lines else active)
            self._latest[kind] = known
        return known[1], known[2]


def draws(seed: int, kind: Kind, numbers: I64, epoch: I64, ordinal: I64, row: I64, replaced: NDArray[np.bool_]) -> Rows:
    """Rows with the keys of their draws: by row number, captions by sample (DESIGN sections 4 and 9).

    63 of the caption key's bits are used, so that adding the epoch never wraps.
    """
    captions = draw(stream(seed, "caption").keys(ordinal), mix(row)) >> np.uint64(1)
    return Rows(
        epoch=epoch,
        ordinal=ordinal,
        row=row,
        view=stream(seed, kind, "view").keys(numbers),
        image_mask=stream(seed, kind, "image mask").keys(numbers),
        text_mask=stream(seed, kind, "text mask").keys(numbers),
        caption=captions + epoch.astype(np.uint64),
        replaced=replaced,
    )


def manifest_rows(
    sections: Sections, seed: int, kind: Kind, limit: int | None = None, exclusions: Exclusions | None = None
) -> Rows:
    """The first `limit` rows of a kind (None: all) in manifest order, each once, with draws of its own.

    Rows excluded from batch 0 on are left out; the others keep their draws.
    """
    table = np.asarray(sections, dtype=np.int64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(table[:, 1])])
    numbers = np.arange(starts[-1] if limit is None else min(limit, starts[-1]), dtype=np.int64)
    section = np.searchsorted(starts, numbers, side="right") - 1
    row = numbers - starts[section]
    if exclusions is not None:
        kept = _not_excluded(exclusions, kind, table[section, 0], row)
        numbers, section, row = numbers[kept], section[kept], row[kept]
    never = np.zeros(len(numbers), dtype=np.bool_)
    return draws(seed, kind, numbers, np.zeros_like(numbers), table[section, 0], row, never)


def _not_excluded(exclusions: Exclusions, kind: Kind, ordinal: I64, row: I64) -> NDArray[np.bool_]:
    starts, ordinals, rows = exclusions.rows(kind)
    gone = (ordinals[starts == 0] << _ROW_BITS) | rows[starts == 0]
    return ~np.isin((ordinal << _ROW_BITS) | row, gone)


def batch_digest(batch: Mapping[Kind, Rows]) -> str:
    """32 hex digits over (kind, epoch, shard ordinal, row, view and mask keys) of every row of a global batch."""
    present = [kind for kind in KINDS if kind in batch]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(canonical_json([SAMPLER_VERSION, [[kind, len(batch[kind])] for kind in present]]))
    for kind in present:
        rows = batch[kind]
        for column in (rows.epoch, rows.ordinal, rows.row, rows.view, rows.image_mask, rows.text_mask):
            digest.update(np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _check_windows(windows: Mapping[Kind, int]) -> Mapping[Kind, int]:
    check_kinds(windows, "windows")
    for kind, window in windows.items():
        if type(window) is not int or window < 1:
            raise OrderError(f"windows[{kind!r}] is {window!r}; it is a whole number of rows from 1")
    return windows


def _excluded(order: KindOrder, exclusions: Exclusions) -> tuple[I64, I64]:
    """(start position, place in manifest order) of a kind's exclusions by start; OrderError when one names no row."""
    starts, ordinals, rows = exclusions.rows(order.kind)
    by_start = np.argsort(starts, kind="stable")
    starts, ordinals, rows = starts[by_start], ordinals[by_start], rows[by_start]
    by_ordinal = np.argsort(order.ordinals, kind="stable")
    found = np.searchsorted(order.ordinals, ordinals, sorter=by_ordinal)
    section = by_ordinal[np.minimum(found, len(by_ordinal) - 1)]
    missing = (order.ordinals[section] != ordinals) | (rows >= order.lengths[section])
    if missing.any():
        shard, row = int(ordinals[missing][0]), int(rows[missing][0])
        raise OrderError(f"the exclusions name {order.kind} row {row} of shard {shard}, which the corpus does not have")
    return starts, order.starts[section] + rows
