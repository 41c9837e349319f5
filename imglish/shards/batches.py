"""From rows to arrays: reading, rendering, padding and masking the samples of one batch.

    collator = Collator(corpus, masks=Masks())
    batch = collator(position, order.rows(position), digest)
    batch["pair"].images        uint8 [B, S, S, 3]

A pure function of corpus and rows, so any thread or process may run it. Pictures stay uint8 RGB, to be normalised
on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ImageError, OrderError, ShardError
from imglish.records import Kind
from imglish.seeds import below, draw
from imglish.shards.format import BLOCK_IDS, BOS, PAD, block_key
from imglish.shards.masks import Masks, block_masks, text_masks
from imglish.shards.order import Rows
from imglish.shards.reader import Corpus
from imglish.shards.samples import U16, ImageSample, PairSample
from imglish.shards.views import render

EOS = 2
"""Id of `</s>`, which ends every caption and document."""
NEVER_MASKED = (BOS, PAD, EOS)
CAPTION_LENGTH = 64
"""Ids of a caption in a batch; ours, the paper gives no length (BEiT-3's fine-tuning default)."""

Bools = NDArray[np.bool_]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KindBatch:
    """Samples of one kind: B of them, pictures of S x S pixels with N codes, T ids.

    `images` uint8 [B, S, S, 3] RGB, `codes` int64 [B, N], `image_mask` bool [B, N]; None for text.
    `ids` int64 [B, T], `padding_mask` bool [B, T] (True is `<pad>`), `text_mask` bool [B, T]; None for images.
    Masks are True where the model has to predict; ids and codes are the unmasked truth.
    """

    images: NDArray[np.uint8] | None = None
    codes: Ids | None = None
    image_mask: Bools | None = None
    ids: Ids | None = None
    padding_mask: Bools | None = None
    text_mask: Bools | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's share of the global batch at `position`; `batch[kind]` for the kinds in it.

    `digest` is that of the whole global batch, `keys[kind]` this rank's sample keys in order, `replaced` how many rows
    of the global batch stand in for excluded ones.
    """

    position: int
    digest: str
    replaced: int
    keys: Mapping[Kind, list[str]]
    kinds: Mapping[Kind, KindBatch]

    def __getitem__(self, kind: Kind) -> KindBatch:
        return self.kinds[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.kinds


class Collator:
    """Reads rows of a corpus into arrays.

    Captions are padded or truncated to `caption_length` ids, keeping `</s>`; blocks are cut to `text_length` ids (None:
    all 512); pictures have `image_size` pixels a side (None: the size that their codes were made at).
    """

    def __init__(
        self,
        corpus: Corpus,
        masks: Masks,
        caption_length: int = CAPTION_LENGTH,
        text_length: int | None = None,
        image_size: int | None = None,
    ) -> None:
        visual = corpus.manifest.tokenizers.visual
        self.corpus = corpus
        self.masks = masks
        self.grid = visual.grid
        self.caption_length = _at_least("caption_length", caption_length, 2)
        self.text_length = min(
            _at_least("text_length", BLOCK_IDS if text_length is None else text_length, 1), BLOCK_IDS
        )
        self.image_size = _at_least("image_size", visual.size if image_size is None else image_size, 1)

    def __call__(self, position: int, rows: Mapping[Kind, Rows], digest: str, replaced: int) -> Batch:
        """The batch of these rows; ShardError names a sample that is damaged."""
        keys: dict[Kind, list[str]] = {}
        kinds: dict[Kind, KindBatch] = {}
        for kind, wanted in rows.items():
            keys[kind], kinds[kind] = self._texts(wanted) if kind == "text" else self._pictures(kind, wanted)
        return Batch(position, digest, replaced, keys, kinds)

    def _texts(self, rows: Rows) -> tuple[list[str], KindBatch]:
        blocks = np.empty((len(rows), BLOCK_IDS), dtype=np.uint16)
        for ordinal in np.unique(rows.ordinal):
            chosen = rows.ordinal == ordinal
            blocks[chosen] = self.corpus.read_blocks(int(ordinal), rows.row[chosen])
        ids = blocks[:, : self.text_length].astype(np.int64)
        mask = text_masks(rows.text_mask, ids, self.masks.text, NEVER_MASKED)
        keys = [block_key(ordinal, row) for ordinal, row in _places(rows)]
        return keys, KindBatch(ids=ids, padding_mask=ids == PAD, text_mask=mask)

    def _pictures(self, kind: Kind, rows: Rows) -> tuple[list[str], KindBatch]:
        count, side = len(rows), self.image_size
        images = np.empty((count, side, side, 3), dtype=np.uint8)
        codes = np.empty((count, self.grid[0] * self.grid[1]), dtype=np.int64)
        ids = np.full((count, self.caption_length), PAD, dtype=np.int64)
        keys = []
        for place, (ordinal, row) in enumerate(_places(rows)):
            sample = self._read(kind, ordinal, row)
            view = int(below(draw(rows.view[place], 0), len(sample.views))[0])
            images[place] = self._render(sample, view, ordinal, row)
            codes[place] = sample.codes[view]
            keys.append(sample.key)
            if isinstance(sample, PairSample):
                caption = sample.ids[int(rows.caption[place]) % len(sample.ids)]
                _put_caption(ids[place], caption)
        patches = self.masks.patches(self.grid)
        batch = KindBatch(images, codes, block_masks(rows.image_mask, self.grid, patches))
        return keys, self._with_captions(batch, ids, rows) if kind == "pair" else batch

    def _with_captions(self, batch: KindBatch, ids: Ids, rows: Rows) -> KindBatch:
        mask = text_masks(rows.text_mask, ids, self.masks.caption, NEVER_MASKED)
        return KindBatch(batch.images, batch.codes, batch.image_mask, ids, ids == PAD, mask)

    def _read(self, kind: Kind, ordinal: int, row: int) -> PairSample | ImageSample:
        sample = self.corpus.read("pair", ordinal, row) if kind == "pair" else self.corpus.read("image", ordinal, row)
        expected = (len(sample.views), self.grid[0] * self.grid[1])
        if (
            not len(sample.views)
            or sample.codes.shape != expected
            or (isinstance(sample, PairSample) and not sample.ids)
        ):
            raise ShardError(
                f"shard {ordinal}, {kind} row {row} ({sample.key}): codes {list(sample.codes.shape)} for "
                f"{len(sample.views)} views of {self.grid[0]} x {self.grid[1]} patches; rebuild the shard, or {_SKIP}"
            )
        return sample

    def _render(self, sample: PairSample | ImageSample, view: int, ordinal: int, row: int) -> NDArray[np.uint8]:
        try:
            return render(sample.jpeg, sample.views[view], self.image_size)
        except (ImageError, ValueError) as error:
            raise ShardError(
                f"shard {ordinal}, row {row} ({sample.key}): view {view} cannot be rendered: {error}; "
                f"rebuild the shard, or {_SKIP}"
            ) from error


_SKIP = "skip the row with a line of the exclusions file"


def _put_caption(target: Ids, ids: U16) -> None:
    """Copy a caption into a row of pads; a longer one loses the ids before its `</s>`."""
    kept = min(len(ids), len(target))
    target[:kept] = ids[:kept]
    target[kept - 1] = ids[-1]


def _places(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.ordinal.tolist(), rows.row.tolist(), strict=True))


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise OrderError(f"{name} is {value}; it is at least {least}")
    return value
