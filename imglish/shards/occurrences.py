"""Where samples came from: the occurrences in the metadata table beside a shard, for some of its samples.

    sample_occurrences(corpus, "pair", 3, ["9f3c..."])      [[Occurrence(source="emoji", row="12", url=None, ...)]]
    block_occurrences(corpus, 3, [17])                      of the documents that reach into text block 17

Only rows that are asked for leave Arrow, so a shard of ten thousand samples costs some 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import ShardError
from imglish.records import Kind
from imglish.shards.format import BLOCK_IDS
from imglish.shards.ranges import is_local, join, local_path
from imglish.shards.reader import Corpus

_COLUMNS = ["key", "source", "row", "url", "licence", "priority", "merged", "captions", "start", "length"]
_PRECEDENCE = ("priority", "source", "row")  # in which pack merged the occurrences of a record


@dataclass(frozen=True)
class Occurrence:
    """Row `row` of a source. `captions`: how many a pair got from it; `document`: a text document's record id."""

    source: str
    row: str
    url: str | None
    licence: str | None
    merged: bool
    captions: int = 0
    document: str | None = None


def sample_occurrences(corpus: Corpus, kind: Kind, ordinal: int, keys: Sequence[str | None]) -> list[list[Occurrence]]:
    """Occurrences of pictures by key, the survivor first; none where key or table are not there."""
    wanted = {key for key in keys if key is not None}
    table = _table(corpus, ordinal, [("kind", "=", kind), ("key", "in", wanted)]) if wanted else None
    if table is None:
        return [[] for _ in keys]
    found: dict[str | None, list[Occurrence]] = {}
    for row in _sorted(table, _PRECEDENCE).to_pylist():
        found.setdefault(row["key"], []).append(_occurrence(row))
    return [found.get(key, []) for key in keys]


def block_occurrences(corpus: Corpus, ordinal: int, blocks: Sequence[int]) -> list[list[Occurrence]]:
    """Occurrences of the documents that reach into each text block, in their order; none where there is no table."""
    table = _table(corpus, ordinal, [("kind", "=", "text")])
    if table is None:
        return [[] for _ in blocks]
    table = _sorted(table, ("start", *_PRECEDENCE))
    starts = table.column("start").to_numpy()
    ends = starts + table.column("length").to_numpy()  # ascending too: documents are laid end to end
    places = np.asarray(blocks, dtype=np.int64) * BLOCK_IDS
    first = np.searchsorted(ends, places, side="right").tolist()
    last = np.searchsorted(starts, places + BLOCK_IDS).tolist()
    return [
        [_occurrence(row) for row in table.slice(low, high - low).to_pylist()]
        for low, high in zip(first, last, strict=True)
    ]


def _table(corpus: Corpus, ordinal: int, wanted: list[tuple[str, str, Any]]) -> pa.Table | None:
    """Occurrences of a shard that pass a filter; None where the local table is missing."""
    url = join(corpus.base, corpus.manifest.shards[ordinal].metadata.path)
    if is_local(url) and not local_path(url).exists():
        return None
    try:
        with fsspec.open(url, "rb") as file:
            return pq.read_table(file, columns=_COLUMNS, filters=[("table", "=", "occurrence"), *wanted])
    except (OSError, pa.ArrowException) as error:
        raise ShardError(
            f"{url}: the metadata of shard {ordinal} cannot be read: {error}; build or download it again"
        ) from error


def _sorted(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in names])


def _occurrence(row: dict[str, Any]) -> Occurrence:
    return Occurrence(
        **{name: row[name] for name in ("source", "row", "url", "licence", "merged")},
        captions=row["captions"] or 0,
        document=None if row["length"] is None else row["key"],
    )
