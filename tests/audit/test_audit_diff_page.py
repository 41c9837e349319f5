"""The page of a diff: distances, reasons and pictures, for two corpora of which one lost and gained samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.audit.diff_page import diff_page
from imglish.audit.distance import kolmogorov, total_variation
from imglish.errors import ManifestError
from tests.audit.audit_helpers import HOSTILE, corpus

COUNTS = st.dictionaries(st.integers(0, 30), st.integers(1, 50), max_size=8)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("two")
    return str(corpus(folder / "old", pairs=24, images=6)), str(corpus(folder / "new", pairs=30, images=3))


def test_the_page_shows_what_moved_and_how_far(two: tuple[str, str], tmp_path: Path) -> None:
    found = diff_page(*two, str(tmp_path / "diff.html"))
    text = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert found["distances"]["pairs.licence"]["measure"] == "total variation"
    assert 0 < found["distances"]["codes"]["distance"] < 1
    assert found["distances"]["lengths.document_ids"]["distance"] == 0
    assert sum(row["count"] for row in found["samples"]["added"]) == 6 + 3
    assert text.count("<img ") == 11
    assert HOSTILE[0] not in text
    assert "<script" not in text


def test_the_same_corpora_give_the_same_page(two: tuple[str, str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        diff_page(*two, str(tmp_path / f"{name}.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_corpus_beside_itself_is_no_distance_away(two: tuple[str, str], tmp_path: Path) -> None:
    found = diff_page(two[0], two[0], str(tmp_path / "diff.html"))
    assert {one["distance"] for one in found["distances"].values()} == {0.0}
    assert "The same corpus." in (tmp_path / "diff.html").read_text(encoding="utf-8")


def test_nothing_is_written_when_a_table_is_missing(tmp_path: Path) -> None:
    path = corpus(tmp_path / "corpus", pairs=6, images=2, texts=2)
    sorted(path.parent.glob("shards/*.parquet"))[0].unlink()
    with pytest.raises(ManifestError, match="is missing"):
        diff_page(str(path), str(path), str(tmp_path / "diff.html"))
    assert not (tmp_path / "diff.html").exists()


@given(COUNTS, COUNTS, st.integers(1, 9))
def test_distances_are_between_shares(old: dict[int, int], new: dict[int, int], times: int) -> None:
    for measure in (total_variation, kolmogorov):
        assert 0 <= measure(old, new) == measure(new, old) <= 1
        assert measure(old, {value: count * times for value, count in old.items()}) == 0


def test_distances_of_what_shares_nothing_are_one() -> None:
    assert total_variation({"a": 5}, {"b": 1}) == kolmogorov({1: 5}, {2: 1}) == 1.0
    assert total_variation({"en": 3, "de": 1}, {"en": 1, "de": 1}) == 0.25
    assert total_variation(Counter(), {"a": 1}) == 1.0
