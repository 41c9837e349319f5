"""What a person may call a record by: its id, an occurrence, or a URL; which occurrences that names.

named = resolve(opened, "9f3c")                    # record id in hex, or its first digits
named = resolve(opened, "foods/17")                # source/row
named = resolve(opened, "https://example.org/a.jpg")       # exact; with * or ? it lists candidates
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imglish.audit.common import clean
from imglish.audit.lookup import Between, Like, OneOf, Test, each, find_rows
from imglish.errors import RecipeError
from imglish.ingest.trail import Opened, TrailFile

LEAST_DIGITS = 4
"""Of a record id's first digits."""
SHOWN = 20
"""Candidates that a message lists."""
_PATTERN = "URLs of this pattern"
_HEX = re.compile(r"[0-9a-f]{1,32}")


@dataclass(frozen=True)
class Named:
    """An occurrence that a key names: its row in the tables of a landing file."""

    file: int
    place: int
    source: str
    row: str
    record: bytes | None
    url: str | None = None

    @property
    def key(self) -> str:
        return f"{self.source}/{self.row}"


class UnknownKeyError(RecipeError):
    """A key that names nothing, or more than one record."""

    exit_code = 1


def resolve(opened: Opened, key: str) -> tuple[list[Named], bool]:
    """The occurrences that a key names, and whether they are candidates of a pattern; if not, they are of one record.

    UnknownKeyError says what the key may be when it names nothing, and lists records when it names several.
    """
    found, tried = _candidates(opened, key.strip())
    if not found:
        raise UnknownKeyError(_nothing(opened, key, tried))
    if tried == _PATTERN:
        return found, True
    records = {one.record for one in found}
    if len(records) > 1 or (None in records and len(found) > 1):
        raise UnknownKeyError(
            f"{clean(key, 80)!r} names {len(records)} records; give one of them:\n" + "\n".join(listed(found))
        )
    return found, False


def listed(found: Sequence[Named]) -> list[str]:
    """One line for each candidate: record id, occurrence, URL."""
    lines = [
        f"  {'-' * 32 if one.record is None else one.record.hex()}  {clean(one.key, 100)}"
        + ("" if one.url is None else f"  {clean(one.url, 200)}")
        for one in found[:SHOWN]
    ]
    return [*lines, f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else lines


def _candidates(opened: Opened, key: str) -> tuple[list[Named], str]:
    """What is found, and as what the key was looked for."""
    if "://" in key:
        exact = _urls(opened, OneOf([key]))  # a query string has a question mark too
        wild = not exact and ("*" in key or "?" in key)
        return (_urls(opened, Like(key)), _PATTERN) if wild else (exact, "a URL")
    source, slash, row = key.partition("/")
    if slash and any(file.source == source for file in opened.trail.files):
        files = [number for number, file in enumerate(opened.trail.files) if file.source == source]
        return _named(opened, files, "row", OneOf([row]), "decisions"), "an occurrence"
    digits = key.lower()
    if _HEX.fullmatch(digits) and len(digits) >= LEAST_DIGITS:
        low, high = (bytes.fromhex(digits.ljust(32, fill)) for fill in "0f")
        return _named(opened, range(len(opened.trail.files)), "record_id", Between(low, high), "decisions"), "an id"
    return [], "nothing"


def occurrences_of(opened: Opened, record: bytes) -> list[Named]:
    """All occurrences of a record."""
    return _named(opened, range(len(opened.trail.files)), "record_id", OneOf([record]), "decisions")


def occurrence(opened: Opened, source: str, row: str) -> Named | None:
    """The occurrence of this name."""
    files = [number for number, file in enumerate(opened.trail.files) if file.source == source]
    return next(iter(_named(opened, files, "row", OneOf([row]), "decisions")), None)


def _urls(opened: Opened, test: Test) -> list[Named]:
    return _named(opened, range(len(opened.trail.files)), "url", test, "landing")


def _named(opened: Opened, files: Sequence[int], column: str, test: Test, table: str) -> list[Named]:
    columns = ["source", "row", "record_id", *(["url"] if table == "landing" else [])]

    def work(number: int) -> list[Named]:
        file: TrailFile = opened.trail.files[number]
        rows = find_rows(opened.store, getattr(file, table), column, test, columns).to_pylist()
        return [
            Named(number, row["place"], row["source"], row["row"], row["record_id"], row.get("url")) for row in rows
        ]

    return [one for found in each(opened.store, work, list(files)) for one in found]


def _nothing(opened: Opened, key: str, tried: str) -> str:
    sources = list(dict.fromkeys(file.source for file in opened.trail.files))
    said = "is none of the three names of a record" if tried == "nothing" else f"was looked for as {tried}, in vain"
    example = _example(opened, key.partition("/")[0])
    return (
        f"{clean(key, 80)!r} {said}; give a record id (32 hex digits, or at least its first {LEAST_DIGITS}), an "
        f"occurrence as source/row{example}, or a URL (* and ? list candidates); sources are {', '.join(sources)}"
    )


def _example(opened: Opened, source: str) -> str:
    """The first occurrence of a source, or of the first source that has one."""
    for file in sorted(opened.trail.files, key=lambda file: file.source != source):
        if file.rows:
            rows = opened.store.read_table(file.decisions, ["source", "row"]).slice(0, 1).to_pylist()
            return f" such as {clean(rows[0]['source'] + '/' + rows[0]['row'], 80)!r}"
    return ""
