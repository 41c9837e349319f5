"""Tables for people: cells of numbers, shares and text, cleaned here and escaped by the template.

table("Rules", ["rule", "dropped"], [[s("image_size@1"), n(8)]], "A note below it.")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imglish.audit.common import clean, number, percent

ROWS = 40
"""Rows of a table; the rest is counted."""


@dataclass(frozen=True)
class Cell:
    """Text of a cell; numbers stand to the right, `plain` text may break anywhere."""

    text: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """`rows` begin with their head; `more` rows were left out."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    more: int = 0
    note: str = ""


def n(value: int) -> Cell:
    """A count."""
    return Cell(number(value), True)


def p(value: float) -> Cell:
    """A share."""
    return Cell(percent(value), True)


def s(text: object, longest: int = 80) -> Cell:
    """Any text, made harmless."""
    return Cell(clean("" if text is None else str(text), longest))


def f(value: float | None) -> Cell:
    """A score or ratio, at most four significant digits; empty when there is none."""
    return Cell("" if value is None else f"{value:,.4g}", True)


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Table:
    """A table of at most `ROWS` rows."""
    whole = list(rows)
    return Table(title, heads, whole[:ROWS], max(0, len(whole) - ROWS), note)
