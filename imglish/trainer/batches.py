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
    bool [B, T], padding_mask bool [B, T] (None when nothing is padded): None for images.
    """

    rows: int
    pixels: Tensor | None = None
    codes: Tensor | None = None
    image_mask: Tensor | None = None
    ids: Tensor | None = None
    padding_mask: Tensor | None = None
    text_mask: Tensor | None = None


def to_inputs(batch: KindBatch, text_length: int, device: torch.device) -> Inputs:
    """The rows of a kind for the model; TrainError when blocks cannot be cut into rows of `text_length`."""
    values: dict[str, Any] = {}
    if batch.images is not None:
        values["pixels"] = normalise(_tensor(batch.images, device))
        values["codes"] = _tensor(batch.codes, device)
        values["image_mask"] = _tensor(batch.image_mask, device)
        rows = len(batch.images)
    if batch.ids is not None and batch.padding_mask is not None and batch.text_mask is not None:
        text = (batch.ids, batch.padding_mask, batch.text_mask)
        text = _trim(*text) if batch.images is not None else _cut(*text, text_length)
        rows = len(text[0])
        values["ids"] = _tensor(text[0], device)
        values["padding_mask"] = _tensor(text[1], device) if text[1].any() else None
        values["text_mask"] = _tensor(text[2], device)
    return Inputs(rows=rows, **values)


_Text = tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]


def _cut(ids: NDArray[np.int64], padding: NDArray[np.bool_], mask: NDArray[np.bool_], length: int) -> _Text:
    if ids.shape[1] % length:
        raise TrainError(f"train.text_length {length} does not divide blocks of {ids.shape[1]} ids; use a divisor")
    padding = padding.reshape(-1, length)
    kept = ~padding.all(axis=1)
    return ids.reshape(-1, length)[kept], padding[kept], mask.reshape(-1, length)[kept]


def _trim(ids: NDArray[np.int64], padding: NDArray[np.bool_], mask: NDArray[np.bool_]) -> _Text:
    longest = int((~padding).sum(axis=1).max())
    return ids[:, :longest], padding[:, :longest], mask[:, :longest]


def _tensor(array: NDArray[Any] | None, device: torch.device) -> Tensor:
    if array is None:
        raise TrainError("the batch has images without codes or masks; it is no batch of a Loader")
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
