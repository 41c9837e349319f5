"""Several corpora as one: an ordinary manifest over untouched shards, with its duplicates counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imglish.errors import ManifestError
from imglish.records import KINDS
from imglish.shards import open_corpus
from imglish.shards.manifest import load_manifest
from imglish.shards.merge import merge
from imglish.shards.recode import recode
from imglish.shards.tombstones import tombstone
from imglish.shards.verify import verify
from tests.shards.changed_helpers import Colours, keys_of, packed, reference_samples
from tests.shards.corpus_helpers import facts
from tests.shards.pack_helpers import PlainEngine, Tables, recipe


def tables(numbers: range, split: str = "train") -> list[Tables]:
    made, wanted = Tables(), recipe()
    for number in numbers:
        made.add_image(number, wanted, [f"caption of {number}"] if number % 2 else None, split=split)
        made.add_text(number, split=split)
    return [made]


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """Two corpora that share two pictures and two texts; one of each is in another split in the second."""
    second = tables(range(8, 14))[0]
    for row in (*second.members, *second.images, *second.documents):
        if row["record_id"] == second.images[0]["record_id"]:
            row["split"] = "validation"
    one = packed(tmp_path / "one", recipe(train_shards=2), tables(range(10)))
    return [one, packed(tmp_path / "two", recipe(), [second], drops={"image_size@1": 3})]


def test_the_whole_has_every_sample_of_its_parts_and_verifies(parts: list[str], tmp_path: Path) -> None:
    held = [list(reference_samples(part)) for part in parts]
    merged = merge(str(tmp_path / "all.json"), parts, "all")
    manifest = load_manifest(str(tmp_path / "all.json"))
    assert manifest == merged.manifest
    whole = list(reference_samples(str(tmp_path / "all.json")))
    assert [(*s[:2], s[3]) for s in whole] == [(*s[:2], s[3]) for samples in held for s in samples]
    pictures = [key for _, kind, key, _ in whole if kind != "text"]
    assert pictures == [key for samples in held for _, kind, key, _ in samples if kind != "text"]
    assert verify(str(tmp_path / "all.json")) == []
    corpora = [open_corpus(path) for path in (*parts, str(tmp_path / "all.json"))]
    for kind in (*KINDS, "captions"):
        assert corpora[2].counts[kind] == corpora[0].counts[kind] + corpora[1].counts[kind]


def test_parts_say_which_ordinals_are_whose_and_what_they_were(parts: list[str], tmp_path: Path) -> None:
    manifest = merge(str(tmp_path / "all.json"), parts, "all", "7").manifest
    assert [(part.path, part.first, part.shards) for part in manifest.parts] == [
        ("one/manifest.json", 0, 3),
        ("two/manifest.json", 3, 4),
    ]
    assert [part.digest for part in manifest.parts] == [load_manifest(part).digest for part in parts]
    assert (manifest.name, manifest.version, manifest.parent) == ("all", "7", None)
    assert manifest.drops == {"two/image_size@1": 3}
    assert set(manifest.sources) == {"one/drawn", "two/drawn"} and set(manifest.recipe) == {"one", "two"}
    assert manifest.shards[4].path.startswith("two/shards/")
    assert manifest.shards[4].metadata.path.startswith("two/shards/")


def test_duplicates_are_counted_exactly_and_shown(parts: list[str], tmp_path: Path) -> None:
    merged = merge(str(tmp_path / "all.json"), parts, "all")
    assert (merged.records, merged.split_conflicts) == (4, 1)
    assert merged.manifest.duplicates is not None
    assert merged.manifest.duplicates.model_dump() == {"records": 4, "split_conflicts": 1}
    assert list(merged.examples) == sorted(merged.examples) and len(merged.examples) == 4
    assert set(map(tuple, merged.examples.values())) == {("one", "two")}
    images = [set(keys_of(list(reference_samples(part)), "image")) for part in parts]
    pairs = [set(keys_of(list(reference_samples(part)), "pair")) for part in parts]
    assert {*(images[0] & images[1]), *(pairs[0] & pairs[1])} < set(merged.examples)


def test_parts_that_differ_in_making_are_refused_field_by_field(tmp_path: Path, parts: list[str]) -> None:
    other = facts()["tokenizers"]
    other["visual"] = {**other["visual"], "digest": "9" * 64, "codes": 128}
    third = packed(tmp_path / "three", tables=tables(range(20, 22)), tokenizers=other, views={"count": 4})
    with pytest.raises(ManifestError) as caught:
        merge(str(tmp_path / "all.json"), [parts[0], third], "all")
    message = str(caught.value)
    assert "tokenizers.visual.codes is 64 in one/manifest.json and 128 in three/manifest.json" in message
    assert "tokenizers.visual.digest" in message and "views.count is 2" in message
    assert "tokenizers.text" not in message and ".path" not in message
    assert not (tmp_path / "all.json").exists()


def test_a_part_must_lie_below_the_whole_once_and_alone(parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ManifestError, match=r"does not lie below .* folder above all parts"):
        merge(str(tmp_path / "elsewhere" / "all.json"), parts, "all")
    with pytest.raises(ManifestError, match=r"is the same corpus as one/manifest\.json"):
        merge(str(tmp_path / "all.json"), [parts[0], parts[0]], "all")
    with pytest.raises(ManifestError, match="at least two parts"):
        merge(str(tmp_path / "all.json"), parts[:1], "all")
    shutil.copy(parts[1], tmp_path / "one" / "other.json")
    with pytest.raises(ManifestError, match="share a folder"):
        merge(str(tmp_path / "all.json"), [parts[0], str(tmp_path / "one" / "other.json")], "all")


def test_slabs_and_tombstones_of_the_parts_come_along(parts: list[str], tmp_path: Path) -> None:
    for part in parts:
        recode(part, Colours(), PlainEngine())
    image = keys_of(list(reference_samples(parts[1])), "image")[0]
    tombstone(parts[1], [image])
    held = [list(reference_samples(part)) for part in parts]
    manifest = merge(str(tmp_path / "all.json"), parts, "all").manifest
    assert min(stone["shard"] for stone in manifest.tombstones) >= 3
    whole = list(reference_samples(str(tmp_path / "all.json")))
    assert [s[3] for s in whole] == [s[3] for samples in held for s in samples]
    assert [f for f in verify(str(tmp_path / "all.json")) if "imglish gc" not in f.problem] == []


def test_a_merged_corpus_can_be_a_part_and_lose_samples(parts: list[str], tmp_path: Path) -> None:
    merge(str(tmp_path / "all.json"), parts, "all")
    third = packed(tmp_path / "three", tables=tables(range(30, 33)))
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner"
    for name in ("one", "two"):
        shutil.move(str(tmp_path / name), str(inner / name))
    shutil.move(str(tmp_path / "all.json"), str(inner / "all.json"))
    manifest = merge(str(tmp_path / "more.json"), [str(inner / "all.json"), third], "more").manifest
    assert [part.shards for part in manifest.parts] == [7, 4]
    assert verify(str(tmp_path / "more.json")) == []
    image = keys_of(list(reference_samples(str(tmp_path / "more.json"))), "image")[0]
    removed = tombstone(str(tmp_path / "more.json"), [image]).manifest
    assert len(removed.parts) == 2 and removed.parent is not None
    assert image not in keys_of(list(reference_samples(str(tmp_path / "more.json"))), "image")


def test_a_part_that_was_changed_afterwards_is_a_fault(parts: list[str], tmp_path: Path) -> None:
    merge(str(tmp_path / "all.json"), parts, "all")
    tombstone(parts[1], [keys_of(list(reference_samples(parts[1])), "image")[0]])
    faults = [fault for fault in verify(str(tmp_path / "all.json")) if "imglish gc" not in fault.problem]
    assert [(fault.shard, "merged as" in fault.problem) for fault in faults] == [("two/manifest.json", True)]
    Path(parts[1]).unlink()
    assert any("no manifest" in fault.problem for fault in verify(str(tmp_path / "all.json")))
