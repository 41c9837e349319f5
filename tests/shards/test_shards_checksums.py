"""Checksums of many pieces at once equal those of each piece."""

from __future__ import annotations

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from imglish.shards.checksums import joined, wrong_blocks, wrong_pieces


@given(st.binary(max_size=300), st.integers(1, 40), st.integers(0, 6))
def test_a_joined_checksum_is_that_of_the_joined_bytes(data: bytes, size: int, doublings: int) -> None:
    count = 2**doublings
    row = (data * (size * count // max(1, len(data)) + 1) + bytes(size * count))[: size * count]
    sums = np.array([[crc32c(row[at : at + size]) for at in range(0, len(row), size)]], dtype=np.uint32)
    assert joined(sums, size).tolist() == [crc32c(row)]


def test_only_powers_of_two_are_joined() -> None:
    with pytest.raises(ValueError, match="3 pieces"):
        joined(np.zeros((1, 3), np.uint32), 8)


@given(st.integers(1, 70), st.sets(st.integers(0, 69)))
def test_wrong_blocks_are_those_whose_bytes_or_sums_were_changed(count: int, changed: set[int]) -> None:
    size, per_run = 24, 8
    generator = np.random.default_rng(count)
    runs = -(-count // per_run)
    numbers = np.arange(count)
    starts = 7 + numbers * size + numbers // per_run * 5  # runs do not touch
    data = bytearray(generator.bytes(int(starts[-1]) + size + runs))
    sums = np.array([crc32c(data[at : at + size]) for at in starts], dtype=np.uint32)
    damaged = sorted(number for number in changed if number < count)
    for number in damaged:
        if number % 2:
            data[int(starts[number]) + number % size] ^= 1 << number % 8
        else:
            sums[number] ^= np.uint32(1)
    assert wrong_blocks(bytes(data), starts, size, per_run, sums).tolist() == damaged
    assert wrong_pieces(bytes(data), starts, np.full(count, size), sums).tolist() == damaged
