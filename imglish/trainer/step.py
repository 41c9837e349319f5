"""One optimizer step: a batch in, a changed model and a record of numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from imglish.errors import TrainError
from imglish.model import MultiwayTransformer
from imglish.recipe import TrainConfig
from imglish.records import Kind
from imglish.shards.batches import Batch
from imglish.trainer.batches import Inputs, to_inputs
from imglish.trainer.drop_path import keep_scales
from imglish.trainer.losses import Score, masked_scores, total_loss
from imglish.trainer.optimizer import learning_rate, set_learning_rate


def train_step(
    model: MultiwayTransformer,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    seed: int,
    step: int,
    device: torch.device,
) -> dict[str, Any]:
    """Step number `step`, counted from 0, on all kinds of `batch`; the numbers of its record.

    TrainError when loss or gradient are not finite: the parameters are then still those before the step.
    """
    inputs = {kind: to_inputs(batch[kind], config.text_length, device) for kind in batch.kinds}
    keep = _keep_scales(inputs, model.config.layers, config, seed, step, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        scores = masked_scores(model, inputs, keep)
    loss = total_loss(scores)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip))
    if not (math.isfinite(loss.item()) and math.isfinite(norm)):
        raise TrainError(_not_finite(step, loss.item(), norm, scores))
    rate = learning_rate(step, config)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return {"loss_nats": loss.item(), **_by_target(scores), "gradient_norm": norm, "learning_rate": rate}


def _keep_scales(
    inputs: Mapping[Kind, Inputs], layers: int, config: TrainConfig, seed: int, step: int, device: torch.device
) -> dict[Kind, Tensor] | None:
    if config.drop_path == 0:
        return None
    return {
        kind: keep_scales(config.drop_path, layers, rows.rows, seed, step, kind).to(device)
        for kind, rows in inputs.items()
    }


def _by_target(scores: Mapping[str, Score]) -> dict[str, float]:
    record: dict[str, float] = {}
    for name, score in scores.items():
        if score.count:
            record[f"loss_nats/{name}"] = score.loss_sum.item() / score.count
            record[f"accuracy/{name}"] = (score.predicted == score.true).sum().item() / score.count
            record[f"masked/{name}"] = score.count
    return record


def _not_finite(step: int, loss: float, norm: float, scores: Mapping[str, Score]) -> str:
    bad = [name for name, score in scores.items() if not math.isfinite(score.loss_sum.item())]
    where = f" in {', '.join(bad)}" if bad else ""
    return f"step {step + 1}: loss {loss}{where}, gradient norm {norm}"
