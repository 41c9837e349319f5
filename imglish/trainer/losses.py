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
from imglish.model import MultiwayTransformer
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
    scores: dict[str, Score] = {}
    for kind in KINDS:
        if kind not in inputs:
            continue
        rows = inputs[kind]
        features = encode(model, rows, None if keep is None else keep[kind])
        if rows.codes is not None and rows.image_mask is not None:
            logits = model.code_logits(features, rows.image_mask)
            scores[f"{kind}/codes"] = _score(logits, rows.codes[rows.image_mask])
        if rows.ids is not None and rows.text_mask is not None:
            logits = model.word_logits(features, rows.text_mask)
            scores[f"{kind}/words"] = _score(logits, rows.ids[rows.text_mask])
    return scores


def encode(model: MultiwayTransformer, rows: Inputs, keep: Tensor | None = None) -> Tensor:
    """Features of masked rows of one kind, by what the rows hold."""
    if rows.pixels is None and rows.ids is not None:
        return model.encode_text(rows.ids, rows.padding_mask, rows.text_mask, keep=keep)
    if rows.pixels is not None and rows.ids is None:
        return model.encode_image(rows.pixels, rows.image_mask, keep=keep)
    if rows.pixels is not None and rows.ids is not None:
        return model.encode_pair(rows.pixels, rows.ids, rows.padding_mask, rows.image_mask, rows.text_mask, keep=keep)
    raise TrainError("the batch has rows with neither image nor text; it is no batch of a Loader")


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
