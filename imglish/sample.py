"""A small build of a few rows of each source, to see what the rest will take.

    samples, receipts = sample_sources(recipe, ["photos", "prose"])
    samples["photos"].rows, receipts["annotate"][0].run["seconds"]

Up to `PARTS` parts of a source are read to their end, or for `SECONDS`; `ROWS` rows of each go through the real
pipeline in this process and in a temporary folder. URL lists are left out: planning sends no request. A sample that
cannot be built to the end (all its rows are dropped, say) gives the receipts of the stages that it got through.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import canonical_json, json_digest
from imglish.errors import ImglishError
from imglish.ingest.fitting import FITTED
from imglish.ingest.land import INDEX, STAGE, source_content
from imglish.ingest.landing import FOLDER, LandingFiles
from imglish.ingest.rules import absolute
from imglish.ingest.sources import reader
from imglish.ingest.sources.base import Part, Row
from imglish.pipeline import Pipeline
from imglish.recipe import BalanceConfig, CodebookConfig, DecideConfig, Recipe, SourceConfig
from imglish.stages import Commit, Load, Receipt, Reduce, Task, Unit
from imglish.storage import Store

PARTS, ROWS, SECONDS = 3, 24, 2.0
"""Parts of a source, rows of a part that are built, seconds to read a part."""

Receipts = Mapping[str, Sequence[Receipt]]


@dataclass(frozen=True)
class Extent:
    """How much a source holds: units, rows, bytes of payload."""

    units: int
    rows: int
    bytes: int


class InlineEngine:
    """Does the work in this process and keeps every receipt by stage."""

    def __init__(self) -> None:
        self.receipts: dict[str, list[Receipt]] = defaultdict(list)

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        for unit in units:
            self.receipts[unit.stage].append(task(unit))
            yield self.receipts[unit.stage][-1]

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        rows = pa.concat_tables([load(piece) for piece in pieces])
        for bucket in buckets:
            mine = rows.filter(pc.equal(rows.column("bucket"), bucket))
            self.receipts[reduce.stage].append(reduce(bucket, mine))
            yield self.receipts[reduce.stage][-1]

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Read:
    """What was read of a source."""

    parts: Sequence[Part]
    landed: list[Row] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    unread: float = 0.0
    """Rows behind the place where reading a part was given up, by the size of its file."""

    def extent(self, read: int) -> Extent:
        """Of the whole source, when `read` parts were read; rows from the parts' specs where those say it."""
        whole = (self.rows + self.unread) * len(self.parts) / max(1, read)
        rows = told_rows(self.parts) or round(whole)
        return Extent(len(self.parts), rows, round(self.bytes * rows / max(1, self.rows)))


def told_rows(parts: Sequence[Part]) -> int | None:
    """Rows of all parts, when each says how many it has."""
    told = [part.spec.get("rows") for part in parts]
    counts = [count for count in told if isinstance(count, int)]
    return sum(counts) if counts and len(counts) == len(told) else None


def sample_sources(
    recipe: Recipe, sources: Sequence[SourceConfig]
) -> tuple[dict[str, Extent], Receipts, dict[str, float]]:
    """The extent of each source, whose files have to be here; of a small build the receipts and seconds by stage."""
    folder = tempfile.mkdtemp(prefix="imglish-plan-")
    try:
        engine = InlineEngine()
        store = Store(folder)
        extents: dict[str, Extent] = {}
        units: dict[str, list[str]] = {}
        seconds: dict[str, float] = {}
        for source in sources:
            found = _read(recipe, source)
            extents[source.name] = found.extent(min(PARTS, len(found.parts)))
            if found.landed:
                units[source.name] = [_land(store, engine, source, found)]
        small = _small(recipe, [source for source in sources if source.name in units], folder)
        if small is not None:
            index = {
                source.name: {"config": json_digest(source_content(small, source)), "units": units[source.name]}
                for source in small.source
            }
            store.put_as(INDEX, canonical_json(index))
            with suppress(ImglishError, ValueError):
                pipeline = Pipeline(small, engine)
                seconds = pipeline.seconds
                pipeline.build()
        return extents, dict(engine.receipts), seconds
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(recipe: Recipe, source: SourceConfig) -> _Read:
    """Rows of some parts, evenly spaced; the first `ROWS` of each as landing has them."""
    found = reader(source, recipe.root)
    read = _Read(found.parts(source, recipe.root))
    count = min(PARTS, len(read.parts))
    for number in range(count):
        part = read.parts[number * len(read.parts) // count]
        began, taken, size = time.perf_counter(), 0, 0
        for row in found.rows(source, part):
            taken += 1
            size += len(row.payload or b"")
            if taken <= ROWS:
                read.landed.append(row)
            if time.perf_counter() - began > SECONDS:
                read.unread += max(0.0, _file_bytes(part) / max(1, size) - 1) * taken
                break
        read.rows += taken
        read.bytes += size
        read.seconds += time.perf_counter() - began
    return read


def _file_bytes(part: Part) -> int:
    """Size of the files that a part's fingerprint lists, 0 when it does not."""
    return sum(entry[1] for entry in part.fingerprint if isinstance(entry, list) and isinstance(entry[1], int))


def _land(store: Store, engine: InlineEngine, source: SourceConfig, read: _Read) -> str:
    """A landing file of the sampled rows; its receipt says how long reading took a row."""
    unit = json_digest(source.name)[:32]
    commit = Commit(store, FOLDER, STAGE, unit)
    commit.began -= read.seconds * len(read.landed) / max(1, read.rows)
    with LandingFiles(store, unit, source) as files:
        for row in read.landed:
            files.add(row)
        outputs, counts = files.finish()
    engine.receipts[STAGE].append(commit(outputs, counts, {"source": source.name}))
    return unit


def _judged(recipe: Recipe) -> DecideConfig:
    """Rules and measures that are found whatever the root, without `quality` and `alignment`, and without the alarm,
    which so few rows set off."""
    decide = recipe.decide
    rules = [absolute(entry, recipe.root) for entry in decide.rules if entry.partition("@")[0] not in FITTED]
    settings = {name: values for name, values in decide.measure.items() if name not in FITTED}
    if "path" in settings.get("bad_words", {}):
        settings["bad_words"] = {**settings["bad_words"], "path": str(Path(recipe.root, settings["bad_words"]["path"]))}
    changes = {
        "rules": tuple(rules),
        "measures": tuple(absolute(entry, recipe.root) for entry in decide.measures),
        "rule": {name: values for name, values in decide.rule.items() if name not in FITTED},
        "measure": settings,
        "alarm_share": 1.0,
        "alarm_accept": {},
    }
    return decide.model_copy(update=changes)


def _small(recipe: Recipe, sources: Sequence[SourceConfig], folder: str) -> Recipe | None:
    """The recipe with these sources only, a quick fit, and one shard a split; None without sources."""
    if not sources:
        return None
    tokenize = recipe.tokenize
    visual = tokenize.visual
    if isinstance(visual, CodebookConfig):
        visual = visual.model_copy(update={"iterations": 1, "sample_images": 64})
    pack = recipe.pack.model_copy(update={"train_shards": 1, "validation_shards": 1, "rounds": 1, "repeat": {}})
    changes = {
        "decide": _judged(recipe),
        "balance": BalanceConfig(),
        "root": str(Path(folder, "nothing-here")),
        "work": folder,
        "source": tuple(sources),
        "tokenize": tokenize.model_copy(update={"visual": visual}),
        "pack": pack,
    }
    return recipe.model_copy(update=changes)
