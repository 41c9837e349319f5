"""Images and texts as tokens: patches with a cls token, ids, and a learned position table for each.

Positions of a text start at 0 also when it stands behind an image. Suffixes as in `imglish.model.layers`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from imglish.errors import ModelError
from imglish.model.config import ModelConfig


class ImageEmbedding(nn.Module):
    """Pixels to 1 + N tokens; masked patches are replaced by a learned token before positions are added (BEiT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.width, 3, config.patch, config.patch))
        self.bias = nn.Parameter(torch.empty(config.width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1 + config.patches, config.width))

    def forward(self, pixels_B3HW: Tensor, image_mask_BN: Tensor | None) -> Tensor:
        """float [B, 3, H, W] and bool [B, N] to [B, 1 + N, D]."""
        self._check(pixels_B3HW, image_mask_BN)
        x_BND = functional.linear(self._cut(pixels_B3HW), self.weight.flatten(1), self.bias)
        if image_mask_BN is not None:
            x_BND = torch.where(image_mask_BN[:, :, None], self.mask_token.to(x_BND.dtype), x_BND)
        cls_B1D = self.cls_token.to(x_BND.dtype).expand(len(x_BND), -1, -1)
        return torch.cat([cls_B1D, x_BND], dim=1) + self.positions

    def _cut(self, pixels_B3HW: Tensor) -> Tensor:
        """Patches row by row as vectors: [B, N, 3 * P * P], what a convolution with stride P would see."""
        B, grid, P = len(pixels_B3HW), self.config.grid, self.config.patch
        cut = pixels_B3HW.view(B, 3, grid, P, grid, P)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, grid * grid, 3 * P * P)

    def _check(self, pixels_B3HW: Tensor, image_mask_BN: Tensor | None) -> None:
        side, patches = self.config.image_size, self.config.patches
        if pixels_B3HW.ndim != 4 or pixels_B3HW.shape[1:] != (3, side, side):
            raise ModelError(f"pixels are {list(pixels_B3HW.shape)}; the model wants [B, 3, {side}, {side}]")
        if image_mask_BN is not None and image_mask_BN.shape != (len(pixels_B3HW), patches):
            shape = list(image_mask_BN.shape)
            raise ModelError(f"image_mask is {shape}; the model wants [{len(pixels_B3HW)}, {patches}]")


class TextEmbedding(nn.Module):
    """Ids to T tokens; masked ids are replaced by `<mask>`, padded tokens are zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.positions = nn.Parameter(torch.empty(config.max_text, config.width))

    def forward(self, ids_BT: Tensor, padding_mask_BT: Tensor | None, text_mask_BT: Tensor | None) -> Tensor:
        """int64 [B, T] and bool masks [B, T] (True = pad, True = masked) to [B, T, D]."""
        self._check(ids_BT, padding_mask_BT, text_mask_BT)
        if text_mask_BT is not None:
            ids_BT = ids_BT.masked_fill(text_mask_BT, self.config.mask_id)
        x_BTD = functional.embedding(ids_BT, self.weight) + self.positions[: ids_BT.shape[1]]
        return x_BTD if padding_mask_BT is None else x_BTD.masked_fill(padding_mask_BT[:, :, None], 0.0)

    def _check(self, ids_BT: Tensor, padding_mask_BT: Tensor | None, text_mask_BT: Tensor | None) -> None:
        if ids_BT.ndim != 2 or ids_BT.shape[1] > self.config.max_text:
            raise ModelError(f"ids are {list(ids_BT.shape)}; the model wants [B, T], T up to {self.config.max_text}")
        for name, mask in (("padding_mask", padding_mask_BT), ("text_mask", text_mask_BT)):
            if mask is not None and mask.shape != ids_BT.shape:
                raise ModelError(f"{name} is {list(mask.shape)} but ids are {list(ids_BT.shape)}")
