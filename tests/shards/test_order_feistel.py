import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.seeds import stream
from imglish.shards.feistel import bit_length, permute

AROUND_POWERS = sorted({max(1, 2**k + d) for k in range(22) for d in (-1, 0, 1)})


@pytest.mark.parametrize("size", AROUND_POWERS)
def test_a_domain_next_to_a_power_of_two_is_permuted_exactly(size: int) -> None:
    permuted = permute(np.arange(size), size, stream(0, "test", size).key)
    assert np.array_equal(np.sort(permuted), np.arange(size))


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_every_size_and_key_gives_a_permutation(size: int, key: int) -> None:
    assert set(permute(np.arange(size), size, key).tolist()) == set(range(size))


@given(st.lists(st.tuples(st.integers(1, 2**62), st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
def test_an_element_does_not_depend_on_its_neighbours(domains: list[tuple[int, int]]) -> None:
    sizes = np.array([size for size, _ in domains])
    keys = np.array([key for _, key in domains], dtype=np.uint64)
    together = permute(sizes - 1, sizes, keys)
    alone = [int(permute(size - 1, size, key)[0]) for size, key in domains]
    assert together.tolist() == alone
    assert np.all((together >= 0) & (together < sizes))


@given(st.integers(0, 2**64 - 1))
def test_bits_are_counted_as_python_counts_them(value: int) -> None:
    assert bit_length(np.array([value], dtype=np.uint64))[0] == value.bit_length()


def test_a_value_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="outside its range"):
        permute(np.array([3]), 3, 0)


@pytest.mark.parametrize("size", [1000, 4096, 65_537])
def test_places_that_were_neighbours_are_uncorrelated(size: int) -> None:
    for seed in range(20):
        permuted = permute(np.arange(size), size, stream(seed, "lag").key).astype(float)
        for lag in (1, 2, 4, 8):
            correlation = np.corrcoef(permuted[:-lag], permuted[lag:])[0, 1]
            assert abs(correlation) < 5 / np.sqrt(size)


def test_all_orders_of_four_rows_are_equally_frequent() -> None:
    trials = 12_000
    keys = stream(0, "orders").bits(trials)
    orders = permute(np.tile(np.arange(4), trials), 4, np.repeat(keys, 4)).reshape(trials, 4)
    seen = Counter(map(tuple, orders.tolist()))
    expected = trials / 24
    chi_square = sum((seen[order] - expected) ** 2 / expected for order in itertools.permutations(range(4)))
    assert chi_square < 49.7  # 99.9 % point at 23 degrees of freedom


def test_where_a_row_lands_is_spread_evenly() -> None:
    size, trials = 48, 4800
    landed = permute(np.full(trials, 7), size, stream(0, "places").bits(trials))
    expected = trials / size
    chi_square = float(((np.bincount(landed, minlength=size) - expected) ** 2 / expected).sum())
    assert chi_square < 82.7  # 99.9 % point at 47 degrees of freedom
