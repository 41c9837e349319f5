"""Firing: a rule that looks beyond one landing file's annotations speaks after the others.

    rows = fire(judged, fired, "placeholder@1", score, threshold, {7: "the same bytes behind 31 URLs"}, bit=6)

It decides where no rule did before it, and is heard in `more` and by its bit where one did.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def fire(
    rows: pa.Table,
    fired: NDArray[np.bool_],
    rule: str,
    score: NDArray[np.float64],
    threshold: NDArray[np.float64],
    said: Mapping[int, str],
    bit: int,
) -> pa.Table:
    """JUDGED rows of which those in `fired` are dropped by `rule`; `said` has a detail for each of them."""
    decides = fired & np.asarray(pc.equal(rows.column("verdict"), "keep"))
    bits = rows.column("fired").to_numpy() | (fired.astype(np.int64) << bit)
    more = rows.column("more").to_pylist()
    for number in np.flatnonzero(fired & ~decides).tolist():
        told = [rule, float(score[number]), float(threshold[number]), said[number]]
        more[number] = orjson.dumps([*orjson.loads(more[number] or b"[]"), told])
    chosen = pa.array(decides)
    details = pa.array([said.get(number) for number in range(rows.num_rows)], pa.string())
    columns = {
        "verdict": pc.if_else(chosen, "drop", rows.column("verdict")),
        "rule": pc.if_else(chosen, rule, rows.column("rule")),
        "score": pc.if_else(chosen, pa.array(score), rows.column("score")),
        "threshold": pc.if_else(chosen, pa.array(threshold), rows.column("threshold")),
        "detail": pc.if_else(chosen, details, rows.column("detail")),
        "edits": pc.if_else(chosen, pa.scalar(None, pa.binary()), rows.column("edits")),
        "fired": pa.array(bits),
        "more": pa.array(more, pa.binary()),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
    return rows
