"""Checksums of many pieces at once equal those of each piece."""

from __future__ import annotations

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.shards import format as fmt
from imglish.shards.checksums import (
    RECORD,
    RunningSums,
    joined,
    joined_blocks,
    joined_members,
    joined_runs,
    wrong_pieces,
)
from imglish.shards.slabs import PICTURED


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
def test_wrong_pieces_are_those_whose_bytes_or_sums_were_changed(count: int, changed: set[int]) -> None:
    size = 24
    generator = np.random.default_rng(count)
    starts = 7 + np.arange(count) * (size + 5)
    data = bytearray(generator.bytes(int(starts[-1]) + size))
    sums = np.array([crc32c(data[at : at + size]) for at in starts], dtype=np.uint32)
    damaged = sorted(number for number in changed if number < count)
    for number in damaged:
        if number % 2:
            data[int(starts[number]) + number % size] ^= 1 << number % 8
        else:
            sums[number] ^= np.uint32(1)
    assert wrong_pieces(bytes(data), starts, np.full(count, size), sums).tolist() == damaged


@given(st.integers(1, 70), st.integers(0, 3))
def test_checksums_of_runs_follow_from_those_of_their_blocks(count: int, doublings: int) -> None:
    size, per_run = 24, 2**doublings
    data = np.random.default_rng(count).bytes(count * size)
    sums = np.array([crc32c(data[at : at + size]) for at in range(0, len(data), size)], dtype=np.uint32)
    step = size * per_run
    whole = [crc32c(data[at : at + step]) for at in range(0, len(data), step)]
    assert joined_blocks(sums, size, per_run).tolist() == whole


@settings(deadline=None)  # the tables of far places are made once
@given(st.lists(st.integers(0, 3) | st.just(70_000), max_size=6), st.integers(0, 9))
def test_the_checksum_of_everything_follows_from_those_of_its_pieces(records: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    pieces = [generator.bytes(RECORD * count) for count in records]
    sums = np.array([crc32c(piece) for piece in pieces], dtype=np.uint32)
    assert joined_runs(sums, np.array(records, dtype=np.int64) * RECORD) == crc32c(b"".join(pieces))


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 220), st.integers(0, 220)), max_size=4), st.data())
def test_sums_of_ranges_do_not_depend_on_the_pieces_that_come(
    data: bytes, ranges: list[tuple[int, int]], draws: st.DataObject
) -> None:
    running, place = RunningSums(ranges), 0
    while place < len(data):
        step = draws.draw(st.integers(1, len(data) - place))
        running.update(memoryview(data)[place : place + step])
        place += step
    assert running.sums == [crc32c(data[start:end]) for start, end in ranges]


@given(st.lists(st.lists(st.integers(0, 3000), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 2**32))
def test_checksums_of_members_follow_from_those_of_headers_and_payloads(sizes: list[list[int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    large = 140_000 * (seed % 7 == 0)  # more than 255 records
    bodies = [[generator.bytes(size + large) for size in row] for row in sizes]
    heads = [[generator.bytes(RECORD) for _ in row] for row in sizes]
    members = zip(heads, bodies, strict=True)
    whole = [
        crc32c(b"".join(head + body + bytes(-len(body) % RECORD) for head, body in zip(*pair, strict=True)))
        for pair in members
    ]

    def sums(rows: list[list[bytes]]) -> np.ndarray:
        return np.array([[crc32c(part) for part in row] for row in rows], dtype=np.uint32)

    lengths = np.array([[len(body) for body in row] for row in bodies], dtype=np.int64)
    assert joined_members(sums(heads), sums(bodies), lengths).tolist() == whole


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 8**11 - 1)), max_size=5))
def test_checksums_of_headers_follow_from_keys_and_sizes(samples: list[tuple[bytes, int]]) -> None:
    for kind in PICTURED:
        rows = np.zeros(len(samples), dtype=fmt.INDEX_ROW[kind])
        rows["key"] = [np.void(key) for key, _ in samples]
        fields = fmt.FIELDS[kind]
        sizes = np.array([[max(0, size - n) for n in range(len(fields))] for _, size in samples], dtype=np.int64)
        found = fmt.header_sums(kind, rows, sizes.reshape(-1, len(fields)))
        names = [[fmt.member_name(kind, key.hex(), field) for field in fields] for key, _ in samples]
        said = [
            [crc32c(fmt.header(name, int(size))) for name, size in zip(*pair, strict=True)]
            for pair in zip(names, sizes, strict=True)
        ]
        assert found.tolist() == said
