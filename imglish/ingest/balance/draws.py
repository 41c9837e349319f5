"""Draws: which samples balance drops, from their ids, the seed and counts over the whole corpus.

    fallen = by_concepts(samples, recipe, captions)        # captions int64 [concepts], of the whole corpus
    fallen |= by_caps(samples, recipe, limits, fallen)     # a Fallen by row of SAMPLES

A pair stays if for one of its concepts the draw of (seed, concept, record id) is below min(1, cap / captions of the
concept): MetaCLIP's balancing, where a draw follows from names instead of a generator's state. Draws of a concept do
not move when others join the list. Of a capped group those with the smallest draw of (seed, record id) stay, so caps
of one corpus take from the same end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves
from imglish.ingest.balance.checks import concept_file
from imglish.ingest.measures.phrases import PhraseFile
from imglish.recipe import Recipe
from imglish.recipe_balance import EACH, CapConfig
from imglish.seeds import U64, draw, mix, stream, uniform

CONCEPT, UNMATCHED, CAP = "balance_concept@1", "balance_unmatched@1", "balance_cap@1"
"""Names of the rules; they share a bit of `fired`."""
GROUP_KEYS = ("source", "sample_kind", "language")
"""Columns that tell groups of a cap apart."""


class Fallen(NamedTuple):
    """Why one sample goes: as in DECISIONS."""

    rule: str
    score: float | None
    threshold: float | None
    detail: str


def balance_bit(rules: Sequence[Any]) -> int:
    """Bit of the rules of this module in `fired`: after the recipe's rules, placeholder, leaks and near duplicates."""
    return len(rules) + 3


def sample_draws(samples: pa.Table, seed: int) -> U64:
    """The draw by which caps choose, uint64 [samples]; the smallest stay."""
    return stream(seed, "balance", "cap").keys(_low(samples))


def _low(samples: pa.Table) -> U64:
    return record_halves(samples.column("sample_id"))[1].byteswap()  # the last 8 bytes, little-endian


@cache
def concept_keys(file: PhraseFile, seed: int) -> U64:
    """A key for every concept, by its words and not its number, uint64 [concepts]."""
    return np.array([stream(seed, "balance", "concept", name).key for name in file.list.names], np.uint64)


def by_concepts(samples: pa.Table, recipe: Recipe, captions: NDArray[np.int64]) -> dict[int, Fallen]:
    """Pairs that concepts drop, by row of SAMPLES."""
    config, file = recipe.balance.concepts, concept_file(recipe)
    if config is None or file is None or not samples.num_rows:
        return {}
    pairs = np.asarray(pc.equal(samples.column("sample_kind"), "pair"), bool)
    cells = [cell or b"" for cell in samples.column("concepts").to_pylist()]
    ids = np.frombuffer(b"".join(cells), "<u4").astype(np.int64)
    owner = np.repeat(np.arange(len(cells)), [len(cell) // 4 for cell in cells])
    drawn = uniform(draw(concept_keys(file, recipe.seed)[ids], mix(_low(samples))[owner]))
    chance = np.minimum(1.0, config.cap / np.maximum(captions[ids], 1))
    stays = np.zeros(samples.num_rows, bool)
    stays[owner[drawn < chance]] = True
    fallen = _unmatched(pairs & (np.bincount(owner, minlength=len(cells)) == 0), recipe)
    gone = np.flatnonzero(~stays[owner])
    order = gone[np.lexsort((ids[gone], drawn[gone] / chance[gone], owner[gone]))]
    for place in order[np.diff(owner[order], prepend=-1) > 0].tolist():  # the concept that came nearest to keeping it
        count, name = int(captions[ids[place]]), file.list.names[ids[place]]
        detail = f"concept {name!r}: {count} captions, cap {config.cap}"
        fallen[int(owner[place])] = Fallen(CONCEPT, float(drawn[place]), float(chance[place]), detail)
    return fallen


def _unmatched(places: NDArray[np.bool_], recipe: Recipe) -> dict[int, Fallen]:
    config = recipe.balance.concepts
    if config is None or config.unmatched == "keep":
        return {}
    said = Fallen(UNMATCHED, None, None, f"no caption holds a concept of {config.path}")
    return dict.fromkeys(np.flatnonzero(places).tolist(), said)


def groups(samples: pa.Table, cap: CapConfig) -> pa.Array:
    """For every sample the group of a cap as "source|kind|language", empty what is not told apart; null for none."""
    member: Any = pa.array(np.ones(samples.num_rows, bool))
    parts: list[Any] = []
    for column, wanted in zip(GROUP_KEYS, (cap.source, cap.kind, cap.language), strict=True):
        values = samples.column(column).combine_chunks()
        if wanted not in (None, EACH):
            member = pc.and_(member, pc.fill_null(pc.equal(values, wanted), False))
        if wanted is not None:
            member = pc.and_(member, values.is_valid())
        parts.append(pa.repeat("", len(values)) if wanted is None else pc.fill_null(values, ""))
    return pc.if_else(member, pc.binary_join_element_wise(*parts, "|"), pa.scalar(None, pa.string()))


class Limit(NamedTuple):
    """Where one group is cut: samples with a draw above `last` go; `members` and `amount` are what it had."""

    last: int
    members: int
    amount: int


Limits = Mapping[tuple[int, str], Limit]
"""By number of the cap and group; a group within its cap has none."""


def by_caps(
    samples: pa.Table, recipe: Recipe, limits: Limits, fallen: Mapping[int, Fallen], until: int | None = None
) -> dict[int, Fallen]:
    """Samples that the caps (those before number `until`) drop beside the fallen, by row of SAMPLES."""
    drawn = sample_draws(samples, recipe.seed)
    found: dict[int, Fallen] = {}
    for number, cap in enumerate(recipe.balance.cap[:until]):
        group = pc.dictionary_encode(groups(samples, cap))
        names = group.dictionary.to_pylist()
        index = np.asarray(pc.fill_null(group.indices, -1))
        last = np.array([_last(limits.get((number, name))) for name in names] or [0], np.uint64)
        for place in np.flatnonzero((index >= 0) & (drawn > last[index])).tolist():
            name = names[index[place]]
            if place not in fallen and place not in found:
                limit = limits[number, name]
                score, threshold = uniform(np.array([drawn[place], limit.last], np.uint64)).tolist()
                found[place] = Fallen(CAP, score, threshold, _said(cap, name, limit))
    return found


def _last(limit: Limit | None) -> int:
    return np.iinfo(np.uint64).max if limit is None else limit.last


def _said(cap: CapConfig, group: str, limit: Limit) -> str:
    """For people: "source web: 12345 samples, cap 10000"."""
    pairs = zip(("source", "kind", "language"), group.split("|"), strict=True)
    name = ", ".join(f"{key} {value}" for key, value in pairs if value)
    if cap.samples is not None:
        return f"{name}: {limit.members} samples, cap {cap.samples}"
    return f"{name}: {limit.amount} bytes, cap {cap.bytes}"
