"""Measures by models: `nsfw`, `quality` and `alignment`. Those that are fitted are named by the build folder's lock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from imglish.digests import json_digest
from imglish.errors import LockError, RecipeError
from imglish.ingest.measures.base import PICTURED, Maker, Measure, Rows, check_sha256, make_settings
from imglish.ingest.measures.scorers import OpenNsfw, QualityScorer
from imglish.lock import LOCK, read_lock
from imglish.recipe import Recipe, Section, content_fields
from imglish.records import pack_json, unpack_json
from imglish.storage import Store

SHA256 = r"^[0-9a-f]{64}$"
FIT_VERSION = 1
"""Of what a fit selects and trains."""


class NsfwSettings(Section):
    """Settings of `nsfw`."""

    sha256: str | None = Field(default=None, pattern=SHA256)
    """Digest that the weights have to have; None takes those that are installed and holds them in the lock."""


class QualitySettings(Section):
    """Settings of `quality`: what it is trained on, or a file that is trained."""

    good: tuple[str, ...] = ()
    """Sources of text of this recipe, or folders of .txt files below `root`, that show what to keep."""
    bad: tuple[str, ...] = ()
    """The same, of what to drop."""
    sample_bytes: int = Field(default=32 << 20, ge=1000)
    """Text of each class that the fit reads, at most: the documents with the smallest draws."""
    model: str | None = None
    """File of a classifier that was fitted before, relative to `root`; nothing is fitted then."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """Digest that `model` has to have."""

    @model_validator(mode="after")
    def _something(self) -> QualitySettings:
        if self.model is None and not (self.good and self.bad):
            raise ValueError("name sources or folders in `good` and in `bad`, or a fitted file in `model`")
        return self


class AlignmentSettings(Section):
    """Settings of `alignment`."""

    type: Literal["head", "clip"] = "head"
    """A small head fitted here over EfficientNet-lite0 and MiniLM, or CLIP as it is."""
    pairs: tuple[str, ...] = ()
    """What the head is trained on: sources of pairs of this recipe, or folders of pictures with .txt files beside."""
    sample_pairs: int = Field(default=10_000, ge=20)
    """Pairs that the fit takes, at most: those with the smallest draws. A picture takes about 0.1 s."""
    clip: str | None = None
    """Folder with CLIP in the layout of transformers, relative to `root`."""
    images: str | None = None
    """State dict of EfficientNet-lite0, relative to `root`; None takes that of its package."""
    texts: str | None = None
    """Folder of MiniLM, relative to `root`; None takes that of its package."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """Digest that encoders and head together have to have."""

    @model_validator(mode="after")
    def _fits(self) -> AlignmentSettings:
        if self.type == "clip" and self.clip is None:
            raise ValueError('type "clip" needs `clip`, a folder with CLIP\'s files')
        if self.type == "head" and not self.pairs:
            raise ValueError("name sources or folders in `pairs` to fit the head on")
        return self


def settings_of(name: str, recipe: Recipe) -> Any:
    """The recipe's settings of a scorer; RecipeError names a wrong one."""
    return make_settings(name, SCORED[name], recipe)


def fitted(name: str, recipe: Recipe) -> bool:
    """Whether a scorer of this recipe is fitted here, rather than given."""
    if name == "quality":
        return settings_of(name, recipe).model is None
    return name == "alignment" and settings_of(name, recipe).type == "head"


def fit_content(name: str, recipe: Recipe) -> dict[str, Any]:
    """What a fit of a scorer depends on besides the texts and pictures: its place in the lock follows from it."""
    settings = content_fields(settings_of(name, recipe))
    return {name: settings | {"sha256": None}, "seed": recipe.seed, "version": FIT_VERSION}


def fitted_bytes(name: str, recipe: Recipe) -> bytes:
    """The file that the lock names for a scorer; LockError when there is none, or another one."""
    store = Store(recipe.work)
    entry = read_lock(store).get(f"{name}-{json_digest(fit_content(name, recipe))[:16]}")
    if entry is None or not store.exists(entry["path"]):
        raise LockError(f"{LOCK}: the scorer {name} is not fitted; run 'imglish fit {name}' or 'imglish build'")
    data = store.read(entry["path"])
    if entry["digest"] != _digest(data):
        raise LockError(
            f"{LOCK}: {entry['path']} has the digest {_digest(data)[:12]}, so the weights of scorer {name} changed "
            f"since they were fitted; bring the file back, or remove it and run 'imglish fit {name}'"
        )
    return data


def hold_weights(measures: Sequence[Measure], recipe: Recipe, lock: Mapping[str, Any]) -> dict[str, Any]:
    """The lock with the digests of weights that are given; LockError for one that has changed since.

    A scorer that is fitted here has an entry of its own.
    """
    known = dict(lock)
    for measure in measures:
        digest = measure.params.get("weights")
        if digest is None or (measure.name in SCORED and fitted(measure.name, recipe)):
            continue
        key = f"{measure.name}-{json_digest(recipe.decide.measure.get(measure.name, {}))[:16]}"
        held = known.setdefault(key, {"digest": digest, "path": key})["digest"]
        if held != digest:
            raise LockError(
                f"{LOCK}: the weights of measure {measure.name} are locked as {held[:12]}, those here have "
                f"{digest[:12]}; bring the old ones back, or accept these with "
                f"decide.measure.{measure.name}.sha256={digest}"
            )
    return known


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


NSFW = pa.schema([pa.field("nsfw_score", pa.float64())])
QUALITY = pa.schema([pa.field("quality_score", pa.float64())])
ALIGNMENT = pa.schema([pa.field("alignment_scores", pa.binary())])
"""JSON of a score for each caption, null where the picture does not decode."""


def _nsfw(settings: NsfwSettings, recipe: Recipe) -> Measure:
    scorer = OpenNsfw(recipe.tokenize.stored.max_pixels)
    check_sha256("nsfw", settings.sha256, scorer.weights)

    def call(rows: Rows) -> pa.Table:
        return pa.table([pa.array(scorer([row["payload"] for row in rows]), pa.float64())], schema=NSFW)

    return Measure("nsfw", 1, PICTURED, NSFW, {"weights": scorer.weights}, call)


def _quality(settings: QualitySettings, recipe: Recipe) -> Measure:
    if settings.model is None:
        data = fitted_bytes("quality", recipe)
    else:
        path = Path(recipe.root, settings.model)
        if not path.is_file():
            raise RecipeError(f"decide.measure.quality.model: no file at {path}")
        data = path.read_bytes()
    scorer = QualityScorer(data)
    check_sha256("quality", settings.sha256, scorer.weights)

    def call(rows: Rows) -> pa.Table:
        return pa.table([pa.array(scorer([row["payload"] for row in rows]), pa.float64())], schema=QUALITY)

    return Measure("quality", 1, ("text",), QUALITY, {"weights": scorer.weights}, call)


def encoders_of(settings: AlignmentSettings, recipe: Recipe) -> Any:
    """The encoders that a recipe names (`alignment.Encoders`)."""
    from imglish.ingest.measures.alignment import clip_encoders, small_encoders

    if settings.type == "clip":
        return clip_encoders(str(Path(recipe.root, str(settings.clip))))
    given = (None if path is None else str(Path(recipe.root, path)) for path in (settings.images, settings.texts))
    return small_encoders(*given)


def _alignment(settings: AlignmentSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.alignment import VERSION, Alignment, Head

    head = None if settings.type == "clip" else Head.from_bytes(fitted_bytes("alignment", recipe))
    scorer = Alignment(encoders_of(settings, recipe), head, recipe.tokenize.stored.max_pixels)
    check_sha256("alignment", settings.sha256, scorer.weights)

    def call(rows: Rows) -> pa.Table:
        captions = [unpack_json(row["captions"]) or [] for row in rows]
        items = [(row["payload"], text) for row, mine in zip(rows, captions, strict=True) for text in mine]
        scores = iter(scorer(items))
        found = [[next(scores) for _ in mine] for mine in captions]
        return pa.table([pa.array([pack_json(mine) for mine in found], pa.binary())], schema=ALIGNMENT)

    params = {"weights": scorer.weights, "type": settings.type, "alignment": VERSION}
    return Measure("alignment", 1, ("pair",), ALIGNMENT, params, call)


SCORED: dict[str, Maker] = {
    "nsfw": Maker(NsfwSettings, PICTURED, NSFW, _nsfw),
    "quality": Maker(QualitySettings, ("text",), QUALITY, _quality),
    "alignment": Maker(AlignmentSettings, ("pair",), ALIGNMENT, _alignment),
}
