"""Integer histograms: exact counts in, quantiles, bins and perplexity out; no order of summing can change them.

lengths = Counter({3: 10, 4: 2})
quantiles(lengths)["p50"]            # 3
bins(lengths)                        # [{"from": 3, "to": 3, "count": 10}, {"from": 4, "to": 4, "count": 2}]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"min": 0, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "max": 100}
"""Name and percentage."""
_MOST_BINS = 12


def add(histogram: Counter[int], values: Iterable[int], counts: Iterable[int]) -> None:
    """Count `values[i]` `counts[i]` times more."""
    for value, count in zip(values, counts, strict=True):
        histogram[value] += count


def add_all(histogram: Counter[int], values: NDArray[np.integer]) -> None:
    """Count every value of an array once more."""
    found, counts = np.unique(values, return_counts=True)
    add(histogram, found.tolist(), counts.tolist())


def quantiles(histogram: Counter[int]) -> dict[str, int]:
    """`count`, and for every quantile the smallest value that at least that share does not exceed; {} when empty."""
    total = histogram.total()
    if not total:
        return {}
    ordered = sorted(histogram.items())
    found = {"count": total}
    for name, percent in QUANTILES.items():
        below = 0
        for value, count in ordered:
            below += count
            if below * 100 >= percent * total:
                found[name] = value
                break
    return found


def bins(histogram: Counter[int], edges: Sequence[int] = ()) -> list[dict[str, int]]:
    """At most about a dozen bins `from`..`to` (both inside) from the smallest value to the largest.

    Bins start at `edges`; without any they have one width of 1, 2 or 5 times a power of ten, or double in width when
    the values span more than a factor of 64.
    """
    if not histogram:
        return []
    low, high = min(histogram), max(histogram)
    starts = [edge for edge in edges or _edges(low, high) if edge <= high]
    first = max([0, *(place for place, edge in enumerate(starts) if edge <= low)])
    starts = starts[first:]
    ends = [edge - 1 for edge in starts[1:]] + [max(high, starts[-1])]
    counts = [0] * len(starts)
    places = np.searchsorted(starts, sorted(histogram), side="right") - 1
    for value, place in zip(sorted(histogram), places.tolist(), strict=True):
        counts[max(0, place)] += histogram[value]
    return [{"from": a, "to": b, "count": n} for a, b, n in zip(starts, ends, counts, strict=True)]


def _edges(low: int, high: int) -> list[int]:
    if high > 64 * max(1, low):
        return [0, *(1 << power for power in range(high.bit_length()))]
    width = next(w for w in _widths() if (high - low) // w < _MOST_BINS)
    return list(range(low - low % width, high + 1, width))


def _widths() -> Iterable[int]:
    return (factor * 10**power for power in range(20) for factor in (1, 2, 5))


def perplexity(counts: Iterable[int]) -> float:
    """exp of the entropy of a distribution given by counts: how many equally frequent values would be as varied.

    Rounded to 2 decimals; the sum is exactly rounded (fsum), so its order does not matter. 0 when all counts are.
    """
    used = [count for count in counts if count]
    total = sum(used)
    if not total:
        return 0.0
    return round(math.exp(math.log(total) - math.fsum(n * math.log(n) for n in used) / total), 2)


def share(part: int, whole: int) -> float:
    """part / whole rounded to 6 decimals; 0 of nothing is 0."""
    return round(part / whole, 6) if whole else 0.0
