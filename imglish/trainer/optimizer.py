"""AdamW with its groups, the learning rate of a step, and the moving average of the parameters.

optimizer = build_optimizer(model, config)
set_learning_rate(optimizer, learning_rate(step, config))
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imglish.recipe import TrainConfig

_LAYER = re.compile(r"layers\.(\d+)\.")
_EMBEDDINGS = ("image_embedding.", "text_embedding.")


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases, position tables, cls and mask token (facts of the released code, but that
    decays text positions and the mask token: an oversight we do not repeat).

    With `layer_decay` there is a group for each layer: rates of embeddings are `layer_decay ** (L + 1)` of the full
    one, of layer l, counted from 1, `layer_decay ** (L + 1 - l)`, of final norm and heads 1 (BEiT's rule). A group's
    share of the full rate is its `scale`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    named = list(model.named_parameters())
    layers = 1 + max((int(found[1]) for name, _ in named if (found := _LAYER.search(name))), default=-1)
    for name, parameter in named:
        decay = config.weight_decay if _decays(name, parameter) else 0.0
        groups.setdefault((decay, config.layer_decay ** _depth(name, layers)), []).append(parameter)
    made = [{"params": given, "weight_decay": decay, "scale": scale} for (decay, scale), given in groups.items()]
    return torch.optim.AdamW(made, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.rpartition(".")[2]
    return parameter.ndim > 1 and leaf not in ("positions", "cls_token", "mask_token")


def _depth(name: str, layers: int) -> int:
    """How many steps of decay lie between a parameter and the heads."""
    found = _LAYER.search(name)
    if found:
        return layers - int(found[1])
    return layers + 1 if any(part in name for part in _EMBEDDINGS) else 0


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step`, counted from 0: linear warm-up to the peak, then as `config.rate` says."""
    peak, floor = config.learning_rate, config.min_learning_rate
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.rate == "constant":
        return peak
    first = config.warmup if config.rate == "cosine" else round(config.steps * (1 - config.cooldown))
    progress = min(1.0, max(0, step - first) / max(1, config.steps - first))
    if config.rate == "wsd":
        return peak + (floor - peak) * progress
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], model: nn.Module, share: float) -> None:
    """Move the average of the parameters, by name, towards them; `share` is that of the old value."""
    for name, parameter in model.named_parameters():
        if name in average:
            average[name].lerp_(parameter.detach(), 1 - share)
