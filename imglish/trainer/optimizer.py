"""AdamW with the usual two groups, and the learning rate of a step.

optimizer = build_optimizer(model, config)
set_learning_rate(optimizer, learning_rate(step, config))
"""

from __future__ import annotations

import math

import torch
from torch import nn

from imglish.recipe import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases, position tables, cls and mask token (facts of the released code, but that
    decays text positions and the mask token: an oversight we do not repeat)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if _decays(name, parameter) else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.rpartition(".")[2]
    return parameter.ndim > 1 and leaf not in ("positions", "cls_token", "mask_token")


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step`, counted from 0: linear warm-up to the peak, then a cosine to the floor."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * cosine


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
