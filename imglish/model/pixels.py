"""Pixels as the model wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from imglish.errors import ModelError
from imglish.model.config import HALF


def normalise(
    images: Tensor, mean: tuple[float, float, float] = HALF, deviation: tuple[float, float, float] = HALF
) -> Tensor:
    """uint8 RGB [B, H, W, 3] as float32 [B, 3, H, W]: scaled to [0, 1], less `mean`, over `deviation`, per channel.

    By default in [-1, 1]; a model's own are `config.pixel_mean` and `config.pixel_deviation`. BEiT-3 does not say what
    its pretraining used; 0.5/0.5 is what its released code uses for every vision-language task and what the visual
    tokenizer of BEiT v2 does inside. ModelError for another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        shape = list(images.shape)
        raise ModelError(f"normalise wants uint8 images [B, H, W, 3], not {images.dtype} {shape}")
    pixels = images.permute(0, 3, 1, 2).float()
    if mean == deviation == HALF:
        return pixels.div_(127.5).sub_(1.0)
    shift, scale = (pixels.new_tensor(values)[:, None, None] for values in (mean, deviation))
    return pixels.div_(255).sub_(shift).div_(scale)
