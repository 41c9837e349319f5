"""Measures over a whole buffer equal the same measures written out plainly for one text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.ingest.measures.spans import Texts
from imglish.ingest.measures.texts import TEXT, measure_texts
from tests.ingest.plain_measures import plain

PIECES = [
    "the", "be", "to", "of", "naïve", "日本", "a", "hash#", "it's", "…", "x.y", "foo_bar", " ", "-", "\n", "\n\n", "•",
    "don't", "...", "ein,zwei", "*", " ", "end.", "\t", "\u02bc", "\U0001d4b3", "3.14", "\r\n", "'", '"', "!", "\n-",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=60).flatmap(
    lambda pieces: st.sampled_from(["", " "]).map(lambda blank: blank.join(pieces))
)


def words_of(found: Texts, kind: str) -> list[list[str]]:
    spans = getattr(found, kind)
    cut = [found.raw[a:b].decode() for a, b in zip(spans.starts, spans.ends, strict=True)]
    return [cut[a:b] for a, b in zip(spans.bounds[:-1], spans.bounds[1:], strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6))
def test_every_count_is_what_plain_python_counts(documents: list[str]) -> None:
    found = Texts([document.encode() for document in documents])
    assert words_of(found, "words") == [document.split() for document in documents]
    assert words_of(found, "lines") == [document.split("\n") for document in documents]
    rows = measure_texts([document.encode() for document in documents]).to_pylist()
    for document, tokens, row in zip(documents, words_of(found, "tokens"), rows, strict=True):
        assert "".join(tokens) == "".join(document.split())
        wanted = plain(document, tokens)
        assert {name: row[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's a test -- of U.S. trade.", "It|'s|a|test|--|of|U.S|.|trade|."),
        ("3.14 foo_bar, http://a.b/c", "3.14|foo_bar|,|http|:|//|a.b|/|c"),
        ("“quoted” end...", "“|quoted|”|end|..."),
        ("naïve 日本。", "naïve|日本|。"),
    ],
)
def test_tokens_part_punctuation_from_words(text: str, tokens: str) -> None:
    assert words_of(Texts([text.encode()]), "tokens") == [tokens.split("|")]


def test_equal_words_have_equal_hashes_wherever_they_stand() -> None:
    found = Texts([b"one two one", b"", b"two three", b"eno"])
    hashes = found.hashes(found.words).tolist()
    assert hashes[0] == hashes[2] and hashes[1] == hashes[3] and len(set(hashes)) == 4


def test_nothing_to_measure_gives_an_empty_table_and_zeros() -> None:
    assert measure_texts([]).num_rows == 0
    (row,) = measure_texts([b""]).to_pylist()
    assert row["text_words"] == row["tokens"] == row["dup_5_copies"] == 0 and row["word_length_median"] == 0
    assert measure_texts([b"a"] * 3).schema == TEXT


def test_a_document_measures_the_same_alone_and_among_others() -> None:
    rng = np.random.default_rng(3)
    documents = [" ".join(rng.choice(PIECES, 80)).encode() for _ in range(20)]
    together = measure_texts(documents).to_pylist()
    assert together == [row for document in documents for row in measure_texts([document]).to_pylist()]
