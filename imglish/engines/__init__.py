"""The one seam to Dask and Spark, and which of them a recipe asks for.

    chosen = on_engine(recipe, engine="spark", workers=2)      # what the command line says goes before the recipe
    with open_engine(chosen) as engine:
        Pipeline(chosen, engine).build()

An engine's library is imported when it is opened, so that neither needs the other.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, get_args

from imglish.errors import EngineError, RecipeError
from imglish.recipe import EngineName, Recipe, parse_size
from imglish.stages import Engine
from imglish.storage import default_scratch

__all__ = ["on_engine", "open_engine"]


def on_engine(
    recipe: Recipe,
    engine: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
) -> Recipe:
    """The recipe with these in the place of its run's own; another engine leaves the recipe's address behind.

    RecipeError for an engine that there is not, and a memory that is no size.
    """
    if engine not in (None, *get_args(EngineName)):
        raise RecipeError(f"--engine {engine}: use {' or '.join(get_args(EngineName))}")
    try:
        parse_size(memory or recipe.run.memory)
    except ValueError as error:
        raise RecipeError(f"--memory {error}") from None
    given = {"engine": engine, "address": address, "workers": workers, "memory": memory}
    update: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if engine not in (None, recipe.run.engine):
        update = {"address": None, **update}
    return recipe.model_copy(update={"run": recipe.run.model_copy(update=update)})


def open_engine(recipe: Recipe) -> AbstractContextManager[Engine]:
    """The engine that the recipe names; it starts at the first work. EngineError when its library is missing."""
    run = recipe.run
    scratch = run.scratch or default_scratch(recipe.work)
    if run.engine == "dask":
        from imglish.engines.dask import DaskEngine

        return DaskEngine(run.workers, run.memory, run.address, scratch)
    try:
        from imglish.engines.spark import SparkEngine
    except ImportError as error:
        raise EngineError(f"--engine spark needs pyspark ({error}); pip install 'imglish[spark]'") from None
    return SparkEngine(run.workers, run.memory, run.address, scratch)
