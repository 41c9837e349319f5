"""Images and texts as tokens: patches with a cls token, ids, and a learned position table for each.

Positions of a text start afresh also when it stands behind an image; both tables start at row `config.first_position`.
Suffixes as in `imglish.model.layers`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

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
        self.positions = nn.Parameter(torch.empty(config.first_position + 1 + config.patches, config.width))

    def forward(
        self, pixels_B3HW: Float[Tensor, "B 3 H W"], image_mask_BN: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B S D"]:
        """Pixels and mask to [B, 1 + N, D]."""
        x_BND = functional.linear(self._cut(pixels_B3HW), self.weight.flatten(1), self.bias)
        if image_mask_BN is not None:
            x_BND = torch.where(image_mask_BN[:, :, None], self.mask_token.to(x_BND.dtype), x_BND)
        cls_B1D = self.cls_token.to(x_BND.dtype).expand(len(x_BND), -1, -1)
        return torch.cat([cls_B1D, x_BND], dim=1) + self.positions[self.config.first_position :]

    def _cut(self, pixels_B3HW: Tensor) -> Tensor:
        """Patches row by row as vectors: [B, N, 3 * P * P], what a convolution with stride P would see."""
        B, grid, P = len(pixels_B3HW), self.config.grid, self.config.patch
        cut = pixels_B3HW.reshape(B, 3, grid, P, grid, P)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(B, grid * grid, 3 * P * P)


class TextEmbedding(nn.Module):
    """Ids and their positions to tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.positions = nn.Parameter(torch.empty(config.first_position + config.max_text, config.width))

    def forward(self, ids_R: Int64[Tensor, " R"], places_R: Int64[Tensor, " R"]) -> Float[Tensor, "R D"]:
        """Ids with `mask_id` at masked positions, and their places in the row counted from 0."""
        positions_RD = functional.embedding(places_R + self.config.first_position, self.positions)
        return functional.embedding(ids_R, self.weight) + positions_RD
