"""Slabs: other codes for the same pixels, found by readers, verified to the row, switched without a rewrite."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.errors import ManifestError, ShardError
from imglish.shards import format as fmt
from imglish.shards import open_corpus, render
from imglish.shards.manifest import Slab, VisualTokenizer, load_manifest, reissue
from imglish.shards.metadata import METADATA
from imglish.shards.recode import recode
from imglish.shards.slabs import read_slab, use_codes, write_slab
from imglish.shards.tombstones import tombstone
from imglish.shards.verify import verify
from imglish.storage import Store
from tests.shards.changed_helpers import Colours, keys_of, packed, reference_samples
from tests.shards.corpus_helpers import numbers
from tests.shards.pack_helpers import PlainEngine, recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    packed(root, recipe(repeat={"web": 2}))
    return root


@pytest.fixture
def path(built: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(built, tmp_path / "copy") / "manifest.json")


def clean(path: str) -> list[str]:
    return [str(fault) for fault in verify(path) if "imglish gc" not in fault.problem]


def codes_of(path: str) -> dict[tuple[str, str], tuple[int, ...]]:
    return {(kind, key): values["codes"] for _, kind, key, values in reference_samples(path) if kind != "text"}


def code_counts(path: str) -> dict[tuple[str, int], int]:
    """Histogram of codes over all metadata tables, by kind."""
    store, found = Store(Path(path).parent), {}
    for shard in load_manifest(path).shards:
        rows = store.read_table(shard.metadata.path, METADATA.names).filter(pc.field("name") == "codes")
        for row in rows.to_pylist():
            place = (row["kind"], row["value"])
            found[place] = found.get(place, 0) + row["count"]
    return found


def test_recoding_encodes_every_view_of_every_image_as_the_loader_renders_it(path: str) -> None:
    encoder = Colours(size=24, patch=8)
    before = load_manifest(path)
    manifest = recode(path, encoder, PlainEngine(), batch=7)
    found = codes_of(path)
    for split in ("train", "validation"):
        corpus = open_corpus(path, split)
        for kind in ("pair", "image"):
            for sample in corpus[kind]:
                views = np.stack([render(sample.jpeg, view, encoder.size) for view in sample.views])
                assert found[kind, sample.key] == tuple(encoder.encode(views).reshape(-1).tolist())
    assert [shard.sha256 for shard in manifest.shards] == [shard.sha256 for shard in before.shards]
    assert manifest.tokenizers.visual.digest == encoder.digest and manifest.tokenizers.visual.grid == (3, 3)
    assert {shard.tokenizer for shard in manifest.shards} == {before.tokenizers.visual.digest}
    assert manifest.data_digest != before.data_digest
    assert clean(path) == []


def test_codes_do_not_depend_on_what_is_removed_or_repeated(path: str, tmp_path: Path) -> None:
    whole = codes_of(path) and recode(path, Colours(), PlainEngine()) and codes_of(path)
    gone = sorted(key for _, key in whole)[::3]
    tombstone(path, gone)
    left = codes_of(path)
    assert left == {place: codes for place, codes in whole.items() if place[1] not in gone}
    again = packed(tmp_path / "again", recipe())
    tombstone(again, gone)
    recode(again, Colours(), PlainEngine())
    assert codes_of(again) == left
    assert clean(again) == []


def test_a_second_run_encodes_nothing(path: str) -> None:
    class Counting(Colours):
        runs = 0

        def encode(self, images: Any) -> Any:
            type(self).runs += 1
            return super().encode(images)

    first = recode(path, Counting(), PlainEngine())
    runs = Counting.runs
    assert recode(path, Counting(), PlainEngine()) == first
    assert Counting.runs == runs > 0


def test_histograms_follow_the_active_codes_and_going_back_is_exact(path: str) -> None:
    before, counts = load_manifest(path), code_counts(path)
    manifest = recode(path, Colours(), PlainEngine())
    expected: dict[tuple[str, int], int] = {}
    for (kind, _), codes in codes_of(path).items():
        for code in codes:
            expected[kind, code] = expected.get((kind, code), 0) + 1
    assert code_counts(path) == expected != counts
    store = Store(Path(path).parent)
    back = use_codes(store, manifest, before.tokenizers.visual.digest)
    store.put_as("manifest.json", back.to_json())
    assert back.data_digest == before.data_digest
    assert [s.metadata.digest for s in back.shards] == [s.metadata.digest for s in before.shards]
    assert back.digest != before.digest, "the slabs are still here"
    assert code_counts(path) == counts
    assert clean(path) == []


def test_three_tokenizers_can_stand_side_by_side(path: str) -> None:
    first = recode(path, Colours(1), PlainEngine())
    codes = codes_of(path)
    second = recode(path, Colours(2), PlainEngine())
    assert len(second.slabs) == 2 * len(first.slabs)
    assert {slab["tokenizer"] for slab in second.slabs if slab["active"]} == {Colours(2).digest}
    store = Store(Path(path).parent)
    store.put_as("manifest.json", use_codes(store, second, Colours(1).digest).to_json())
    assert codes_of(path) == codes
    assert load_manifest(path).data_digest == first.data_digest
    assert clean(path) == []
    with pytest.raises(ManifestError, match="has no codes here; there are those of"):
        use_codes(store, second, "0" * 64)


def test_every_flipped_byte_of_a_slab_is_found_and_placed(path: str) -> None:
    manifest = recode(path, Colours(), PlainEngine())
    root = Path(path).parent
    slab = next(slab for slab in manifest.slabs if slab["kind"] == "image" and slab["rows"] > 2)
    keys = [bytes(row["key"]).hex() for row in open_corpus(path).index("image", slab["shard"])]
    file, width = root / slab["path"], 2 * slab["views"] * slab["codes_per_view"]
    whole = file.read_bytes()
    from imglish.shards.verify import Files, slab_faults

    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        row = place // width if place < width * slab["rows"] else (place - width * slab["rows"]) // 4
        (fault,) = slab_faults(Files(str(root)), slab, manifest)
        assert (fault.shard, fault.sample, fault.field) == (slab["path"], f"i/{keys[row]}", "codes")
    with pytest.raises(ShardError, match="row"):
        read_slab(Store(root), slab)
    file.write_bytes(whole[:-1])
    (fault,) = verify(path)
    assert "truncated" in fault.problem and fault.shard == slab["path"]
    file.unlink()
    (fault,) = verify(path)
    assert "missing" in fault.problem
    (file.parent / "stray.codes").write_bytes(b"")
    assert any(fault.shard == "stray.codes" for fault in verify(path))


TOKENIZER = VisualTokenizer(digest="5" * 64, type="codebook", codes=64, size=32, patch=16, grid=(2, 2), path=None)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (lambda n: [numbers(2, 4, high=64)] * (n - 1), r"rows of codes for \d+ index rows"),
        (lambda n: [numbers(2, 4, high=64)] * (n + 1), r"rows of codes for \d+ index rows"),
        (lambda n: [numbers(2, 5, high=64)] * n, r"row 0 is \(2, 5\); all must be \[K, 4\]"),
        (lambda n: [numbers(2, 4, high=64), numbers(3, 4, high=64)], r"row 1 is \(3, 4\)"),
        (lambda n: [np.full((2, 4), 64, np.uint16)] * n, "has code 64 of 64"),
    ],
)
def test_codes_that_do_not_fit_their_section_are_refused(path: str, codes: Any, message: str) -> None:
    shard = load_manifest(path).shards[0]
    with pytest.raises(ManifestError, match=message):
        write_slab(Store(Path(path).parent), 0, shard, "image", TOKENIZER, iter(codes(shard.counts["image"])))


def test_a_manifest_whose_slabs_do_not_fit_is_refused(path: str) -> None:
    manifest = recode(path, Colours(), PlainEngine())
    slabs = [dict(slab) for slab in manifest.slabs]

    def changed(**values: Any) -> list[dict[str, Any]]:
        return [slabs[0] | values, *slabs[1:]]

    for broken, message in (
        (slabs[1:], "has no pair codes of the active tokenizer"),
        (changed(rows=slabs[0]["rows"] + 1), "slab 0 has"),
        (changed(bytes=7), "slab 0 has"),
        (changed(active=False), "active=False"),
        (changed(tokenizer="7" * 64), "which tokenizers does not list"),
        ([slabs[0], *slabs], "ascending order"),
        (changed(shard=77), "ascending order|belongs to shard 77"),
        (changed(path="../x"), "relative"),
    ):
        with pytest.raises(ManifestError, match=message):
            reissue(manifest, slabs=broken)


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_a_slab_comes_back_from_its_bytes(rows: int, views: int, side: int, seed: int) -> None:
    import tempfile

    codes = numbers(rows, views, side * side, seed=seed, low=0, high=65_535)
    tokenizer = TOKENIZER.model_copy(update={"grid": (side, side), "codes": 65_535})
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        shard = _shard_with(rows)
        slab: Slab = write_slab(store, 3, shard, "pair", tokenizer, iter(codes))
        assert slab["bytes"] == rows * (2 * views * side * side + 4)
        assert (
            read_slab(store, slab).reshape(codes.shape if rows else (0,))
            == codes.reshape(codes.shape if rows else (0,))
        ).all()
        data = store.read(slab["path"])
        assert data[: codes.nbytes] == codes.astype("<u2").tobytes()
        assert [fmt.checksum(row.tobytes()) for row in codes] == np.frombuffer(data[codes.nbytes :], "<u4").tolist()


def _shard_with(rows: int) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(counts={"pair": rows}, path="shards/a.tar")


def test_keys_of_a_recoded_corpus_are_what_they_were(path: str) -> None:
    before = keys_of(list(reference_samples(path)), "pair")
    recode(path, Colours(), PlainEngine())
    assert keys_of(list(reference_samples(path)), "pair") == before
