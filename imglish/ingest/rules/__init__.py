"""Rules: named, versioned predicates and edits over annotations; which ones a recipe has is `active_rules`.

A family of rules lives in a module by what it looks at, with the Section of its thresholds beside each function. The
docstring of the function gives the source of its numbers. docs/rules.md lists all of them.
"""

from __future__ import annotations

from imglish.ingest.rules.base import Check, Edit, Family, Finding, Rule, first_failure, floats
from imglish.ingest.rules.own_measures import measure
from imglish.ingest.rules.presets import PRESETS
from imglish.ingest.rules.registry import FAMILIES, MAX_RULES, active_rules
from imglish.ingest.rules.user import ERROR, Drop, absolute, rule

__all__ = [
    "ERROR",
    "EXACT_DUPLICATE",
    "FAMILIES",
    "MAX_RULES",
    "PRESETS",
    "Check",
    "Drop",
    "Edit",
    "Family",
    "Finding",
    "Rule",
    "absolute",
    "active_rules",
    "first_failure",
    "floats",
    "measure",
    "rule",
]

EXACT_DUPLICATE = "exact_duplicate@1"
"""Deciding rule of merges: the surviving occurrence has the same record id (DESIGN section 4)."""
