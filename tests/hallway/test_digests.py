"""Digests depend on content and on nothing else."""

from __future__ import annotations

import hashlib
import random

import pyarrow as pa
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.digests import canonical_json, json_digest, record_halves, record_id, sort_rows, table_digest

ROWS = st.lists(
    st.tuples(st.integers(0, 2**40), st.none() | st.text(max_size=5), st.none() | st.binary(max_size=5), st.booleans()),
    unique_by=lambda row: row[0],
    max_size=12,
)


def as_table(rows: list[tuple[object, ...]]) -> pa.Table:
    fields = [("key", pa.int64()), ("text", pa.string()), ("data", pa.binary()), ("flag", pa.bool_())]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 4
    return pa.table(
        [pa.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)],
        names=[n for n, _ in fields],
    )


def test_a_record_id_is_blake2b_128_of_content_kind_and_bytes() -> None:
    assert record_id("image", b"x") == hashlib.blake2b(b"image\0x", digest_size=16).digest()
    assert record_id("image", b"x") != record_id("text", b"x")
    with pytest.raises(ValueError, match="'pair'"):
        record_id("pair", b"x")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["1e5", '\\"', "\x00\x1f\x7f\u2028", "9" * 20, "é", "\U0001f600", "\uffff"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_canonical_json_is_rfc_8785_whichever_encoder_wrote_it(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, float("nan"), {"a": object()}])
def test_what_has_no_canonical_json_is_refused(value: object) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical_json(value)


def test_canonical_json_is_one_spelling() -> None:
    assert canonical_json({"b": 1.0, "a": ["é", None]}) == '{"a":["é",null],"b":1}'.encode()
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})


@given(ROWS, st.randoms(use_true_random=False))
def test_a_table_digest_ignores_row_order_and_chunks(rows: list[tuple[object, ...]], rng: random.Random) -> None:
    shuffled = rows[:]
    rng.shuffle(shuffled)
    cut = rng.randint(0, len(rows))
    chunked = pa.concat_tables([as_table(shuffled[:cut]), as_table(shuffled[cut:])])
    assert table_digest(chunked, ["key"]) == table_digest(as_table(rows), ["key"])


@given(ROWS.filter(bool), st.data())
def test_a_table_digest_sees_every_changed_cell(rows: list[tuple[object, ...]], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, 3))
    key, text, blob, flag = rows[row]
    changed = [(2**41, text, blob, flag), (key, f"{text}x", blob, flag), (key, text, b"x" + (blob or b""), flag)]
    other = [*rows[:row], [*changed, (key, text, blob, not flag)][column], *rows[row + 1 :]]
    assert table_digest(as_table(other), ["key"]) != table_digest(as_table(rows), ["key"])


def test_a_null_differs_from_an_empty_value() -> None:
    null, empty = pa.table({"key": [1], "text": pa.array([None], pa.string())}), pa.table({"key": [1], "text": [""]})
    assert table_digest(null, ["key"]) != table_digest(empty, ["key"])


def test_large_and_small_string_types_have_one_digest() -> None:
    small = pa.table({"text": pa.array(["a", "bc"], pa.string())})
    large = pa.table({"text": pa.array(["a", "bc"], pa.large_string())})
    assert table_digest(small, ["text"]) == table_digest(large, ["text"])


def test_rows_are_sorted_by_bytes_not_by_locale() -> None:
    rows = sort_rows(pa.table({"text": ["b", "Z", "ä", "a"]}), ["text"])
    assert rows["text"].to_pylist() == ["Z", "a", "b", "ä"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats(width=32) | st.text(max_size=4),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_canonical_json_is_that_of_the_reference_implementation(value: object) -> None:
    try:
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]
    except rfc8785.CanonicalizationError as error:
        with pytest.raises(type(error)):
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, {1: 2}, {"a": {2}}, 2**53, b"x"])
def test_canonical_json_refuses_what_the_reference_implementation_refuses(value: object) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-5, 1e17) | st.integers(-(2**53) + 1, 2**53 - 1))
def test_numbers_are_spelled_as_rfc_8785_has_them(value: float) -> None:
    assert canonical_json({"x": [value]}) == rfc8785.dumps({"x": [value]})


@given(st.lists(st.none() | st.binary(min_size=16, max_size=16), max_size=20), st.integers(0, 5))
def test_halves_of_record_ids_sort_like_the_ids(ids: list[bytes | None], start: int) -> None:
    column = pa.chunked_array([pa.array(ids, pa.binary()), pa.array(ids, pa.binary()).slice(start)])
    high, low = record_halves(column)
    expected = [name or bytes(16) for name in [*ids, *ids[start:]]]
    assert [int(upper) << 64 | int(lower) for upper, lower in zip(high, low, strict=True)] == [
        int.from_bytes(name, "big") for name in expected
    ]


def test_an_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="widths must match"):
        record_halves(pa.chunked_array([pa.array([b"short"], pa.binary())]))
