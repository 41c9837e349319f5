"""Measures by lists of phrases that the user has: `concepts` for balance, `bad_words` for the rule of C4."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import Field

from imglish.errors import RecipeError
from imglish.ingest.measures.base import WRITTEN, Maker, Measure, NoSettings, Rows, check_sha256
from imglish.ingest.measures.concepts import CONCEPTS, measure_concepts
from imglish.ingest.measures.phrases import Phrases, read_phrases
from imglish.recipe import Recipe, Section
from imglish.records import pack_json, unpack_json


def _concepts(settings: NoSettings, recipe: Recipe) -> Measure:
    wanted = recipe.balance.concepts
    if wanted is None:
        raise RecipeError("the measure concepts belongs to balance.concepts, which this recipe does not have")
    file = read_phrases(wanted.path, recipe.root, "balance.concepts.path")

    def call(rows: Rows) -> pa.Table:
        return measure_concepts([unpack_json(row["captions"]) or () for row in rows], file.list)

    return Measure("concepts", 1, ("pair",), CONCEPTS, file.facts(), call)


class BadWordsSettings(Section):
    """Settings of `bad_words`."""

    path: str | None = None
    """List of words and phrases: a text file with one a line, or a JSON list; relative to `root`. None is shipped."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest that the list has to have."""


BAD_WORDS = pa.schema([pa.field("bad_words", pa.int64()), pa.field("bad_words_captions", pa.binary())])
"""Different phrases of the list in a text, null for pairs; for pairs JSON of their number in each caption."""


def _bad_words(settings: BadWordsSettings, recipe: Recipe) -> Measure:
    if settings.path is None:
        raise RecipeError(
            "rule bad_words needs a list: set decide.measure.bad_words.path (C4 used LDNOOBW's, CC-BY-4.0, which the "
            "npm package naughty-words has as JSON)"
        )
    file = read_phrases(settings.path, recipe.root, "decide.measure.bad_words.path")
    check_sha256("bad_words", settings.sha256, file.sha256)
    return Measure("bad_words", 1, WRITTEN, BAD_WORDS, file.facts(), lambda rows: _count(rows, file.list))


def _count(rows: Rows, phrases: Phrases) -> pa.Table:
    texts = [len(phrases.find(row["payload"].decode())) if row["kind"] == "text" else None for row in rows]
    captions: list[Any] = [
        pack_json([len(phrases.find(text)) for text in unpack_json(row["captions"]) or ()])
        if row["kind"] == "pair"
        else None
        for row in rows
    ]
    return pa.table([pa.array(texts, pa.int64()), pa.array(captions, pa.binary())], schema=BAD_WORDS)


LISTED: dict[str, Maker] = {
    "concepts": Maker(NoSettings, ("pair",), CONCEPTS, _concepts),
    "bad_words": Maker(BadWordsSettings, WRITTEN, BAD_WORDS, _bad_words),
}
