"""Loading a corpus that changed: samples removed, codes beside the tars, samples that repeat."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from imglish.errors import OrderError, SampleError
from imglish.records import KINDS, Kind
from imglish.shards import Corpus, open_corpus
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.loader import Batch, Loader, corpus_order, validation_batches
from imglish.shards.order import batch_digest
from imglish.shards.recode import recode
from imglish.shards.tombstones import tombstone
from imglish.storage import Store
from tests.shards.changed_helpers import Colours, packed
from tests.shards.pack_helpers import PlainEngine, recipe

BATCH: dict[Kind, int] = dict.fromkeys(KINDS, 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    packed(root, recipe(repeat={"web": 2}))
    return root


@pytest.fixture
def path(built: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(built, tmp_path / "copy") / "manifest.json")


def take(corpus: Corpus, count: int, state: dict[str, Any] | None = None, **options: Any) -> list[Batch]:
    with Loader(corpus, **{"batch": BATCH, "workers": 0, **options}) as loader:
        if state is not None:
            loader.load_state_dict(state)
        return [next(loader) for _ in range(count)]


def state_after(corpus: Corpus, count: int) -> dict[str, Any]:
    with Loader(corpus, BATCH, workers=0) as loader:
        for _ in range(count):
            next(loader)
        return loader.state_dict()


def removed_of_each_kind(path: str) -> set[str]:
    """Remove a pair, an image and the documents of one shard; the keys of the rows that are gone."""
    corpus = open_corpus(path)
    table = Store(Path(path).parent).read_table(corpus.manifest.shards[1].metadata.path)
    documents = table.filter(pc.field("start").is_valid()).column("key").to_pylist()
    tombstone(path, [corpus["pair"][3].key, corpus["image"][2].key, *documents])
    after = open_corpus(path)
    stones = after.tombstones()
    assert {stone.kind for stone in stones} == set(KINDS)
    return {after.read(stone.kind, stone.shard, stone.row).key for stone in stones}  # type: ignore[call-overload]


def test_a_fresh_run_never_meets_what_was_removed_and_replaces_it_in_place(path: str) -> None:
    before = open_corpus(path)
    gone = removed_of_each_kind(path)
    after = open_corpus(path)
    replaced = 0
    for old, new in zip(take(before, 12), take(after, 12), strict=True):
        for kind in KINDS:
            assert not gone & set(new.keys[kind])
            for left, right in zip(old.keys[kind], new.keys[kind], strict=True):
                assert (left == right) == (left not in gone)
                replaced += left != right
        assert new.replaced == sum(left in gone for kind in KINDS for left in old.keys[kind])
    assert replaced


TOPOLOGIES: list[tuple[int, dict[str, Any]]] = [
    (1, {"workers": 0}),
    (1, {"workers": 3}),
    (2, {"workers": 1}),
    (4, {"workers": 2}),
    (2, {"workers": 2, "processes": True}),
]


def test_a_run_goes_on_over_a_removal_from_its_position_alike_on_every_topology(path: str) -> None:
    before = open_corpus(path)
    state, old = state_after(before, 3), take(before, 12)
    gone = removed_of_each_kind(path)
    after = open_corpus(path)
    expected = take(after, 9, state)
    assert [batch.position for batch in expected] == list(range(3, 12))
    for batch, plain in zip(expected, old[3:], strict=True):
        for kind in KINDS:
            for left, right in zip(plain.keys[kind], batch.keys[kind], strict=True):
                assert (left == right) == (left not in gone) and right not in gone
    for world_size, options in TOPOLOGIES:
        for rank in range(world_size):
            share = take(after, 9, state, rank=rank, world_size=world_size, **options)
            for part, whole in zip(share, expected, strict=True):
                assert part.digest == whole.digest
                assert all(part.keys[kind] == whole.keys[kind][rank::world_size] for kind in KINDS)


def test_what_goes_on_over_a_removal_can_be_stopped_and_goes_on_again(path: str) -> None:
    state = state_after(open_corpus(path), 3)
    removed_of_each_kind(path)
    after = open_corpus(path)
    expected = take(after, 6, state)
    with Loader(after, BATCH, workers=0) as loader:
        loader.load_state_dict(state)
        for _ in range(2):
            next(loader)
        later = loader.state_dict()
    assert later["data_digest"] == after.manifest.data_digest
    assert [batch.digest for batch in take(after, 4, later)] == [batch.digest for batch in expected[2:]]


def test_a_removal_after_a_removal_goes_on_from_the_parent_alone(path: str) -> None:
    first = open_corpus(path)
    keys = [first["image"][number].key for number in (0, 5)]
    tombstone(path, keys[:1])
    second = open_corpus(path)
    tombstone(path, keys[1:])
    third = open_corpus(path)
    batches = take(third, 6, state_after(second, 4))
    assert not set(keys) & {key for batch in batches for key in batch.keys["image"]}
    for corpus, state in ((third, state_after(first, 4)), (first, state_after(second, 4))):
        with pytest.raises(OrderError, match="data_digest was"):
            take(corpus, 1, state)


def test_lines_of_a_file_and_tombstones_hold_together(path: str) -> None:
    gone = removed_of_each_kind(path)
    corpus = open_corpus(path)
    stones = [stone for stone in corpus.tombstones() if stone.kind == "image"]
    ordinal, count = corpus.sections("image")[0]
    others = {Exclusion(0, "image", ordinal, row) for row in range(count)} - set(stones)
    lines = Exclusions([*sorted(others)[:4], stones[0]])
    keys = {bytes(corpus.index("image", x.shard)[x.row]["key"]).hex() for x in lines.lines}
    seen = {key for batch in take(corpus, 12, exclusions=lines) for key in batch.keys["image"]}
    assert not seen & (keys | gone) and seen


def test_an_order_made_for_replay_agrees_with_the_loader(path: str) -> None:
    removed_of_each_kind(path)
    corpus = open_corpus(path)
    order = corpus_order(corpus, BATCH)
    assert [batch.digest for batch in take(corpus, 4)] == [batch_digest(order.rows(step)) for step in range(4)]


def test_evaluation_leaves_out_what_was_removed_and_nothing_else_changes(path: str) -> None:
    def pictures(corpus: Corpus) -> dict[str, tuple[bytes, bytes]]:
        found = {}
        for batch in validation_batches(corpus, {"pair": 3, "image": 3}):
            for kind in batch.kinds:
                arrays = zip(batch.keys[kind], batch[kind].images, batch[kind].image_mask, strict=True)
                found |= {key: (image.tobytes(), mask.tobytes()) for key, image, mask in arrays}
        return found

    before = pictures(open_corpus(path, split="validation"))
    gone = sorted(before)[0]
    tombstone(path, [gone])
    after = pictures(open_corpus(path, split="validation"))
    assert gone not in after
    assert after == {key: picture for key, picture in before.items() if key != gone}


def test_a_removed_sample_reads_as_empty(path: str) -> None:
    corpus = open_corpus(path)
    key = corpus["pair"][3].key
    tombstone(path, [key])
    sample = open_corpus(path)["pair"][3]
    assert (sample.key, sample.jpeg, sample.captions, sample.ids) == (key, b"", [], [])
    assert sample.views.shape == (0, 5)


def test_a_sample_with_repeats_comes_that_often_in_every_epoch(built: Path) -> None:
    corpus = open_corpus(str(built / "manifest.json"))
    for kind in ("pair", "image"):
        rows = Counter(bytes(key).hex() for n, _ in corpus.sections(kind) for key in corpus.index(kind, n)["key"])
        assert set(rows.values()) == {2}
        count = sum(rows.values())
        batches = take(corpus, 2, batch={kind: count})
        assert [Counter(batch.keys[kind]) for batch in batches] == [rows, rows]


@pytest.fixture
def recoded(path: str) -> Iterator[tuple[str, Corpus]]:
    before = open_corpus(path)
    recode(path, Colours(salt=3), PlainEngine())
    yield path, before


def test_codes_come_from_the_active_slab(recoded: tuple[str, Corpus]) -> None:
    path, before = recoded
    corpus = open_corpus(path)
    assert corpus.manifest.slabs and not before.manifest.slabs
    encoder = Colours(salt=3)
    assert corpus["image"][1].jpeg == before["image"][1].jpeg
    assert not np.array_equal(corpus["image"][1].codes, before["image"][1].codes)
    for options in ({"workers": 0}, {"workers": 2}, {"workers": 1, "processes": True}):
        for batch in take(corpus, 4, **options):
            for kind in ("pair", "image"):
                images = batch[kind].images
                assert images is not None
                assert np.array_equal(batch[kind].codes, encoder.encode(images))


def test_a_damaged_row_of_a_slab_is_named_and_can_be_excluded(recoded: tuple[str, Corpus]) -> None:
    path, _ = recoded
    corpus = open_corpus(path)
    slab = next(one for one in corpus.manifest.slabs if one["kind"] == "image")
    width = 2 * slab["views"] * slab["codes_per_view"]
    file = Path(path).parent / slab["path"]
    data = bytearray(file.read_bytes())
    data[2 * width + 1] ^= 4
    file.write_bytes(data)
    with pytest.raises(SampleError, match=rf"codes of image row 2: .*(?s:.)*\"shard\": {slab['shard']}, \"row\": 2"):
        take(corpus, 40)
    line = Exclusions([Exclusion(0, "image", slab["shard"], 2)])
    assert take(corpus, 40, exclusions=line)
