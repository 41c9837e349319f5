"""Measure `caption`: how much of each caption repeats by characters, as data-juicer counts it.

    character_repetition("ha " * 20)            # 0.6923...

Of all runs of ten characters, the most frequent ones, as many as the square root of the number of different runs but
none that occurs once: the share of runs that they are (data-juicer's character_repetition_filter, after ROOTS).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isqrt

import pyarrow as pa

from imglish.records import pack_json

RUN = 10
"""Characters of a run (data-juicer's default `rep_len`)."""
CAPTION = pa.schema([pa.field("caption_repetition", pa.binary())])
"""JSON of a share for each caption."""


def character_repetition(text: str) -> float:
    """Share in [0, 1], to 1e-6; 0 for a text shorter than a run."""
    counts = Counter(text[place : place + RUN] for place in range(len(text) - RUN + 1))
    repeated = sorted((count for count in counts.values() if count > 1), reverse=True)
    most = repeated[: min(isqrt(len(counts)), len(repeated))]
    return round(sum(most) / max(1, counts.total()), 6)


def measure_captions(captions: Sequence[Sequence[str]]) -> pa.Table:
    """One row a pair."""
    found = [pack_json([character_repetition(text) for text in mine]) for mine in captions]
    return pa.table([pa.array(found, pa.binary())], schema=CAPTION)
