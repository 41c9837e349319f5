"""From the loader's arrays to what the model takes: text rows cut, padding trimmed, pixels normalised on the device.

    inputs = to_inputs(batch["text"], text_length=64, device)     # 4 blocks of 512 ids -> 32 rows of 64

A block is cut into rows of `text_length` ids, so every id of the corpus is seen whatever the length; rows that are all
padding are left out. Captions are trimmed to the longest of the batch. Both change no prediction, only work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imglish.errors import TrainError
from imglish.model import normalise
from imglish.shards.batches import KindBatch


@dataclass(frozen=True)
class Inputs:
    """Rows of one kind on the device: what the model reads, and the truth at masked positions.

    pixels float32 [B, 3, S, S], codes int64 [B, N], image_mask bool [B, N]: None for text. ids int64 [B, T], text_mask
    bool [B, T], padding_mask bool [B, T] (None when nothing is padded): None for images. `shown` int64 [B, T] is what
    the model sees of ids, None for `<mask>` at masked ones.
    """

    rows: int
    pixels: Tensor | None = None
    codes: Tensor | None = None
    image_mask: Tensor | None = None
    ids: Tensor | None = None
    padding_mask: Tensor | None = None
    text_mask: Tensor | None = None
    shown: Tensor | None = None


def to_inputs(batch: KindBatch, text_length: int, device: torch.device) -> Inputs:
    """The rows of a kind for the model; TrainError when blocks cannot be cut into rows of `text_length`."""
    values: dict[str, Any] = {}
    if batch.images is not None:
        values["pixels"] = normalise(_tensor(batch.images, device))
        values["codes"] = _tensor(batch.codes, device)
        values["image_mask"] = _tensor(batch.image_mask, device)
        rows = len(batch.images)
    if batch.ids is not None and batch.padding_mask is not None and batch.text_mask is not None:
        text = {"ids": batch.ids, "padding_mask": batch.padding_mask, "text_mask": batch.text_mask}
        text |= {} if batch.shown is None else {"shown": batch.shown}
        text = _trim(text) if batch.images is not None else _cut(text, text_length)
        rows = len(text["ids"])
        values |= {name: _tensor(array, device) for name, array in text.items()}
        if not text["padding_mask"].any():
            values["padding_mask"] = None
    return Inputs(rows=rows, **values)


_Text = dict[str, NDArray[Any]]
"""Arrays [B, T] by name, `padding_mask` among them."""


def _cut(text: _Text, length: int) -> _Text:
    width = text["ids"].shape[1]
    if width % length:
        raise TrainError(f"train.text_length {length} does not divide blocks of {width} ids; use a divisor")
    kept = ~text["padding_mask"].reshape(-1, length).all(axis=1)
    return {name: array.reshape(-1, length)[kept] for name, array in text.items()}


def _trim(text: _Text) -> _Text:
    longest = int((~text["padding_mask"]).sum(axis=1).max())
    return {name: array[:, :longest] for name, array in text.items()}


def _tensor(array: NDArray[Any] | None, device: torch.device) -> Tensor:
    if array is None:
        raise TrainError("the batch has images without codes or masks; it is no batch of a Loader")
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
