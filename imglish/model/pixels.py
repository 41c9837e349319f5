"""Pixels as the model wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from imglish.errors import ModelError


def normalise(images: Tensor) -> Tensor:
    """uint8 RGB [B, H, W, 3] as float32 [B, 3, H, W] in [-1, 1]: mean 0.5 and deviation 0.5 per channel.

    BEiT-3 does not say what its pretraining used; 0.5/0.5 is what its released code uses for every vision-language
    task and what the visual tokenizer of BEiT v2 does inside. ModelError for another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        shape = list(images.shape)
        raise ModelError(f"normalise wants uint8 images [B, H, W, 3], not {images.dtype} {shape}")
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
