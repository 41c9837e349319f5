"""Masked data modelling: what one batch says about the model, as sums and counts.

    scores = masked_scores(model, {"pair": inputs, "text": inputs})
    scores["pair/words"].loss_sum / scores["pair/words"].count      # nats per masked word
    total_loss(scores).backward()

Images predict codes, texts predict words, pairs predict both from one forward in which both sides are masked (ours: the
paper gives both rates and one task, not the pairing). Sums and counts add up across ranks and batches; means do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from imglish.errors import TrainError
from imglish.model import MultiwayTransformer, Rows
from imglish.records import KINDS, Kind
from imglish.trainer.batches import Inputs

TARGETS = ("codes", "words")
"""What a masked position asks for: the code of a patch, or a word, that is a text id."""


@dataclass(frozen=True)
class Score:
    """Masked positions of one kind and target: [M] predicted and true labels, cross-entropies in nats, their sum."""

    losses: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def count(self) -> int:
        return len(self.true)

    @property
    def loss_sum(self) -> Tensor:
        return self.losses.sum()


def masked_scores(
    model: MultiwayTransformer, inputs: Mapping[Kind, Inputs], keep: Mapping[Kind, Tensor] | None = None
) -> dict[str, Score]:
    """Scores by "image/codes", "text/words", "pair/codes" and "pair/words", as far as their kinds are there.

    `keep[kind]` [layers, 2, B] is stochastic depth (`imglish.trainer.drop_path`).
    """
    given = {kind: _rows(inputs[kind], None if keep is None else keep[kind]) for kind in KINDS if kind in inputs}
    scores: dict[str, Score] = {}
    for name, logits in model.predict(given).items():
        kind = next(kind for kind in KINDS if name.startswith(kind))
        scores[name] = _score(logits, _true(inputs[kind], name.removeprefix(f"{kind}/")))
    return scores


def _rows(inputs: Inputs, keep: Tensor | None) -> Rows:
    """What the model reads of masked rows; TrainError when there is nothing to read."""
    if inputs.pixels is None and inputs.ids is None:
        raise TrainError("the batch has rows with neither image nor text; it is no batch of a Loader")
    masks = {"image_mask": inputs.image_mask, "text_mask": inputs.text_mask}
    return Rows(inputs.pixels, inputs.ids, inputs.padding_mask, **masks, keep=keep, shown=inputs.shown)


def _true(inputs: Inputs, target: str) -> Tensor:
    """Labels at masked positions, int64 [M], row by row."""
    labels, mask = (inputs.codes, inputs.image_mask) if target == "codes" else (inputs.ids, inputs.text_mask)
    if labels is None or mask is None:
        raise TrainError(f"the batch has masks but no {target}; it is no batch of a Loader")
    return labels[mask]


def total_loss(scores: Mapping[str, Score]) -> Tensor:
    """Mean loss of all masked codes plus mean loss of all masked words, in nats; TrainError when nothing is masked.

    Ours, the paper gives no weights: every masked position of a target weighs the same, whichever kind it is in. A mean
    per kind would give the few words of captions the weight of all text, which is noise in the gradient.
    """
    means = []
    for target in TARGETS:
        found = [score for name, score in scores.items() if name.endswith(target) and score.count]
        if found:
            means.append(torch.stack([score.loss_sum for score in found]).sum() / sum(score.count for score in found))
    if not means:
        raise TrainError("no position of the batch is masked; raise train.masks or the batch")
    return torch.stack(means).sum()


def _score(logits: Tensor, true: Tensor) -> Score:
    losses = functional.cross_entropy(logits.float(), true, reduction="none")
    return Score(losses, logits.detach().argmax(dim=1), true)
