"""Histograms, plots and untrusted text, each on its own."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.audit.common import clean
from imglish.audit.histograms import QUANTILES, bins, perplexity, quantiles
from imglish.audit.plots import bars, histogram, ranks, short, stacked

HISTOGRAMS = st.dictionaries(st.integers(0, 100_000), st.integers(1, 1000), min_size=1, max_size=40).map(Counter)


@given(HISTOGRAMS)
def test_quantiles_agree_with_numpy_on_the_values_one_by_one(counts: Counter[int]) -> None:
    values = np.repeat(sorted(counts), [counts[value] for value in sorted(counts)])
    found = quantiles(counts)
    expected = np.percentile(values, list(QUANTILES.values()), method="inverted_cdf").tolist()
    assert [found[name] for name in QUANTILES] == expected
    assert found["count"] == len(values)


@given(HISTOGRAMS)
def test_bins_cover_every_value_once(counts: Counter[int]) -> None:
    found = bins(counts)
    assert len(found) <= 18
    assert all(a["to"] + 1 == b["from"] for a, b in pairwise(found))
    for item in found:
        assert item["count"] == sum(counts[value] for value in counts if item["from"] <= value <= item["to"])
    assert sum(item["count"] for item in found) == counts.total()


def test_bins_at_given_edges_leave_out_what_lies_below_and_above() -> None:
    found = bins(Counter({7: 1, 12: 2}), [0, 5, 10, 20])
    assert found == [{"from": 5, "to": 9, "count": 1}, {"from": 10, "to": 12, "count": 2}]


def test_perplexity_is_the_number_of_equally_frequent_values() -> None:
    assert perplexity([7] * 100 + [0] * 28) == 100.0
    assert perplexity([5, 0]) == 1.0
    assert perplexity([]) == 0.0


@given(st.text(max_size=400), st.integers(1, 60))
def test_cleaned_text_is_one_short_line_without_controls(text: str, longest: int) -> None:
    shown = clean(text, longest)
    assert len(shown) <= longest
    assert not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, shown))


def test_cleaning_leaves_ordinary_text_alone() -> None:
    for text in ("déjà vu 漢字", "שלום עולם", "👩‍🚀 in space", "a" * 60):
        assert clean(text, 60) == text


def test_hostile_labels_are_text_in_a_plot() -> None:
    plot = bars("hostile", "Hostile", [("<script>$\\frac{", 3), ("a & b\x00", 2), ("x" * 500, 1), ("x" * 501, 1)])
    assert "<script" not in plot.svg
    assert "&lt;script&gt;$\\frac{" in plot.svg
    assert "\x00" not in plot.svg
    assert len(plot.svg) < 20_000


def test_many_bars_are_added_up() -> None:
    plot = bars("many", "Many", [(f"source {number:02d}", 100 - number) for number in range(40)])
    rest = sum(100 - number for number in range(15, 40))
    assert f"25 others: {rest:,}." in plot.alt


def test_plots_of_nothing_and_of_one_value_are_drawn() -> None:
    assert bars("none", "None", []).alt == "Bar chart. No data."
    assert "0" in stacked("zero", "Zero", ["kept", "dropped"], {"a": [0, 0]}).alt
    assert histogram("one", "One", "pixels", [{"from": 3, "to": 3, "count": 1}]).svg.startswith("<svg")
    assert ranks("flat", "Flat", [{"rank": 1, "count": 5}]).svg.startswith("<svg")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (999, "999"), (1_000, "1.0k"), (12_345, "12k"), (3_450_000, "3.4M"), (10**10, "10G")]
)
def test_counts_are_shortened_downwards(count: int, shown: str) -> None:
    assert short(count) == shown
