from pathlib import Path

import numpy as np
import pytest

from imglish.records import KINDS
from imglish.shards.loader import validation_batches
from imglish.shards.reader import Corpus, open_corpus
from tests.shards.corpus_helpers import small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root: Path = tmp_path_factory.mktemp("corpus")
    small_corpus(root, shards=2, pairs=7, images=5)
    return open_corpus(str(root / "manifest.json"), split="validation")


def test_every_sample_of_the_split_comes_once_in_manifest_order(corpus: Corpus) -> None:
    batches = list(validation_batches(corpus, {"pair": 3, "image": 2, "text": 4}))
    for kind in KINDS:
        keys = [key for batch in batches for key in batch.keys.get(kind, [])]
        assert keys == [sample.key for sample in corpus[kind]]
    assert [batch.position for batch in batches] == list(range(len(batches)))


def test_the_last_batch_of_a_kind_is_short_and_then_the_kind_is_absent(corpus: Corpus) -> None:
    batches = list(validation_batches(corpus, {"pair": 3, "image": 4}))
    assert [len(batch.keys["pair"]) for batch in batches] == [3, 3, 1]
    assert ["image" in batch for batch in batches] == [True, True, False]
    assert batches[1]["image"].images.shape == (1, 32, 32, 3)


def test_two_evaluations_see_the_same_views_captions_and_masks(corpus: Corpus) -> None:
    left, right = (list(validation_batches(corpus, seed=5)) for _ in range(2))
    small = list(validation_batches(corpus, dict.fromkeys(KINDS, 1), seed=5))
    assert [batch.digest for batch in left] == [batch.digest for batch in right]
    for kind in KINDS:
        for name in ("images", "codes", "image_mask", "ids", "text_mask"):
            arrays = [
                [getattr(batch[kind], name) for batch in batches if kind in batch] for batches in (left, right, small)
            ]
            if arrays[0][0] is not None:
                whole, again, one_by_one = (np.concatenate(parts) for parts in arrays)
                assert np.array_equal(whole, again) and np.array_equal(whole, one_by_one)


def test_a_limit_takes_the_first_samples_of_each_kind(corpus: Corpus) -> None:
    (batch,) = validation_batches(corpus, dict.fromkeys(KINDS, 8), limit=3)
    for kind in KINDS:
        assert batch.keys[kind] == [sample.key for sample in corpus[kind][:3]]


def test_kinds_that_the_split_lacks_are_left_out(tmp_path: Path) -> None:
    small_corpus(tmp_path, shards=1, images=0)
    corpus = open_corpus(str(tmp_path / "manifest.json"), split="validation")
    assert all("image" not in batch for batch in validation_batches(corpus))
    assert list(validation_batches(corpus, {"image": 4})) == []
