"""Pictures and strings as a model takes them.

    inputs = preprocess(model.config, ["cat.jpg", pil_image], ["a cat", "zwei Hunde"], tokenizer)
    features = model.encode_pair(inputs.pixels, inputs.ids, inputs.padding_mask)

As in the released fine-tuning code, an image is resized straight to the model's square (bicubic, no crop), and a text
is `<s>` pieces `</s>`, padded on the right with `<pad>` to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imglish.errors import ImageError, TokenizerError
from imglish.model import ModelConfig, normalise
from imglish.recipe import StoredConfig
from imglish.shards.images import upright_rgb
from imglish.shards.safe_image import open_image
from imglish.tokenize.text import EOS, PAD, TextTokenizer

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A file, its bytes, a Pillow image, or RGB uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Inputs:
    """Arguments of the model's `encode_*`; None for what was not given."""

    pixels: Tensor | None
    """float32 [B, 3, S, S], normalised."""
    ids: Tensor | None
    """int64 [B, T]."""
    padding_mask: Tensor | None
    """bool [B, T], True at pads."""


def preprocess(
    config: ModelConfig,
    images: Sequence[Picture] | None = None,
    strings: Sequence[str] | None = None,
    tokenizer: TextTokenizer | None = None,
) -> Inputs:
    """Images and strings (either may be left out) for a model of `config`.

    Texts longer than `config.max_text` ids are cut, `</s>` kept. Raises ImageError for what is no image, and
    TokenizerError when strings come without a tokenizer or with one that has other ids than the model.
    """
    pixels = None
    if images is not None:
        squares = [_square(image, config.image_size) for image in images]
        bytes_BHW3 = torch.from_numpy(np.stack(squares) if squares else _none(config.image_size))
        pixels = normalise(bytes_BHW3, config.pixel_mean, config.pixel_deviation)
    if strings is None:
        return Inputs(pixels, None, None)
    if tokenizer is None:
        raise TokenizerError("strings need the text tokenizer that the model was trained with; pass tokenizer=")
    if tokenizer.mask_id != config.mask_id:
        raise TokenizerError(
            f"the tokenizer's <mask> is {tokenizer.mask_id}, the model's is {config.mask_id}; "
            "give the tokenizer that the model was trained with"
        )
    return Inputs(pixels, *_padded(tokenizer, strings, config.max_text))


def _padded(tokenizer: TextTokenizer, strings: Sequence[str], limit: int) -> tuple[Tensor, Tensor]:
    encoded = tokenizer.encode_many(strings)
    length = min(limit, max(map(len, encoded), default=0))
    ids = np.full((len(encoded), length), PAD, np.int64)
    for row, found in zip(ids, encoded, strict=True):
        row[: len(found)] = found[:length]
        if len(found) > length:
            row[-1] = EOS
    values = torch.from_numpy(ids)
    return values, values == PAD


def _square(picture: Picture, size: int) -> NDArray[np.uint8]:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ImageError("bad_array", f"{picture.dtype} {list(picture.shape)}; give RGB uint8 [H, W, 3]")
        return _resized(Image.fromarray(picture), size)
    if isinstance(picture, Image.Image):
        return _resized(picture, size)
    payload = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    with open_image(payload, StoredConfig().max_pixels) as image:
        return _resized(image, size)


def _resized(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.array(upright_rgb(image).resize((size, size), Image.Resampling.BICUBIC))


def _none(size: int) -> NDArray[np.uint8]:
    return np.zeros((0, size, size, 3), np.uint8)
