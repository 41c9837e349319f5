"""Which rules a recipe names: ours, those of a preset, or a function in a Python file of the user's.

    rules = active_rules(recipe)        # in the recipe's order, each with its thresholds

A rule's place is its bit in `decisions.fired`. Whatever may be wrong with a recipe's rules is a RecipeError here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from imglish.errors import RecipeError
from imglish.ingest.rules import basic, captions, gopher, pairs, personal, pictures, scores, web_text
from imglish.ingest.rules.base import Family, Rule
from imglish.ingest.rules.own_measures import own_measures
from imglish.ingest.rules.presets import PRESETS
from imglish.ingest.rules.user import is_file, load_rule
from imglish.recipe import Recipe, Section

MAX_RULES = 59
"""`fired` is an int64; four bits are left for placeholders, leaks, near duplicates and balance."""
_MODULES = (basic, captions, gopher, pairs, personal, pictures, scores, web_text)
FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}


def active_rules(recipe: Recipe) -> tuple[Rule, ...]:
    """The rules of `decide.rules` with presets spread out and thresholds of `decide.rule` filled in.

    Behind them stands one for each of `decide.measures`, which drops that on which the measure raised.

    RecipeError names an unknown rule, variant or threshold with the nearest known one, a value out of range, a rule
    that stands twice, and thresholds of a rule that does not stand in the list.
    """
    names = [name for entry in recipe.decide.rules for name in _spread(entry)]
    if len(names) + len(recipe.decide.measures) > MAX_RULES:
        count = len(names) + len(recipe.decide.measures)
        raise RecipeError(f"decide.rules names {count} rules; at most {MAX_RULES} have a bit in `fired`")
    rules = [_rule(name, recipe) for name in names]
    rules += [one.rule() for one in own_measures(recipe.decide.measures, recipe.root)]
    _refuse_twice(rules)
    known = [rule.name for rule in rules]
    for name in recipe.decide.rule:
        if name not in known:
            raise RecipeError(_unlisted(name, known))
    return tuple(rules)


def _spread(entry: str) -> Sequence[str]:
    if not entry.startswith("preset:"):
        return (entry,)
    name = entry.removeprefix("preset:")
    if name not in PRESETS:
        raise RecipeError(f"decide.rules: unknown preset {entry!r}; {_hint(name, PRESETS)}")
    return PRESETS[name]


def _rule(entry: str, recipe: Recipe) -> Rule:
    if is_file(entry):
        return load_rule(entry, recipe.root, recipe.decide.rule)
    name, _, variant = entry.partition("@")
    if name not in FAMILIES:
        raise RecipeError(f"decide.rules: unknown rule {entry!r}; {_hint(name, FAMILIES)}")
    family = FAMILIES[name]
    chosen = variant or next(iter(family.variants))
    if chosen not in family.variants:
        raise RecipeError(f"decide.rules: rule {name!r} has no variant {variant!r}; {_hint(variant, family.variants)}")
    limits = _limits(name, family.variants[chosen], recipe.decide.rule.get(name, {}))
    return Rule(name, chosen, family.version, family.reads, family.judge, limits)


def _limits(name: str, variant: Section, given: Mapping[str, Any]) -> Section:
    known = type(variant).model_fields
    for key in given:
        if key not in known:
            raise RecipeError(f"unknown key decide.rule.{name}.{key}; {_hint(key, known, f'decide.rule.{name}.')}")
    try:
        return type(variant).model_validate({key: getattr(variant, key) for key in known} | dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        said = f"decide.rule.{name}.{key} = {given.get(key)!r}" if key else f"decide.rule.{name}"
        raise RecipeError(f"{said}: {message}") from None


def _refuse_twice(rules: Sequence[Rule]) -> None:
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(
                f"decide.rules names {name!r} {names.count(name)} times; a rule has one bit and one variant"
            )


def _unlisted(name: str, known: Sequence[str]) -> str:
    if name in FAMILIES:
        return (
            f"decide.rule.{name} is set, but decide.rules does not name {name!r}; add it there or remove its thresholds"
        )
    return f"unknown key decide.rule.{name}; {_hint(name, known, 'decide.rule.')}"


def _hint(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
