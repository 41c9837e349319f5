"""The pipeline: stages x engine x recipe, in the order of DESIGN section 4.

    with DaskEngine(workers=2) as engine:
        result = Pipeline(recipe, engine, report).build()
        print(result.manifest.digest, result.seconds)

Every stage asks the store which of its units have a receipt and runs the others, so `build` is also `resume`,
and a second build does nothing. `walk` runs the same code without working (imglish/walk.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from imglish.digests import canonical_json, json_digest
from imglish.errors import AlarmError, LockError, RecipeError, SourceError, StageError
from imglish.ingest.alarm import WipedOut, alarm, check_accepted, wiped_out
from imglish.ingest.annotate import AnnotateTask, annotate_units
from imglish.ingest.balance import check_balance
from imglish.ingest.decide import decide
from imglish.ingest.fitting import FITTED, FitScorer, scorer_unit
from imglish.ingest.land import land, landing_files
from imglish.ingest.match.evaluation import check_sets
from imglish.ingest.match.fingerprints import wanted
from imglish.ingest.match.stage import match
from imglish.ingest.measures.base import Measure
from imglish.ingest.measures.registry import check_measures, make_measure, needed_names
from imglish.ingest.measures.scored import fit_content, fitted, hold_weights
from imglish.ingest.measures.stage import MeasureTask, measure_units
from imglish.ingest.rules import active_rules
from imglish.ingest.tally import TallyTask, Verdicts, rule_errors, tally_units, verdicts
from imglish.ingest.trail import Opened, Trail, trail_path, write_trail
from imglish.lineage import DecidedTables, lineage, trail_of
from imglish.lock import LOCK, exclusive, read_lock, write_lock
from imglish.recipe import Recipe, VqkdConfig, content_fields
from imglish.results import BuildResult, DecideResult
from imglish.shards.manifest import Manifest, build_manifest
from imglish.shards.pack import PackInput, pack
from imglish.stages import Engine, Progress, Receipt, Task, Unit, counts_of, run_map
from imglish.storage import Output, Store
from imglish.tokenize.fit import FitText, FitVisual, text_fit_unit, visual_fit_unit
from imglish.tokenize.rows import LandingFile
from imglish.tokenize.select import Selected, select
from imglish.tokenize.statistics import text_statistics
from imglish.tokenize.tasks import TokenizeText, TokenizeVisual, text_units, visual_units
from imglish.walk import NoEngine, PendingError, WatchedEngine, WatchedStore

TABLES = "tables"
MANIFEST = "manifest.json"
STATISTICS = "tokenizer-statistics.json"


@dataclass
class Pipeline:
    """One recipe on one engine; `note` gets lines for people, `progress` every finished unit."""

    recipe: Recipe
    engine: Engine
    progress: Progress | None = None
    note: Callable[[str], None] = lambda text: None
    store: Store = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)
    landed: dict[str, list[Receipt]] = field(default_factory=dict)
    """Receipts of landing by source, once it is done."""
    tables: DecidedTables | None = None
    """What was decided from, once that is done."""

    def __post_init__(self) -> None:
        self.store = Store(self.recipe.work)
        active_rules(self.recipe)  # a wrong rule or threshold is said before anything is done
        check_balance(self.recipe)
        check_measures(self.recipe)
        check_accepted(self.recipe)

    def build(self) -> BuildResult:
        """Run what is missing and write the manifest; everything finished before is used again."""
        with exclusive(self.store):
            return self._build()

    def decide(self) -> DecideResult:
        """Run what is missing up to the decisions, and count them; shards and manifest stay as they are."""
        with exclusive(self.store):
            return self.decided()

    def decided(self) -> DecideResult:
        """`decide` without holding the folder."""
        trail, tallies = self._tallied(self._decided())
        found, warnings = verdicts(counts_of(tallies)), rule_errors(counts_of(tallies))
        path = self.store.url(trail_path(trail.decisions))
        wiped, landed = wiped_out(found, self.recipe.decide), self._landed_bytes()
        return DecideResult(trail, path, self.seconds, landed, found, warnings, wiped, self._alarm(trail, wiped))

    def walk(self) -> tuple[WatchedStore, PendingError | AlarmError | None]:
        """Go through the stages without working: the files read, and the first work that is missing or the alarm."""
        watched = WatchedStore(self.recipe.work)
        self.store, self.engine = watched, NoEngine()
        try:
            self._build()
        except (PendingError, AlarmError) as pending:
            return watched, pending
        return watched, None

    def fit(self, names: Sequence[str]) -> dict[str, Any]:
        """Fit tokenizers anew on the corpus as decided now, and write the lock; `names` from "text", "visual".

        Scorers, "quality" and "alignment", are fitted on landing, before anything is decided.

        A VQ-KD tokenizer without given weights is trained here, in this process. Returns the notes of those fitted.
        """
        with exclusive(self.store):
            if set(names) <= set(FITTED):
                return {name: self._refit_scorer(name, self._landed()) for name in names}
            files = self._selected(self._decided())
            fits = self._fits(files)
            models: dict[str, dict[str, Any]] = {}
            for name in names:
                with self._timed(f"fit-{name}"):
                    models[name] = self._refit(fits[name], files)
            return models

    def _refit_scorer(self, name: str, landed: Mapping[str, Sequence[Output]]) -> dict[str, Any]:
        if not fitted(name, self.recipe):
            raise RecipeError(f"the recipe gives the scorer {name}, so nothing is to fit; see decide.measure.{name}")
        fit = self._scorer(name, landed)
        lock = read_lock(self.store)
        lock.pop(fit.key, None)
        write_lock(self.store, lock)
        with self._timed(f"fit-{name}"):
            return self._fit(fit)

    def _scorer(self, name: str, landed: Mapping[str, Sequence[Output]]) -> _Fit:
        recipe = self.recipe
        unit = partial(scorer_unit, name, recipe, landed)
        return _Fit(name, fit_content(name, recipe), FitScorer(self.store, recipe), unit, "scorer")

    def _refit(self, fit: _Fit, files: Sequence[Selected]) -> dict[str, Any]:
        if self._trained_here(fit):
            from imglish.trainer.vqkd.corpus import train_on_corpus  # torch is loaded only where it is needed

            found = train_on_corpus(self.store, self.recipe, files, self.progress, self.note)
            write_lock(self.store, read_lock(self.store) | {fit.key: found})
            return found
        lock = read_lock(self.store)
        lock.pop(fit.key, None)
        write_lock(self.store, lock)
        return self._fit(fit)

    def retry(self, classes: Sequence[str]) -> dict[str, int]:
        """Fetch URLs once more whose failure belongs to one of the classes; landing's counts after it.

        What succeeded is not asked for again, and its rows stay as they are. A URL list that is gone cannot be retried.
        """
        with exclusive(self.store):
            landed = land(self.store, self.engine, self.recipe, self.progress, self.note, again=classes)
        return counts_of([receipt for receipts in landed.values() for receipt in receipts])

    def _trained_here(self, fit: _Fit) -> bool:
        """Whether it is a VQ-KD tokenizer that `imglish fit visual` trains, which no build does."""
        visual = self.recipe.tokenize.visual
        return fit.name == "visual" and isinstance(visual, VqkdConfig) and visual.weights is None

    def _build(self) -> BuildResult:
        files = self._decided()
        decisions = [file.decisions for file in files]
        trail, tallies = self._tallied(files)
        found, warnings = verdicts(counts_of(tallies)), rule_errors(counts_of(tallies))
        self._stop_at_alarm(trail, found, warnings)
        selected = self._selected(files)
        models = self._fitted(selected)
        inputs = self._tokenized(selected, models)
        with self._timed("pack"):
            digests = {name: model["digest"] for name, model in models.items()}
            shards = pack(self.store, self.engine, self.recipe, inputs, digests, self.progress)
        with self._timed("manifest"):
            manifest = self._manifest(shards, decisions, tallies, models)
        return BuildResult(
            manifest,
            self.store.url(MANIFEST),
            self.seconds,
            self._landed_bytes(),
            found,
            counts_of(shards),
            warnings,
        )

    def _tallied(self, files: Sequence[LandingFile]) -> tuple[Trail, list[Receipt]]:
        """The decisions counted, and the trail that leads to them."""
        assert self.tables is not None
        with self._timed("tally"):
            units, task = tally_units([file.decisions for file in files]), TallyTask(self.store)
            tallies = run_map(self.store, TABLES, self.engine, task, units, self.progress)
            trail = trail_of(self.recipe, self.tables, tallies)
            self.store.mark_read([trail_path(trail.decisions)])
            if not isinstance(self.engine, NoEngine):
                write_trail(self.store, trail)
        return trail, tallies

    def _alarm(self, trail: Trail, wiped: Sequence[WipedOut]) -> str | None:
        opened = Opened(self.store.url(trail_path(trail.decisions)), self.store, trail, None)
        return alarm(wiped, opened, self.recipe.decide) if wiped else None

    def _stop_at_alarm(self, trail: Trail, found: Sequence[Verdicts], warnings: Sequence[str]) -> None:
        said = self._alarm(trail, wiped_out(found, self.recipe.decide))
        if said is not None:
            for warning in warnings:
                self.note(f"WARNING: {warning}")
            raise AlarmError(said)

    def _landed_bytes(self) -> dict[str, int]:
        return {name: counts_of(receipts).get("bytes", 0) for name, receipts in self.landed.items()}

    def _landed(self) -> dict[str, list[Output]]:
        """Landing files by source."""
        with self._timed("land"):
            self.landed = land(self.store, self.engine, self.recipe, self.progress, self.note)
            return {name: list(landing_files(receipts)) for name, receipts in self.landed.items()}

    def _decided(self) -> list[LandingFile]:
        """Landing, annotations and decisions: for every landing file one of each."""
        check_sets(self.recipe)  # before hours of fetching and annotating
        files = self._landed()
        landing = [file for found in files.values() for file in found]
        if not sum(output.rows for output in landing):
            raise SourceError("the sources hold no occurrence at all; check `path` of each [[source]]")
        with self._timed("annotate"):
            prints_wanted = wanted(self.recipe.match)
            units = annotate_units(landing, self.recipe.tokenize.stored.max_pixels, prints_wanted)
            task = AnnotateTask(self.store)
            annotated = run_map(self.store, TABLES, self.engine, task, units, self.progress)
            annotations = [receipt.outputs["rows"] for receipt in annotated]
            prints = [receipt.outputs["fingerprints"] for receipt in annotated if prints_wanted]
        kind_of = {source.name: source.kind for source in self.recipe.source}
        for name in needed_names(self.recipe):
            if name in FITTED and fitted(name, self.recipe):
                with self._timed(f"fit-{name}"):
                    self._fit(self._scorer(name, files))
        measures = self._measured(landing, [kind_of[name] for name, found in files.items() for _ in found])
        with self._timed("match"):
            matched = match(self.store, self.engine, self.recipe, landing, prints, self.progress, self.note)
        with self._timed("decide"):
            decided = decide(self.store, self.engine, self.recipe, annotations, self.progress, measures, matched)
        names = [name for name, found in files.items() for _ in found]
        self.tables = DecidedTables(names, landing, annotations, measures, matched, decided)
        return [LandingFile(*files) for files in zip(landing, annotations, decided.decisions, strict=True)]

    def _measured(self, landing: Sequence[Output], kinds: Sequence[str]) -> list[list[Output]]:
        """For every landing file the measures that the recipe's rules need of its kind."""
        measures = [make_measure(name, self.recipe) for name in needed_names(self.recipe)]
        if not measures:
            return [[] for _ in landing]
        self._hold_weights(measures)
        with self._timed("measure"):
            units = measure_units(self.recipe, landing, kinds)
            task, flat = MeasureTask(self.store, self.recipe), [unit for mine in units for unit in mine]
            done = iter(run_map(self.store, TABLES, self.engine, task, flat, self.progress))
            return [[next(done).outputs["rows"] for _ in mine] for mine in units]

    def _hold_weights(self, measures: Sequence[Measure]) -> None:
        """Write the digests of scorers' weights to the lock; LockError for one that has changed since."""
        lock = read_lock(self.store)
        known = hold_weights(measures, self.recipe, lock)
        if known != lock and not isinstance(self.engine, NoEngine):
            write_lock(self.store, known)

    def _selected(self, files: Sequence[LandingFile]) -> list[Selected]:
        with self._timed("select"):
            return select(self.store, self.engine, files, self.progress)

    def _fits(self, files: Sequence[Selected]) -> dict[str, _Fit]:
        recipe, store, tokenize = self.recipe, self.store, self.recipe.tokenize
        text = {"text": content_fields(tokenize.text), "seed": recipe.seed}
        visual = {name: content_fields(getattr(tokenize, name)) for name in ("visual", "stored", "views")}
        return {
            "text": _Fit("text", text, FitText(store), lambda: text_fit_unit(recipe, files)),
            "visual": _Fit(
                "visual",
                visual | {"seed": recipe.seed},
                FitVisual(store),
                lambda: visual_fit_unit(recipe, files),
            ),
        }

    def _fitted(self, files: Sequence[Selected]) -> dict[str, dict[str, Any]]:
        """Notes of the tokenizers that the lock names; what it lacks is fitted and written to it."""
        models: dict[str, dict[str, Any]] = {}
        for name, fit in self._fits(files).items():
            with self._timed(f"fit-{name}"):
                models[name] = self._fit(fit)
        return models

    def _fit(self, fit: _Fit) -> dict[str, Any]:
        lock = read_lock(self.store)
        entry = lock.get(fit.key)
        if entry is not None and self.store.size(entry["path"]) == entry["bytes"]:
            return dict(entry)
        if isinstance(self.engine, NoEngine) and self._trained_here(fit):
            raise PendingError("fit-visual", 1)
        receipt = run_map(self.store, TABLES, self.engine, fit.task, [fit.unit()], self.progress)[0]
        model = receipt.outputs["model"]
        found = {**receipt.notes, "path": model.path, "bytes": model.bytes}
        if found.get("requested", 0) > found.get("pieces", 0):
            self.note(f"text tokenizer: {found['requested']} pieces asked for, the corpus supports {found['pieces']}")
        if entry is None:
            write_lock(self.store, lock | {fit.key: found})
        elif entry["digest"] != found["digest"]:
            raise LockError(
                f"{LOCK}: {fit.name} {fit.what} {entry['digest'][:12]} is locked, its file {entry['path']} is gone, "
                f"and the corpus as it is now gives {found['digest'][:12]}; bring the file back, or run 'imglish fit' "
                f"to accept a new {fit.what}"
            )
        return found

    def _tokenized(self, files: Sequence[Selected], models: Mapping[str, Mapping[str, Any]]) -> list[PackInput]:
        store, recipe = self.store, self.recipe
        with self._timed("tokenize-text"):
            units = text_units(recipe, files, models["text"])
            texts = run_map(store, TABLES, self.engine, TokenizeText(store), units, self.progress)
            self._write_statistics(counts_of(texts))
        with self._timed("tokenize-visual"):
            units = visual_units(recipe, files, models["visual"])
            watched = WatchedEngine(self.engine, "images", self.note)
            pictures = run_map(store, TABLES, watched, TokenizeVisual(store), units, self.progress)
            _refuse_mixed_platforms(recipe, pictures)
        return [
            PackInput(file.landing, text.outputs["members"], text.outputs["documents"], picture.outputs["images"])
            for (file, _), text, picture in zip(files, texts, pictures, strict=True)
        ]

    def _write_statistics(self, counts: Mapping[str, int]) -> None:
        """What the text tokenizer does to each language, beside the manifest and outside every digest."""
        data = canonical_json({**text_statistics(counts), "captions_truncated": counts.get("captions_truncated", 0)})
        if not isinstance(self.engine, NoEngine) and self.store.read_many([STATISTICS]).get(STATISTICS) != data:
            self.store.put_as(STATISTICS, data)

    def _manifest(
        self,
        shards: Sequence[Receipt],
        decisions: Sequence[Output],
        tallies: Sequence[Receipt],
        models: Mapping[str, Mapping[str, Any]],
    ) -> Manifest:
        """Build the manifest and write it unless the same one is there."""
        manifest = build_manifest(shards, **lineage(self.recipe, models, decisions, tallies))
        data = manifest.to_json()
        if not self.store.exists(MANIFEST) or self.store.read(MANIFEST) != data:
            if isinstance(self.engine, NoEngine):
                raise PendingError("manifest", 1)
            self.store.put_as(MANIFEST, data)
        return manifest

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class _Fit:
    """One tokenizer or scorer to fit: its place in the lock follows from everything the recipe says about it."""

    name: str
    content: Mapping[str, Any]
    task: Task
    unit: Callable[[], Unit]
    what: str = "tokenizer"

    @property
    def key(self) -> str:
        return f"{self.name}-{json_digest(dict(self.content))[:16]}"


def _refuse_mixed_platforms(recipe: Recipe, pictures: Sequence[Receipt]) -> None:
    platforms = sorted({str(receipt.run["platform"]) for receipt in pictures})
    if len(platforms) > 1 and not recipe.run.mixed_platforms:
        raise StageError(
            f"tokenize-visual ran on machines of different kinds ({'; '.join(platforms)}), so codes may differ in "
            "near-ties; encode on one kind, or accept it with run.mixed_platforms=true"
        )
