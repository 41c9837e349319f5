"""Lines of a delimited file by columns: what `CsvTable` makes of a line, for tens of thousands of them at once.

    usual, odd = split_lines([(0, b"url\\tcaption\\n"), ...], "\\t", width=2, quotes=False)

A line is *usual* when it is UTF-8, has as many cells as columns, and nothing in it needs Python's csv module: a quote,
a carriage return inside, a cell that may be over its limit of 128 KB. The others are given back as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LIMIT = 1 << 17
"""Bytes of a line that is always left to Python; csv's own limit of a cell is as large."""

Line = tuple[int, bytes]
"""Offset and bytes of a line, with its end."""


class Columns(NamedTuple):
    """Usual lines: where they begin, and their cells, an array for each column."""

    places: pa.Array
    cells: list[pa.Array]


def split_lines(lines: Sequence[Line], delimiter: str, width: int, quotes: bool) -> tuple[Columns, list[Line]]:
    """The usual lines by columns and all others, each in their order."""
    raw = pa.array([line for _, line in lines], pa.binary())
    usual = pc.less(pc.binary_length(raw), LIMIT)
    texts, valid = _texts(raw)
    usual = pc.and_(usual, valid)
    texts = pc.ascii_rtrim(texts, "\r\n")
    usual = pc.and_(usual, pc.equal(pc.count_substring(texts, delimiter), width - 1))
    usual = pc.and_(usual, pc.greater(pc.binary_length(texts), 0))
    if quotes:
        usual = pc.and_(usual, pc.invert(pc.match_substring_regex(texts, '["\r]')))
    chosen = usual.to_numpy(zero_copy_only=False)
    odd = [lines[number] for number in np.flatnonzero(~chosen).tolist()]
    places = pa.array([offset for offset, _ in lines], pa.int64()).filter(usual)
    flat = pc.list_flatten(pc.split_pattern(texts.filter(usual), delimiter))
    cells = [flat.take(pa.array(np.arange(column, len(flat), width))) for column in range(width)]
    return Columns(places, cells), odd


def _texts(raw: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Bytes as text, empty where they are no UTF-8, and which are."""
    try:
        return raw.cast(pa.string()), pa.array(np.ones(len(raw), bool))
    except pa.ArrowInvalid:
        found = [_text(line) for line in raw.to_pylist()]
        return pa.array([text or "" for text in found], pa.string()), pa.array([text is not None for text in found])


def _text(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None
