import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import OrderError
from imglish.shards.exclusions import Exclusion, Exclusions, replacements
from imglish.shards.order import Order

SECTIONS = [(0, 7), (2, 0), (5, 4)]
MANIFEST_ORDER = [(0, row) for row in range(7)] + [(5, row) for row in range(4)]


def epoch(excluded: list[tuple[int, int]], start: int = 0) -> list[tuple[int, int]]:
    """The rows of one epoch, one batch of 11."""
    lines = [Exclusion(start, "pair", shard, row) for shard, row in excluded]
    rows = Order({"pair": SECTIONS}, {"pair": 11}, exclusions=Exclusions(lines)).rows(0)["pair"]
    return list(zip(rows.ordinal.tolist(), rows.row.tolist(), strict=True))


@given(st.sets(st.integers(0, 49), min_size=1, max_size=49))
def test_a_replacement_is_the_next_row_that_is_not_excluded(excluded: set[int]) -> None:
    found = replacements(np.array(sorted(excluded)), 50)
    for row, replacement in zip(sorted(excluded), found.tolist(), strict=True):
        expected = next((row + step) % 50 for step in range(1, 51) if (row + step) % 50 not in excluded)
        assert replacement == expected


@pytest.mark.parametrize("excluded", [[(0, 3)], [(0, 6)], [(5, 3)], [(5, 3), (0, 0), (0, 1)], [(0, 6), (5, 0), (5, 1)]])
def test_an_excluded_row_is_replaced_in_its_place_and_nothing_else_moves(excluded: list[tuple[int, int]]) -> None:
    for before, after in zip(epoch([]), epoch(excluded), strict=True):
        if before not in excluded:
            assert after == before
            continue
        place = MANIFEST_ORDER.index(before)
        following = [MANIFEST_ORDER[(place + step) % 11] for step in range(1, 11)]
        assert after == next(row for row in following if row not in excluded)


def test_replacements_are_marked_and_draw_their_own_caption() -> None:
    order = Order({"pair": SECTIONS}, {"pair": 11}, exclusions=Exclusions([Exclusion(0, "pair", 0, 6)]))
    rows = order.rows(0)["pair"]
    plain = Order({"pair": SECTIONS}, {"pair": 11}).rows(0)["pair"]
    (place,) = np.flatnonzero(rows.replaced)
    twin = np.flatnonzero((plain.ordinal == 5) & (plain.row == 0))
    assert (rows.ordinal[place], rows.row[place]) == (5, 0)
    assert rows.caption[place] == plain.caption[twin[0]]
    assert np.array_equal(rows.view, plain.view)


def test_a_line_holds_from_its_position_on() -> None:
    lines = Exclusions([Exclusion(2, "pair", 0, 0)])
    order = Order({"pair": SECTIONS}, {"pair": 11}, exclusions=lines)
    assert [int(order.rows(position)["pair"].replaced.sum()) for position in range(4)] == [0, 0, 1, 1]


def test_the_digest_covers_lines_of_consumed_batches_only() -> None:
    early = Exclusion(3, "pair", 0, 0)
    late = Exclusion(7, "image", 1, 5)
    both, one = Exclusions([late, early, early]), Exclusions([early])
    assert both.digest(7) == one.digest(7)
    assert both.digest(8) != one.digest(8)
    assert one.digest(3) == Exclusions().digest(3)


def test_a_line_that_names_no_row_is_refused() -> None:
    for shard, row in ((0, 7), (1, 0), (2, 0), (9, 0)):
        with pytest.raises(OrderError, match=f"pair row {row} of shard {shard}, which the corpus does not have"):
            Order({"pair": SECTIONS}, {"pair": 1}, exclusions=Exclusions([Exclusion(0, "pair", shard, row)]))


def test_a_kind_cannot_be_excluded_wholly() -> None:
    with pytest.raises(OrderError, match="all 11 pair rows are excluded"):
        epoch(MANIFEST_ORDER)


def test_a_file_of_lines_is_read(tmp_path: Path) -> None:
    file = tmp_path / "exclusions.jsonl"
    lines = [{"from": 5, "kind": "text", "shard": 2, "row": 9}, {"from": 0, "kind": "pair", "shard": 0, "row": 1}]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert Exclusions.load(file).lines == (Exclusion(0, "pair", 0, 1), Exclusion(5, "text", 2, 9))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"from": 0, "kind": "pair", "shard": 0}', "exactly the keys"),
        ('{"from": 0, "kind": "pears", "shard": 0, "row": 0}', "kind is 'pears'"),
        ('{"from": -1, "kind": "pair", "shard": 0, "row": 0}', "from is -1"),
        ('{"from": 0, "kind": "pair", "shard": true, "row": 0}', "shard is True"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "exclusions.jsonl"
    file.write_text(line)
    with pytest.raises(OrderError, match=message):
        Exclusions.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="cannot be read"):
        Exclusions.load(tmp_path / "none.jsonl")
