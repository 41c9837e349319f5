"""A user's own measure: a function with a decorator, in a Python file that the recipe names.

    from imglish import measure

    @measure(kinds=("text",), columns={"shouting": "float"})
    def shouting(row):
        \"\"\"Share of letters that are capitals.\"\"\"
        text = row["payload"].decode()
        return {"shouting": sum(c.isupper() for c in text) / max(1, len(text))}

    [decide]
    measures = ["rules/mine.py:shouting"]
    rules = ["preset:basic", "rules/mine.py:too_loud"]        # a rule with reads=("shouting",)

It is called once per occurrence with a payload of its kinds and gets `kind`, `payload` (bytes) and `captions` (a list);
it returns a value for each of its columns, None where there is none. Its numbers are stored like any measure's, so a
rule over them never reads a payload. If it raises, its columns are null and the occurrence is dropped by a rule of the
measure's name with a detail that begins "error:"; the build goes on, and the summary shouts. The digest of its file is
part of its units: a change to it measures anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from imglish.errors import RecipeError
from imglish.ingest.rules.base import Finding, Rule, mask, texts_of
from imglish.ingest.rules.user import ERROR, absolute, is_file, load_object
from imglish.records import ANNOTATIONS, KINDS, Kind

Type = Literal["float", "int", "bool", "str"]
_TYPES = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
Call = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class UserMeasure:
    """What the decorator makes of a function."""

    call: Call
    kinds: tuple[Kind, ...]
    columns: Mapping[str, Type]
    version: int


@dataclass(frozen=True)
class OwnMeasure:
    """A user's measure as a recipe names it."""

    name: str
    found: UserMeasure
    source_sha256: str

    @property
    def error_column(self) -> str:
        """Column with what the function raised; null where it did not."""
        return f"{self.name}_error"

    @property
    def schema(self) -> pa.Schema:
        """Columns of its files."""
        columns = [pa.field(name, _TYPES[kind]) for name, kind in self.found.columns.items()]
        return pa.schema([*columns, pa.field(self.error_column, pa.string())])

    def measure(self, rows: Any) -> pa.Table:
        """One row for each occurrence."""
        found = [self._one(row) for row in rows]
        columns = [pa.array([row.get(field.name) for row in found], field.type) for field in self.schema]
        return pa.table(columns, schema=self.schema)

    def _one(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Values by column, or the error."""
        try:
            said = dict(self.found.call(row))
            unknown = set(said) - set(self.found.columns)
            if unknown:
                raise KeyError(f"{sorted(unknown)[0]} is no column of it")
            return {name: pa.scalar(said.get(name), _TYPES[kind]).as_py() for name, kind in self.found.columns.items()}
        except Exception as error:  # noqa: BLE001 - one occurrence must not end a build
            return {self.error_column: f"{ERROR}{type(error).__name__}: {error}"}

    def rule(self) -> Rule:
        """The rule that drops occurrences on which the function raised."""
        column = self.error_column

        def judge(rows: pa.Table, limits: Any) -> Finding:
            fired = mask(rows.column(column).is_valid())
            return Finding(fired, np.full(len(fired), np.nan), None, texts_of(rows, column, fired))

        return Rule(self.name, "", self.found.version, (column,), judge, {}, self.source_sha256)


def measure(kinds: tuple[Kind, ...], columns: Mapping[str, Type], version: int = 1) -> Callable[[Call], UserMeasure]:
    """Makes a measure of a function; `columns` are names and types (float, int, bool, str) of what it returns."""
    return lambda call: UserMeasure(call, tuple(kinds), MappingProxyType(dict(columns)), version)


def own_measures(entries: tuple[str, ...], root: str) -> tuple[OwnMeasure, ...]:
    """The measures of `decide.measures`; RecipeError for one that cannot be had, or whose columns are taken."""
    found = [_load(entry, root) for entry in entries]
    taken = set(ANNOTATIONS.names)
    for one in found:
        for name in one.schema.names:
            if name in taken:
                raise RecipeError(
                    f"decide.measures: {one.name} has a column {name!r}, which there is already; rename it"
                )
            taken.add(name)
    return tuple(found)


def _load(entry: str, root: str) -> OwnMeasure:
    if not is_file(entry):
        raise RecipeError(f"decide.measures: {entry!r} is not file.py:function")
    name = entry.rpartition(":")[2]
    found, digest = load_object(entry, root, "decide.measures")
    if not isinstance(found, UserMeasure):
        raise RecipeError(f"decide.measures: {absolute(entry, root)} is no measure; put @imglish.measure(...) above it")
    if not found.kinds or set(found.kinds) - set(KINDS):
        raise RecipeError(f"decide.measures: {name} has kinds {found.kinds}; they are of {', '.join(KINDS)}")
    wrong = [kind for kind in found.columns.values() if kind not in get_args(Type)]
    if not found.columns or wrong:
        raise RecipeError(f"decide.measures: {name} needs columns of the types {', '.join(get_args(Type))}")
    return OwnMeasure(name, found, digest)
