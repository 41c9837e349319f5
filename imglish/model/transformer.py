"""The Multiway Transformer: three ways in, features out, two heads for masked positions.

    features = model.encode_image(pixels, image_mask)                       [B, 1 + N, D]
    features = model.encode_text(ids, padding_mask, text_mask)              [B, T, D]
    features = model.encode_pair(pixels, ids, padding_mask, image_mask, text_mask)   [B, 1 + N + T, D]
    model.code_logits(features, image_mask)    [M, codes], masked patches in row-major order
    model.word_logits(features, text_mask)     [M, vocabulary]

Features are those after the final norm; token 0 of an image or pair is cls. Pixels are float as `normalise` makes them,
ids int64, masks bool (padding_mask: True = pad; image_mask and text_mask: True = masked). Suffixes of tensors as in
`imglish.model.layers`. The paper's block at its three undecided places follows VLMo, the same authors' earlier code:
an FFN norm per expert, one attention norm, no expert mixing below the fused layers; LayerScale is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imglish.errors import ModelError
from imglish.model.config import Layout, ModelConfig, Preset, make_config
from imglish.model.embeddings import ImageEmbedding, TextEmbedding
from imglish.model.initialise import initialise
from imglish.model.layers import Layer


class MultiwayTransformer(nn.Module):
    """See the module's docstring; `create` builds one from a preset."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image_embedding = ImageEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        lower = config.layers - config.fused_layers
        self.layers = nn.ModuleList(Layer(config, fused=number >= lower) for number in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.mim_head = nn.Linear(config.width, config.codes)
        self.mlm_head = nn.Linear(config.width, config.vocabulary)

    def encode_image(self, pixels: Tensor, image_mask: Tensor | None = None, *, keep: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, H, W], image_mask [B, N] -> [B, 1 + N, D]; ModelError on wrong shapes.

        `keep` [layers, 2, B] scales the residual branches of each row (stochastic depth); None keeps all.
        """
        x_BSD = self.image_embedding(pixels, image_mask)
        return self._run(x_BSD, x_BSD.shape[1], None, keep)

    def encode_text(
        self,
        ids: Tensor,
        padding_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        *,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Ids [B, T], padding_mask and text_mask [B, T] -> [B, T, D]; features at pads mean nothing."""
        x_BSD = self.text_embedding(ids, padding_mask, text_mask)
        attend = None if padding_mask is None else ~padding_mask[:, None, None, :]
        return self._run(x_BSD, 0, attend, keep)

    def encode_pair(
        self,
        pixels: Tensor,
        ids: Tensor,
        padding_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        *,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Image and text as one row: cls, patches, then the text -> [B, 1 + N + T, D]."""
        if len(pixels) != len(ids):
            raise ModelError(f"a pair batch has {len(pixels)} images but {len(ids)} texts")
        image = self.image_embedding(pixels, image_mask)
        text = self.text_embedding(ids, padding_mask, text_mask)
        attend = None
        if padding_mask is not None:
            visible = padding_mask.new_ones(image.shape[:2])
            attend = torch.cat([visible, ~padding_mask], dim=1)[:, None, None, :]
        return self._run(torch.cat([image, text], dim=1), image.shape[1], attend, keep)

    def code_logits(self, features: Tensor, image_mask: Tensor) -> Tensor:
        """Features of an image or pair batch and image_mask [B, N] -> [M, codes], row by row."""
        out: Tensor = self.mim_head(features[:, 1 : 1 + image_mask.shape[1]][image_mask])
        return out

    def word_logits(self, features: Tensor, text_mask: Tensor) -> Tensor:
        """Features of a text or pair batch and text_mask [B, T] -> [M, vocabulary], row by row."""
        out: Tensor = self.mlm_head(features[:, features.shape[1] - text_mask.shape[1] :][text_mask])
        return out

    def _run(self, x_BSD: Tensor, split: int, attend_B11S: Tensor | None, keep_L2B: Tensor | None) -> Tensor:
        for number, layer in enumerate(self.layers):
            x_BSD = layer(x_BSD, split, attend_B11S, None if keep_L2B is None else keep_L2B[number])
        out: Tensor = self.norm(x_BSD)
        return out


def create(
    preset: Preset,
    layout: Layout = "shared",
    *,
    vocabulary: int | None = None,
    codes: int | None = None,
    image_size: int | None = None,
    patch: int | None = None,
    max_text: int | None = None,
    seed: int = 0,
    **overrides: Any,
) -> MultiwayTransformer:
    """A model with fresh parameters (see `imglish.model.initialise`), fp32, in training mode.

    None takes the default of `ModelConfig` or of the preset; `overrides` are any other fields of it. ModelError names
    a field that is unknown or does not fit. Under `torch.device("meta")` no memory is taken and nothing is drawn.
    """
    fields = {"vocabulary": vocabulary, "codes": codes, "image_size": image_size, "patch": patch, "max_text": max_text}
    config = make_config(preset, layout=layout, **fields, **overrides)
    model = MultiwayTransformer(config)
    initialise(model, config.init_range, seed)
    return model
