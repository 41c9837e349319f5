"""Limits: integer sums over the whole corpus, and where each capped group is cut.

    captions = sum_counts(tables, concepts)                # of COUNTS: int64 [concepts]
    limits = find_limits(store, paths, recipe, captions)   # SAMPLES files of all buckets

Cuts are exact: of a group the samples with the smallest draws stay, as many as fit. One process reads the samples once
for each cap and remembers of each group what could still fit, so memory follows from the caps, not from the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.ingest.balance.draws import Limit, by_caps, by_concepts, groups, sample_draws
from imglish.recipe import Recipe
from imglish.seeds import U64
from imglish.storage import Store

LIMITS = pa.schema(
    [
        pa.field("cap", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("last", pa.uint64()),
        pa.field("members", pa.int64()),
        pa.field("amount", pa.int64()),
    ]
)


def sum_counts(tables: Iterable[pa.Table], concepts: int) -> NDArray[np.int64]:
    """Captions of each concept, int64 [concepts]."""
    total = np.zeros(concepts, np.int64)
    for table in tables:
        total[table.column("concept").to_numpy()] += table.column("captions").to_numpy()
    return total


def find_limits(
    store: Store, paths: Sequence[str], recipe: Recipe, captions: NDArray[np.int64]
) -> dict[tuple[int, str], Limit]:
    """Limits of all caps in their order, each over what those before it and concepts leave."""
    limits: dict[tuple[int, str], Limit] = {}
    for number, cap in enumerate(recipe.balance.cap):
        most = cap.samples if cap.samples is not None else cap.bytes or 0
        kept: dict[str, _Kept] = {}
        for path in paths:
            samples = store.read_table(path)
            fallen = by_concepts(samples, recipe, captions)
            fallen |= by_caps(samples, recipe, limits, fallen, until=number)
            alive = np.ones(samples.num_rows, bool)
            alive[list(fallen)] = False
            sizes = np.ones(samples.num_rows, np.int64) if cap.samples is not None else _bytes(samples)
            drawn = sample_draws(samples, recipe.seed)
            group = pc.dictionary_encode(groups(samples, cap))
            index = np.where(alive, np.asarray(pc.fill_null(group.indices, -1)), -1)
            for place, name in enumerate(group.dictionary.to_pylist()):
                mine = index == place
                kept.setdefault(name, _Kept(most)).add(drawn[mine], sizes[mine])
        limits |= {(number, name): found.limit() for name, found in sorted(kept.items()) if found.amount > most}
    return limits


def _bytes(samples: pa.Table) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(samples.column("bytes"), 0).to_numpy(), np.int64)


@dataclass
class _Kept:
    """Of one group the samples with the smallest draws that fit `most` together, and one more."""

    most: int
    members: int = 0
    amount: int = 0
    draws: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, draws: U64, sizes: NDArray[np.int64]) -> None:
        self.members += len(draws)
        self.amount += int(sizes.sum())
        self.draws, self.sizes = np.concatenate([self.draws, draws]), np.concatenate([self.sizes, sizes])
        order = np.argsort(self.draws, kind="stable")
        fits = int(np.searchsorted(np.cumsum(self.sizes[order]), self.most, side="right"))
        self.draws, self.sizes = self.draws[order[: fits + 1]], self.sizes[order[: fits + 1]]

    def limit(self) -> Limit:
        """The last draw that fits; 0 when not even the first one does."""
        fits = int(np.searchsorted(np.cumsum(self.sizes), self.most, side="right"))
        return Limit(int(self.draws[fits - 1]) if fits else 0, self.members, self.amount)
