"""Edits of several rules on one text, composed so that none overlaps another.

    compose([(-1, 10, 20, ""), (-1, 12, 15, "<email>")])       # [(-1, 10, 20, "")]

Every span is in bytes of what was received, whatever other rules do to it, so the order of rules moves no span. Of one
text's spans

- one that lies inside another gives way to it, replacement and all: what a rule removes stays removed;
- two that overlap in part become one, replaced by both replacements in the order of their starts (once when equal);
- of two that are equal the earlier rule's replacement counts;
- neighbours that only touch stay as they are.

`imglish.tokenize.rows` applies what is left in one pass, from left to right.
"""

from __future__ import annotations

from collections.abc import Iterable

from imglish.ingest.rules.base import Edit


def compose(edits: Iterable[Edit]) -> list[Edit]:
    """Edits in the order of their rules as disjoint ones, sorted by (caption, start)."""
    ordered = sorted(edits, key=lambda edit: (edit[0], edit[1], -edit[2]))
    found: list[Edit] = []
    for edit in ordered:
        if found and found[-1][0] == edit[0] and edit[1] < found[-1][2]:
            found[-1] = _united(found[-1], edit)
        else:
            found.append(edit)
    return found


def _united(first: Edit, second: Edit) -> Edit:
    """Two that overlap; the first does not start later."""
    if second[2] <= first[2]:
        return first
    both = first[3] if first[3] == second[3] else first[3] + second[3]
    return first[0], first[1], second[2], both
