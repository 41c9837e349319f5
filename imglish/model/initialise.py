"""The first values of the parameters: the paper's rule, drawn from counter-based streams.

BEiT-3 (section 2.3, footnote 4, as BEiT before it): every parameter starts in a small range, about plus and minus 0.02,
then the output matrices of attention and feed-forward in layer l, counted from 1, are divided by sqrt(2 l).

Ours where the paper is silent: the distribution is uniform (deviation 0.0115; BEiT's code truncates a normal of
deviation 0.02 at plus and minus 0.02, which has 0.0108); biases start at 0; LayerNorms at 1 and 0; position tables,
cls and mask token like the rest. The range is `ModelConfig.init_range`; "tiny" has a wider one.

A parameter's values depend on the seed and its name only, so they are the same on every machine, device and layout of
ranks.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from imglish.seeds import Stream, stream, uniform


def initialise(model: nn.Module, init_range: float, seed: int) -> None:
    """Fill all parameters in place; those on the meta device are left alone."""
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner, _, leaf = name.rpartition(".")
            if parameter.is_meta:
                continue
            if leaf == "bias":
                parameter.zero_()
            elif owner in norms:
                parameter.fill_(1.0)
            else:
                _fill(parameter, init_range / _depth_scale(name), stream(seed, "init", name).key)


def _fill(parameter: nn.Parameter, bound: float, key: int) -> None:
    """Uniform in [-bound, bound), in chunks so that a large table needs little memory."""
    flat, source, chunk = parameter.view(-1), Stream(key), 1 << 22
    for start in range(0, flat.numel(), chunk):
        draws = uniform(source.bits(min(chunk, flat.numel() - start), start))
        flat[start : start + len(draws)] = torch.from_numpy((2 * draws - 1) * bound)


def _depth_scale(name: str) -> float:
    """sqrt(2 l) for the output matrices of layer l, 1 for everything else."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[-2] in ("out", "fc2"):
        return math.sqrt(2 * (int(parts[1]) + 1))
    return 1.0
