import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from imglish.errors import TrainError
from imglish.model import create
from imglish.shards.batches import Batch, KindBatch
from imglish.shards.loader import validation_batches
from imglish.shards.reader import open_corpus
from imglish.trainer.evaluate import evaluate, summarise
from imglish.trainer.losses import Objective
from tests.trainer.trainer_helpers import CODEBOOK, VOCABULARY, corpus


def test_scores_equal_a_case_computed_by_hand() -> None:
    # Labels 5 5 5 5 7 7 9 9: 5 has share 1/2; elsewhere 7 and 9 tie at 2 of 4. Two of the four others are right.
    true = np.array([5, 5, 5, 5, 7, 7, 9, 9])
    predicted = np.array([5, 5, 7, 5, 7, 5, 9, 7])
    losses = np.array([0.5, 1.0, 1.5, 1.0, 2.0, 0.0, 1.0, 1.0])
    score = summarise(losses, predicted, true)
    assert (score.positions, score.other_positions) == (8, 4)
    assert score.cross_entropy_nats == 1.0
    assert score.unigram_entropy_nats == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert (score.accuracy, score.constant_accuracy) == (5 / 8, 1 / 2)
    assert (score.other_accuracy, score.other_constant_accuracy, score.other_ratio) == (1 / 2, 1 / 2, 1.0)
    assert score.below_unigram_share == pytest.approx(1 - 1 / (1.5 * math.log(2)))


def test_one_label_everywhere_leaves_nothing_to_beat() -> None:
    score = summarise(np.array([0.1]), np.array([3]), np.array([3]))
    assert (score.unigram_entropy_nats, score.other_positions, score.other_accuracy) == (0.0, 0, 0.0)
    assert (score.below_unigram_share, score.other_ratio) == (0.0, 0.0)


def test_guessing_from_the_frequencies_scores_exactly_the_unigram_entropy() -> None:
    true = np.array([0, 0, 0, 1, 1, 2])
    shares = np.bincount(true) / len(true)
    score = summarise(-np.log(shares[true]), np.zeros_like(true), true)
    assert score.cross_entropy_nats == pytest.approx(score.unigram_entropy_nats)
    assert score.other_accuracy == 0


def test_every_masked_position_of_the_split_is_scored_once(tmp_path: Path) -> None:
    split = open_corpus(str(corpus(tmp_path)), split="validation")
    model = create("tiny", vocabulary=VOCABULARY, codes=CODEBOOK, image_size=32, max_text=64)
    batches = list(validation_batches(split, batch={"pair": 4, "image": 3, "text": 2}, seed=1))
    result = evaluate(Objective(model), batches, text_length=64, device=torch.device("cpu"))
    masked = {
        (kind, target): sum(int(mask.sum()) for b in batches if kind in b for mask in [getattr(b[kind], field)])
        for kind, target, field in (
            ("image", "codes", "image_mask"),
            ("pair", "codes", "image_mask"),
            ("pair", "words", "text_mask"),
            ("text", "words", "text_mask"),
        )
    }
    assert {name: score.positions for name, score in result.items() if "/" in name} == {
        f"{kind}/{target}": count for (kind, target), count in masked.items()
    }
    assert result["codes"].positions == masked["image", "codes"] + masked["pair", "codes"]
    assert result["words"].positions == masked["text", "words"] + masked["pair", "words"]
    for name, score in result.items():
        classes = CODEBOOK if name.endswith("codes") else VOCABULARY
        assert score.cross_entropy_nats == pytest.approx(math.log(classes), abs=0.35), name


def test_the_scores_do_not_depend_on_how_samples_are_batched(tmp_path: Path) -> None:
    split = open_corpus(str(corpus(tmp_path)), split="validation")
    model = create("tiny", vocabulary=VOCABULARY, codes=CODEBOOK, image_size=32, max_text=64)

    def loss(size: int) -> float:
        batches = validation_batches(split, batch={"pair": size, "image": size, "text": size}, seed=1)
        return evaluate(Objective(model), batches, text_length=64, device=torch.device("cpu"))[
            "words"
        ].cross_entropy_nats

    assert loss(1) == pytest.approx(loss(5), abs=1e-5)


def test_an_evaluation_of_nothing_is_refused() -> None:
    model = create("tiny", vocabulary=VOCABULARY, codes=CODEBOOK, image_size=32, max_text=64)
    ids = np.array([[0, 2]])
    hidden = np.zeros_like(ids, dtype=bool)

    def empty() -> Iterator[Batch]:
        kinds = {"text": KindBatch(ids=ids, padding_mask=hidden, text_mask=hidden)}
        yield Batch(0, "", 0, {"text": ["0/0"]}, kinds)  # type: ignore[arg-type]

    with pytest.raises(TrainError, match="nothing to evaluate"):
        evaluate(Objective(model), empty(), text_length=2, device=torch.device("cpu"))
