"""Masked data modelling: what one batch says about the model, as sums and counts.

    scores = masked_scores(model, {"pair": inputs, "text": inputs})
    scores["pair/words"].loss_sum / scores["pair/words"].positions  # nats per masked word
    total_loss(scores, counts, weights).backward()

Images predict codes, texts predict words, pairs predict both from one forward in which both sides are masked (ours: the
paper gives both rates and one task, not the pairing). Sums and counts add up across ranks and batches; means do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from imglish.errors import TrainError
from imglish.model import MultiwayTransformer, Rows
from imglish.recipe import WeightConfig
from imglish.records import KINDS, Kind
from imglish.trainer.batches import Inputs, Share

NAMES = ("image/codes", "pair/codes", "pair/words", "text/words")
"""A kind and what its masked positions ask for: the code of a patch, or a word, that is a text id."""
TARGETS = ("codes", "words")


class Score(NamedTuple):
    """Masked positions of one kind and target: [M] predicted and true labels, cross-entropies in nats, their sum."""

    losses: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def positions(self) -> int:
        return len(self.true)

    @property
    def loss_sum(self) -> Tensor:
        return self.losses.sum()


class Objective(nn.Module):
    """The model and its scores as one forward: what DDP and FSDP wrap, so that their hooks see all of it."""

    def __init__(self, model: MultiwayTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: Mapping[Kind, Inputs], keep: Mapping[Kind, Tensor] | None = None, guesses: int | None = None
    ) -> dict[str, Score]:
        return masked_scores(self.model, inputs, keep, guesses)


def masked_scores(
    model: MultiwayTransformer,
    inputs: Mapping[Kind, Inputs],
    keep: Mapping[Kind, Tensor] | None = None,
    guesses: int | None = None,
) -> dict[str, Score]:
    """Scores by name (`NAMES`), as far as their kinds are there.

    `keep[kind]` [layers, 2, B] is stochastic depth (`imglish.trainer.drop_path`). With `guesses`, predictions are that
    many labels of each position, [M, guesses], best first.
    """
    given = {kind: _rows(inputs[kind], None if keep is None else keep[kind]) for kind in KINDS if kind in inputs}
    scores: dict[str, Score] = {}
    for name, logits in model.predict(given).items():
        kind = next(kind for kind in KINDS if name.startswith(kind))
        scores[name] = _score(logits, _true(inputs[kind], name.removeprefix(f"{kind}/")), guesses)
    return scores


def masked_counts(part: Mapping[Kind, Share]) -> Tensor:
    """Masked positions by name, int64 [4], from the loader's arrays: known before the forward pass."""
    counts = dict.fromkeys(NAMES, 0)
    for kind, share in part.items():
        for target, mask in zip(TARGETS, (share.batch.image_mask, share.batch.text_mask), strict=True):
            if mask is not None:
                counts[f"{kind}/{target}"] = int(mask.sum())
    return torch.tensor(list(counts.values()))


def total_loss(scores: Mapping[str, Score], counts: Tensor, weights: WeightConfig) -> Tensor:
    """This part's share of the loss of a global batch with `counts` [4] masked positions by name, in nats.

    The loss is the mean over all masked codes plus the mean over all masked words, so every masked position of a target
    weighs the same, whichever kind it is in, times the kind's weight. Ours, the paper gives no weights: a mean per kind
    would give the few words of captions the weight of all text, which is noise in the gradient. Shares of ranks and of
    accumulated parts add up to the loss. TrainError when nothing is masked.
    """
    totals = {target: sum(n for name, n in _named(counts) if name.endswith(target)) for target in TARGETS}
    parts = [
        scores[name].loss_sum * (getattr(weights, name.replace("/", "_")) / totals[name.partition("/")[2]])
        for name, count in _named(counts)
        if count and name in scores
    ]
    if not parts:
        raise TrainError("no position of the batch is masked; raise train.masks or the batch")
    return torch.stack(parts).sum()


def loss_of(sums: Tensor, counts: Tensor, weights: WeightConfig) -> float:
    """The same from sums of losses by name, [4], of the whole batch."""
    zeros = torch.zeros(0, dtype=torch.int64)
    scores = {name: Score(value[None].double(), zeros, zeros) for name, value in zip(NAMES, sums, strict=True)}
    return total_loss(scores, counts, weights).item()


def _named(counts: Tensor) -> list[tuple[str, int]]:
    return list(zip(NAMES, counts.tolist(), strict=True))


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


def _score(logits: Tensor, true: Tensor, guesses: int | None) -> Score:
    losses, found = functional.cross_entropy(logits.float(), true, reduction="none"), logits.detach()
    return Score(losses, found.argmax(dim=1) if guesses is None else found.topk(guesses, dim=1).indices, true)
