"""A story of `imglish.audit.why` as lines for people; whatever came from outside is cleaned for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from imglish.audit.common import clean, number

LONGEST = 200
_CAPTIONS = 12
"""Captions of an occurrence or sample that are shown; `--json` has all."""
_CANDIDATES = 100
_NAMED = 14
"""Width of the first column."""


def story_lines(story: Mapping[str, Any]) -> Iterator[str]:
    """A story, or the candidates of a pattern."""
    if "candidates" in story:
        yield from _candidates(story["candidates"])
        return
    yield f"record {story['record'] or '(no payload)'} of {clean(story['corpus'], 80)}"
    for one in story["occurrences"]:
        yield ""
        yield from _occurrence(one)
    if story["matches"]:
        yield ""
        yield f"verified matches with {len({one['record'] for one in story['matches']})} other records"
        for one in story["matches"]:
            yield from _match(one)
    yield ""
    yield from _samples(story)


def _candidates(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{number(len(rows))} occurrences match; ask for one by record id, occurrence or URL"
    for row in rows[:_CANDIDATES]:
        yield f"  {row['record'] or '-' * 32}  {_text(row['occurrence'])}  {_text(row['url'])}"
    if len(rows) > _CANDIDATES:
        yield f"  and {number(len(rows) - _CANDIDATES)} more; --json has all"


def _line(name: str, text: str) -> str:
    return f"  {name:<{_NAMED}}{text}".rstrip()


def _occurrence(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['kind']} {_text(one['occurrence'])}"
    yield from _landed(one["landed"])
    measured = {name: value for name, value in one["measured"].items() if name not in ("captions", "url_place")}
    yield from _wrapped("measured", [f"{name} {_value(value)}" for name, value in measured.items()])
    yield _line("verdict", _verdict(one))
    if one["survivor"] is not None:
        record = one["survivor"]["record"]
        yield _line("survivor", _text(one["survivor"]["occurrence"]) + (f", record {record}" if record else ""))
    for said in one["evidence"]:
        yield _line("fired", f"{said['rule']}{_reason(said)}")
    for leak in one["leaks"]:
        yield _line("resembles", f"{_text(leak['detail'])} ({_value(leak['score'])})")
    for place, first, last, replacement in one["edits"]:
        where = "the text" if place < 0 else f"caption {place + 1}"
        yield _line("edited", f"{where}, bytes {first} to {last}: {_text(replacement) or 'removed'}")
    if one["sample"] is not None:
        yield _line("sample", f"{one['sample']['kind']} {one['sample']['key']}, {one['sample']['split']} split")


def _landed(row: Mapping[str, Any]) -> Iterator[str]:
    if not row:
        yield _line("landed", "its row of landing is gone")
        return
    size = "" if row["bytes"] is None else f", {number(row['bytes'])} bytes"
    detail = f": {_text(row['detail'])}" if row["detail"] else ""
    yield _line("landed", f"{row['status']}{size}{detail}")
    for name in ("url", "licence", "sha256"):
        if row[name] is not None:
            yield _line(name, _text(row[name]))
    receipt = row["receipt"]
    if receipt is not None:
        tries = "" if row["attempts"] is None else f" after {row['attempts']} attempts"
        yield _line("fetched", f"{receipt.get('code')} from {_text(receipt.get('url'))}{tries}")
        for name, value in (receipt.get("headers") or {}).items():
            yield _line("", f"{_text(name)}: {_text(value)}")
    for place, caption in enumerate((row["captions"] or ())[:_CAPTIONS], 1):
        yield _line(f"caption {place}", _text(caption))
    yield from _rest(len(row["captions"] or ()))


def _rest(captions: int) -> Iterator[str]:
    if captions > _CAPTIONS:
        yield _line("", f"and {captions - _CAPTIONS} more captions")


def _verdict(one: Mapping[str, Any]) -> str:
    if one["rule"] is None:
        return f"{one['verdict']}; no rule fired against it"
    return f"{one['verdict']} by {one['rule']}{_reason(one)}"


def _reason(said: Mapping[str, Any]) -> str:
    parts = [f"{name} {_value(said[name])}" for name in ("score", "threshold") if said[name] is not None]
    detail = [_text(said["detail"])] if said["detail"] else []
    return f" ({'; '.join([', '.join(parts), *detail] if parts else detail)})" if parts or detail else ""


def _match(one: Mapping[str, Any]) -> Iterator[str]:
    contained = "" if one["containment"] is None else f", containment {_value(one['containment'])}"
    yield f"  {one['method']} {_value(one['score'])}{contained}: record {one['record']}"
    for other in one["occurrences"]:
        rule = f" by {other['rule']}" if other["rule"] else ""
        yield f"    {_text(other['occurrence'])}: {other['verdict']}{rule}"


def _samples(story: Mapping[str, Any]) -> Iterator[str]:
    if story["samples"] is None:
        yield "not packed: these are the decisions, no manifest was made from them yet"
        return
    if not story["samples"]:
        yield "not in the corpus"
    for one in story["samples"]:
        if one["tombstone"] or not one["rows"]:
            gone = "removed by a tombstone" if one["tombstone"] else "not found"
            yield f"in the corpus: {gone} in shard {one['shard']} ({one['path']}), {one['kind']} {one['key']}"
            continue
        word, numbers = "block" if one["kind"] == "text" else "row", one["rows"]
        rows = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        yield f"in the corpus: {one['split']} split, shard {one['shard']} ({one['path']}), {one['kind']} {word} {rows}"
        for member in sorted(one["occurrences"], key=lambda member: bool(member["merged"])):
            how = "merged" if member["merged"] else "survivor"
            captions = "" if not member["captions"] else f", captions: {member['captions']}"
            yield f"  {how:<9} {_text(member['source'] + '/' + member['row'])}{captions}"
        for place, caption in enumerate(one["captions"][:_CAPTIONS], 1):
            yield _line(f"caption {place}", _text(caption))
        yield from _rest(len(one["captions"]))


def _wrapped(name: str, parts: Sequence[str], width: int = 100) -> Iterator[str]:
    """Parts joined by commas, in lines of about `width` characters."""
    line = ""
    for part in parts:
        if line and len(line) + len(part) > width:
            yield _line(name, f"{line},")
            name, line = "", ""
        line = f"{line}, {part}" if line else part
    if line:
        yield _line(name, line)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _text(str(value))


def _text(text: str | None) -> str:
    return "" if text is None else clean(text, LONGEST)
