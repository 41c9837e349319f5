"""A dry run of decide: what other thresholds would change, in seconds, without reading a payload or changing a file.

    found = rehearse(recipe, ["text_length.min_words=100"])
    found.changes.rows, found.alarm

The pipeline's own code decides, on a store that reads the build's folder and writes into a temporary one, and with an
engine that refuses whatever would read payloads. So what it says is what `imglish decide` will do.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from imglish.errors import ImglishError, RecipeError, StageError
from imglish.ingest.alarm import alarm
from imglish.ingest.changes import Changes, changes
from imglish.ingest.match.stage import lowered
from imglish.ingest.rules import FAMILIES
from imglish.ingest.trail import Trail, open_trail
from imglish.pipeline import MANIFEST, Pipeline
from imglish.recipe import DecideConfig, Recipe
from imglish.results import DecideResult
from imglish.sample import InlineEngine
from imglish.stages import Engine, Load, Receipt, Reduce, Task, Unit
from imglish.storage import Listed, Output, Store
from imglish.walk import PendingError

_PAYLOADS = ("land", "list", "hosts", "robots", "fetch", "annotate", "fit", "measure", "evaluation", "match")
"""How the stages begin that read payloads, or what was made of them for matching."""
_DECIDING = ("match-cluster",)
HERE_ROWS = 1_000_000
"""Occurrences that are decided in one process: twice 170 MB."""


@dataclass(frozen=True)
class Rehearsed:
    """What would change, and what decide would come to."""

    changes: Changes
    result: DecideResult


def rehearse(before: Recipe, after: Recipe, engine: Engine | None = None) -> Rehearsed:
    """Compare the decisions of `after` with those of the corpus, or with those of `before` while there is none.

    StageError when that needs payloads: a measure that is not there, a threshold below what match stored.
    """
    with tempfile.TemporaryDirectory(prefix="imglish-dry-run-") as folder:
        store, quiet = Overlay(before.work, folder), _Rehearsal(engine or InlineEngine())
        old = corpus_trail(store) or _decided(before, store, quiet).trail
        result = _decided(after, store, quiet)
        wiped = result.wiped_out
        result.alarm = alarm(wiped, None, after.decide) if wiped else None  # no trail stays to ask
        return Rehearsed(changes(store, old, result.trail), result)


def decide_here(recipe: Recipe, note: Callable[[str], None]) -> DecideResult | None:
    """`Pipeline.decide` in this process when nothing but deciding is left and the corpus is small; None when it takes
    workers. Starting them and moving cells between them takes longer than deciding the demo three times."""
    trail = corpus_trail(Store(recipe.work))
    if trail is None or sum(file.rows for file in trail.files) > HERE_ROWS:
        return None
    try:
        return Pipeline(recipe, _Rehearsal(InlineEngine()), note=note).decide()
    except PendingError:
        return None


def corpus_trail(store: Store) -> Trail | None:
    """The trail of the corpus in a build's folder; None when nothing was packed, or its trail is gone."""
    if not store.exists(MANIFEST):
        return None
    try:
        return open_trail(store.url(MANIFEST)).trail
    except ImglishError:
        return None


def tried(text: str, recipe: Recipe) -> str:
    """What `--set` means as an override of the recipe: keys below decide, or a rule's own, or all of decide or match.

    RecipeError with the nearest known key.
    """
    head = text.partition("=")[0].partition(".")[0]
    rules = {entry.partition(":")[2].partition("@")[0] for entry in recipe.decide.rules if ".py:" in entry}
    places = dict.fromkeys(DecideConfig.model_fields, f"decide.{text}")
    places = dict.fromkeys((*FAMILIES, *rules), f"decide.rule.{text}") | places | {"decide": text, "match": text}
    if head in places and "=" in text:
        return places[head]
    if "=" not in text:
        raise RecipeError(f"--set {text!r} is not key=value, for example text_length.min_words=100")
    near = difflib.get_close_matches(head, places, n=1)
    hint = f"did you mean {near[0]}{text.removeprefix(head)}?" if near else "no rule and no key of decide or match"
    raise RecipeError(f"--set {text!r}: {hint}")


def _decided(recipe: Recipe, store: Store, engine: Engine) -> DecideResult:
    pipeline = Pipeline(recipe, engine)
    pipeline.store = store
    try:
        return pipeline.decided()
    except PendingError as pending:
        raise StageError(_refusal(recipe, pending)) from None


def _refusal(recipe: Recipe, pending: PendingError) -> str:
    run = "run 'imglish decide' with the same values as overrides"
    if pending.stage.startswith("match"):
        said = "; ".join(lowered(recipe.match)) or f"{pending} for these settings of [match]"
        return f"match must be run again, which a dry run does not: {said}; {run}"
    if pending.stage.startswith(("measure", "fit")):
        return f"a rule reads what was not measured yet ({pending}, which read payloads); {run}"
    return f"there is nothing to decide from yet ({pending}); run 'imglish decide' or 'imglish build' first"


@dataclass(frozen=True)
class _Rehearsal:
    """An engine that does what deciding takes, and refuses the rest as a walk does."""

    engine: Engine

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        if _refused(units[0].stage):
            raise PendingError(units[0].stage, len(units))
        return self.engine.map(task, units)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        if _refused(reduce.stage):
            raise PendingError(reduce.stage, len(buckets))
        return self.engine.group(load, pieces, buckets, reduce)

    def close(self) -> None:
        self.engine.close()


def _refused(stage: str) -> bool:
    return stage.startswith(_PAYLOADS) and stage not in _DECIDING


class Overlay(Store):
    """A store whose files stay as they are: what is written lies in a folder of its own, and is read from there.

    It opens no table of landing, so nothing that works on it reads a payload.
    """

    def __init__(self, root: str, top: str) -> None:
        super().__init__(root)
        self.top = Store(top)

    def size(self, path: str) -> int | None:
        mine = self.top.size(path)
        return super().size(path) if mine is None else mine

    def read(self, path: str) -> bytes:
        return self.top.read(path) if self.top.exists(path) else super().read(path)

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        return super().read_many(paths) | self.top.read_many(paths)

    def listing(self, folder: str) -> dict[str, Listed]:
        return super().listing(folder) | self.top.listing(folder)

    def open(self, path: str) -> BinaryIO:
        if path.startswith("landing/") and path.count("/") == 1:
            raise StageError(f"{self.url(path)}: a dry run reads no landing")
        return self.top.open(path) if self.top.exists(path) else super().open(path)

    def put(self, folder: str, suffix: str, write: Callable[[BinaryIO], int]) -> Output:
        return self.top.put(folder, suffix, write)

    def put_as(self, path: str, data: bytes) -> None:
        self.top.put_as(path, data)

    def put_new(self, path: str, data: bytes) -> bool:
        return self.top.put_new(path, data)

    def remove(self, path: str) -> None:
        self.top.remove(path)
