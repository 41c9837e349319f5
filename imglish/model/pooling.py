"""One vector for a row, from the features of its tokens.

pool(model.encode_image(pixels), "first")               cls of images and pairs, <s> of texts: what retrieval uses
pool(model.encode_image(pixels), "patches")             mean of all but cls: what the ImageNet models use
pool(model.encode_text(ids, padding), "mean", padding)  mean of the real tokens
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor


def pool(
    features: Float[Tensor, "B S D"],
    how: Literal["first", "patches", "mean"] = "first",
    padding_mask: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B D"]:
    """Features [B, S, D] to [B, D]; `padding_mask` [B, S] (True = pad) leaves tokens out of "mean"."""
    if how == "first":
        return features[:, 0]
    if how == "patches":
        return features[:, 1:].mean(dim=1)
    if padding_mask is None:
        return features.mean(dim=1)
    real_BS1 = ~padding_mask[:, :, None]
    return features.masked_fill(~real_BS1, 0.0).sum(dim=1) / real_BS1.sum(dim=1).clamp(min=1)
