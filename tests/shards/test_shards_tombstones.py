"""A removal empties samples, renumbers nothing, and leaves the corpus as if they had never been there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imglish.records import KINDS
from imglish.shards import format as fmt
from imglish.shards import open_corpus
from imglish.shards.manifest import load_manifest, reissue
from imglish.shards.metadata import METADATA
from imglish.shards.pack import pack
from imglish.shards.recode import recode
from imglish.shards.slabs import read_slab
from imglish.shards.tombstones import tombstone
from imglish.shards.verify import verify
from imglish.storage import Store
from tests.shards.changed_helpers import Colours, keys_of, packed, reference_samples
from tests.shards.pack_helpers import PlainEngine, mixed_tables, recipe, store_with


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    packed(root, recipe(repeat={"web": 2}))
    return root


@pytest.fixture
def path(built: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(built, tmp_path / "copy") / "manifest.json")


def clean(path: str) -> list[str]:
    """Faults other than the old files, which a removal leaves for collection."""
    return [str(fault) for fault in verify(path) if "imglish gc" not in fault.problem]


def documents(path: str) -> dict[str, int]:
    """Ids of every document by record id."""
    store, found = Store(Path(path).parent), {}
    for shard in load_manifest(path).shards:
        rows = store.read_table(shard.metadata.path).filter(pc.field("start").is_valid())
        found |= dict(zip(rows.column("key").to_pylist(), rows.column("length").to_pylist(), strict=True))
    return found


def test_other_samples_and_all_row_numbers_stay(path: str) -> None:
    before = list(reference_samples(path))
    old, base = load_manifest(path), open_corpus(path)
    rows = {kind: [base.index(kind, ordinal) for ordinal in range(4)] for kind in KINDS}
    gone = {keys_of(before, "pair")[0], keys_of(before, "image")[3]}
    removal = tombstone(path, gone)
    new, corpus = load_manifest(path), open_corpus(path)
    assert (removal.removed, removal.absent) == ({"pair": 1, "image": 1, "text": 0}, [])
    for left, right in zip(old.shards, new.shards, strict=True):
        assert [left.counts[kind] for kind in KINDS] == [right.counts[kind] for kind in KINDS]
    for kind in ("pair", "image"):
        for ordinal in range(4):
            now = corpus.index(kind, ordinal)
            assert (now["key"] == rows[kind][ordinal]["key"]).all()
            flagged = [bytes(key).hex() in gone for key in now["key"]]
            assert (now["flags"] == np.where(flagged, fmt.TOMBSTONE, 0)).all()
    after = [sample for sample in reference_samples(path) if sample[1] != "text"]
    assert after == [sample for sample in before if sample[1] != "text" and sample[2] not in gone]
    assert new.tombstones == removal.manifest.tombstones
    assert len(new.tombstones) == 4, "both rows of both samples, as every sample repeats once"
    assert clean(path) == []


def test_the_manifest_names_its_parent_and_changed_shards_only_get_a_new_digest(path: str) -> None:
    before = load_manifest(path)
    image = keys_of(list(reference_samples(path)), "image")[0]
    removal = tombstone(path, [image.upper()])
    after = load_manifest(path)
    assert after.parent is not None and after.parent.model_dump() == {
        "data_digest": before.data_digest,
        "tombstones": 0,
    }
    changed = {n for n, (a, b) in enumerate(zip(before.shards, after.shards, strict=True)) if a.sha256 != b.sha256}
    assert changed == {stone["shard"] for stone in after.tombstones} and len(changed) == 1
    old = before.shards[changed.pop()]
    assert removal.replaced == sorted([old.path, old.metadata.path])
    assert all((Path(path).parent / name).exists() for name in removal.replaced), "left for collection"


def test_a_second_removal_keeps_the_first_and_says_how_many_the_parent_had(path: str) -> None:
    images = sorted(set(keys_of(list(reference_samples(path)), "image")))
    first = tombstone(path, images[-1:]).manifest
    second = tombstone(path, [images[0], images[-1]])
    assert second.removed["image"] == 1
    assert second.absent == images[-1:], "it has been removed already"
    assert second.manifest.tombstones[:2] == first.tombstones
    assert second.manifest.parent is not None
    assert second.manifest.parent.model_dump() == {"data_digest": first.data_digest, "tombstones": 2}
    assert clean(path) == []


def test_ids_of_a_removed_document_become_padding_and_empty_blocks_are_flagged(path: str) -> None:
    corpus = open_corpus(path)
    before = {n: corpus.read_blocks(n, range(rows)) for n, rows in corpus.sections("text")}
    lengths = documents(path)
    removal = tombstone(path, list(lengths))
    assert removal.removed["text"] == len(lengths)
    after = open_corpus(path)
    for ordinal, blocks in before.items():
        assert (after.read_blocks(ordinal, range(len(blocks))) == fmt.PAD).all()
        assert (after.index("text", ordinal)["flags"] == fmt.TOMBSTONE).all()
    assert [sample for sample in reference_samples(path) if sample[1] == "text"] == []
    assert after.counts["text"] == corpus.counts["text"]
    assert sum(shard.distinct["text"] for shard in after.manifest.shards) == 0
    assert clean(path) == []


def test_a_document_goes_without_its_neighbours(path: str) -> None:
    lengths = documents(path)
    key = sorted(lengths)[4]
    before = [sample[3]["ids"] for sample in reference_samples(path) if sample[1] == "text"]
    tombstone(path, [key])
    after = [sample[3]["ids"] for sample in reference_samples(path) if sample[1] == "text"]
    pads = [sum(ids.count(fmt.PAD) for ids in blocks) for blocks in (before, after)]
    assert pads[1] - pads[0] == lengths[key]
    differing = [(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True) if a != b]
    assert len(differing) == lengths[key] and all(new == fmt.PAD for _, new in differing)
    assert key not in documents(path)


def test_samples_are_found_by_what_their_metadata_says(path: str) -> None:
    texts = len(documents(path))
    removal = tombstone(path, where=(pc.field("source") == "album") | (pc.field("language") == "de"))
    assert removal.removed == {"pair": 1, "image": 0, "text": texts}
    assert clean(path) == []


def test_metadata_is_what_it_would_be_without_the_samples(tmp_path: Path) -> None:
    """Equal to packing tables that never had them, places of documents aside."""
    wanted = recipe()
    tables = mixed_tables(wanted)
    path = packed(tmp_path / "a", wanted, tables)
    keys = {row["record_id"] for table in tables for row in table.members[::3]}
    tombstone(path, [key.hex() for key in keys])
    for table in tables:
        for name, rows in vars(table).items():
            setattr(table, name, [row for row in rows if row["record_id"] not in keys])
    store, inputs = store_with(tmp_path / "b", tables)
    receipts = pack(store, PlainEngine(), wanted, inputs, {})
    columns = [name for name in METADATA.names if name != "start"]
    for shard, receipt in zip(load_manifest(path).shards, receipts, strict=True):
        left = Store(tmp_path / "a").read_table(shard.metadata.path, columns)
        assert left.equals(store.read_table(receipt.outputs["metadata"].path, columns))
        assert {k: shard.distinct[k] for k in ("pair", "image", "captions")} == {
            k: receipt.notes["distinct"][k] for k in ("pair", "image", "captions")
        }


def test_codes_of_removed_samples_leave_the_slabs_too(path: str) -> None:
    recode(path, Colours(), PlainEngine())
    image = keys_of(list(reference_samples(path)), "image")[0]
    tombstone(path, [image])
    manifest, store = load_manifest(path), Store(Path(path).parent)
    rows = {(stone["shard"], stone["kind"], stone["row"]) for stone in manifest.tombstones}
    for slab in manifest.slabs:
        codes = read_slab(store, slab)
        for row in range(slab["rows"]):
            assert codes[row].any() == ((slab["shard"], slab["kind"], row) not in rows)
    assert clean(path) == []


def test_unknown_keys_change_nothing_and_what_is_no_key_is_refused(path: str) -> None:
    before = Path(path).read_bytes()
    removal = tombstone(path, ["00" * 16])
    assert removal.absent == ["00" * 16] and removal.replaced == []
    assert Path(path).read_bytes() == before
    with pytest.raises(ValueError, match="is no record id"):
        tombstone(path, ["abc"])


def test_the_new_manifest_can_be_written_beside_the_old_one(path: str) -> None:
    before = Path(path).read_bytes()
    image = keys_of(list(reference_samples(path)), "image")[0]
    tombstone(path, [image], output="manifest-2.json")
    assert Path(path).read_bytes() == before
    other = str(Path(path).with_name("manifest-2.json"))
    assert image not in keys_of(list(reference_samples(other)), "image")
    assert image in keys_of(list(reference_samples(path)), "image"), "the parent still reads its own shards"


KILLED = """
import os, signal, sys
from imglish.shards.tombstones import tombstone
from imglish.storage import Store
left = int(sys.argv[3])
real = Store._publish
def publish(self, temporary, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    real(self, temporary, target)
Store._publish = publish
tombstone(sys.argv[1], sys.argv[2].split(","))
"""


def test_a_killed_removal_has_done_nothing_and_can_be_repeated(path: str) -> None:
    """SIGKILL just before each file is published in turn: tar, table, manifest."""
    before = Path(path).read_bytes()
    keys = keys_of(list(reference_samples(path)), "image")[0]
    root = Path(__file__).parents[2]
    for files in range(100):
        command = [sys.executable, "-c", KILLED, path, keys, str(files)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        assert Path(path).read_bytes() == before
        assert clean(path) == []
    assert files == 3
    assert clean(path) == []
    assert not set(keys.split(",")) & set(keys_of(list(reference_samples(path)), "image"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 200), max_size=6), min_size=1, max_size=3))
def test_any_removals_in_any_steps_leave_exactly_the_other_samples(
    built: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[set[int]]
) -> None:
    path = str(shutil.copytree(built, tmp_path_factory.mktemp("steps") / "copy") / "manifest.json")
    before = list(reference_samples(path))
    known = sorted({key for _, kind, key, _ in before if kind != "text"} | set(documents(path)))
    gone: set[str] = set()
    for step in steps:
        keys = {known[number % len(known)] for number in step}
        tombstone(path, keys)
        gone |= keys
    assert [s for s in reference_samples(path) if s[1] != "text"] == [
        s for s in before if s[1] != "text" and s[2] not in gone
    ]
    assert set(documents(path)).isdisjoint(gone)
    assert clean(path) == []


def test_tombstones_that_the_shards_do_not_have_are_faults(path: str) -> None:
    manifest = load_manifest(path)
    forged = reissue(manifest, tombstones=[{"shard": 1, "kind": "pair", "row": 0}])
    Path(path).write_bytes(forged.to_json())
    (fault,) = verify(path)
    assert (fault.shard, fault.field) == (manifest.shards[1].path, "flags")
    assert fault.sample is not None and fault.sample.startswith("p/")
    image = keys_of(list(reference_samples(path)), "image")[0]
    removed = tombstone(path, [image], output="x.json").manifest
    stones = [stone for stone in removed.tombstones if stone["kind"] == "pair"]
    Path(path).write_bytes(reissue(removed, tombstones=stones).to_json())
    assert {fault.sample for fault in verify(path) if fault.field == "flags"} >= {f"i/{image}"}


def test_a_manifest_with_impossible_tombstones_is_refused(path: str) -> None:
    from imglish.errors import ManifestError

    plain = load_manifest(path)
    for stones, message in (
        ([{"shard": 9, "kind": "pair", "row": 0}], "there is no such row"),
        ([{"shard": 0, "kind": "pair", "row": 10**6}], "there is no such row"),
        ([{"shard": 0, "kind": "pair", "row": 0}] * 2, "two tombstones"),
        ([{"shard": 0, "kind": "pair", "row": 0, "x": 1}], "tombstones.0.x"),
    ):
        with pytest.raises(ManifestError, match=message):
            reissue(plain, tombstones=stones)
