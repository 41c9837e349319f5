"""What a run saw, step by step, from manifest and run.json alone, held against what the run logged.

    chain = follow(corpus, order_of_run("run/run.json", corpus), logged, steps=86)
    chain.digest, chain.wrong, chain.visits["pair"]

The digest of step T covers the rows, views and masks of its global batch (`imglish.shards.order`); the chain's digest
is SHA-256 over the digests of steps 1 to N, 16 bytes each. Who has the manifest and `run.json` gets the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.audit.histograms import share
from imglish.audit.tables import Tables
from imglish.records import KINDS, Kind
from imglish.shards import Corpus
from imglish.shards.format import BLOCK_IDS
from imglish.shards.order import Order, batch_digest
from imglish.stages import Progress

I64 = NDArray[np.int64]
COLUMNS = ("table", "kind", "key", "source", "language", "merged", "start", "length")

UNKNOWN = "unknown"
"""Source of a sample whose metadata have no surviving occurrence."""


@dataclass(frozen=True)
class Chain:
    """`visits` counts for every index row of a kind, by shard ordinal, how often the run saw it."""

    steps: int
    digest: str
    checked: int
    """Steps whose digest the run logged."""
    wrong: list[dict[str, Any]]
    """Of these, those that logged another one: step, logged, expected."""
    visits: Mapping[Kind, Mapping[int, I64]]
    replaced: Mapping[Kind, int]
    """Visits in place of an excluded row."""


def follow(
    corpus: Corpus, order: Order, logged: Mapping[int, str], steps: int, progress: Progress | None = None
) -> Chain:
    """Go through steps 1 to `steps`; `logged` is the digest by step."""
    visits = {kind: {n: np.zeros(rows, np.int64) for n, rows in corpus.sections(kind)} for kind in KINDS}
    replaced = dict.fromkeys(KINDS, 0)
    chain, wrong = hashlib.sha256(), []
    for step in range(1, steps + 1):
        batch = order.rows(step - 1)
        digest = batch_digest(batch)
        chain.update(bytes.fromhex(digest))
        if logged.get(step, digest) != digest:
            wrong.append({"step": step, "logged": logged[step], "expected": digest})
        for kind, rows in batch.items():
            replaced[kind] += int(rows.replaced.sum())
            for ordinal in np.unique(rows.ordinal).tolist():
                np.add.at(visits[kind][ordinal], rows.row[rows.ordinal == ordinal], 1)
        if progress is not None:
            progress("replay", step, steps)
    checked = sum(1 <= step <= steps for step in logged)
    return Chain(steps, chain.hexdigest(), checked, wrong, visits, replaced)


def seen(tables: Tables, corpus: Corpus, chain: Chain) -> dict[str, Any]:
    """By kind: index rows, how many were seen and how often, and epochs by source.

    A picture counts for the source of its surviving occurrence, text by ids for the source of the document. Without the
    shards and their metadata there are no sources.
    """
    totals: dict[Kind, dict[str, list[int]]] = {kind: {} for kind in KINDS}
    first = tables.manifest.shards[0]
    here = tables.store.exists(first.metadata.path) and tables.store.exists(first.path)
    for ordinal, rows in tables.metadata(list(COLUMNS)) if here else ():
        if tables.manifest.shards[ordinal].split != corpus.split:
            continue
        rows = rows.filter(pc.equal(rows.column("table"), "occurrence"))
        rows = rows.filter(pc.invert(rows.column("merged")))
        for kind in KINDS:
            mine = rows.filter(pc.equal(rows.column("kind"), kind))
            if mine.num_rows and ordinal in chain.visits[kind]:
                _add(totals[kind], kind, mine.to_pylist(), corpus, ordinal, chain.visits[kind][ordinal])
    return {kind: _kind(chain, kind, totals[kind]) for kind in KINDS}


def _add(
    total: dict[str, list[int]], kind: Kind, rows: list[dict[str, Any]], corpus: Corpus, ordinal: int, visits: I64
) -> None:
    """[items, visits] of one shard by source: index rows of pictures, ids of documents."""
    if kind == "text":
        before = np.concatenate([[0], np.cumsum(visits) * BLOCK_IDS])
        padded = np.concatenate([visits, [0]])

        def up_to(place: int) -> int:
            return int(before[place // BLOCK_IDS] + padded[place // BLOCK_IDS] * (place % BLOCK_IDS))

        found = [(r["source"], r["length"], up_to(r["start"] + r["length"]) - up_to(r["start"])) for r in rows]
    else:
        source = {row["key"]: row["source"] for row in rows}
        keys = corpus.index(kind, ordinal)["key"].tolist()
        found = [(source.get(key.hex(), UNKNOWN), 1, int(n)) for key, n in zip(keys, visits, strict=True)]
    for name, items, times in found:
        cell = total.setdefault(name, [0, 0])
        cell[0] += items
        cell[1] += times


def _kind(chain: Chain, kind: Kind, total: Mapping[str, list[int]]) -> dict[str, Any]:
    visits = np.concatenate([np.zeros(0, np.int64), *chain.visits[kind].values()])
    what = "ids" if kind == "text" else "rows"
    return {
        "rows": len(visits),
        "visits": int(visits.sum()),
        "epochs": share(int(visits.sum()), len(visits)),
        "rows_seen": int((visits > 0).sum()),
        "most_visits": int(visits.max(initial=0)),
        "replaced": chain.replaced[kind],
        "source": {
            name: {what: items, "visits": times, "epochs": share(times, items)}
            for name, (items, times) in sorted(total.items())
        },
    }
