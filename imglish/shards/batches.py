"""From rows to arrays: reading, rendering, padding and masking the samples of one batch.

    collator = Collator(corpus, masks=Masks())
    batch = collator(position, order.rows(position), digest)
    batch["pair"].images        uint8 [B, S, S, 3]

A pure function of corpus and rows, so any thread or process may run it. Pictures stay uint8 RGB, to be normalised
on the device.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ImageError, OrderError, SampleError
from imglish.records import Kind
from imglish.seeds import U64, draw, uniform
from imglish.shards.buffers import Buffers
from imglish.shards.format import BLOCK_IDS, BOS, PAD, VIEW_FIELDS, block_key, decode_u16
from imglish.shards.masks import Masks, block_masks, shown_ids, text_masks
from imglish.shards.order import Rows
from imglish.shards.reader import Corpus
from imglish.shards.views import render

EOS, UNK = 2, 3
"""Ids of `</s>`, which ends every caption and document, and of `<unk>`, the last before those of pieces."""
NEVER_MASKED = (BOS, PAD, EOS)
CAPTION_LENGTH = 64
"""Ids of a caption in a batch; ours, the paper gives no length (BEiT-3's fine-tuning default)."""

_VIEW = struct.Struct(f"<{VIEW_FIELDS}H")

Bools = NDArray[np.bool_]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KindBatch:
    """Samples of one kind: B of them, pictures of S x S pixels with N codes, T ids.

    `images` uint8 [B, S, S, 3] RGB, `codes` int64 [B, N], `image_mask` bool [B, N]; None for text.
    `ids` int64 [B, T], `padding_mask` bool [B, T] (True is `<pad>`), `text_mask` bool [B, T]; None for images.
    Masks are True where the model has to predict; ids and codes are the unmasked truth. `shown` int64 [B, T] is what
    the model sees of ids by the 80/10/10 rule; None when that is `<mask>` at all masked ones.
    """

    images: NDArray[np.uint8] | None = None
    codes: Ids | None = None
    image_mask: Bools | None = None
    ids: Ids | None = None
    padding_mask: Bools | None = None
    text_mask: Bools | None = None
    shown: Ids | None = None


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
        visual, text = corpus.manifest.tokenizers.visual, corpus.manifest.tokenizers.text
        self._words = text.mask_id, (UNK + 1, text.mask_id)
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
        keys = [block_key(ordinal, row) for ordinal, row in _places(rows)]
        return keys, self._with_ids(KindBatch(), ids, rows, self.masks.text)

    def _pictures(self, kind: Kind, rows: Rows) -> tuple[list[str], KindBatch]:
        count, side = len(rows), self.image_size
        images = self._buffers.take((count, side, side, 3))
        keys: list[str] = []
        codes: list[bytes] = []
        captions: list[bytes] = []
        places = _places(rows)
        choices = uniform(draw(rows.view, 0)).tolist()
        samples = self.corpus.members_of(kind, rows.ordinal, rows.row)
        for number, (place, (key, fields)) in enumerate(zip(places, samples, strict=True)):
            try:
                view = self._view(choices[number], fields, kind)
                self._render(fields["jpg"], _VIEW.unpack_from(fields["views"], view * _VIEW.size), images[number])
            except ValueError as error:
                said = f"shard {place[0]}, {kind} row {place[1]} ({key}): {error}; rebuild the shard"
                raise SampleError(said, kind, *place) from error
            codes.append(fields["codes"][2 * self._codes * view : 2 * self._codes * (view + 1)])
            keys.append(key)
            if kind == "pair":
                captions.append(fields["ids"])
        grids = decode_u16(b"".join(codes)).reshape(count, self._codes).astype(np.int64)
        batch = KindBatch(images, grids, block_masks(rows.image_mask, self.grid, self.masks.patches(self.grid)))
        if kind == "image":
            return keys, batch
        ids = chosen_captions(captions, rows.caption, self.caption_length)
        return keys, self._with_ids(batch, ids, rows, self.masks.caption)

    def _with_ids(self, batch: KindBatch, ids: Ids, rows: Rows, share: float) -> KindBatch:
        mask = text_masks(rows.text_mask, ids, share, NEVER_MASKED)
        shown = None if self.masks.shown == "mask" else shown_ids(rows.text_mask, ids, mask, *self._words)
        return replace(batch, ids=ids, padding_mask=ids == PAD, text_mask=mask, shown=shown)

    def _view(self, choice: float, fields: Mapping[str, bytes], kind: Kind) -> int:
        """The number of the view that a draw from [0, 1) chooses; ValueError when fields are missing or do not fit."""
        count, rest = divmod(len(fields["views"]), _VIEW.size)
        if count and not rest and len(fields["codes"]) == 2 * self._codes * count and (kind != "pair" or fields["ids"]):
            return int(choice * count)
        raise ValueError(
            f"{len(fields['codes'])} bytes of codes for {count} views of {self.grid[0]} x {self.grid[1]} patches"
        )

    def _render(self, jpeg: bytes, view: tuple[int, ...], out: NDArray[np.uint8]) -> None:
        """ValueError when the view cannot be rendered."""
        try:
            render(jpeg, view, self.image_size, out)
        except (ImageError, ValueError) as error:
            raise ValueError(f"its view {list(view)} cannot be rendered: {error}") from error


def chosen_captions(packed: Sequence[bytes], numbers: U64, length: int) -> Ids:
    """Of each sample's captions, laid end to end, the one with its number modulo how many there are: int64 [n, length].

    Shorter ones are padded; a longer one loses the ids before its `</s>`.
    """
    flat = decode_u16(b"".join(packed))
    ends = np.cumsum([len(ids) // 2 for ids in packed], dtype=np.int64)
    begins = np.concatenate([[0], ends])[:-1]
    opens = flat == BOS
    opens[begins] = True
    starts = np.flatnonzero(opens)
    first, behind = np.searchsorted(starts, begins), np.searchsorted(starts, ends)
    chosen = first + (numbers % (behind - first).astype(np.uint64)).astype(np.int64)
    start, end = starts[chosen], np.append(starts, len(flat))[chosen + 1]
    kept = np.minimum(end - start, length)
    places = np.arange(length)
    found = np.where(places < kept[:, None], flat[np.minimum(start[:, None] + places, len(flat) - 1)], PAD)
    found[np.arange(len(kept)), kept - 1] = flat[end - 1]
    return found.astype(np.int64)


def _places(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.ordinal.tolist(), rows.row.tolist(), strict=True))


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise OrderError(f"{name} is {value}; it is at least {least}")
    return value
