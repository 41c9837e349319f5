"""From the loader's arrays to what the model takes: text rows cut, padding trimmed, pixels normalised on the device.

    for part in split(batch, parts=2, rank=0, world_size=4):          # gradient accumulation
        inputs = {kind: to_inputs(share, text_length=64, device=device) for kind, share in part.items()}

A block is cut into rows of `text_length` ids, so every id of the corpus is seen whatever the length; rows that are all
padding are left out. Captions are trimmed to the longest of the batch. Both change no prediction, only work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imglish.errors import TrainError
from imglish.model import normalise
from imglish.model.operations import Work
from imglish.records import Kind
from imglish.shards.batches import Batch, KindBatch


@dataclass(frozen=True)
class Inputs:
    """Rows of one kind on the device: what the model reads, and the truth at masked positions.

    pixels float32 [B, 3, S, S], codes int64 [B, N], image_mask bool [B, N]: None for text. ids int64 [B, T], text_mask
    bool [B, T], padding_mask bool [B, T] (None when nothing is padded): None for images. `shown` int64 [B, T] is what
    the model sees of ids, None for `<mask>` at masked ones. `numbers` int64 [B] are the rows' places in the global
    batch, the same whatever the number of ranks.
    """

    rows: int
    numbers: NDArray[np.int64]
    pixels: Tensor | None = None
    codes: Tensor | None = None
    image_mask: Tensor | None = None
    ids: Tensor | None = None
    padding_mask: Tensor | None = None
    text_mask: Tensor | None = None
    shown: Tensor | None = None


@dataclass(frozen=True)
class Share:
    """Samples of one kind and their places in the global batch, int64 [B]."""

    batch: KindBatch
    places: NDArray[np.int64]


def split(batch: Batch, parts: int = 1, rank: int = 0, world_size: int = 1) -> list[dict[Kind, Share]]:
    """A rank's batch in `parts` equal parts; TrainError when a kind cannot be divided.

    Sample i of rank r stands at place r + i * world_size of the global batch (`imglish.shards.order.Rows.share`).
    """
    found: list[dict[Kind, Share]] = [{} for _ in range(parts)]
    for kind, whole in batch.kinds.items():
        count = len(batch.keys[kind])
        if count % parts:
            raise TrainError(f"train.accumulate {parts} does not divide a rank's {count} {kind} rows; use a divisor")
        for number, part in enumerate(found):
            chosen = slice(number * (count // parts), (number + 1) * (count // parts))
            part[kind] = Share(_cut_rows(whole, chosen), rank + world_size * np.arange(count)[chosen])
    return found


def count_work(part: Mapping[Kind, Share], image_tokens: int, text_length: int) -> Work:
    """Real tokens and masked positions of a part; an image has `image_tokens` with its cls token."""
    rows: dict[Kind, list[int]] = {}
    codes = words = 0
    for kind, share in part.items():
        batch, image = share.batch, 0 if kind == "text" else image_tokens
        lengths = np.zeros(len(share.places), np.int64)
        if batch.padding_mask is not None:
            real = ~batch.padding_mask
            lengths = real.sum(axis=1) if image else real.reshape(-1, text_length).sum(axis=1)
        rows[kind] = (image + lengths[lengths > 0] if kind == "text" else image + lengths).tolist()
        codes += 0 if batch.image_mask is None else int(batch.image_mask.sum())
        words += 0 if batch.text_mask is None else int(batch.text_mask.sum())
    return Work(rows, codes, words)


def to_inputs(share: Share | KindBatch, text_length: int, device: torch.device) -> Inputs:
    """The rows of a kind for the model; TrainError when blocks cannot be cut into rows of `text_length`."""
    if isinstance(share, KindBatch):
        share = Share(share, np.arange(len(next(v for v in (share.images, share.ids) if v is not None))))
    batch, values, numbers = share.batch, dict[str, Any](), share.places
    if batch.images is not None:
        values["pixels"] = normalise(_tensor(batch.images, device))
        values["codes"] = _tensor(batch.codes, device)
        values["image_mask"] = _tensor(batch.image_mask, device)
    if batch.ids is not None and batch.padding_mask is not None and batch.text_mask is not None:
        text = {"ids": batch.ids, "padding_mask": batch.padding_mask, "text_mask": batch.text_mask}
        text |= {} if batch.shown is None else {"shown": batch.shown}
        if batch.images is not None:
            text = _trim(text)
        else:
            text, numbers = _cut(text, text_length, numbers)
        values |= {name: _tensor(array, device) for name, array in text.items()}
        if not text["padding_mask"].any():
            values["padding_mask"] = None
    return Inputs(rows=len(numbers), numbers=numbers, **values)


_Text = dict[str, NDArray[Any]]
"""Arrays [B, T] by name, `padding_mask` among them."""


def _cut_rows(batch: KindBatch, chosen: slice) -> KindBatch:
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: array[chosen] for name, array in arrays.items() if array is not None})


def _cut(text: _Text, length: int, places: NDArray[np.int64]) -> tuple[_Text, NDArray[np.int64]]:
    width = text["ids"].shape[1]
    if width % length:
        raise TrainError(f"train.text_length {length} does not divide blocks of {width} ids; use a divisor")
    kept = ~text["padding_mask"].reshape(-1, length).all(axis=1)
    numbers = (places[:, None] * (width // length) + np.arange(width // length)).reshape(-1)
    return {name: array.reshape(-1, length)[kept] for name, array in text.items()}, numbers[kept]


def _trim(text: _Text) -> _Text:
    longest = int((~text["padding_mask"]).sum(axis=1).max())
    return {name: array[:, :longest] for name, array in text.items()}


def _tensor(array: NDArray[Any] | None, device: torch.device) -> Tensor:
    if array is None:
        raise TrainError("the batch has images without codes or masks; it is no batch of a Loader")
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
