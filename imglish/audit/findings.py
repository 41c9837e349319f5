"""Findings: what an auditor should see first, derived from the values alone.

    findings(values)[0]      # {"level": "warning", "name": "source_lost", "text": "..."}

Each has a stable name, so a gate can ask for its absence: `--require 'findings.source_lost==0'`. A warning asks for a
decision, a note is good to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imglish.audit.balance import PLURAL, unit
from imglish.records import KINDS

LOST_SHARE = 0.9
"""A source that loses more than this to the rules is named (the recipe's default `decide.alarm_share`)."""
ONE_LANGUAGE_SHARE = 0.95
"""A kind with a larger share of one language is named."""
SOURCE_LANGUAGE_SHARE, SOURCE_SAMPLES = 0.99, 20
"""So is a source of at least so many samples."""
UNKNOWN_SHARE = 0.01
"""Unknown ids above this share say that the vocabulary does not fit the text."""
DEAD_SHARE = 0.02
"""Codes that nothing uses, of all codes; k-means on the corpus itself leaves almost none."""
REPEATED, REPEATED_SHARE = 100, 0.0001
"""A caption that stands at more pairs than the first, and than this share of all captions, is named."""
FETCHED_SHARE = 0.5
"""Fewer URLs than this answering well is named."""
BLANK_SHARE = 0.01
"""So are nearly black or white pictures above this share."""
NAMED = 4
"""Things that one finding names before it says how many more there are."""

NAMES = (
    "no_decisions", "source_lost", "contaminated", "contamination_unchecked", "kind_missing", "one_language",
    "source_one_language", "repeated_captions", "unknown_ids", "dead_codes", "blank_pictures", "fetch_failed",
    "licence_unknown",
)  # fmt: skip
"""Every name that a finding may have."""

Finding = dict[str, str]


def findings(values: Mapping[str, Any]) -> list[Finding]:
    """Warnings, then notes, each in a fixed order; empty when there is nothing to say."""
    found = [
        *_funnel(values["funnel"]),
        *_contamination(values["contamination"]),
        *_languages(values),
        *_captions(values["captions"]),
        *_tokens(values),
        *_pictures(values["pictures"]),
        *_fetch(values["fetch"]),
        *_licences(values),
    ]
    return sorted(found, key=lambda finding: finding["level"] != "warning")


def _warning(name: str, text: str) -> Finding:
    return {"level": "warning", "name": name, "text": text}


def _note(name: str, text: str) -> Finding:
    return {"level": "note", "name": name, "text": text}


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


def _contamination(found: Mapping[str, Any]) -> Iterator[Finding]:
    for name, kinds in found["set"].items():
        if kinds:
            said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
            yield _warning(
                "contaminated", f"Copies of evaluation set {name} were in the sources: {said} occurrences were dropped."
            )
    if not found["checked"]:
        yield _note("contamination_unchecked", "No evaluation set was looked for.")


def _languages(values: Mapping[str, Any]) -> Iterator[Finding]:
    for kind in KINDS:
        mine = values[PLURAL[kind]]
        if not mine["occurrences"]:
            yield _warning("kind_missing", f"There is no sample of kind {kind}.")
        for language, cell in mine["language"].items():
            if language != "und" and cell["share"] > ONE_LANGUAGE_SHARE:
                yield _warning("one_language", f"{cell['share']:.1%} of kind {kind} is in one language, {language}.")
        single = [
            f"{source} ({language})"
            for source, cell in mine["source"].items()
            for language, count in cell["languages"].items()
            if language != "und"
            and count >= SOURCE_SAMPLES
            and count >= SOURCE_LANGUAGE_SHARE * sum(cell["languages"].values())
        ]
        if single:
            yield _note("source_one_language", f"Sources of kind {kind} all in one language: {_some(single)}.")


def _captions(captions: Mapping[str, Any]) -> Iterator[Finding]:
    often = [
        item for item in captions["repeated"] if item["count"] > max(REPEATED - 1, REPEATED_SHARE * captions["count"])
    ]
    if often:
        said = _some([f"“{_short(item['text'])}” ({item['count']:,})" for item in often])
        yield _warning("repeated_captions", f"Captions that repeat: {said}.")


def _tokens(values: Mapping[str, Any]) -> Iterator[Finding]:
    for where, ids in values["ids"].items():
        if ids["unknown_share"] > UNKNOWN_SHARE:
            yield _warning("unknown_ids", f"{ids['unknown_share']:.1%} of the ids of {where} are unknown (<unk>).")
    codes = values["codes"]
    if codes["count"] and codes["dead_share"] > DEAD_SHARE:
        yield _warning(
            "dead_codes", f"{codes['dead']:,} of {codes['size']:,} codes ({codes['dead_share']:.1%}) are never used."
        )


def _pictures(pictures: Mapping[str, Any]) -> Iterator[Finding]:
    blank, count = pictures["nearly_black"] + pictures["nearly_white"], pictures["brightness"].get("count", 0)
    if blank > BLANK_SHARE * count:
        yield _note("blank_pictures", f"{blank:,} of {count:,} pictures are nearly black or nearly white.")


def _fetch(fetch: Mapping[str, Any]) -> Iterator[Finding]:
    if fetch["urls"] and fetch["ok_share"] < FETCHED_SHARE:
        yield _warning("fetch_failed", f"Only {fetch['ok_share']:.1%} of {fetch['urls']:,} URLs gave a picture.")


def _licences(values: Mapping[str, Any]) -> Iterator[Finding]:
    unknown = {kind: values[PLURAL[kind]]["licence"].get("not stated", {}).get(unit(kind), 0) for kind in KINDS}
    if any(unknown.values()):
        said = ", ".join(f"{count:,} of kind {kind}" for kind, count in unknown.items() if count)
        yield _warning("licence_unknown", f"No licence is stated for {said}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39].rstrip() + "…"
