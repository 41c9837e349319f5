"""Measure `concepts`: which concepts of the recipe's list the captions of a pair hold (`balance.concepts`).

    table = measure_concepts([["a dog", "New York"]], phrases)      # schema CONCEPTS, one row a pair

A row has one CAPTION for each caption, and the numbers of all their concepts one after another. A caption's hash tells
equal captions of one sample from different ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash

from imglish.ingest.measures.phrases import Phrases

CAPTION = np.dtype([("hash", "<u8"), ("bytes", "<u4"), ("concepts", "<u4")])
"""xxh3-64 of the caption with white space folded, its bytes of UTF-8, and how many concepts it holds."""
CONCEPTS = pa.schema([pa.field("concept_captions", pa.binary()), pa.field("concept_ids", pa.binary())])
"""CAPTION [captions] and u32 LE [concepts]; null for what is no pair."""


def measure_concepts(captions: Sequence[Sequence[str]], phrases: Phrases) -> pa.Table:
    """One row a pair."""
    rows = [_row(mine, phrases) for mine in captions]
    return pa.table([pa.array([row[n] for row in rows], pa.binary()) for n in (0, 1)], schema=CONCEPTS)


def _row(captions: Sequence[str], phrases: Phrases) -> tuple[bytes, bytes]:
    found = [phrases.find(caption) for caption in captions]
    about = np.zeros(len(captions), CAPTION)
    for number, (caption, ids) in enumerate(zip(captions, found, strict=True)):
        folded = xxhash.xxh3_64_intdigest(" ".join(caption.split()).encode())
        about[number] = (folded, len(caption.encode()), len(ids))
    return about.tobytes(), np.array([number for ids in found for number in ids], "<u4").tobytes()
