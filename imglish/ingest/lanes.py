"""Fetching listed URLs into landing: lanes of units, robots.txt before them, earlier landing taken over.

    receipts = fetch_units(store, engine, recipe, content, units, files, earlier, again=set())

A *lane* is what the engine runs: one process that does one or more units, one after the other, and is the only one in
the cluster that asks their hosts. A *unit* has the receipt: the rows of one source in one range of places. A lane that
is killed keeps its finished units. Units that a changed list cuts anew take the rows that earlier units of the source
have over, without a request; `again` names the statuses that are fetched once more instead (`imglish retry`).
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imglish.ingest.checks import check_captions
from imglish.ingest.fetch import fetch_rows
from imglish.ingest.forgotten import Forgotten
from imglish.ingest.gate import Share
from imglish.ingest.landing import FOLDER, LandingFiles
from imglish.ingest.listing import Listed
from imglish.ingest.robots import ROBOTS, Robots, agent_of, fetch_robots, origins_of
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.recipe import FetchConfig, Recipe, SourceConfig
from imglish.records import LANDING, unpack_json
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipts
from imglish.storage import Output, Store, read_rows

STAGE = "land"
VERSION = 2
ROBOTS_SECONDS = 24 * 3600
"""Age after which a robots.txt is fetched anew before more is asked of its host (RFC 9309 section 2.4: 24 hours)."""
_ROBOTS_GROUP = 512
_URL_ROWS = 1 << 14
"""Rows of a list that are looked at together."""
_CAPTIONS = ("no_caption", "not_utf8", "bad_row")
"""Outcomes that the list decided; it says something else now."""


@dataclass(frozen=True)
class Work:
    """One unit of a lane: its rows, the receipts whose rows it takes over, and the statuses that it does not."""

    unit: str
    source: SourceConfig
    listed: Listed
    earlier: Sequence[str]  # landing files
    again: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FetchJob:
    """Everything that fetching needs besides units; `live` is told the counts of every finished lane."""

    store: Store
    engine: Engine
    recipe: Recipe
    progress: Progress | None = None
    live: Callable[[Mapping[str, int]], None] = lambda counts: None

    def run(
        self,
        units: Sequence[Listed],
        files: Sequence[Sequence[Output]],
        content: Mapping[str, Mapping[str, Any]],
        earlier: Mapping[str, Sequence[Receipt]],
        again: Callable[[Receipt], frozenset[str]] = lambda receipt: frozenset(),
    ) -> dict[str, list[Receipt]]:
        """Receipts of every source's units, in order of their places; `files` are those of each group of hosts.

        `content` and `earlier` go by source.
        """
        sources = {source.name: source for source in self.recipe.source}
        overlap = {name: _Overlap(receipts) for name, receipts in earlier.items()}
        ids = [fetch_unit(content[unit.source], unit).id for unit in units]
        known = find_receipts(self.store, FOLDER, STAGE, ids)
        done = {name: known.get(name) for name in ids}
        todo: list[Work] = []
        for name, unit in zip(ids, units, strict=True):
            receipt = done[name]
            statuses = frozenset() if receipt is None else again(receipt)
            if receipt is None or statuses:
                found = [receipt] if receipt else overlap[unit.source].find(unit)
                taken = [output.path for old in found for output in old.outputs.values()]
                todo.append(Work(name, sources[unit.source], unit, taken, statuses))
        self._tell(len(ids) - len(todo), len(ids))
        tables = self._known_robots(files)
        if todo:
            self._fetch(todo, tables, files, done, len(ids))
        landed: dict[str, list[Receipt]] = defaultdict(list)
        for name, unit in sorted(zip(ids, units, strict=True), key=lambda pair: (pair[1].first, pair[1].last)):
            landed[unit.source].append(done[name])  # type: ignore[arg-type]
        return landed

    def _fetch(
        self,
        todo: Sequence[Work],
        known: Mapping[int, Receipt | None],
        files: Sequence[Sequence[Output]],
        done: dict[str, Receipt | None],
        total: int,
    ) -> None:
        stale = {work.listed.hosts for work in todo if "robots_unreachable" in work.again}
        robots = self._robots(sorted({work.listed.hosts for work in todo}), known, files, stale)
        left = len(todo)
        lanes = list(cut_lanes(todo, self.recipe.fetch.host_connections))
        task = LaneTask(self.store.root, self.recipe.fetch)
        units = [lane_unit(lane, robots.get(lane[0].listed.hosts), self.recipe.fetch) for lane in lanes]
        for finished in self.engine.map(task, units):
            receipts = [Receipt.from_json(packed.encode()) for packed in finished.notes["receipts"]]
            done |= {receipt.unit: receipt for receipt in receipts}
            left -= len(receipts)
            self._tell(total - left, total)
            self.live(finished.counts)

    def _robots(
        self,
        groups: Sequence[int],
        known: Mapping[int, Receipt | None],
        files: Sequence[Sequence[Output]],
        stale: Collection[int],
    ) -> dict[int, str]:
        """The table of robots.txt of each group, fetched where there is none or it is too old."""
        if not self.recipe.fetch.robots:
            return {}
        units = {n: self._robots_unit(files[n]) for n in groups}
        fresh = {n: old for n in groups if n not in stale and (old := known[n]) is not None and _is_fresh(old)}
        todo = [unit for n, unit in units.items() if n not in fresh]
        tables = {receipt.unit: receipt.outputs["rows"].path for receipt in fresh.values()}
        task = RobotsTask(self.store.root, self.recipe.fetch)
        for number, receipt in enumerate(self.engine.map(task, todo) if todo else ()):
            tables[receipt.unit] = receipt.outputs["rows"].path
            if self.progress is not None:
                self.progress("robots", number + 1, len(todo))
        return {n: tables[unit.id] for n, unit in units.items()}

    def _robots_unit(self, files: Sequence[Output]) -> Unit:
        config = self.recipe.fetch
        params = {"user_agent": config.user_agent, "allow_private": list(config.allow_private)}
        return Unit(
            "robots", VERSION, params, [file.sha256 for file in files], {"paths": [file.path for file in files]}
        )

    def _known_robots(self, files: Sequence[Sequence[Output]]) -> dict[int, Receipt | None]:
        """The receipts of all groups' tables; looked up even if nothing is to do, so that `gc` keeps them."""
        units = [self._robots_unit(group) for group in files] if self.recipe.fetch.robots else []
        known = find_receipts(self.store, FOLDER, "robots", [unit.id for unit in units])
        return {n: known.get(unit.id) for n, unit in enumerate(units)}

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None and total:
            self.progress("fetch", done, total)


def fetch_unit(content: Mapping[str, Any], listed: Listed) -> Unit:
    """The unit of landing for listed rows: what the source is, and which rows."""
    return Unit(STAGE, VERSION, {"source": content}, [listed.digest])


def cut_lanes(todo: Iterable[Work], connections: int) -> Iterator[list[Work]]:
    """Lanes, the longest first: pieces as they are, a host with numbered units over at most `connections` lanes."""
    lanes: dict[tuple[int, int, int], list[Work]] = defaultdict(list)
    for work in todo:
        unit = work.listed
        if not unit.parts:
            lanes[unit.hosts, unit.piece, 0].append(work)
        else:
            width = min(connections, unit.parts)
            lanes[unit.hosts, -(unit.piece - unit.part) - 1, unit.part % width].append(work)
    yield from sorted(lanes.values(), key=lambda lane: -sum(work.listed.rows for work in lane))


def lane_unit(lane: Sequence[Work], robots: str | None, config: FetchConfig) -> Unit:
    """A lane as the engine gets it; its id is never looked up."""
    width = min(config.host_connections, max(1, lane[0].listed.parts))
    share = Share(config.host_connections // width, config.host_delay * width)
    spec = {"lane": list(lane), "robots": robots, "share": share}
    return Unit("fetch", VERSION, {"units": [work.unit for work in lane]}, [], spec)


def _is_fresh(receipt: Receipt) -> bool:
    return time.time() - float(receipt.notes["fetched"]) < ROBOTS_SECONDS


class _Overlap:
    """Receipts of one source by the places that their units cover."""

    def __init__(self, receipts: Sequence[Receipt]) -> None:
        spans = [(receipt.notes["places"].partition("-"), receipt) for receipt in receipts]
        read = [(int(first, 16), int(last, 16), receipt) for (first, _, last), receipt in spans]
        self._spans = sorted(read, key=lambda span: span[:2])
        self._firsts = [first for first, _, _ in self._spans]
        self._lasts = list(accumulate((last for _, last, _ in self._spans), max))

    def find(self, unit: Listed) -> list[Receipt]:
        """Those that share a place with a unit, in order of their places."""
        near = slice(bisect_left(self._lasts, unit.first), bisect_right(self._firsts, unit.last))
        return [receipt for _, last, receipt in self._spans[near] if last >= unit.first]


@dataclass(frozen=True)
class RobotsTask:
    """Fetches robots.txt of every origin in one group of hosts, each once."""

    root: str
    config: FetchConfig

    def __call__(self, unit: Unit) -> Receipt:
        store = Store(self.root)
        commit = Commit(store, FOLDER, "robots", unit.id)
        began = int(time.time())
        rows = fetch_robots(origins_of(_asked(store, unit.spec["paths"])), self.config)
        output = store.put(f"{FOLDER}/robots", ".parquet", lambda sink: _write_robots(rows, sink))
        verdicts = Counter(f"robots/{word}" for word in rows.column("verdict").to_pylist())
        return commit({"rows": output}, dict(sorted(verdicts.items())), {"fetched": began})


def _asked(store: Store, paths: Sequence[str]) -> Iterator[str]:
    """The URLs of listed rows that are to be fetched."""
    for path in paths:
        for batch in store.read_batches(path, _URL_ROWS, ["url", "status"]):
            yield from (row["url"] for row in batch.to_pylist() if row["status"] == TO_FETCH)


def _write_robots(rows: pa.Table, sink: Any) -> int:
    pq.write_table(rows, sink, row_group_size=_ROBOTS_GROUP, compression="zstd")
    return int(rows.num_rows)


@dataclass(frozen=True)
class LaneTask:
    """Does the units of one lane; each commits its landing file and writes its receipt when it is whole."""

    root: str
    config: FetchConfig

    def __call__(self, unit: Unit) -> Receipt:
        store = Store(self.root)
        receipts = [
            receipt
            for group in by_piece(unit.spec["lane"])
            for receipt in _land(store, group, unit.spec["robots"], unit.spec["share"], self.config)
        ]
        counts: Counter[str] = Counter()
        for receipt in receipts:
            counts.update(receipt.counts)
        packed = [receipt.to_json().decode() for receipt in receipts]
        return Receipt(unit.id, unit.stage, {}, dict(counts), {"receipts": packed})


def by_piece(lane: Sequence[Work]) -> Iterator[list[Work]]:
    """The units of a lane by their piece: those of several sources are fetched together."""
    pieces: dict[int, list[Work]] = defaultdict(list)
    for work in lane:
        pieces[work.listed.piece].append(work)
    yield from pieces.values()


def _land(
    store: Store, group: Sequence[Work], robots: str | None, share: Share, config: FetchConfig
) -> Iterator[Receipt]:
    """Fetch what the units lack and commit each."""
    commits = [Commit(store, FOLDER, STAGE, work.unit) for work in group]
    forgotten = Forgotten.read(store)
    rows = [[forgotten.filtered(row, work.source.kind) for row in _take_over(store, work)] for work in group]
    wanted = [(i, j) for i, mine in enumerate(rows) for j, row in enumerate(mine) if row.status == TO_FETCH]
    asked = [rows[i][j] for i, j in wanted]
    rules = Robots(_read_robots(store, robots, asked), agent_of(config.user_agent))
    for (i, j), row in zip(wanted, fetch_rows(asked, config, rules, share), strict=True):
        before = rows[i][j].attempts or 0
        row = replace(row, attempts=(row.attempts or 0) + before)
        rows[i][j] = forgotten.filtered(row, group[i].source.kind)
    for commit, work, mine in zip(commits, group, rows, strict=True):
        with LandingFiles(store, work.unit, work.source, goes_on=False) as files:
            for row in mine:
                files.add(row)
            outputs, counts = files.finish()
        span = {"places": f"{work.listed.first:016x}-{work.listed.last:016x}"}  # JSON has no integers of 63 bits
        yield commit(outputs, counts, span)


def _read_robots(store: Store, path: str | None, rows: Sequence[Row]) -> pa.Table | None:
    """The rows of the table that these URLs need."""
    origins = origins_of(row.url or "" for row in rows)
    if path is None or not origins:
        return None
    with store.open(path) as file:
        return pq.read_table(file, schema=ROBOTS, filters=[("origin", "in", origins)])


def _take_over(store: Store, work: Work) -> Iterator[Row]:
    """The unit's rows, those that an earlier landing has with its outcome instead of `TO_FETCH`."""
    listed = list(work.listed.read(store))
    old = _landed_before(store, work.earlier, [row.row for row in listed])
    for row in listed:
        known = old.get(row.row)
        if row.status == TO_FETCH and work.source.kind == "pair":
            row = check_captions(row)  # a pair without captions is of no use, so nothing is asked for
        if row.status != TO_FETCH or known is None or known["url"] != row.url:
            yield row
        elif known["status"] in (*_CAPTIONS, *work.again) or not _as_expected(row, known):
            yield replace(row, attempts=known["attempts"])
        else:
            receipt = unpack_json(known["receipt"])
            same = {name: known[name] for name in ("payload", "status", "detail", "attempts")}
            yield replace(row, receipt=receipt, **same)


def _landed_before(store: Store, paths: Sequence[str], names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Rows of landing files by name, of `names` alone: a range of small hosts spans files of whole large ones."""
    found: dict[str, Mapping[str, Any]] = {}
    asked = pa.array(names, pa.string())
    for path in paths:
        held = store.read_table(path, ["row"]).column("row")
        places = np.flatnonzero(pc.is_in(held, value_set=asked).to_numpy(zero_copy_only=False))
        for rows in read_rows(store, path, places, LANDING.names):
            found |= {row["row"]: row for row in rows.to_pylist()}
    return found


def _as_expected(row: Row, known: Mapping[str, Any]) -> bool:
    """Whether an earlier payload is the one that the list announces now."""
    if row.expected_sha256 is None or known["sha256"] is None:
        return str(known["status"]) != "sha256_mismatch"
    return bool(row.expected_sha256.lower() == known["sha256"].hex())
