import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import OrderError, ShardError
from imglish.records import KINDS, Kind
from imglish.seeds import below, draw
from imglish.shards.batches import KindBatch, chosen_captions
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.loader import Batch, Loader, Step
from imglish.shards.masks import Masks
from imglish.shards.order import Order
from imglish.shards.reader import Corpus, open_corpus
from imglish.shards.views import render
from tests.shards.corpus_helpers import small_corpus

BATCH: dict[Kind, int] = {"pair": 4, "image": 4, "text": 4}
FIELDS = KindBatch.__dataclass_fields__


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    small_corpus(root, shards=3, pairs=7, images=5)
    return open_corpus(str(root / "manifest.json"))


@pytest.fixture
def loader(corpus: Corpus) -> Iterator[Callable[..., Loader]]:
    made: list[Loader] = []

    def make(**options: Any) -> Loader:
        made.append(Loader(corpus, **{"batch": BATCH, "workers": 0, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def take(loader: Loader, count: int) -> list[Batch]:
    return [next(loader) for _ in range(count)]


def assert_equal(left: Batch, right: Batch) -> None:
    assert (left.position, left.digest, left.keys) == (right.position, right.digest, right.keys)
    for kind in left.kinds:
        for name in FIELDS:
            assert np.array_equal(getattr(left[kind], name), getattr(right[kind], name)), (kind, name)


def test_a_batch_has_the_documented_arrays(loader: Callable[..., Loader]) -> None:
    batch = next(loader(caption_length=8))
    pair, image, text = (batch[kind] for kind in KINDS)
    shapes = {name: None if (a := getattr(pair, name)) is None else (a.dtype.name, a.shape) for name in FIELDS}
    assert shapes == {
        "images": ("uint8", (4, 32, 32, 3)),
        "codes": ("int64", (4, 4)),
        "image_mask": ("bool", (4, 4)),
        "ids": ("int64", (4, 8)),
        "padding_mask": ("bool", (4, 8)),
        "text_mask": ("bool", (4, 8)),
        "shown": None,
    }
    assert image.images is not None and (image.ids, image.padding_mask, image.text_mask) == (None, None, None)
    assert text.ids is not None and text.ids.shape == (4, 512) and (text.images, text.codes) == (None, None)
    assert [len(batch.keys[kind]) for kind in KINDS] == [4, 4, 4]
    assert "pair" in batch and "video" not in batch


def test_masked_words_are_shown_by_the_80_10_10_rule_when_it_is_asked_for(
    corpus: Corpus, loader: Callable[..., Loader]
) -> None:
    mask_id = corpus.manifest.tokenizers.text.mask_id
    plain, bert = next(loader()), next(loader(masks=Masks(shown="80/10/10")))
    for kind in ("pair", "text"):
        ids, mask, shown = bert[kind].ids, bert[kind].text_mask, bert[kind].shown
        assert ids is not None and mask is not None and shown is not None
        assert np.array_equal(mask, plain[kind].text_mask) and np.array_equal(ids, plain[kind].ids)
        assert np.array_equal(shown[~mask], ids[~mask])
        assert ((shown[mask] > 3) & (shown[mask] <= mask_id)).all()
    shown, mask = bert["text"].shown[bert["text"].text_mask], mask_id  # type: ignore[index]
    assert 0.7 < np.mean(shown == mask) < 0.9
    with pytest.raises(OrderError, match=r"masks\.shown is 'bert'; it is one of mask, 80/10/10"):
        Masks(shown="bert")


def test_pictures_codes_and_captions_belong_to_the_sample_and_the_visit(
    corpus: Corpus, loader: Callable[..., Loader]
) -> None:
    one = loader(seed=3)
    for batch in take(one, 6):
        rows = one.order.rows(batch.position)["pair"]
        for place in range(4):
            sample = corpus.read("pair", int(rows.ordinal[place]), int(rows.row[place]))
            view = int(below(draw(rows.view[place], 0), len(sample.views))[0])
            caption = sample.ids[int(rows.caption[place]) % len(sample.ids)]
            pair = batch["pair"]
            assert batch.keys["pair"][place] == sample.key
            assert np.array_equal(pair.images[place], render(sample.jpeg, sample.views[view], 32))
            assert np.array_equal(pair.codes[place], sample.codes[view])
            assert np.array_equal(pair.ids[place][: len(caption)], caption)
            assert np.all(pair.ids[place][len(caption) :] == 1)
            assert np.array_equal(pair.padding_mask[place], pair.ids[place] == 1)


def test_texts_are_the_blocks_that_their_keys_name(corpus: Corpus, loader: Callable[..., Loader]) -> None:
    blocks = {sample.key: sample.ids for sample in corpus["text"]}
    for batch in take(loader(), 5):
        for key, ids in zip(batch.keys["text"], batch["text"].ids, strict=True):
            assert np.array_equal(ids, blocks[key])
    short = next(loader(text_length=100))["text"]
    assert np.array_equal(short.ids, next(loader())["text"].ids[:, :100])
    assert np.all(short.text_mask.sum(axis=1) <= 15)


def test_masks_have_the_shares_that_were_asked_for(loader: Callable[..., Loader]) -> None:
    batch = next(loader(masks=Masks(image=0.5, text=0.3, caption=0.9)))
    assert np.all(batch["image"].image_mask.sum(axis=1) == 2)
    for kind, share in (("pair", 0.9), ("text", 0.3)):
        maskable = (batch[kind].ids > 2).sum(axis=1)
        assert np.array_equal(batch[kind].text_mask.sum(axis=1), np.floor(share * maskable + 0.5))
        assert not np.any(batch[kind].text_mask & (batch[kind].ids < 3))


def test_a_long_caption_is_cut_before_its_end_mark(loader: Callable[..., Loader]) -> None:
    whole, cut = next(loader())["pair"].ids, next(loader(caption_length=4))["pair"].ids
    assert np.array_equal(cut[:, :3], whole[:, :3])
    assert np.all(cut[:, 3] == 2)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(loader: Callable[..., Loader], workers: int) -> None:
    for left, right in zip(take(loader(), 9), take(loader(workers=workers), 9), strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batch_row_by_row(loader: Callable[..., Loader], world_size: int) -> None:
    ranks = [take(loader(rank=rank, world_size=world_size), 5) for rank in range(world_size)]
    for position, whole in enumerate(take(loader(), 5)):
        for rank in range(world_size):
            share = ranks[rank][position]
            assert share.digest == whole.digest
            for kind in KINDS:
                assert share.keys[kind] == whole.keys[kind][rank::world_size]
                for name in FIELDS:
                    array = getattr(whole[kind], name)
                    part = None if array is None else array[rank::world_size]
                    assert np.array_equal(getattr(share[kind], name), part)


def test_every_sample_comes_once_per_epoch(corpus: Corpus, loader: Callable[..., Loader]) -> None:
    batches = take(loader(batch={"pair": 7, "image": 3, "text": 9}), 14)
    for kind in KINDS:
        keys = [key for batch in batches for key in batch.keys[kind]]
        expected = sorted(sample.key for sample in corpus[kind])
        for epoch in range(len(keys) // len(expected)):
            assert sorted(keys[epoch * len(expected) : (epoch + 1) * len(expected)]) == expected


def test_a_state_resumes_with_the_next_batch_on_other_ranks_and_workers(loader: Callable[..., Loader]) -> None:
    whole = take(loader(seed=9), 12)
    first = loader(seed=9, workers=2)
    take(first, 5)
    state = json.loads(json.dumps(first.state_dict()))
    assert state["position"] == 5
    for rank in range(2):
        resumed = loader(seed=9, workers=rank, rank=rank, world_size=2)
        resumed.load_state_dict(state)
        for batch, expected in zip(take(resumed, 7), whole[5:], strict=True):
            assert batch.digest == expected.digest
            assert batch.keys["pair"] == expected.keys["pair"][rank::2]


def test_a_loader_can_go_back_to_an_earlier_state(loader: Callable[..., Loader]) -> None:
    one = loader(workers=2)
    state = one.state_dict()
    before = take(one, 4)
    one.load_state_dict(state)
    for left, right in zip(before, take(one, 4), strict=True):
        assert_equal(left, right)


def test_a_state_is_less_than_a_kilobyte_even_when_every_field_is_long(loader: Callable[..., Loader]) -> None:
    schedule = [(10**8 + n, dict.fromkeys(KINDS, 1_000_000)) for n in range(10)]
    one = loader(
        seed=2**62,
        schedule=schedule,
        masks=Masks(1 / 3, 1 / 7, 1 / 9),
        windows=dict.fromkeys(KINDS, 10**9),
        lanes=65_536,
    )
    one.position = 10**12
    assert len(json.dumps(one.state_dict())) < 1024


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seed": 1}, ["seed was 1 and is 0"]),
        ({"lanes": 8}, ["lanes was 8 and is 64"]),
        ({"windows": {"pair": 5}}, ["windows was"]),
        ({"batch": {**BATCH, "pair": 8}}, ["schedule was"]),
        ({"schedule": [(4, {"pair": 4})]}, ["schedule was"]),
        ({"masks": Masks(image=0.3)}, ["masks was"]),
        ({"caption_length": 9, "image_size": 16}, ["caption_length was 9 and is 64", "image_size was 16 and is 32"]),
        ({"exclusions": Exclusions([Exclusion(0, "pair", 0, 0)])}, ["exclusions was"]),
    ],
)
def test_a_state_of_another_run_is_refused_by_field(
    loader: Callable[..., Loader], changes: dict[str, Any], names: list[str]
) -> None:
    other = loader(**changes)
    take(other, 1)
    with pytest.raises(OrderError) as caught:
        loader().load_state_dict(other.state_dict())
    for name in names:
        assert name in str(caught.value)
    assert str(caught.value).count(" was ") == len(names)


def test_a_state_of_another_corpus_or_split_is_refused(tmp_path: Path, loader: Callable[..., Loader]) -> None:
    small_corpus(tmp_path, shards=1)
    for split, field in (("train", "data_digest was"), ("validation", "split was 'validation' and is 'train'")):
        other = Loader(open_corpus(str(tmp_path / "manifest.json"), split), workers=0)  # type: ignore[arg-type]
        with pytest.raises(OrderError, match=field):
            loader().load_state_dict(other.state_dict())


@pytest.mark.parametrize("state", [{}, {"position": -1}, {"position": "3"}])
def test_what_is_no_state_is_refused(loader: Callable[..., Loader], state: dict[str, Any]) -> None:
    with pytest.raises(OrderError, match="no state of a loader"):
        loader().load_state_dict(state)


def test_exclusions_may_be_added_for_batches_to_come_only(loader: Callable[..., Loader], tmp_path: Path) -> None:
    first = loader()
    take(first, 3)
    rows = first.order.rows(3)["pair"]
    line = {"kind": "pair", "shard": int(rows.ordinal[0]), "row": int(rows.row[0])}
    file = tmp_path / "exclusions.jsonl"
    file.write_text(json.dumps({**line, "from": 3}))
    resumed = loader(exclusions=str(file))
    resumed.load_state_dict(first.state_dict())
    batch = next(resumed)
    assert batch.replaced == 1
    assert batch.keys["pair"][0] != next(first).keys["pair"][0]
    file.write_text(json.dumps({**line, "from": 2}))
    with pytest.raises(OrderError, match="exclusions was"):
        loader(exclusions=file).load_state_dict(first.state_dict() | {"position": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of 2: ranks count from 0 to 1"),
        ({"world_size": 3}, "4 pair rows and 4 image rows and 4 text rows, which 3 ranks cannot share"),
        ({"workers": -1}, "workers is -1"),
        ({"caption_length": 1}, "caption_length is 1; it is at least 2"),
        ({"text_length": 0}, "text_length is 0"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_an_impossible_loader_is_refused(loader: Callable[..., Loader], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OrderError, match=message):
        loader(**options)


def test_the_work_of_a_step_survives_pickling(loader: Callable[..., Loader]) -> None:
    one = loader()
    step = Step(one._collator, one.order, 0, 1)
    assert_equal(pickle.loads(pickle.dumps(step))(4), step(4))


def test_the_order_can_be_listed_without_a_loader(corpus: Corpus, loader: Callable[..., Loader]) -> None:
    order = Order({kind: corpus.sections(kind) for kind in KINDS}, BATCH, seed=4)
    batch = take(loader(seed=4), 3)[2]
    keys = [corpus.index("image", s)[r]["key"] for s, r in zip(*_places(order, 2), strict=True)]
    assert [bytes(key).hex() for key in keys] == batch.keys["image"]


def _places(order: Order, position: int) -> tuple[list[int], list[int]]:
    rows = order.rows(position)["image"]
    return rows.ordinal.tolist(), rows.row.tolist()


def _damaged(root: Path, change: Callable[[bytearray, Corpus], None]) -> Corpus:
    """A corpus of one shard with some bytes changed behind the manifest's back."""
    small_corpus(root, shards=1)
    corpus = open_corpus(str(root / "manifest.json"))
    file = root / corpus.manifest.shards[0].path
    data = bytearray(file.read_bytes())
    change(data, corpus)
    file.write_bytes(data)
    return corpus


def _flip_in_second_image(data: bytearray, corpus: Corpus) -> None:
    data[int(corpus.index("image", 0)[1]["jpg"]["offset"]) + 40] ^= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_stops_the_loader_with_its_name_until_it_is_excluded(tmp_path: Path, workers: int) -> None:
    corpus = _damaged(tmp_path, _flip_in_second_image)
    key = bytes(corpus.index("image", 0)[1]["key"]).hex()
    with Loader(corpus, batch={"image": 1}, workers=workers) as one:
        with pytest.raises(ShardError, match=key):
            take(one, 2)
        position = one.position
        with pytest.raises(ShardError, match=key):
            next(one)
        assert one.position == position
        state = one.state_dict()
    lines = Exclusions([Exclusion(position, "image", 0, 1)])
    with Loader(corpus, batch={"image": 1}, workers=workers, exclusions=lines) as resumed:
        resumed.load_state_dict(state)
        assert key not in [name for batch in take(resumed, 6) for name in batch.keys["image"]]


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("imglish-loader")}


def test_threads_end_when_the_loader_is_closed_left_or_forgotten(corpus: Corpus) -> None:
    before = _threads()
    one = Loader(corpus, batch=BATCH, workers=3)
    take(one, 2)
    assert _threads() - before
    one.close()
    assert _threads() == before
    with pytest.raises(OrderError, match="closed"):
        next(one)
    with Loader(corpus, batch=BATCH, workers=2) as left:
        take(left, 1)
    assert _threads() == before
    forgotten = Loader(corpus, batch=BATCH, workers=2)
    take(forgotten, 1)
    started = _threads() - before
    del forgotten
    for thread in started:
        thread.join(timeout=10)
    assert _threads() == before


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=5), st.integers(2, 9))
def test_chosen_captions_are_those_of_each_sample_padded_or_cut(words: list[list[int]], length: int) -> None:
    captions = [[np.array([0, *range(4, 4 + count), 2], dtype=np.uint16) for count in row] for row in words]
    packed = [np.concatenate(row).tobytes() for row in captions]
    numbers = np.arange(len(words), dtype=np.uint64) * np.uint64(7)
    found = chosen_captions(packed, numbers, length)
    for row, number, ids in zip(captions, numbers.tolist(), found.tolist(), strict=True):
        caption = row[number % len(row)].tolist()
        whole = caption if len(caption) <= length else [*caption[: length - 1], 2]
        assert ids == whole + [1] * (length - len(whole))
