"""The first values of the parameters, by layout, drawn from counter-based streams.

"shared": the paper's rule. BEiT-3 (section 2.3, footnote 4, as BEiT before it): every parameter starts in a small
range, about plus and minus 0.02, then the output matrices of attention and feed-forward in layer l, counted from 1, are
divided by sqrt(2 l).

"decoupled": the rule that its second LayerNorms were designed with (Magneto, arXiv 2210.06423, Figure 2): Xavier, with
values, output matrices and both feed-forward matrices scaled by sqrt(ln(2 L)), L layers; queries and keys by 1. The
released code means to do so, but starts from PyTorch's default for a Linear, scales biases too, and its fine-tuning
wrapper then overwrites all Linears by normals of deviation 0.02 truncated at 0.02.

Ours where sources are silent: distributions are uniform (within plus and minus 0.02 the deviation is 0.0115; BEiT's
code truncates a normal of deviation 0.02 at plus and minus 0.02, which has 0.0108); biases start at 0; LayerNorms at 1
and 0; embeddings, position tables (the released code leaves them at deviation 1), cls and mask token (there: 0) and
heads are in the small range in both layouts. The range is `ModelConfig.init_range`; "tiny" has a wider one.

A parameter's values depend on the seed and its name only, so they are the same on every machine, device and layout of
ranks.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from imglish.model.config import ModelConfig
from imglish.seeds import Stream, stream, uniform


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
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
                _fill(parameter, _bound(name, parameter, config), stream(seed, "init", name).key)
                if config.decoupled and ".qkv." in name:
                    parameter[2 * config.width :] *= _gain(config)


def _fill(parameter: nn.Parameter, bound: float, key: int) -> None:
    """Uniform in [-bound, bound), in chunks so that a large table needs little memory."""
    flat, source, chunk = parameter.view(-1), Stream(key), 1 << 22
    for start in range(0, flat.numel(), chunk):
        draws = uniform(source.bits(min(chunk, flat.numel() - start), start))
        flat[start : start + len(draws)] = torch.from_numpy((2 * draws - 1) * bound)


def _bound(name: str, parameter: nn.Parameter, config: ModelConfig) -> float:
    parts = name.split(".")
    if parts[0] != "layers":
        return config.init_range
    if config.decoupled:
        outputs = config.width if "qkv" in parts else len(parameter)
        xavier = math.sqrt(6 / (outputs + parameter.shape[1]))
        return xavier if "qkv" in parts else xavier * _gain(config)
    is_output = "out" in parts or "fc2" in parts
    return config.init_range / (math.sqrt(2 * (int(parts[1]) + 1)) if is_output else 1.0)


def _gain(config: ModelConfig) -> float:
    """Magneto's for an encoder: 1.78 for 12 layers, 1.97 for 24, 2.09 for 40; 1 where it would be less."""
    return max(1.0, math.sqrt(math.log(2 * config.layers)))
