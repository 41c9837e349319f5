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

from imglish.errors import ImageError, OrderError, SampleError
from imglish.records import Kind
from imglish.seeds import draw, uniform
from imglish.shards.buffers import Buffers
from imglish.shards.format import BLOCK_IDS, BOS, PAD, VIEW_FIELDS, block_key, decode_u16, split_captions
from imglish.shards.masks import Masks, block_masks, text_masks
from imglish.shards.order import Rows
from imglish.shards.reader import Corpus
from imglish.shards.samples import U16
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
        self._codes = visual.grid[0] * visual.grid[1]
        self._buffers = Buffers()
        self.caption_length = _at_least("caption_length", caption_length, 2)
        self.text_length = min(
            _at_least("text_length", BLOCK_IDS if text_length is None else text_length, 1), BLOCK_IDS
        )
        self.image_size = _at_least("image_size", visual.size if image_size is None else image_size, 1)

    def __call__(self, position: int, rows: Mapping[Kind, Rows], digest: str, replaced: int) -> Batch:
        """The batch of these rows; SampleError names a sample that is damaged."""
        keys: dict[Kind, list[str]] = {}
        kinds: dict[Kind, KindBatch] = {}
        for kind, wanted in rows.items():
            keys[kind], kinds[kind] = self._texts(wanted) if kind == "text" else self._pictures(kind, wanted)
        return Batch(position, digest, replaced, keys, kinds)

    def _texts(self, rows: Rows) -> tuple[list[str], KindBatch]:
        ids = self.corpus.blocks(rows.ordinal, rows.row)[:, : self.text_length].astype(np.int64)
        mask = text_masks(rows.text_mask, ids, self.masks.text, NEVER_MASKED)
        keys = [block_key(ordinal, row) for ordinal, row in _places(rows)]
        return keys, KindBatch(ids=ids, padding_mask=ids == PAD, text_mask=mask)

    def _pictures(self, kind: Kind, rows: Rows) -> tuple[list[str], KindBatch]:
        count, side = len(rows), self.image_size
        images = self._buffers.take((count, side, side, 3))
        codes = np.empty((count, self._codes), dtype=np.int64)
        ids = np.full((count, self.caption_length), PAD, dtype=np.int64)
        keys = []
        places = _places(rows)
        choices = uniform(draw(rows.view, 0)).tolist()
        samples = self.corpus.members_of(kind, rows.ordinal, rows.row)
        for number, (place, (key, fields)) in enumerate(zip(places, samples, strict=True)):
            views = self._views(kind, place, key, fields)
            view = int(choices[number] * len(views))
            self._render(fields["jpg"], views[view], images[number], (kind, *place, key))
            codes[number] = np.frombuffer(fields["codes"], "<u2", self._codes, 2 * self._codes * view)
            keys.append(key)
            if kind == "pair":
                captions = split_captions(decode_u16(fields["ids"]))
                _put_caption(ids[number], captions[int(rows.caption[number]) % len(captions)])
        patches = self.masks.patches(self.grid)
        batch = KindBatch(images, codes, block_masks(rows.image_mask, self.grid, patches))
        return keys, self._with_captions(batch, ids, rows) if kind == "pair" else batch

    def _with_captions(self, batch: KindBatch, ids: Ids, rows: Rows) -> KindBatch:
        mask = text_masks(rows.text_mask, ids, self.masks.caption, NEVER_MASKED)
        return KindBatch(batch.images, batch.codes, batch.image_mask, ids, ids == PAD, mask)

    def _views(self, kind: Kind, place: tuple[int, int], key: str, fields: Mapping[str, bytes]) -> U16:
        """Views of a sample, u16 [K, 5]; SampleError when fields are missing or do not fit each other."""
        views = np.frombuffer(fields["views"], "<u2").reshape(-1, VIEW_FIELDS)
        if len(views) and len(fields["codes"]) == 2 * self._codes * len(views) and (kind != "pair" or fields["ids"]):
            return views
        raise SampleError(
            f"shard {place[0]}, {kind} row {place[1]} ({key}): {len(fields['codes'])} bytes of codes for {len(views)} "
            f"views of {self.grid[0]} x {self.grid[1]} patches; rebuild the shard",
            kind,
            *place,
        )

    def _render(self, jpeg: bytes, view: U16, out: NDArray[np.uint8], sample: tuple[Kind, int, int, str]) -> None:
        try:
            render(jpeg, view, self.image_size, out)
        except (ImageError, ValueError) as error:
            kind, ordinal, row, key = sample
            raise SampleError(
                f"shard {ordinal}, {kind} row {row} ({key}): its view {view.tolist()} cannot be rendered: {error}; "
                "rebuild the shard",
                kind,
                ordinal,
                row,
            ) from error


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
