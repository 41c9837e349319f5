"""How far apart two distributions are, from exact counts: 0 when their shares are equal, 1 when they share nothing.

total_variation({"en": 3, "de": 1}, {"en": 1, "de": 1})       # 0.25: a quarter of the samples would have to move
kolmogorov(Counter({3: 1}), Counter({4: 1}))                  # 1.0: largest difference of the two cumulative shares
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np


def total_variation(old: Mapping[Any, int], new: Mapping[Any, int]) -> float:
    """Half the sum of the differences of shares, rounded to 6 decimals; 1 when exactly one is empty."""
    if not sum(old.values()) or not sum(new.values()):
        return float(bool(sum(old.values())) != bool(sum(new.values())))
    a, b = sum(old.values()), sum(new.values())
    moved = sum(abs(old.get(name, 0) * b - new.get(name, 0) * a) for name in old.keys() | new.keys())
    return round(float(Fraction(moved, 2 * a * b)), 6)


def kolmogorov(old: Mapping[int, int], new: Mapping[int, int]) -> float:
    """The Kolmogorov-Smirnov statistic, rounded to 6 decimals; 1 when exactly one is empty."""
    if not sum(old.values()) or not sum(new.values()):
        return total_variation(old, new)
    values = sorted(old.keys() | new.keys())
    below = [np.cumsum([counts.get(value, 0) for value in values]) / sum(counts.values()) for counts in (old, new)]
    return round(float(np.abs(below[0] - below[1]).max()), 6)
