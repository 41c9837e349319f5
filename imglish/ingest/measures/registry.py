"""Measures: what a payload is measured for beyond what annotate always measures, and only when a rule reads it.

    for measure in needed(recipe, "text"):            # those whose columns some rule of the recipe reads
        table = measure.call(rows)                    # schema measure.schema, one row per occurrence

Each measure has units and files of its own beside the annotations, so a rule that needs another measure leaves the
others as they are, and a rule whose columns are there reads no payload. Unit ids cover its name, version and `params`:
settings that change its numbers and digests of weights. A scorer is a measure whose params hold `weights`, a SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from imglish.errors import RecipeError
from imglish.ingest.measures.base import (
    PICTURED,
    WRITTEN,
    Maker,
    Measure,
    NoSettings,
    Rows,
    make_settings,
    package_version,
)
from imglish.ingest.measures.listed import LISTED
from imglish.ingest.measures.scored import SCORED
from imglish.ingest.rules.own_measures import OwnMeasure, own_measures
from imglish.ingest.rules.registry import active_rules
from imglish.recipe import Recipe, Section
from imglish.records import pack_json, unpack_json


class PiiSettings(Section):
    """Settings of `pii`."""

    regions: tuple[str, ...] = ()
    """Countries (ISO 3166, such as "US") whose national telephone numbers count; international ones always do."""


def _text(settings: NoSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.texts import TEXT, measure_texts

    return Measure("text", 1, ("text",), TEXT, {}, lambda rows: measure_texts([row["payload"] for row in rows]))


_PII = pa.schema([pa.field("pii", pa.binary())])  # JSON of (caption or -1, start, end, class, hash); null without hits


def _pii(settings: PiiSettings, recipe: Recipe) -> Measure:
    params = {"regions": list(settings.regions), "phonenumbers": package_version("phonenumbers", "imglish[rules]")}
    return Measure("pii", 1, WRITTEN, _PII, params, lambda rows: _find_pii(rows, settings.regions))


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

    return Measure("picture", 1, PICTURED, _PICTURE, {"max_pixels": most, "short_side": SHORT_SIDE}, call)


def _caption(settings: NoSettings, recipe: Recipe) -> Measure:
    from imglish.ingest.measures.captions import CAPTION, measure_captions

    def call(rows: Rows) -> pa.Table:
        return measure_captions([unpack_json(row["captions"]) or () for row in rows])

    return Measure("caption", 1, ("pair",), CAPTION, {}, call)


def _text_schema() -> pa.Schema:
    from imglish.ingest.measures.texts import TEXT

    return TEXT


def _caption_schema() -> pa.Schema:
    from imglish.ingest.measures.captions import CAPTION

    return CAPTION


MAKERS: dict[str, Maker] = {
    "text": Maker(NoSettings, ("text",), _text_schema(), _text),
    "pii": Maker(PiiSettings, WRITTEN, _PII, _pii),
    "picture": Maker(NoSettings, PICTURED, _PICTURE, _picture),
    "caption": Maker(NoSettings, ("pair",), _caption_schema(), _caption),
    **SCORED,
    **LISTED,
}


def needed_names(recipe: Recipe) -> list[str]:
    """Names of the measures that rules or balance read, then the user's own; RecipeError for settings of no measure."""
    own = _own(recipe)
    for name in recipe.decide.measure:
        if name not in MAKERS:
            raise RecipeError(f"unknown key decide.measure.{name}; known are {', '.join(MAKERS)}")
    for name in own:
        if name in MAKERS:
            raise RecipeError(f"decide.measures: {name!r} is the name of a measure that there is already; rename it")
    read = {column for rule in active_rules(recipe) for column in rule.reads}
    if recipe.balance.concepts is not None:
        read |= set(MAKERS["concepts"].schema.names)
    return [*(name for name, maker in MAKERS.items() if read & set(maker.schema.names)), *own]


def _own(recipe: Recipe) -> dict[str, OwnMeasure]:
    return {one.name: one for one in own_measures(recipe.decide.measures, recipe.root)}


def kinds_of(name: str, recipe: Recipe) -> tuple[str, ...]:
    """Kinds that a measure looks at."""
    return MAKERS[name].kinds if name in MAKERS else _own(recipe)[name].found.kinds


def check_measures(recipe: Recipe) -> None:
    """RecipeError for wrong settings of a measure that the recipe needs."""
    for name in needed_names(recipe):
        if name in MAKERS:
            make_settings(name, MAKERS[name], recipe)


def make_measure(name: str, recipe: Recipe) -> Measure:
    """A measure with the recipe's settings; RecipeError names a wrong one, LockError a scorer that is not fitted."""
    if name not in MAKERS:
        own = _own(recipe)[name]
        params, found = {"source_sha256": own.source_sha256}, own.found
        return Measure(name, found.version, found.kinds, own.schema, params, lambda rows: own.measure(_plain(rows)))
    return MAKERS[name].make(make_settings(name, MAKERS[name], recipe), recipe)


def _plain(rows: Rows) -> list[dict[str, Any]]:
    """Rows as a user's measure gets them."""
    return [
        {"kind": row["kind"], "payload": row["payload"], "captions": unpack_json(row["captions"]) or []} for row in rows
    ]
