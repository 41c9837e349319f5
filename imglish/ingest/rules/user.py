"""A user's own rule: a function with a decorator, in a Python file that the recipe names.

    from imglish import rule

    @rule(reads=("words", "characters"), max_mean=12.0)
    def long_words(row, limits):
        \"\"\"Drops texts whose words are long on average.\"\"\"
        mean = row["characters"] / max(1, row["words"])
        return f"mean {mean:.1f}" if mean > limits["max_mean"] else None

    [decide]
    rules = ["preset:basic", "rules/mine.py:long_words"]      # below the recipe's root, there on every worker
    [decide.rule.long_words]
    max_mean = 9.0

It is called once per occurrence with the columns that it reads (None where nothing was measured) and its thresholds,
and returns None or False to pass, True or a reason to drop, or a `Drop` with a score. If it raises, the occurrence is
dropped with a detail that begins "error:", the build goes on, and the summary shouts. The digest of its file is part of
what was decided by, so a change to it decides anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from imglish.errors import RecipeError
from imglish.ingest.rules.base import Finding, Judge, Rule

ERROR = "error: "
"""How the detail of an occurrence begins on which a rule raised."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Drop:
    """A verdict with its evidence."""

    detail: str | None = None
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class UserRule:
    """What the decorator makes of a function."""

    call: Callable[[Row, Mapping[str, Any]], bool | str | Drop | None]
    reads: tuple[str, ...]
    thresholds: Mapping[str, bool | int | float | str]
    version: int


def rule(
    reads: tuple[str, ...], version: int = 1, **thresholds: bool | int | float | str
) -> Callable[[Callable[[Row, Mapping[str, Any]], bool | str | Drop | None]], UserRule]:
    """Makes a rule of a function; `thresholds` are defaults, which a recipe may change to values of the same type."""
    return lambda call: UserRule(call, tuple(reads), MappingProxyType(thresholds), version)


def is_file(entry: str) -> bool:
    """Whether an entry of `decide.rules` is "file.py:function"."""
    return entry.rpartition(":")[0].endswith(".py")


def absolute(entry: str, root: str) -> str:
    """An entry whose file is found whatever the root; others as they are."""
    file, _, name = entry.rpartition(":")
    return f"{Path(root, file).absolute()}:{name}" if is_file(entry) else entry


def load_rule(entry: str, root: str, given: Mapping[str, Mapping[str, Any]]) -> Rule:
    """The rule of "file.py:function" below `root`; RecipeError when it cannot be had or a threshold is wrong."""
    name = entry.rpartition(":")[2]
    found, digest = load_object(entry, root, "decide.rules")
    if not isinstance(found, UserRule):
        path = Path(root, entry.rpartition(":")[0])
        raise RecipeError(f"decide.rules: {name!r} in {path} is no rule; put @imglish.rule(reads=(...)) above it")
    limits = _limits(name, found.thresholds, given.get(name, {}))
    return Rule(name, "", found.version, found.reads, _judge(found), limits, digest)


def load_object(entry: str, root: str, key: str) -> tuple[Any, str]:
    """What "file.py:name" below `root` names, and the SHA-256 of the file; RecipeError names `key` and the trouble."""
    file, _, name = entry.rpartition(":")
    path = Path(root, file)
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return getattr(_module(str(path), digest), name), digest
    except Exception as error:  # noqa: BLE001 - the user's file may raise anything while it is read
        raise RecipeError(f"{key}: cannot take {name!r} from {path}: {type(error).__name__}: {error}") from None


@cache
def _module(path: str, digest: str) -> Any:
    name = f"imglish_rules_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look their module up
    spec.loader.exec_module(module)
    return module


def _limits(name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    for key, value in given.items():
        if key not in known:
            raise RecipeError(f"unknown key decide.rule.{name}.{key}; known are {', '.join(known) or 'none'}")
        wanted = type(known[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise RecipeError(f"decide.rule.{name}.{key} = {value!r}: Input should be a {wanted.__name__}")
    return {**known, **given}


def _judge(found: UserRule) -> Judge:
    def judge(rows: pa.Table, limits: Mapping[str, Any]) -> Finding:
        count = rows.num_rows
        fired = np.zeros(count, dtype=bool)
        score, threshold = np.full(count, np.nan), np.full(count, np.nan)
        detail: dict[int, str] = {}
        for i, row in enumerate(rows.select(list(dict.fromkeys(found.reads))).to_pylist()):
            said = _call(found, row, limits)
            if said is None:
                continue
            fired[i] = True
            score[i] = np.nan if said.score is None else said.score
            threshold[i] = np.nan if said.threshold is None else said.threshold
            if said.detail is not None:
                detail[i] = said.detail
        return Finding(fired, score, threshold, detail)

    return judge


def _call(found: UserRule, row: Row, limits: Mapping[str, Any]) -> Drop | None:
    """The verdict on one occurrence; what the function raised is one too."""
    try:
        said = found.call(row, limits)
        if said is None or said is False:
            return None
        if isinstance(said, Drop):
            return Drop(said.detail, *(None if x is None else float(x) for x in (said.score, said.threshold)))
        if said is True or isinstance(said, str):
            return Drop(said if isinstance(said, str) else None)
        raise TypeError(f"a rule returns None, a bool, a reason or a Drop, not {type(said).__name__}")
    except Exception as error:  # noqa: BLE001 - one occurrence must not end a build
        return Drop(f"{ERROR}{type(error).__name__}: {error}")
