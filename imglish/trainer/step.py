"""One optimizer step: a rank's share of a global batch in, a changed model and the numbers of its record out.

The loss of a step is a function of the global batch: masked positions are counted over all ranks and parts first, each
part is divided by those counts, and sums of losses are added up afterwards. So any number of ranks, and any
accumulation, come to the same number, but for the order in which floats are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imglish.model import ModelConfig
from imglish.model.operations import step_operations
from imglish.recipe import TrainConfig
from imglish.records import Kind
from imglish.trainer.batches import Inputs, Share, count_work, to_inputs
from imglish.trainer.drop_path import keep_scales
from imglish.trainer.losses import NAMES, Score, loss_of, masked_counts, total_loss
from imglish.trainer.optimizer import learning_rate, set_learning_rate
from imglish.trainer.parallel import Place, gradient_norm, synchronise


@dataclass(frozen=True)
class StepResult:
    """`record` are the numbers of the step, `votes` the sums of the ranks' votes (see `train_step`)."""

    record: dict[str, Any]
    votes: list[int]
    operations: float
    """Of the global batch, forward and backward (`imglish.model.operations`)."""
    tokens: int

    @property
    def finite(self) -> bool:
        return math.isfinite(self.record["loss_nats"]) and math.isfinite(self.record["gradient_norm"])


def train_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Mapping[Kind, Share]],
    model: ModelConfig,
    config: TrainConfig,
    place: Place,
    seed: int,
    step: int,
    votes: Sequence[bool] = (),
) -> StepResult:
    """Step number `step`, counted from 0, on all parts of a batch (`batches.split`).

    Parameters stay as they were when the loss or the gradient is not finite. `votes` are questions on which ranks
    have to agree; they travel with the sums. Every rank must call this with the same arguments but `parts` and `votes`.
    """
    counts = place.total(torch.stack([masked_counts(part) for part in parts]).sum(dim=0))
    optimizer.zero_grad()
    sums = torch.zeros(2, len(NAMES), dtype=torch.float64, device=place.device)
    for number, part in enumerate(parts):
        synchronise(objective, number == len(parts) - 1)
        inputs = {kind: to_inputs(share, config.text_length, place.device) for kind, share in part.items()}
        keep = _keep_scales(inputs, model.layers, config, seed, step, place.device)
        with torch.autocast(place.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            scores = objective(inputs, keep)
        # DDP and FSDP take means of gradients over ranks, so the sum that is wanted is the mean of so many times this.
        torch.autograd.backward(total_loss(scores, counts, config.weights) * place.world_size)
        sums += _sums(scores, place.device)
    parameters = [given for group in optimizer.param_groups for given in group["params"]]
    norm = gradient_norm(parameters)
    work = [count_work(part, 1 + model.patches, config.text_length) for part in parts]
    local = [sum(step_operations(model, each) for each in work), sum(each.tokens for each in work), *votes]
    told = torch.cat([sums.flatten(), torch.tensor(local, dtype=torch.float64, device=place.device)])
    told = place.total(told).cpu()
    losses, right, rest = told[:4], told[4:8], told[8:].tolist()
    rate = learning_rate(step, config)
    record = {"loss_nats": loss_of(losses, counts, config.weights), **_by_name(losses, right, counts)}
    record |= {"gradient_norm": float(norm), "learning_rate": rate}
    result = StepResult(record, [int(vote) for vote in rest[2:]], rest[0], int(rest[1]))
    if result.finite:
        nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
        set_learning_rate(optimizer, rate)
        optimizer.step()
    return result


def _keep_scales(
    inputs: Mapping[Kind, Inputs], layers: int, config: TrainConfig, seed: int, step: int, device: torch.device
) -> dict[Kind, Tensor] | None:
    if config.drop_path == 0:
        return None
    return {
        kind: keep_scales(config.drop_path, layers, rows.numbers, seed, step, kind).to(device)
        for kind, rows in inputs.items()
    }


def _sums(scores: Mapping[str, Score], device: torch.device) -> Tensor:
    """Sums of losses, and numbers of right predictions, by name: float64 [2, 4]."""
    sums = torch.zeros(2, len(NAMES), dtype=torch.float64, device=device)
    for name, score in scores.items():
        sums[0, NAMES.index(name)] = score.loss_sum.detach()
        sums[1, NAMES.index(name)] = (score.predicted == score.true).sum()
    return sums


def _by_name(losses: Tensor, right: Tensor, counts: Tensor) -> dict[str, float]:
    record: dict[str, float] = {}
    for name, loss, correct, count in zip(NAMES, losses.tolist(), right.tolist(), counts.tolist(), strict=True):
        if count:
            record |= {f"loss_nats/{name}": loss / count, f"accuracy/{name}": correct / count, f"masked/{name}": count}
    return record
