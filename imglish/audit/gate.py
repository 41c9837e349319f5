"""Gates: conditions on the figures of `audit.json`, for CI.

    failures(values, ["pairs.language.en.share<=0.9", "findings.source_lost==0"])     # [] when all hold

A condition is a name, one of <= >= < > == !=, and a number. A name is the path to a number in `audit.json`, its parts
joined by dots; parts that hold dots themselves (hosts, rules) need no quotes. `findings.NAME` counts the findings of
that name, and a list counts its members.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from imglish.audit.findings import NAMES as FINDINGS
from imglish.errors import ImglishError, RecipeError

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(
    r"\s*(?P<name>\S+?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<limit>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
)


class RequirementError(ImglishError):
    """A figure of an audit is not as required."""


def check(values: Mapping[str, Any], conditions: Sequence[str]) -> None:
    """RequirementError that names every figure which is not as required; RecipeError for a condition that is none."""
    failed = failures(values, conditions)
    if failed:
        raise RequirementError("; ".join(failed))


def failures(values: Mapping[str, Any], conditions: Iterable[str]) -> list[str]:
    """A sentence for each condition that does not hold; RecipeError for one that cannot be read or names no figure."""
    found = []
    for text in conditions:
        name, sign, limit = parse(text)
        value = figure(values, name)
        if not _COMPARE[sign](value, limit):
            found.append(f"{name} is {value!r}, required is {sign} {limit:.15g}")
    return found


def parse(text: str) -> tuple[str, str, float]:
    """Name, sign and limit of a condition."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise RecipeError(
            f"{text!r} is no condition; write a name of audit.json, one of {' '.join(_COMPARE)} and a number, "
            "as pairs.language.en.share<=0.9"
        )
    return found["name"], found["sign"], float(found["limit"])


def figure(values: Mapping[str, Any], name: str) -> int | float:
    """The number of that name; RecipeError with the nearest names when there is none."""
    head, _, rest = name.partition(".")
    if head == "findings" and rest:
        if rest not in FINDINGS:
            raise RecipeError(f"no finding is called {rest!r}{_nearest(rest, FINDINGS)}")
        return int(sum(finding["name"] == rest for finding in values["findings"]))
    value: object = _look_up(values, name.split("."))
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if value is not None:
        raise RecipeError(f"{name} in audit.json is {_kind(value)}; name a number inside it{_inside(name, value)}")
    raise RecipeError(f"audit.json has no figure {name!r}{_nearest(name, [path for path, _ in figures(values)])}")


def figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Name and value of every number, and of every list its length."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from figures(value, f"{name}.")
        elif isinstance(value, list):
            yield name, len(value)
        elif isinstance(value, (int, float)):
            yield name, value


def _look_up(value: Any, parts: Sequence[str]) -> Any:
    """The value at a path whose keys may hold dots: the longest key that leads on is taken; None when none does."""
    if not parts:
        return value
    if isinstance(value, Mapping):
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in value and (found := _look_up(value[key], parts[end:])) is not None:
                return found
    return None


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else "; audit.json beside the report has all names"


def _inside(name: str, value: Any) -> str:
    inner = [path for path, _ in figures(value, f"{name}.")] if isinstance(value, Mapping) else []
    return f", as {inner[0]}" if inner else ""


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else f"the text {value!r}"
