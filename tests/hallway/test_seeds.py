"""Streams are pure functions of names and counters, the same everywhere and always."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imglish.seeds import below, draw, mix, stream, uniform

GOLDEN_KEY = 1983144049362340179
GOLDEN_SUBKEY = [16864915433099318981]


def splitmix64(state: int, count: int) -> list[int]:
    """Vigna's splitmix64.c, written plainly: the reference for `draw`."""
    mask = (1 << 64) - 1
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_golden_vector_of_a_stream() -> None:
    """Changing these numbers changes every corpus and every run: don't."""
    found = stream(0, "views")
    assert found.key == GOLDEN_KEY
    assert found.bits(3).tolist() == splitmix64(GOLDEN_KEY, 3)
    assert found.keys([7]).tolist() == GOLDEN_SUBKEY


@given(st.integers(0, 2**64 - 1), st.integers(0, 50))
def test_draw_is_splitmix64_in_counter_form(key: int, start: int) -> None:
    assert draw(np.uint64(key), np.arange(start, start + 3)).tolist() == splitmix64(key, start + 3)[start:]


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=2, max_size=50))
def test_mix_is_injective(values: list[int]) -> None:
    assert len(set(mix(np.array(values, dtype=np.uint64)).tolist())) == len(values)


def test_names_and_seeds_make_different_streams() -> None:
    keys = {
        stream(seed, *names).key
        for seed in (0, 1, 10)
        for names in [("a",), ("b",), ("a", "b"), ("ab",), (1,), ("a", 1)]
    }
    assert len(keys) == 18


def test_uniform_is_in_the_half_open_interval_and_below_reaches_every_value() -> None:
    bits = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert uniform(bits).tolist() == [0.0, 1.0 - 2.0**-53]
    assert below(bits, 10).tolist() == [0, 9]
    counts = np.bincount(below(stream(0, "dice").bits(60_000), 6), minlength=6)
    assert abs(counts - 10_000).max() < 400  # 4 standard deviations of a fair die


def test_neighbouring_keys_are_uncorrelated() -> None:
    values = uniform(stream(3, "rows").keys(np.arange(100_000)))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01


def test_a_permutation_holds_every_number_once() -> None:
    order = stream(0, "order").permutation(1000)
    assert sorted(order.tolist()) == list(range(1000)) and order.tolist() != list(range(1000))
