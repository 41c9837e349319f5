"""Placeholders: one picture behind many URLs of one host, such as "image not available".

    rows = drop_placeholders(rows, group, limit=20, bit=6)      # of `decide.resolve`, in order of records

A popular picture has many URLs on many hosts and stays; a placeholder has many on its own. Counted are the different
URLs of one host whose payload is one record, over all sources; a record with more than `limit` of them is dropped, all
its occurrences, by `placeholder@1`. Rows that were not fetched have no place and count nowhere.
"""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.ingest.hosts import URL_BITS

RULE = "placeholder@1"


def url_counts(group: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every row the largest number of different URLs that one host has for its record; -1 marks no place."""
    counts = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    known = place >= 0
    pairs = np.unique(np.stack([group[known], place[known]], axis=1), axis=0)
    hosts, number = np.unique(np.stack([pairs[:, 0], pairs[:, 1] >> URL_BITS], axis=1), axis=0, return_counts=True)
    np.maximum.at(counts, hosts[:, 0], number)
    return np.asarray(counts[group])


def drop_placeholders(rows: pa.Table, group: NDArray[np.int64], limit: int, bit: int) -> pa.Table:
    """Judged rows with the verdict on placeholders; `group` numbers their records, `bit` is the rule's in `fired`."""
    place = pc.fill_null(rows.column("url_place"), -1).to_numpy()
    counts = url_counts(group, place)
    fired = (counts > limit) & np.asarray(rows.column("record_id").is_valid())
    if not limit or not fired.any():
        return rows
    decides = fired & np.asarray(pc.equal(rows.column("verdict"), "keep"))
    bits = rows.column("fired").to_numpy() | (fired.astype(np.int64) << bit)
    more = rows.column("more").to_pylist()
    for number in np.flatnonzero(fired & ~decides).tolist():
        said = [RULE, float(counts[number]), float(limit), _detail(counts[number])]
        more[number] = orjson.dumps([*orjson.loads(more[number] or b"[]"), said])
    chosen = pa.array(decides)
    details = pa.array([_detail(count) for count in counts.tolist()])
    columns = {
        "verdict": pc.if_else(chosen, "drop", rows.column("verdict")),
        "rule": pc.if_else(chosen, RULE, rows.column("rule")),
        "score": pc.if_else(chosen, pa.array(counts.astype(np.float64)), rows.column("score")),
        "threshold": pc.if_else(chosen, float(limit), rows.column("threshold")),
        "detail": pc.if_else(chosen, details, rows.column("detail")),
        "edits": pc.if_else(chosen, pa.scalar(None, pa.binary()), rows.column("edits")),
        "fired": pa.array(bits),
        "more": pa.array(more, pa.binary()),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
    return rows


def _detail(count: int) -> str:
    return f"the same bytes behind {count} URLs of one host"
