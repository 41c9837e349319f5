"""torchscale's BEiT3, the released code, as an oracle: unmodified, beside stand-ins for what it imports in vain.

torchscale 0.3.0 pins timm and fairscale to versions that no current torch runs. Of timm it needs `drop_path` (here, as
timm has it), of fairscale two wrappers that it calls only when told to.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from torch import Tensor, nn

from imglish.model import ModelConfig


def _drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """timm's stochastic depth: one draw a row."""
    if drop_prob == 0.0 or not training:
        return x
    shape = (len(x), *(1,) * (x.ndim - 1))
    return x * x.new_empty(shape).bernoulli_(1 - drop_prob).div_(1 - drop_prob)


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("fairscale is not here; build the oracle without checkpointing and fsdp")


def _stand_in(name: str, **members: Any) -> None:
    """Register a module and its parents under sys.modules unless the real one is imported already."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def torchscale_beit3(config: ModelConfig, **changes: Any) -> nn.Module:
    """torchscale's `BEiT3` with the sizes of `config`, its own first values, in training mode without dropout."""
    _stand_in("timm.models.layers", drop_path=_drop_path)
    _stand_in("fairscale.nn", checkpoint_wrapper=_refuse, wrap=_refuse)
    from torchscale.architecture.config import EncoderConfig
    from torchscale.model.BEiT3 import BEiT3

    settings = EncoderConfig(
        encoder_layers=config.layers,
        encoder_embed_dim=config.width,
        encoder_ffn_embed_dim=config.ffn,
        encoder_attention_heads=config.heads,
        img_size=config.image_size,
        patch_size=config.patch,
        vocab_size=config.vocabulary,
        max_source_positions=config.max_text + 2,
        multiway=True,
        no_output_layer=True,
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = BEiT3(settings)
    return model
