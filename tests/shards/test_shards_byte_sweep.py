"""The sweep over every byte, in miniature: each 97th byte here, all of them in `make proof`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.proof_shards import sweep


def test_flipped_bytes_are_found_placed_and_never_read_as_data(tmp_path: Path) -> None:
    numbers = sweep(tmp_path, 97)
    assert 100_000 < numbers["shard_bytes"] < 200_000
    assert numbers["found"] == numbers["flipped"] == numbers["shard_bytes"] // 97 + 1
    assert numbers["reader_refused"] > 500 and numbers["reader_right"] > 100
