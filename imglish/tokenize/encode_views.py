"""Codes of the kept images of a landing file: stored image, views, rendered pixels, tokenizer.

    encoder = ViewEncoder(tokenizer, stored, views, seed=0, batch=32)
    for rows in encoder.run(batches): ...         IMAGES rows, batch by batch

With an accelerator the next batch is decoded and rendered by a thread while the tokenizer works on this one, so that it
does not wait for JPEGs. On CPUs they take turns, which is as fast: the tokenizer fills the cores, so that there is
nothing to decode on meanwhile. Batches have one shape, and a slot belongs to an image for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imglish.errors import TokenizerError
from imglish.recipe import StoredConfig, ViewConfig
from imglish.shards.images import StoredImage, decode_jpeg
from imglish.shards.views import Views, draw_views, render
from imglish.tokenize.rows import stored_image
from imglish.tokenize.visual import VisualTokenizer, device_name

Rows = Sequence[Mapping[str, Any]]


class _Rendered(NamedTuple):
    """A batch as the tokenizer takes it: pixels uint8 [K, batch, S, S, 3], and the slots of its rows."""

    rows: Rows
    images: Sequence[StoredImage]
    views: Views
    slots: NDArray[np.int64]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class ViewEncoder:
    """Stored image, views and codes of the images of each batch."""

    tokenizer: VisualTokenizer
    stored: StoredConfig
    views: ViewConfig
    seed: int
    batch: int

    def run(self, batches: Iterable[Rows]) -> Iterator[list[dict[str, Any]]]:
        """IMAGES rows of the rows of each batch, which have record_id, payload and image (the number that gives the
        slot)."""
        if device_name(self.tokenizer) is None:
            yield from (self._coded(self._rendered(rows)) for rows in batches)
            return
        waiting = iter(batches)

        def following() -> _Rendered | None:
            rows = next(waiting, None)
            return None if rows is None else self._rendered(rows)

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(following)
            while (rendered := ahead.result()) is not None:
                ahead = pool.submit(following)
                yield self._coded(rendered)

    def slot(self, row: Mapping[str, Any]) -> int:
        """Place of a row's image in every batch that it is in."""
        return int(row["image"]) % self.batch

    def _rendered(self, rows: Rows) -> _Rendered:
        images = [stored_image(row, self.stored) for row in rows]
        sizes = [(image.width, image.height) for image in images]
        views = draw_views([row["record_id"] for row in rows], sizes, self.views, self.seed)
        slots = np.array([self.slot(row) for row in rows])
        size = self.tokenizer.size
        pixels = np.zeros((self.views.count, self.batch, size, size, 3), np.uint8)
        for image, boxes, slot in zip(images, views, slots, strict=True):
            rgb = decode_jpeg(image.jpeg)
            for number, box in enumerate(boxes):
                render(rgb, box, size, pixels[number, slot])
        return _Rendered(rows, images, views, slots, pixels)

    def _coded(self, batch: _Rendered) -> list[dict[str, Any]]:
        """View k of every image goes through the tokenizer in the k-th batch, at its slot."""
        codes = np.stack([self._encoded(view)[batch.slots] for view in batch.pixels], axis=1)
        return [
            {
                "record_id": row["record_id"],
                "kind": row["sample_kind"],
                "split": row["split"],
                "stored_sha256": hashlib.sha256(image.jpeg).digest(),
                "width": image.width,
                "height": image.height,
                "views": u16_bytes(boxes),
                "codes": u16_bytes(grid),
            }
            for row, image, boxes, grid in zip(batch.rows, batch.images, batch.views, codes, strict=True)
        ]

    def _encoded(self, view: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Codes of one batch, uint16 [batch, N]; TokenizerError when a tokenizer does not keep to what it says."""
        codes, (rows, columns), name = self.tokenizer.encode(view), self.tokenizer.grid, self.tokenizer.digest[:16]
        if codes.shape != (self.batch, rows * columns) or codes.dtype != np.uint16:
            raise TokenizerError(
                f"visual tokenizer {name}… gave {codes.dtype} {list(codes.shape)} for {self.batch} views; its grid of "
                f"{rows} x {columns} makes uint16 [{self.batch}, {rows * columns}]"
            )
        if codes.size and int(codes.max()) >= self.tokenizer.codes:
            raise TokenizerError(f"visual tokenizer {name}… gave code {codes.max()}, but has {self.tokenizer.codes}")
        return codes


def u16_bytes(values: NDArray[np.uint16]) -> bytes:
    """Little-endian bytes, as tables hold them."""
    return values.astype("<u2", copy=False).tobytes()
