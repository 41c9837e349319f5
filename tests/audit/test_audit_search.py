"""Queries of the look page: the same samples with the index of words and without, whatever the page size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imglish.audit.search import Query, Search
from imglish.audit.words import SPLIT, build_index, connect, words_in, words_path
from imglish.errors import ManifestError
from imglish.shards.manifest import load_manifest
from tests.audit.audit_helpers import corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"), shards=4, pairs=40, images=9)


@pytest.fixture(scope="module")
def search(manifest: Path) -> Iterator[Search]:
    found = Search(str(manifest))
    yield found
    found.close()


@pytest.fixture(scope="module")
def indexed(manifest: Path, search: Search) -> Iterator[Search]:
    assert search.index is None
    build_index(str(manifest))
    found = Search(str(manifest))
    assert found.index is not None
    yield found
    found.close()


def walked(search: Search, query: Query, count: int) -> list[tuple[int, str, str]]:
    """(shard, kind, key) of all pages."""
    found: list[Any] = []
    place: tuple[int, int] | None = (0, -1)
    while place is not None:
        page = search.samples(query, count, place)
        assert len(page.rows) <= count
        found += [(row["ordinal"], row["kind"], row["key"]) for row in page.rows]
        place = page.after
    return found


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_every_sample_is_on_one_page(search: Search, count: int) -> None:
    found = walked(search, Query(), count)
    assert len(found) == len(set(found)) == 40 + 9 + 5
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(kind="image"), 9),
        (Query(source="rare"), 10),
        (Query(language="fr"), 1),
        (Query(source="books", language="de"), 2),
        (Query(kind="image", source="rare"), 0),
        (Query(source="' OR 1=1 --"), 0),
    ],
)
def test_filters_leave_what_fits(search: Search, query: Query, expected: int) -> None:
    assert len(walked(search, query, 3)) == expected


def test_a_key_is_found_by_its_beginning(search: Search) -> None:
    key = walked(search, Query(), 100)[5][2]
    assert {found[2] for found in walked(search, Query(key=key[:9].upper()), 5)} == {key}


@pytest.mark.parametrize(
    "words",
    ["caption", "CAPTION 7", "17 caption", "alert", "ภาษาไทย", "שלום", "captio", "3 4", "(.*) caption 8", "%", ""],
)
@pytest.mark.parametrize("count", [1, 6, 1000])
def test_words_are_found_with_the_index_and_without(search: Search, indexed: Search, words: str, count: int) -> None:
    plain = walked(search, Query(words=words, source="drawn"), count)
    assert plain == walked(indexed, Query(words=words, source="drawn"), count)
    if words == "CAPTION 7":
        assert len(plain) == 1
    if words == "captio":
        assert plain == []


@pytest.mark.parametrize("text", ["हिन्दी में", "e\u0301te\u0301", "snake_case x²", "a\u200bb—c!", "ภาษาไทย १२"])
def test_words_are_cut_as_the_index_cuts_them(text: str) -> None:
    with connect() as duck:
        (cells,) = duck.execute(f"SELECT string_split_regex($1, '{SPLIT}')", [text]).fetchone()
    assert words_in(text) == [word for word in cells if word]


def test_the_index_holds_every_word_of_every_caption_once(manifest: Path, indexed: Search) -> None:
    table = pq.read_table(indexed.index).to_pylist()
    assert len(table) == len({tuple(row.values()) for row in table})
    assert table == sorted(table, key=lambda row: (row["word"].encode(), row["ordinal"], row["place"]))
    assert sum(row["word"] == "caption" for row in table) == 40


def test_an_index_of_another_corpus_is_not_used(manifest: Path, indexed: Search, tmp_path: Path) -> None:
    other = corpus(tmp_path, pairs=8)
    wrong = tmp_path / words_path(load_manifest(str(manifest)))
    wrong.parent.mkdir()
    wrong.write_bytes(Path(str(indexed.index)).read_bytes())
    found = Search(str(other))
    assert found.index is None
    found.close()


def test_a_story_and_a_rule_are_looked_up(search: Search) -> None:
    lost = search.decided("image_size@1", "", "drop", 100, 0)
    assert [row["row"] for row in lost] == ["0007", *(f"{n:04d}" for n in range(7))]
    assert search.decided("image_size@1", "", "drop", 3, 6) == lost[6:]
    assert search.decided("image_size@1", "drawn", "", 5, 0) == []
    story = search.story([("drawn", "0001"), ("images", "1001")])
    assert [row["verdict"] for row in story] == ["keep", "merge"]
    assert search.story([]) == []


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    path = corpus(tmp_path, pairs=6, images=2, texts=2)
    victim = sorted(tmp_path.glob("shards/*.parquet"))[0]
    victim.unlink()
    with pytest.raises(ManifestError, match=rf"{victim.name}\) is missing"):
        Search(str(path))
    with pytest.raises(ManifestError, match=rf"{victim.name}\) is missing"):
        build_index(str(path))
    assert not (tmp_path / "look").exists()
