"""What the model makes of one masked pair: a picture, and the caption with its guesses.

    picture = Picture.of(objective, batch["pair"], config, device)          # on every rank
    pixels = picture.save("pictures/step-00000100.png", corpus, manifest)   # uint8 [H, W, 3]; a .txt beside it

From left to right: the image; the image as the model sees it, masked patches grey; the true codes, a colour each; the
codes as the model fills them in, framed where it had to guess, in white where it was right. Below, the caption: every
masked word in brackets with its three best guesses.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from imglish.errors import ImglishError
from imglish.recipe import TrainConfig
from imglish.seeds import mix
from imglish.shards.batches import KindBatch
from imglish.shards.reader import Corpus
from imglish.storage import Store
from imglish.tokenize.text import TextTokenizer
from imglish.trainer.batches import to_inputs
from imglish.trainer.losses import Score

SIDE = 224
"""Pixels of a panel."""
GUESSES = 3


@dataclass(frozen=True)
class Picture:
    """Image uint8 [S, S, 3]; codes and guessed codes int64 [N] (the truth where nothing is masked), mask bool [N];
    ids int64 [T] of the caption, and by masked place its best guesses, best first."""

    image: NDArray[np.uint8]
    codes: NDArray[np.int64]
    guessed: NDArray[np.int64]
    mask: NDArray[np.bool_]
    ids: NDArray[np.int64]
    guesses: dict[int, list[int]]

    @classmethod
    @torch.no_grad()
    def of(cls, objective: nn.Module, pair: KindBatch, config: TrainConfig, device: torch.device) -> Picture:
        """The first pair of a batch; every rank must call this."""
        inputs = {"pair": to_inputs(pair, config.text_length, device)}
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            scores: dict[str, Score] = objective(inputs, guesses=GUESSES)
        arrays = (pair.images, pair.codes, pair.image_mask, pair.ids, pair.padding_mask, pair.text_mask)
        image, codes, mask, ids, padding, hidden = (array[0] for array in arrays if array is not None)
        guessed = codes.copy()
        guessed[mask] = scores["pair/codes"].predicted[: mask.sum(), 0].cpu().numpy()
        words = scores["pair/words"].predicted.cpu().numpy()
        guesses = {int(place): words[n].tolist() for n, place in enumerate(np.flatnonzero(hidden))}
        return cls(image, codes, guessed, mask, ids[~padding], guesses)

    def save(self, path: Path, corpus: Corpus, manifest: str) -> NDArray[np.uint8]:
        """Write the picture and the caption beside it; the pixels."""
        grid = corpus.manifest.tokenizers.visual.grid
        panels = [self.image, self._masked(grid), self._codes(self.codes, grid), self._filled(grid)]
        pixels = np.concatenate([_panel(panel) for panel in panels], axis=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(self.caption(_pieces(corpus, manifest)) + "\n", encoding="utf-8")
        return pixels

    def caption(self, tokenizer: TextTokenizer | None) -> str:
        """The caption, masked words as [true: guess, guess, guess]."""

        def told(ids: Sequence[int]) -> str:
            return " ".join(map(str, ids)) if tokenizer is None else (tokenizer.decode(ids) or str(ids[0]))

        parts = []
        for place, word in enumerate(self.ids.tolist()):
            guesses = self.guesses.get(place)
            parts.append(
                told([word]) if guesses is None else f"[{told([word])}: {', '.join(told([g]) for g in guesses)}]"
            )
        return " ".join(parts[1:-1])

    def _masked(self, grid: tuple[int, int]) -> NDArray[np.uint8]:
        image = self.image.copy()
        image[_blown(self.mask, grid, image.shape[0])] = 128
        return image

    def _codes(self, codes: NDArray[np.int64], grid: tuple[int, int]) -> NDArray[np.uint8]:
        return _blown(np.array([_colour(code) for code in codes.tolist()], np.uint8), grid, SIDE)

    def _filled(self, grid: tuple[int, int]) -> NDArray[np.uint8]:
        drawn = Image.fromarray(self._codes(self.guessed, grid))
        pen, (rows, columns) = ImageDraw.Draw(drawn), grid
        for place in np.flatnonzero(self.mask).tolist():
            row, column = divmod(place, columns)
            box = (column * SIDE // columns, row * SIDE // rows)
            end = ((column + 1) * SIDE // columns - 1, (row + 1) * SIDE // rows - 1)
            pen.rectangle((box, end), outline="white" if self.guessed[place] == self.codes[place] else "black")
        return np.asarray(drawn)


def _colour(code: int) -> tuple[int, ...]:
    """A hue and brightness for each code, the same in every picture."""
    bits = int(mix(code)[0])
    parts = colorsys.hsv_to_rgb(bits % 997 / 997, 0.35 + (bits >> 20) % 101 / 200, 0.45 + (bits >> 40) % 101 / 200)
    return tuple(round(255 * part) for part in parts)


def _blown(values: NDArray[Any], grid: tuple[int, int], side: int) -> NDArray[Any]:
    """A value per patch [N, ...] as one per pixel [side, side, ...]."""
    rows, columns = (np.arange(side) * count // side for count in grid)
    return values.reshape(*grid, *values.shape[1:])[rows[:, None], columns[None, :]]


def _panel(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _pieces(corpus: Corpus, manifest: str) -> TextTokenizer | None:
    """The corpus's text tokenizer, None when its file is not there: ids are shown then."""
    path = corpus.manifest.tokenizers.text.path
    if path is None:
        return None
    try:
        return TextTokenizer(Store(manifest.rpartition("/")[0] or ".").read(path))
    except (ImglishError, OSError, ImportError):
        return None
