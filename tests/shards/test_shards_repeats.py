"""Repeat factors are index rows onto the same members; the layout of shards changes no sample."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.errors import RecipeError
from imglish.records import SPLITS
from imglish.shards import format as fmt
from imglish.shards import open_corpus
from imglish.shards.manifest import load_manifest
from imglish.shards.pack import pack
from imglish.shards.verify import verify
from imglish.storage import Store
from tests.shards.changed_helpers import packed, reference_samples, text_ids
from tests.shards.pack_helpers import PlainEngine, Tables, mixed_tables, recipe, store_with


def two_sources(captions: int = 2) -> list[Tables]:
    """Five pictures of "web", and three of "album", one of which both have."""
    wanted, tables = recipe(), Tables()
    for number in range(5):
        tables.add_image(number, wanted, [f"caption {c} of {number}" for c in range(captions)])
    tables.add_image(0, wanted, ["elsewhere"], source="album", priority=1, merged=True)
    for number in (10, 11):
        tables.add_image(number, wanted, source="album")
    tables.add_text(1)
    return [tables]


def with_album(**repeat: int):  # type: ignore[no-untyped-def]
    wanted = recipe(train_shards=2)
    album = wanted.source[0].model_copy(update={"name": "album", "kind": "image"})
    pack_config = wanted.pack.model_copy(update={"repeat": repeat})
    return wanted.model_copy(update={"source": (*wanted.source, album), "pack": pack_config})


def test_rows_repeat_onto_the_same_members_by_the_largest_factor_of_the_sources(tmp_path: Path) -> None:
    path = packed(tmp_path, with_album(album=3, web=2), two_sources())
    manifest, corpus = load_manifest(path), open_corpus(path)
    assert manifest.counts["train"] == {"pair": 3 + 4 * 2, "image": 2 * 3, "text": 2, "captions": 3 * 3 + 4 * 2 * 2}
    distinct = {kind: sum(shard.distinct[kind] for shard in manifest.shards) for kind in manifest.shards[0].distinct}
    assert distinct == {"pair": 5, "image": 2, "text": 2, "captions": 3 + 4 * 2}
    assert len({sample.key for sample in corpus["pair"]}) == 5
    rows = np.concatenate([corpus.index("image", ordinal) for ordinal, _ in corpus.sections("image")])
    assert len(np.unique(rows)) == 2, "rows of one sample are equal"
    assert verify(path) == []


def test_factors_change_rows_but_neither_members_nor_metadata(tmp_path: Path) -> None:
    once = load_manifest(packed(tmp_path / "a", with_album(), two_sources()))
    often = load_manifest(packed(tmp_path / "b", with_album(album=3), two_sources()))
    for left, right in zip(once.shards, often.shards, strict=True):
        assert left.metadata.digest == right.metadata.digest
        assert left.distinct == right.distinct
        for kind in ("pair", "image"):
            section = left.sections[kind]
            assert section.bytes == right.sections[kind].bytes
            data = [(tmp_path / n / s.path).read_bytes() for n, s in (("a", left), ("b", right))]
            end = section.offset + section.bytes
            assert data[0][section.offset : end] == data[1][section.offset : end]
    assert once.data_digest != often.data_digest


def test_another_factor_is_another_unit(tmp_path: Path) -> None:
    store, inputs = store_with(tmp_path, two_sources())
    first = pack(store, PlainEngine(), with_album(), inputs, {})
    engine = PlainEngine()
    second = pack(store, engine, with_album(web=2), inputs, {})
    assert engine.reduced == [0, 1, 2]
    assert {receipt.unit for receipt in first}.isdisjoint(receipt.unit for receipt in second)


def test_kinds_and_languages_have_factors_too_and_the_largest_counts(tmp_path: Path) -> None:
    repeat = {"album": 2, "kind=image": 4, "language=en": 3, "language=de": 5}
    manifest = load_manifest(packed(tmp_path, with_album(**repeat), two_sources()))
    assert manifest.counts["train"] == {"pair": 5 * 3, "image": 2 * 4, "text": 2, "captions": (3 + 4 * 2) * 3}


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        ({"wbe": 2}, "did you mean 'web'"),
        ({"kind=text": 2}, "is no source, kind or language"),
        ({"web": 0}, "greater than or equal to 1"),
        ({"web": 1.5}, "integer"),
    ],
)
def test_a_wrong_factor_is_refused_with_the_way_out(repeat: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(repeat=repeat)


def test_a_source_of_text_is_not_repeated() -> None:
    from imglish.recipe import make_recipe

    source = {"name": "books", "format": "text", "kind": "text", "path": "."}
    with pytest.raises(RecipeError, match="only pairs and images are repeated"):
        make_recipe({"name": "small", "source": [source], "pack": {"repeat": {"books": 2}}})


def test_a_repeated_row_that_differs_from_its_first_is_named(tmp_path: Path) -> None:
    """Such a shard cannot come from our writer; here its index is made wrong and sound again."""
    from imglish.shards.verify_shard import check_shard

    path = packed(tmp_path, with_album(web=2), two_sources())
    manifest = load_manifest(path)
    shard = next(shard for shard in manifest.shards if shard.counts["pair"])
    section = shard.sections["pair"]
    data = bytearray(Store(tmp_path).read(shard.path))
    data[section.index_offset + 100 + 16] ^= 1
    raw = bytes(data[section.index_offset : section.index_offset + section.index_bytes])
    broken = section.model_copy(update={"index_crc32c": fmt.checksum(raw)})
    forged = shard.model_copy(update={"sections": {**shard.sections, "pair": broken}})
    faults = list(check_shard(bytes(data), 0, forged, 4))
    assert any(field == "jpg" and "repeats the row before it" in problem for _, field, problem in faults)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["pair", "image", "text"])), max_size=12, unique=True),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_by_kind_and_mixed_shards_hold_the_same_samples(
    rows: list[tuple[int, str]], mixed: int, apart: int, factor: int
) -> None:
    """For random corpora, numbers of shards and factors: equal samples, each as often, in the same splits."""
    wanted, tables = recipe(), Tables()
    seen: set[int] = set()
    for number, kind in rows:
        split = SPLITS[number % 3 == 0]
        if kind == "text":
            tables.add_text(number, 100 + 40 * number, split=split)
        elif number not in seen:
            seen.add(number)
            tables.add_image(number, wanted, [f"of {number}"] if kind == "pair" else None, split=split)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for layout, shards in (("mixed", mixed), ("by-kind", apart)):
            made = recipe(layout=layout, train_shards=shards, repeat={"web": factor})
            found.append(list(reference_samples(packed(Path(folder) / layout, made, [tables]))))
    pictures = [sorted((*s[:3], str(s[3])) for s in samples if s[1] != "text") for samples in found]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == factor * len(seen)
    for split in SPLITS:
        assert text_ids(found[0], split) == text_ids(found[1], split)


def test_mixed_tables_are_the_same_in_both_layouts(tmp_path: Path) -> None:
    found = []
    for layout in ("mixed", "by-kind"):
        path = packed(tmp_path / layout, recipe(layout=layout), mixed_tables(recipe()))
        found.append(sorted(str(sample) for sample in reference_samples(path) if sample[1] != "text"))
        assert verify(path) == []
    assert found[0] == found[1]
