"""Placeholders: one picture behind many URLs of one host, such as "image not available".

    rows = drop_placeholders(rows, group, limit=20, bit=6)      # of `decide.resolve`, in order of records

A popular picture has many URLs on many hosts and stays; a placeholder has many on its own. Counted are the different
URLs of one host whose payload is one record, over all sources; a record with more than `limit` of them is dropped, all
its occurrences, by `placeholder@1`. Rows that were not fetched have no place and count nowhere.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.ingest.firing import fire
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
    said = {number: _detail(counts[number]) for number in np.flatnonzero(fired).tolist()}
    return fire(rows, fired, RULE, counts.astype(np.float64), np.full(len(counts), float(limit)), said, bit)


def _detail(count: int) -> str:
    return f"the same bytes behind {count} URLs of one host"
