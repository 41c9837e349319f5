"""What may be wrong with a recipe's balance, said before anything is built."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from imglish.errors import RecipeError
from imglish.ingest.annotate import known_languages
from imglish.ingest.measures.phrases import PhraseFile, read_phrases
from imglish.recipe import Recipe
from imglish.recipe_balance import EACH


def check_balance(recipe: Recipe) -> None:
    """RecipeError for a source or language that there is not, with the nearest one, and for a list without concepts."""
    sources = {source.name: source.kind for source in recipe.source}
    for number, cap in enumerate(recipe.balance.cap):
        key = f"balance.cap.{number}"
        if cap.source not in (None, EACH):
            _known(f"{key}.source", str(cap.source), sources, "source")
            if cap.kind not in (None, EACH, sources[str(cap.source)]):
                raise RecipeError(f"{key}: source {cap.source!r} gives {sources[str(cap.source)]}, never {cap.kind}")
        if cap.language not in (None, EACH):
            _known(f"{key}.language", str(cap.language), known_languages(), "language that annotate tells")
    for name in recipe.pack.repeat:
        if name.startswith("language="):
            language = name.removeprefix("language=")
            _known(f"pack.repeat.{name}", language, known_languages(), "language that annotate tells")
    concept_file(recipe)


def concept_file(recipe: Recipe) -> PhraseFile | None:
    """The recipe's list of concepts; None when it names none."""
    wanted = recipe.balance.concepts
    return None if wanted is None else read_phrases(wanted.path, recipe.root, "balance.concepts.path")


def _known(key: str, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise RecipeError(f"{key} = {name!r} is no {what}; {hint}")
