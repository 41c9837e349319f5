"""The alarm: a rule that takes most of a source stops the build before anything is tokenized.

    found = wiped_out(verdicts, recipe.decide)          # beyond decide.alarm_share and not accepted
    raise AlarmError(alarm(found, opened, recipe.decide))

Marin's deduplication removed 76 % of a median source and was wrong in 64 % of the cases that were looked at; a filter
with a wrong threshold does the same in silence. Whoever means it says so with `decide.alarm_accept`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from imglish.errors import RecipeError
from imglish.ingest.balance.draws import CAP, CONCEPT, UNMATCHED
from imglish.ingest.match.clusters import METHODS
from imglish.ingest.match.leaks import RULE as LEAK
from imglish.ingest.placeholders import RULE as PLACEHOLDER
from imglish.ingest.rules.registry import active_rules
from imglish.ingest.tally import Verdicts
from imglish.ingest.trail import Opened, load_table
from imglish.recipe import Recipe
from imglish.recipe_decide import DecideConfig

LATER_RULES = (PLACEHOLDER, LEAK, *(f"{method}@1" for method in METHODS), CONCEPT, UNMATCHED, CAP)
"""Rules that look beyond one occurrence, after those of the recipe."""
EXAMPLES = 2


@dataclass(frozen=True)
class WipedOut:
    """`rule` (as decisions name it) dropped `count` of the `total` occurrences of a source."""

    rule: str
    source: str
    count: int
    total: int

    @property
    def name(self) -> str:
        """The rule without variant and version, as recipes accept it."""
        return self.rule.partition("@")[0]


def wiped_out(rows: Iterable[Verdicts], config: DecideConfig) -> list[WipedOut]:
    """Every (rule, source) where the rule dropped more than `alarm_share` of the source and nobody accepted that.

    A cap of `balance.cap` says how much stays, so what it drops is no surprise.
    """
    rows = list(rows)
    total: dict[str, int] = {}
    dropped: dict[tuple[str, str], int] = {}
    for row in rows:
        total[row.source] = total.get(row.source, 0) + row.count
        if row.verdict == "drop" and row.rule != CAP:
            dropped[row.rule, row.source] = dropped.get((row.rule, row.source), 0) + row.count
    found = [WipedOut(*key, count, total[key[1]]) for key, count in sorted(dropped.items())]
    return [
        one
        for one in found
        if one.count > config.alarm_share * one.total and one.source not in config.alarm_accept.get(one.name, ())
    ]


def check_accepted(recipe: Recipe) -> None:
    """RecipeError for a rule in `decide.alarm_accept` that the recipe does not have; sources the recipe checks."""
    known = [rule.name for rule in active_rules(recipe)] + [rule.partition("@")[0] for rule in LATER_RULES]
    for name in recipe.decide.alarm_accept:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean decide.alarm_accept.{near[0]}?" if near else f"rules here are {', '.join(known)}"
            raise RecipeError(f"unknown key decide.alarm_accept.{name}; {hint}")


def alarm(found: Sequence[WipedOut], opened: Opened | None, config: DecideConfig) -> str:
    """What stops a build, with commands that show examples unless nothing is written, and how to accept it."""
    lines = [
        f"{one.rule} drops {one.count:,} of {one.total:,} occurrences of source {one.source} "
        f"({one.count / one.total:.1%}), more than decide.alarm_share = {config.alarm_share:.0%} allows"
        + ("" if opened is None else f"; see {_commands(opened, one)}")
        for one in found
    ]
    accepted: dict[str, list[str]] = {}
    for one in found:
        accepted.setdefault(one.name, [*config.alarm_accept.get(one.name, ())]).append(one.source)
    words = " ".join(f"'decide.alarm_accept.{name}={_toml(sources)}'" for name, sources in accepted.items())
    stopped = "" if opened is None else "stopped before tokenizing; "
    return "\n  ".join([*lines, f"{stopped}change the rule, or if this is meant accept it: {words}"])


def _toml(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _commands(opened: Opened, one: WipedOut) -> str:
    """Commands for examples; a name that could play with the terminal is spelled with escapes."""
    keys = [key if key.isprintable() else key.encode("unicode_escape").decode() for key in _examples(opened, one)]
    return " and ".join(f"`imglish why {shlex.quote(opened.path)} {shlex.quote(key)}`" for key in keys)


def _examples(opened: Opened, one: WipedOut) -> list[str]:
    """Some occurrences that the rule dropped."""
    found: list[str] = []
    for file in opened.trail.files:
        if file.source == one.source and len(found) < EXAMPLES:
            rows: Any = load_table(opened, file.decisions, ["source", "row", "verdict", "rule"])
            rows = rows.filter(pc.and_(pc.equal(rows["verdict"], "drop"), pc.equal(rows["rule"], one.rule)))
            found += [f"{row['source']}/{row['row']}" for row in rows.slice(0, EXAMPLES - len(found)).to_pylist()]
    return found
