"""The demo's recipe and recipes made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imglish.recipe import Recipe, SourceConfig

DEMO_RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.toml"
"""In a source checkout, where `make demo` runs."""


def restrict(recipe: Recipe, sources: Sequence[SourceConfig]) -> Recipe:
    """The recipe with these sources, training only on kinds that one of them has."""
    kinds = {source.kind for source in sources}
    batch = {kind: count for kind, count in recipe.train.batch.items() if kind in kinds}
    train = recipe.train.model_copy(update={"batch": batch})
    return recipe.model_copy(update={"source": tuple(sources), "train": train})
