"""Findings: what an auditor should see first, derived from the values alone.

    findings(values)[0]      # {"level": "warning", "name": "source_lost", "text": "..."}

Each has a stable name, so a gate can ask for its absence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imglish.records import KINDS

LOST_SHARE = 0.9
"""A source that loses more than this to the rules is named (the recipe's default `decide.alarm_share`)."""
ONE_LANGUAGE_SHARE = 0.95
"""A kind with a larger share of one language is named."""
UNKNOWN_SHARE = 0.01
"""Unknown ids above this share say that the vocabulary does not fit the text."""
DEAD_SHARE = 0.1
"""Codes that nothing uses, of all codes; k-means on the corpus itself leaves almost none."""

Finding = dict[str, str]


def findings(values: Mapping[str, Any]) -> list[Finding]:
    """Warnings in a fixed order; empty when there is nothing to warn of."""
    return [*_funnel(values["funnel"]), *_balance(values), *_tokens(values)]


def _warning(name: str, text: str) -> Finding:
    return {"level": "warning", "name": name, "text": text}


def _funnel(funnel: Mapping[str, Any]) -> Iterator[Finding]:
    if not funnel["occurrences"]:
        yield _warning("no_decisions", "The manifest names no decisions, so nobody can say why a sample is here.")
    for source, kinds in funnel["source"].items():
        for kind, cell in kinds.items():
            lost = cell["dropped"] / cell["occurrences"]
            if lost > LOST_SHARE:
                rule, count = max(sorted(cell["rule"].items()), key=lambda item: item[1])
                text = f"Source {source} lost {lost:.1%} of its {cell['occurrences']:,} {kind} occurrences, "
                yield _warning("source_lost", f"{text}{count:,} of them to {rule}.")


def _balance(values: Mapping[str, Any]) -> Iterator[Finding]:
    for kind in KINDS:
        if not values[kind]["occurrences"]:
            yield _warning("kind_missing", f"There is no sample of kind {kind}.")
        for language, cell in values[kind]["language"].items():
            if language != "und" and cell["share"] > ONE_LANGUAGE_SHARE:
                yield _warning("one_language", f"{cell['share']:.1%} of kind {kind} is in one language, {language}.")
    unknown = {kind: values[kind]["licence"].get("not stated", {}).get("occurrences", 0) for kind in KINDS}
    if any(unknown.values()):
        said = ", ".join(f"{count:,} of kind {kind}" for kind, count in unknown.items() if count)
        yield _warning("licence_unknown", f"Occurrences without a stated licence: {said}.")


def _tokens(values: Mapping[str, Any]) -> Iterator[Finding]:
    for kind, ids in values["ids"].items():
        if ids["unknown_share"] > UNKNOWN_SHARE:
            yield _warning("unknown_ids", f"{ids['unknown_share']:.1%} of the ids of kind {kind} are unknown (<unk>).")
    codes = values["codes"]
    if codes["count"] and codes["dead"] > DEAD_SHARE * codes["size"]:
        share = codes["dead"] / codes["size"]
        yield _warning("dead_codes", f"{codes['dead']:,} of {codes['size']:,} codes ({share:.1%}) are never used.")
