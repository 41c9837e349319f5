"""Measures: what a payload is measured for beyond what annotate always measures, and only when a rule reads it.

    for measure in needed(recipe, "text"):            # those whose columns some rule of the recipe reads
        table = measure.call(rows)                    # schema measure.schema, one row per occurrence

Each measure has units and files of its own beside the annotations, so a rule that needs another measure leaves the
others as they are, and a rule whose columns are there reads no payload. Unit ids cover its name, version and `params`:
settings that change its numbers and digests of weights. A scorer is a measure whose params hold `weights`, a SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import Field, ValidationError

from imglish.errors import RecipeError
from imglish.ingest.measures.phrases import read_phrases
from imglish.ingest.rules.registry import active_rules
from imglish.recipe import Recipe, Section
from imglish.records import pack_json, unpack_json

Rows = Sequence[Mapping[str, Any]]
"""Occurrences with a payload: `kind`, `payload`, `captions`."""
_WRITTEN, _PICTURED = ("text", "pair"), ("pair", "image")


@dataclass(frozen=True)
class Measure:
    """One measure as a recipe sets it up: `call` gives a table of `schema` with a row for each of the rows."""

    name: str
    version: int
    kinds: tuple[str, ...]
    schema: pa.Schema
    params: Mapping[str, Any]
    call: Callable[[Rows], pa.Table] = field(compare=False)


@dataclass(frozen=True)
class Maker:
    """How a measure is made from its settings (`decide.measure.<name>`); `columns` are those that rules may read."""

    settings: type[Section]
    kinds: tuple[str, ...]
    schema: pa.Schema
    make: Callable[[Any, Recipe], Measure]


class NoSettings(Section):
    """A measure without settings."""


class PiiSettings(Section):
    """Settings of `pii`."""

    regions: tuple[str, ...] = ()
    """Countries (ISO 3166, such as "US") whose national telephone numbers count; international ones always do."""


class NsfwSettings(Section):
    """Settings of `nsfw`."""

    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest that the weights have to have; None takes those that are installed and holds them in the lock."""


def _text(settings: NoSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.texts import TEXT, measure_texts

    return Measure("text", 1, ("text",), TEXT, {}, lambda rows: measure_texts([row["payload"] for row in rows]))


_PII = pa.schema([pa.field("pii", pa.binary())])  # JSON of (caption or -1, start, end, class, hash); null without hits


def _pii(settings: PiiSettings, recipe: Recipe) -> Measure:
    params = {"regions": list(settings.regions), "phonenumbers": _version("phonenumbers", "imglish[rules]")}
    return Measure("pii", 1, _WRITTEN, _PII, params, lambda rows: _find_pii(rows, settings.regions))


def _find_pii(rows: Rows, regions: Sequence[str]) -> pa.Table:
    from imglish.ingest.measures.personal import find_personal

    owners: list[tuple[int, int]] = []
    texts: list[bytes] = []
    for place, row in enumerate(rows):
        found = [row["payload"]] if row["kind"] == "text" else [c.encode() for c in unpack_json(row["captions"]) or ()]
        owners += [(place, -1 if row["kind"] == "text" else number) for number in range(len(found))]
        texts += found
    hits: list[list[Any]] = [[] for _ in rows]
    for (place, number), mine in zip(owners, find_personal(texts, regions), strict=True):
        hits[place] += [[number, *hit] for hit in mine]
    return pa.table({"pii": pa.array([pack_json(mine) if mine else None for mine in hits], pa.binary())}, schema=_PII)


_PICTURE = pa.schema([pa.field("entropy", pa.float64()), pa.field("sharpness", pa.float64())])


def _picture(settings: NoSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.pictures import SHORT_SIDE, measure_pictures

    most = recipe.tokenize.stored.max_pixels

    def call(rows: Rows) -> pa.Table:
        found = [pair or (None, None) for pair in measure_pictures([row["payload"] for row in rows], most)]
        return pa.table([pa.array([pair[n] for pair in found], pa.float64()) for n in (0, 1)], schema=_PICTURE)

    return Measure("picture", 1, _PICTURED, _PICTURE, {"max_pixels": most, "short_side": SHORT_SIDE}, call)


_NSFW = pa.schema([pa.field("nsfw_score", pa.float64())])


def _nsfw(settings: NsfwSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.scorers import OpenNsfw

    scorer = OpenNsfw(recipe.tokenize.stored.max_pixels)
    if settings.sha256 not in (None, scorer.weights):
        raise RecipeError(
            f"decide.measure.nsfw.sha256 is {settings.sha256}, but the installed weights have {scorer.weights}; "
            "install those that the recipe means, or change it"
        )

    def call(rows: Rows) -> pa.Table:
        return pa.table([pa.array(scorer([row["payload"] for row in rows]), pa.float64())], schema=_NSFW)

    return Measure("nsfw", 1, _PICTURED, _NSFW, {"weights": scorer.weights}, call)


def _concepts(settings: NoSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.concepts import CONCEPTS, measure_concepts

    wanted = recipe.balance.concepts
    if wanted is None:
        raise RecipeError("decide.measure.concepts: the recipe has no balance.concepts to look for")
    file = read_phrases(wanted.path, recipe.root, "balance.concepts.path")

    def call(rows: Rows) -> pa.Table:
        return measure_concepts([unpack_json(row["captions"]) or () for row in rows], file.list)

    return Measure("concepts", 1, ("pair",), CONCEPTS, file.facts(), call)


def _version(package: str, extra: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(f"a rule of this recipe needs the package {package}; pip install '{extra}'") from None


def _concept_schema() -> pa.Schema:
    from imglish.ingest.measures.concepts import CONCEPTS

    return CONCEPTS


def _text_schema() -> pa.Schema:
    from imglish.ingest.measures.texts import TEXT

    return TEXT


MAKERS: dict[str, Maker] = {
    "text": Maker(NoSettings, ("text",), _text_schema(), _text),
    "pii": Maker(PiiSettings, _WRITTEN, _PII, _pii),
    "picture": Maker(NoSettings, _PICTURED, _PICTURE, _picture),
    "nsfw": Maker(NsfwSettings, _PICTURED, _NSFW, _nsfw),
    "concepts": Maker(NoSettings, ("pair",), _concept_schema(), _concepts),
}


def needed_names(recipe: Recipe) -> list[str]:
    """Names of the measures that rules or balance read; RecipeError for settings of one that there is not."""
    for name in recipe.decide.measure:
        if name not in MAKERS:
            raise RecipeError(f"unknown key decide.measure.{name}; known are {', '.join(MAKERS)}")
    read = {column for rule in active_rules(recipe) for column in rule.reads}
    if recipe.balance.concepts is not None:
        read |= set(MAKERS["concepts"].schema.names)
    return [name for name, maker in MAKERS.items() if read & set(maker.schema.names)]


def make_measure(name: str, recipe: Recipe) -> Measure:
    """A measure with the recipe's settings; RecipeError names a wrong one."""
    maker = MAKERS[name]
    try:
        settings = maker.settings.model_validate(recipe.decide.measure.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"decide.measure.{name}.{key}: {first['msg']}") from None
    return maker.make(settings, recipe)
