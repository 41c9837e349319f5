"""A model trained on pairs whose captions name what their pictures show predicts them worse from other pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from imglish.model import create
from imglish.shards.batches import Batch, KindBatch
from imglish.trainer.batches import split, to_inputs
from imglish.trainer.evaluate import evaluate, with_other_images
from imglish.trainer.losses import Objective
from imglish.trainer.optimizer import build_optimizer
from imglish.trainer.parallel import Place
from imglish.trainer.step import train_step
from tests.trainer.trainer_helpers import config

CPU = torch.device("cpu")
GREYS, PAIRS = 4, 8


def pairs(position: int) -> Batch:
    """Grey pictures; the only masked word of a caption is the name of the grey."""
    grey = (np.arange(PAIRS) + position) % GREYS
    images = np.broadcast_to((40 + 60 * grey)[:, None, None, None], (PAIRS, 32, 32, 3)).astype(np.uint8)
    ids = np.stack([np.zeros(PAIRS), np.full(PAIRS, 9), 4 + grey, np.full(PAIRS, 2)], axis=1).astype(np.int64)
    image_mask = np.zeros((PAIRS, 4), dtype=bool)
    image_mask[:, position % 4] = True
    kinds = KindBatch(images, np.repeat(grey[:, None], 4, axis=1), image_mask, ids, ids == 1, ids >= 4)
    kinds.text_mask[:, 1] = False  # type: ignore[index]
    return Batch(position, "", 0, {"pair": [str(n) for n in range(PAIRS)]}, {"pair": kinds})


def test_captions_are_predicted_better_from_their_own_pictures(tmp_path: Path) -> None:
    settings = config(steps=60, warmup=5, learning_rate=2e-3, drop_path=0.0, batch={"pair": PAIRS})
    model = create("tiny", vocabulary=12, codes=GREYS, image_size=32, max_text=64)
    objective, optimizer, place = Objective(model), build_optimizer(model, settings), Place(0, 1, CPU)
    for step in range(60):
        train_step(objective, optimizer, split(pairs(step)), model.config, settings, place, 0, step)
    own, other = (
        evaluate(objective, given, 64, CPU)["pair/words"] for given in ([pairs(1)], with_other_images([pairs(1)]))
    )
    assert own.cross_entropy_nats < 0.3 < 2 < other.cross_entropy_nats
    assert own.accuracy > 0.95 and other.accuracy < 0.05


def test_only_pictures_of_pairs_are_exchanged() -> None:
    batch = pairs(0)
    (other,) = with_other_images([batch])
    assert np.array_equal(other["pair"].images[1:], batch["pair"].images[:-1])  # type: ignore[index]
    assert other["pair"].ids is batch["pair"].ids and to_inputs(other["pair"], 64, CPU).rows == PAIRS
    with pytest.raises(StopIteration):
        next(iter(with_other_images([])))
