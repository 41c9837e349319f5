"""What matching takes: one `Share` a stage, from what a recipe asks for and how much there is.

The numbers are defaults of the machine of benchmarks/results/signatures-2026-11-26.md, meant for an order of magnitude:
how many candidates there will be is not known before they are proposed.
"""

from __future__ import annotations

from typing import NamedTuple

from imglish.ingest.match.stage import BUCKET_KEYS, BUCKET_PAIRS, keys_of
from imglish.recipe_match import MatchConfig

_KEY_SECONDS = 5.3e-6
"""Of a key through the shuffle and its bucket: 30 M signatures of 15 keys took 1,200 s of two shared cores."""
_KEY_BYTES = 34
"""Of a key in the shuffle's files, packed: 15 GB of the same 450 M keys."""
_CANDIDATES = 0.1
"""Pairs proposed for each record, and records that are in one."""
_PAIR_BYTES = 60
_READ_SECONDS = {"picture": 0.005, "byte": 3e-8}
"""Of a candidate's payload, decoded and sketched."""
_COMPARE_SECONDS = 0.002
"""Of two pictures; two texts take a tenth."""
_GRAM_SECONDS = 3e-8
"""Of a byte of text beside an evaluation set."""
_EDGE_SECONDS = 1.6e-5
"""Of an edge among components: 3 M took 49 s."""


class Share(NamedTuple):
    """A stage: its name, units, seconds of one worker, bytes kept, bytes of scratch, whether one worker does all."""

    name: str
    units: int
    seconds: float
    kept: int = 0
    scratch: int = 0
    single: bool = False


def match_stages(config: MatchConfig, rows: int, files: int, pictures: float, text_bytes: float) -> list[Share]:
    """The stages of matching that a recipe asks for, in their order, components last."""
    sets, found = len(config.evaluation), []
    if sets:
        found.append(Share("evaluation", sets, 0.0))
        found.append(Share("match-leaks", sets * files, sets * text_bytes * _GRAM_SECONDS))
    if config.pairs():
        keys, pairs = rows * keys_of(config), rows * _CANDIDATES
        buckets = config.buckets or max(1, -(-keys // BUCKET_KEYS))
        read = pictures * _READ_SECONDS["picture"] + text_bytes * _READ_SECONDS["byte"]
        found += [
            Share("match-propose", buckets, keys * _KEY_SECONDS, round(pairs * _PAIR_BYTES), keys * _KEY_BYTES),
            Share("match-sketch", files, _CANDIDATES * read, round(pairs * 6_000), round(pairs * 6_000)),
            Share("match-verify", max(1, round(pairs / BUCKET_PAIRS)), pairs * _COMPARE_SECONDS, round(pairs * 50)),
        ]
        if config.exact or config.text.threshold is not None or config.image.threshold is not None:
            found.append(Share("match-cluster", 1, pairs * _EDGE_SECONDS, round(pairs * 100), single=True))
    return found
