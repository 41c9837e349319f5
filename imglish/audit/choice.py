"""A seeded choice of samples to look at: the same ones for the same corpus and seed, evenly over the sources.

    chosen = choose(tables, seed=0, count=12)
    chosen[0].key, chosen[0].source

Every image and pair has the rank stream(seed, "look")(record id); each source gives its lowest ranks in turn until
`count` are chosen, so a small source is seen beside a large one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.tables import Tables
from imglish.records import Kind
from imglish.seeds import U64, stream
from imglish.shards import Corpus, ImageSample, PairSample

COLUMNS = ["table", "kind", "key", "source", "row", "merged"]


@dataclass(frozen=True, order=True)
class Chosen:
    """One sample: its rank, where it lies and the source of its surviving occurrence."""

    rank: int
    ordinal: int
    kind: Kind
    key: str
    source: str

    def read(self, corpus: Corpus) -> PairSample | ImageSample:
        """The sample; ShardError when it is damaged."""
        keys = corpus.index(self.kind, self.ordinal)["key"]
        row = int(np.flatnonzero(keys == np.void(bytes.fromhex(self.key)))[0])
        return cast(PairSample | ImageSample, corpus.read(self.kind, self.ordinal, row))


class Choice:
    """Keeps the `count` lowest ranks of every source while metadata tables pass by."""

    def __init__(self, seed: int, count: int) -> None:
        self.stream = stream(seed, "look")
        self.count = count
        self._best: dict[str, list[Chosen]] = defaultdict(list)

    def offer(self, ordinal: int, rows: pa.Table) -> None:
        """Rows of one shard, with the columns `COLUMNS`."""
        wanted = pc.and_(pc.equal(rows.column("table"), "occurrence"), pc.invert(rows.column("merged")))
        rows = rows.filter(pc.and_(wanted, pc.not_equal(rows.column("kind"), "text")))
        for source in sorted(pc.unique(rows.column("source")).to_pylist()):
            mine = rows.filter(pc.equal(rows.column("source"), source))
            ranks = self.stream.keys(low_halves(mine.column("key").to_pylist()))
            first = np.argsort(ranks, kind="stable")[: self.count].tolist()
            picked = mine.take(first).to_pylist()
            new = [
                Chosen(int(ranks[place]), ordinal, row["kind"], row["key"], source)
                for place, row in zip(first, picked, strict=True)
            ]
            self._best[source] = sorted([*self._best[source], *new])[: self.count]

    def chosen(self) -> list[Chosen]:
        """At most `count` samples, a turn for every source in name order, shown source by source."""
        turns = zip_longest(*(self._best[source] for source in sorted(self._best)))
        flat = [sample for turn in turns for sample in turn if sample is not None]
        return sorted(flat[: self.count], key=lambda sample: (sample.source, sample.rank))


class Places:
    """Where the samples of wanted occurrences are, while metadata tables pass by; pictures only."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Chosen] = {}
        self._wanted: set[tuple[str, str]] = set()

    def want(self, occurrences: Iterable[tuple[str, str]]) -> None:
        """Look for these (source, row)."""
        self._wanted |= set(occurrences)

    def offer(self, ordinal: int, rows: pa.Table) -> None:
        """Rows of one shard, with the columns `COLUMNS`."""
        named = pa.array(sorted({row for _, row in self._wanted}), pa.string())
        rows = rows.filter(pc.is_in(rows.column("row"), value_set=named)).select(COLUMNS)
        for row in rows.filter(pc.not_equal(rows.column("kind"), "text")).to_pylist():
            place = (row["source"], row["row"])
            if place in self._wanted and not row["merged"]:
                self.found[place] = Chosen(0, ordinal, row["kind"], row["key"], row["source"])


def choose(tables: Tables, seed: int, count: int) -> list[Chosen]:
    """`Choice` over every shard."""
    choice = Choice(seed, count)
    for ordinal, rows in tables.metadata(COLUMNS):
        choice.offer(ordinal, rows)
    return choice.chosen()


def low_halves(keys: Sequence[str]) -> U64:
    """The low 64 bits of record ids in hex, as every draw by record takes them (the high ones chose the shard)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), "<u8").reshape(-1, 2)[:, 1].astype(np.uint64)
