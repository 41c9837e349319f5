"""Plan: what a build will take, what of it is done, and what a training run will be like, without doing any of it.

    made = plan(recipe, Terms(workers=16, price=0.05))       # a Plan; .lines() and .table() for people, .to_json()
    for line in plan_training(recipe, "corpus/manifest.json"): print(line)

What is done comes from a walk through the pipeline. How much there is comes from landing, else from a sample of the
sources' files, else from `expected_rows` and `expected_bytes` of the recipe. How fast it goes and how large its tables
are comes from receipts, else from a small build of the sample, else from defaults (`imglish.estimate`); every line says
which. The proposed number of shards is the one that makes a shard about 256 MB (webdataset users and mosaicml-streaming
settle between 64 MB and 1 GB); nothing adopts it silently. The numbers of a run are those of `imglish.shards.forecast`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from imglish.errors import AlarmError, ImglishError
from imglish.estimate import DEFAULTS, Amount, Landed, Rates, Stage, disk_by_views, estimate, measure
from imglish.ingest.land import STAGE, is_fetched, land_units
from imglish.ingest.landing import FOLDER
from imglish.ingest.sources.files import PART_BYTES, source_present
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, SourceConfig
from imglish.recipe_base import format_size
from imglish.sample import Extent, sample_sources, told_rows
from imglish.stages import Receipt, counts_of, find_receipts
from imglish.storage import Store
from imglish.walk import NoEngine, PendingError

SHARD_BYTES = 256 << 20
"""Size of a shard that the proposal aims at."""
VIEWS = (1, 2, 4, 8, 16)
"""Numbers of views whose disk is shown."""


@dataclass(frozen=True)
class Terms:
    """What the estimate is made for."""

    workers: int | None = None
    """Worker processes of one core each; the recipe's, else one per core here."""
    price: float = 0.04
    """Of one worker for an hour, in any currency (cloud machines: about 0.04 dollars a core and hour)."""
    download: float = 100.0
    """MB/s that all workers together may fetch."""
    sample: bool = True
    """Read and build a little of the sources that are here."""


@dataclass(frozen=True)
class Planned:
    """A stage with what of it is done, and what is left in hours on the wall and in money."""

    stage: Stage
    done: int
    hours: float
    left_hours: float
    left_cost: float

    def to_json(self) -> dict[str, Any]:
        facts = {"done": self.done, "hours": self.hours, "left_hours": self.left_hours, "left_cost": self.left_cost}
        return {**asdict(self.stage), **facts}


@dataclass(frozen=True)
class Plan:
    """Everything that `imglish plan` says about a build."""

    recipe: Recipe
    workers: int
    terms: Terms
    amounts: Sequence[Amount]
    stages: Sequence[Planned]
    views: Mapping[int, int]
    shards: tuple[int, int]
    state: str
    """The next work, or that there is none."""

    def to_json(self) -> dict[str, Any]:
        """Plain values: bytes, hours, counts."""
        return {
            "state": self.state,
            "workers": self.workers,
            "price": self.terms.price,
            "download_megabytes_per_second": self.terms.download,
            "sources": [asdict(amount) for amount in self.amounts],
            "stages": [one.to_json() for one in self.stages],
            "together": self._together(),
            "shard_bytes_by_views": {str(count): size for count, size in self.views.items()},
            "proposed_shards": {"train": self.shards[0], "validation": self.shards[1]},
        }

    def _together(self) -> dict[str, float]:
        kept = {one.stage.name: one.stage.kept for one in self.stages}
        final = kept["pack"] + kept["fit-text"] + kept["fit-visual"]
        return {
            "hours": sum(one.hours for one in self.stages),
            "left_hours": sum(one.left_hours for one in self.stages),
            "left_cost": sum(one.left_cost for one in self.stages),
            "requests": sum(one.stage.requests for one in self.stages),
            "landing_bytes": kept["land"],
            "final_bytes": final,
            "table_bytes": sum(kept.values()) - final - kept["land"],
            "scratch_bytes": max(one.stage.scratch for one in self.stages),
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Cells of the stages' table."""
        for one in self.stages:
            stage = one.stage
            yield (
                stage.name,
                f"{stage.units:,}",
                f"{one.done:,}",
                f"{stage.requests:,}" if stage.requests else "",
                format_size(stage.kept) if stage.kept else "",
                format_size(stage.scratch) if stage.scratch else "",
                _hours(stage.seconds / 3600),
                _hours(one.hours),
                _hours(one.left_hours),
                f"{one.left_cost:,.2f}",
                stage.origin,
            )

    def sources(self) -> Iterator[str]:
        """One line a source."""
        for one in self.amounts:
            what = f"{one.rows:,} rows, {format_size(one.bytes)}, {one.units:,} units" if one.rows else "nothing known"
            yield f"source {one.name:<24} {one.kind:<6} {what} ({_ORIGINS[one.origin]})"

    def notes(self) -> Iterator[str]:
        """Disk, shards, price."""
        sums = self._together()
        disk = {name: format_size(sums[f"{name}_bytes"]) for name in ("landing", "table", "scratch", "final")}
        yield (
            f"disk: landing {disk['landing']} and tables {disk['table']} while the corpus may change, scratch "
            f"{disk['scratch']} at the most, shards and models {disk['final']} for good"
        )
        by_views = ", ".join(f"{count}: {format_size(size)}" for count, size in self.views.items())
        yield f"shards by number of views (here {self.recipe.tokenize.views.count}): {by_views}"
        yield (
            f"time: {_hours(sums['hours'])} h on {self.workers} workers, {_hours(sums['left_hours'])} h left; "
            f"{sums['left_cost']:,.2f} at {self.terms.price:g} an hour and worker"
        )
        train, validation = self.shards
        yield f"proposed: pack.train_shards = {train}, pack.validation_shards = {validation} (256 MB each)"
        pack = self.recipe.pack
        yield f"recipe:   pack.train_shards = {pack.train_shards}, pack.validation_shards = {pack.validation_shards}"

    def lines(self) -> Iterator[str]:
        """Plain text, one line each."""
        yield from self.sources()
        rows = [_HEADS, *self.rows()]
        widths = [max(len(row[n]) for row in rows) for n in range(len(_HEADS))]
        for row in rows:
            cells = [f"{cell:<{widths[n]}}" if n in (0, 10) else f"{cell:>{widths[n]}}" for n, cell in enumerate(row)]
            yield "  ".join(cells).rstrip()
        yield self.state
        yield from self.notes()

    def table(self) -> Table:
        """The stages for a terminal."""
        made = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{self.recipe.name}: {self.state}", title_justify="left")
        for number, head in enumerate(_HEADS):
            made.add_column(head, justify="left" if number in (0, 10) else "right")
        for row in self.rows():
            made.add_row(*row)
        return made


_HEADS = (
    "stage",
    "units",
    "done",
    "requests",
    "writes",
    "scratch",
    "worker h",
    "hours",
    "left h",
    "left cost",
    "told by",
)
_ORIGINS = {
    "landed": "landed",
    "sample": "from a sample",
    "declared": "as declared; nothing is here",
    "assumed": "size assumed; set expected_bytes",
    "unknown": "nothing is here; set expected_rows and expected_bytes",
}


def plan(recipe: Recipe, terms: Terms | None = None) -> Plan:
    """Plan a build; sources that are neither here nor declared count as nothing and say so."""
    terms = terms or Terms()
    workers = terms.workers or recipe.run.workers or os.cpu_count() or 1
    walked = _Walk(recipe)
    here = [source for source in recipe.source if source_present(source, recipe.root)]
    local = [source for source in here if not is_fetched(source, recipe.root) and not walked.landed[source.name]]
    extents, built, seconds = sample_sources(recipe, local) if terms.sample and local else ({}, {}, {})
    amounts = [_amount(recipe, source, walked, extents.get(source.name), source in here) for source in recipe.source]
    sampled = [
        Landed(source.kind, False, [one for one in built.get(STAGE, ()) if one.notes.get("source") == source.name])
        for source in local
    ]
    rates: Rates = {**DEFAULTS, **measure(recipe, sampled, built, "sample", seconds), **walked.rates()}
    stages = [_planned(stage, walked, workers, terms) for stage in estimate(recipe, amounts, rates)]
    size = next(one.stage.kept for one in stages if one.stage.name == "pack")
    share = recipe.decide.validation_share
    shards = (max(1, round(size * (1 - share) / SHARD_BYTES)), max(1, round(size * share / SHARD_BYTES)))
    counts = sorted({*VIEWS, recipe.tokenize.views.count})
    views = disk_by_views(recipe, amounts, rates, counts)
    return Plan(recipe, workers, terms, amounts, stages, views, shards, walked.state)


class _Walk:
    """What is done: units by stage, receipts, landing by source."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.units = recipe, dict[str, tuple[int, int]]()
        pipeline = Pipeline(recipe, NoEngine(), progress=self._note)
        store = Store(recipe.work)
        try:
            watched, pending = pipeline.walk()
        except ImglishError as error:
            self.state, seen = f"not to be built as it is: {error}", set[str]()
        else:
            self.state, seen = _state(pending), watched.seen
        self.complete = self.state == _NOTHING
        self.receipts: dict[str, list[Receipt]] = defaultdict(list)
        texts = store.read_many([path for path in sorted(seen) if "/receipts/" in path])
        for text in texts.values():
            receipt = Receipt.from_json(text)
            self.receipts[receipt.stage].append(receipt)
        self.landed = {one.name: pipeline.landed.get(one.name) or _landed(store, recipe, one) for one in recipe.source}

    def _note(self, stage: str, done: int, total: int) -> None:
        self.units[stage] = (done, total)

    def done(self, stage: Stage) -> int:
        """Units of a stage that are finished; of groupings all or none."""
        if stage.name in self.units:
            done, total = self.units[stage.name]
            return stage.units if done == total else done
        return stage.units if self.receipts[stage.name] or (self.complete and stage.single) else 0

    def rates(self) -> Rates:
        """What the receipts tell."""
        root, sources = self.recipe.root, self.recipe.source
        landed = [Landed(one.kind, is_fetched(one, root), self.landed[one.name]) for one in sources]
        return measure(self.recipe, landed, self.receipts, "receipts")


_NOTHING = "nothing to do; the manifest is up to date"


def _state(pending: PendingError | AlarmError | None) -> str:
    if isinstance(pending, AlarmError):
        return f"not to be built as it is: {pending}"
    return _NOTHING if pending is None else f"next: {pending}"


def _landed(store: Store, recipe: Recipe, source: SourceConfig) -> list[Receipt]:
    """Receipts of a source whose landing is not complete, or whose files are gone without a trace."""
    if not source_present(source, recipe.root):
        return []
    units = [unit.id for unit in land_units(recipe, source)]
    return list(find_receipts(store, FOLDER, STAGE, units).values())


def _amount(recipe: Recipe, source: SourceConfig, walked: _Walk, extent: Extent | None, here: bool) -> Amount:
    """How much a source holds, by the best knowledge there is."""
    fetched, receipts = is_fetched(source, recipe.root), walked.landed[source.name]

    def amount(units: int, rows: int, size: int, origin: str) -> Amount:
        return Amount(source.name, source.kind, fetched, units, rows, size, origin)

    units = land_units(recipe, source) if here else []
    if receipts:
        counts, more = counts_of(receipts), max(1.0, len(units) / len(receipts))
        landed = [round(counts[name] * more) for name in ("occurrences", "bytes")]
        return amount(len(units) or len(receipts), landed[0], landed[1], "landed")
    if extent is not None:
        return amount(extent.units, extent.rows, extent.bytes, "sample")
    told, size = told_rows([unit.spec["part"] for unit in units]) or source.expected_rows, source.expected_bytes
    each = DEFAULTS["payload B/text" if source.kind == "text" else "payload B/image"].value
    each *= DEFAULTS["answering/url"].value if fetched else 1.0
    if told is None and size is None:
        return amount(len(units), 0, 0, "unknown")
    rows = round((size or 0) / each) if told is None else told
    payload = round(rows * each) if size is None else size
    cut = -(-rows // recipe.fetch.unit_rows) if fetched else -(-payload // PART_BYTES)
    return amount(len(units) or max(1, cut), rows, payload, "assumed" if size is None else "declared")


def _planned(stage: Stage, walked: _Walk, workers: int, terms: Terms) -> Planned:
    """The stage on so many workers; a download goes no faster than the line."""
    used = 1 if stage.single else min(workers, max(1, stage.units))
    hours = max(stage.seconds / used, stage.bytes_in / (terms.download * 1e6)) / 3600
    done = min(walked.done(stage), stage.units)
    left = hours * (1 - done / stage.units) if stage.units else 0.0
    return Planned(stage, done, hours, left, left * workers * terms.price)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.05 else f"{hours:.4f}" if hours else "0"
