"""How well a model predicts what was masked in the validation split, beside what guessing would give.

    evaluation = evaluate(objective, validation_batches(corpus, ...), text_length=64, device=device, precision="fp32")
    evaluation["codes"].cross_entropy_nats, evaluation["codes"].unigram_entropy_nats

"codes" are those of images and pairs, "words" those of text blocks and captions; each kind's are there too, as in
"pair/words". A third of the patches of some corpora are plain white, so accuracy alone says little. Two baselines know
the validation split's own frequencies, the best that a guess without input can do: the unigram entropy is the
cross-entropy of the best constant distribution, and away from the most frequent label the best constant guess is the
second most frequent one. Both are measured on the very positions that are scored; with few of them they look better
than they are, so evaluate tens of thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imglish.errors import TrainError
from imglish.shards.batches import Batch
from imglish.trainer.batches import to_inputs
from imglish.trainer.losses import Score


@dataclass(frozen=True)
class TargetScore:
    """Masked positions of one target."""

    positions: int
    cross_entropy_nats: float
    unigram_entropy_nats: float
    """Of the true labels: the cross-entropy of the best constant distribution."""
    accuracy: float
    constant_accuracy: float
    """Share of the most frequent label: the accuracy of the best constant guess."""
    other_positions: int
    """Positions whose label is not the most frequent one."""
    other_accuracy: float
    """Accuracy on those; 0 when there are none."""
    other_constant_accuracy: float
    """Accuracy of the best constant guess on those."""

    @property
    def below_unigram_share(self) -> float:
        """How far the cross-entropy lies below the unigram entropy, as a share of it (0.2 = 20 % below)."""
        return 1 - self.cross_entropy_nats / self.unigram_entropy_nats if self.unigram_entropy_nats else 0.0

    @property
    def other_ratio(self) -> float:
        """Accuracy over the best constant guess, away from the most frequent label."""
        return self.other_accuracy / self.other_constant_accuracy if self.other_constant_accuracy else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"below_unigram_share": self.below_unigram_share, "other_ratio": self.other_ratio}


Evaluation = dict[str, TargetScore]


@torch.no_grad()
def evaluate(
    objective: nn.Module,
    batches: Iterable[Batch],
    text_length: int,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Evaluation:
    """Scores by target ("codes", "words", then by kind). TrainError when no position of any batch is masked.

    `objective` is a `losses.Objective`, spread over ranks or not. Every rank gets all samples: they are few, and each
    rank has to take part in every forward pass of a model that is cut.
    """
    found: dict[str, list[Score]] = {}
    for batch in batches:
        inputs = {kind: to_inputs(batch[kind], text_length, device) for kind in batch.kinds}
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            scores: dict[str, Score] = objective(inputs)
        for name, score in scores.items():
            for target in (name.partition("/")[2], name):
                found.setdefault(target, []).append(score)
    if not any(score.positions for scores_of in found.values() for score in scores_of):
        raise TrainError("the validation split has nothing to evaluate; raise decide.validation_share")
    summaries = {name: _summary(scores_of) for name, scores_of in found.items()}
    return dict(sorted(summaries.items(), key=lambda item: ("/" in item[0], item[0])))


def validation_record(evaluation: Evaluation | None) -> dict[str, float]:
    """The numbers of an evaluation for the record of a step."""
    found: dict[str, float] = {}
    for name, score in (evaluation or {}).items():
        found[f"validation/loss_nats/{name}"] = score.cross_entropy_nats
        found[f"validation/accuracy/{name}"] = score.accuracy
    return found


def with_other_images(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, but each pair with the picture of the pair before it; those of a single pair are left out.

    A model that uses pictures predicts captions worse from these: compare "pair/words" of the two evaluations.
    """
    for batch in batches:
        pairs = batch.kinds.get("pair")
        if pairs is not None and pairs.images is not None and len(pairs.images) > 1:
            other = replace(pairs, images=np.roll(pairs.images, 1, axis=0))
            yield replace(batch, kinds={**batch.kinds, "pair": other})


def _summary(scores: list[Score]) -> TargetScore:
    losses = torch.cat([score.losses for score in scores]).double().cpu().numpy()
    predicted = torch.cat([score.predicted for score in scores]).cpu().numpy()
    true = torch.cat([score.true for score in scores]).cpu().numpy()
    return summarise(losses, predicted, true)


def summarise(losses: NDArray[np.float64], predicted: NDArray[np.int64], true: NDArray[np.int64]) -> TargetScore:
    """The score of M positions with cross-entropies `losses` (nats), predicted and true labels; M >= 1."""
    labels, counts = np.unique(true, return_counts=True)
    shares = counts / len(true)
    most = int(counts.argmax())  # the smallest label among equals
    others = true != labels[most]
    rest = int(others.sum())
    right = predicted == true
    return TargetScore(
        positions=len(true),
        cross_entropy_nats=float(losses.mean()),
        unigram_entropy_nats=max(0.0, float(-(shares * np.log(shares)).sum())),
        accuracy=float(right.mean()),
        constant_accuracy=float(shares[most]),
        other_positions=rest,
        other_accuracy=float(right[others].mean()) if rest else 0.0,
        other_constant_accuracy=float(np.delete(counts, most).max() / rest) if rest else 0.0,
    )
