"""What a measure is, and how one is made from a recipe; `registry` has all of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from imglish.errors import RecipeError
from imglish.recipe import Recipe, Section

Rows = Sequence[Mapping[str, Any]]
"""Occurrences with a payload: `kind`, `payload`, `captions`."""
WRITTEN, PICTURED = ("text", "pair"), ("pair", "image")
"""Kinds with text, and with a picture."""


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
    """How a measure is made from its settings (`decide.measure.<name>`); rules may read the columns of `schema`."""

    settings: type[Section]
    kinds: tuple[str, ...]
    schema: pa.Schema
    make: Callable[[Any, Recipe], Measure]


class NoSettings(Section):
    """A measure without settings."""


def package_version(package: str, extra: str) -> str:
    """Version of an installed package; RecipeError says which extra has it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(f"a rule of this recipe needs the package {package}; pip install '{extra}'") from None


def check_sha256(name: str, wanted: str | None, found: str) -> None:
    """RecipeError when the recipe gives another digest of the weights or the list of a measure."""
    if wanted not in (None, found):
        raise RecipeError(
            f"decide.measure.{name}.sha256 is {wanted}, but what is here has {found}; bring that which the recipe "
            "means, or change it"
        )


def make_settings(name: str, maker: Maker, recipe: Recipe) -> Any:
    """The recipe's settings of a measure; RecipeError names a wrong one."""
    try:
        return maker.settings.model_validate(recipe.decide.measure.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("decide.measure", name, *first["loc"]))
        raise RecipeError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
