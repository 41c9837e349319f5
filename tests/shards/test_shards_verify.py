"""Verify finds every flipped byte and says where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from imglish.shards import format as fmt
from imglish.shards import open_corpus
from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.pack import pack
from imglish.shards.verify import verify
from imglish.shards.verify_shard import check_shard
from imglish.storage import Store
from tests.shards.corpus_helpers import facts, small_corpus
from tests.shards.pack_helpers import PlainEngine, mixed_tables, recipe, store_with


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A packed corpus, whose metadata is real."""
    from imglish.shards.manifest import build_manifest

    root = tmp_path_factory.mktemp("corpus")
    wanted = recipe()
    store, inputs = store_with(root, mixed_tables(wanted))
    receipts = pack(store, PlainEngine(), wanted, inputs, {})
    manifest = build_manifest(receipts, name="small", version="1", **facts())
    store.put_as("manifest.json", manifest.to_json())
    return root, manifest


@pytest.fixture
def copy(built: tuple[Path, Manifest], tmp_path: Path) -> Path:
    return Path(shutil.copytree(built[0], tmp_path / "copy"))


def test_a_whole_corpus_has_no_fault(built: tuple[Path, Manifest]) -> None:
    seen: list[tuple[str, int, int]] = []
    assert verify(str(built[0] / "manifest.json"), 2, lambda *step: seen.append(step)) == []
    assert seen[-1] == ("verify", 8, 8)


def flipped(data: bytes, place: int, bit: int = 1) -> bytes:
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def test_any_flipped_byte_is_found_and_placed(built: tuple[Path, Manifest]) -> None:
    """Beyond SHA-256, which finds it anyhow: the structure itself tells where, for every kind of byte."""
    root, manifest = built
    shard = manifest.shards[0]
    data = (root / shard.path).read_bytes()
    assert list(check_shard(data, 0, shard, 4)) == []
    index = shard.sections["pair"].index_offset - fmt.INDEX_HEADER.itemsize - fmt.RECORD
    places = [*range(0, index, 97), *range(index, len(data), 3)]
    for place in places:
        faults = list(check_shard(flipped(data, place, 1 << place % 8), 0, shard, 4))
        assert faults, f"byte {place} of {len(data)}"


def test_a_flipped_byte_names_shard_sample_and_field(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    shard = corpus.manifest.shards[2]
    row = corpus.index("pair", 2)[1]
    path, key = copy / shard.path, bytes(row["key"]).hex()
    whole = path.read_bytes()
    for field in fmt.FIELDS["pair"]:
        offset = int(row[field]["offset"])
        for place, problem in ((offset, "crc32c"), (offset - 512, "tar header"), (offset - 200, "tar header")):
            path.write_bytes(flipped(whole, place))
            (fault,) = verify(str(copy / "manifest.json"))
            assert (fault.shard, fault.sample, fault.field) == (shard.path, f"p/{key}", field)
            assert problem in str(fault)


def test_a_flipped_block_padding_index_row_and_end_are_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    shard = corpus.manifest.shards[0]
    path = copy / shard.path
    whole = path.read_bytes()
    block, image = corpus.index("text", 0)[2], corpus.index("image", 0)[1]
    key = f"i/{bytes(image['key']).hex()}"
    rows = shard.sections["image"].index_offset + fmt.INDEX_ROW["image"].itemsize
    text_rows = shard.sections["text"].index_offset
    cases = [
        (int(block["offset"]) + 9, "000000/2", "ids"),
        (int(image["views"]["offset"] + image["views"]["length"]), key, "views"),
        (rows + 18, key, "jpg"),
        (rows + 3, key, "key"),
        (rows + fmt.INDEX_ROW["image"].itemsize - 2, key, "flags"),
        (text_rows + 16 + 9, "000000/1", "crc32c"),
        (shard.sections["pair"].index_offset - 30, fmt.INDEX_NAME, "rows"),
        (shard.sections["pair"].index_offset - 300, fmt.INDEX_NAME, "header"),
        (len(whole) - 1, None, "end"),
    ]
    for place, sample, field in cases:
        path.write_bytes(flipped(whole, place))
        (fault,) = verify(str(copy / "manifest.json"))
        assert (fault.sample, fault.field) == (sample, field)


def test_a_missing_a_truncated_a_longer_and_an_extra_shard_are_named(copy: Path) -> None:
    manifest = load_manifest(str(copy / "manifest.json"))
    missing, short, longer = (copy / shard.path for shard in manifest.shards[:3])
    missing.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    longer.write_bytes(longer.read_bytes() + b"\0")
    (copy / "shards" / "other.tar").write_bytes(b"")
    faults = {fault.shard: fault.problem for fault in verify(str(copy / "manifest.json"))}
    assert "missing" in faults[manifest.shards[0].path]
    assert "truncated" in faults[manifest.shards[1].path]
    assert "1 bytes follow its end" in faults[manifest.shards[2].path]
    assert "imglish gc" in faults["other.tar"]
    assert len(faults) == 4


def test_damaged_metadata_is_named(copy: Path) -> None:
    shard = load_manifest(str(copy / "manifest.json")).shards[0]
    path = copy / shard.metadata.path
    path.write_bytes(flipped(path.read_bytes(), 100))
    (fault,) = verify(str(copy / "manifest.json"))
    assert fault.shard == shard.metadata.path
    assert "sha256" in fault.problem


def test_a_shard_with_two_damaged_parts_still_gets_a_fault(built: tuple[Path, Manifest]) -> None:
    root, manifest = built
    shard = manifest.shards[0]
    data = (root / shard.path).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(200):
        places = generator.integers(0, len(data), 3)
        broken = data
        for place in places:
            broken = flipped(broken, int(place))
        assert list(check_shard(broken, 0, shard, 4))


def test_a_shard_whose_codes_do_not_fit_the_grid_is_a_fault(tmp_path: Path) -> None:
    small_corpus(tmp_path)
    manifest = load_manifest(str(tmp_path / "manifest.json"))
    data = Store(tmp_path).read(manifest.shards[0].path)
    assert any(field == "codes" for _, field, _ in check_shard(data, 0, manifest.shards[0], 9))
