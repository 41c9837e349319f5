"""One sample of the look page: its pictures, and what the shard holds of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from imglish.audit.choice import low_halves
from imglish.audit.look import Font
from imglish.audit.look_panels import boxed, coded, masked
from imglish.audit.thumbnails import has_tar
from imglish.errors import ImglishError
from imglish.records import Kind
from imglish.seeds import stream
from imglish.shards import Corpus, ImageSample, PairSample, render
from imglish.shards.format import BLOCK_IDS
from imglish.shards.images import decode_jpeg
from imglish.shards.masks import Masks, block_masks
from imglish.storage import Store

TEXT_BLOCKS = 4
"""Blocks of a document that are shown."""


class Pictures:
    """Pictures of samples: `stored` (the JPEG), and of one view `box`, `codes` and `mask` (PNG)."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.font = Font()

    def get(self, what: str, kind: Kind, ordinal: int, key: str, view: str) -> bytes | None:
        """The file; None when there is no such picture."""
        sample = read(self.corpus, kind, ordinal, key)
        if sample is None:
            return None
        if what == "stored":
            return sample.jpeg
        number = int(view) if view.isdecimal() and int(view) < len(sample.views) else 0
        drawn = self._draw(what, sample, number)
        if drawn is None:
            return None
        file = io.BytesIO()
        drawn.save(file, "PNG")
        return file.getvalue()

    def _draw(self, what: str, sample: PairSample | ImageSample, number: int) -> Image.Image | None:
        visual = self.corpus.manifest.tokenizers.visual
        if what == "box":
            return boxed(decode_jpeg(sample.jpeg), sample.views[number])
        rendered = Image.fromarray(render(sample.jpeg, sample.views[number], visual.size))
        if what == "codes":
            return coded(rendered, sample.codes[number].reshape(visual.grid), self.font(9))
        if what == "mask":
            keys = stream(0, "look", "mask").keys(low_halves([sample.key]))
            mask = block_masks(keys, visual.grid, Masks().patches(visual.grid))[0]
            return masked(rendered, mask.reshape(visual.grid))
        return None


def read(corpus: Corpus, kind: Kind, ordinal: int, key: str) -> PairSample | ImageSample | None:
    """A picture by its key, None when the shard has none of it or is not here."""
    if kind == "text" or not 0 <= ordinal < len(corpus.manifest.shards) or not has_tar(corpus, ordinal):
        return None
    places = np.flatnonzero(corpus.index(kind, ordinal)["key"] == np.void(bytes.fromhex(key)))
    return corpus.read(kind, ordinal, int(places[0])) if len(places) else None


def sample_page(corpus: Corpus, kind: str, ordinal: int, key: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the template of a sample shows, besides its occurrences and their story."""
    sample = read(corpus, cast(Kind, kind), ordinal, key)
    shard = corpus.manifest.shards[ordinal]
    return {
        "kind": kind,
        "ordinal": ordinal,
        "key": key,
        "split": shard.split,
        "shard": shard.path,
        "captions": sample.captions if isinstance(sample, PairSample) else [],
        "views": [
            {"number": number, "box": [int(v) for v in view], "codes": [int(c) for c in sample.codes[number]]}
            for number, view in enumerate(sample.views)
        ]
        if sample is not None
        else [],
        "document": _document(corpus, ordinal, rows[0]) if kind == "text" and has_tar(corpus, ordinal) else None,
    }


def _document(corpus: Corpus, ordinal: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The beginning of a document's ids, and its text where the corpus's tokenizer is here."""
    start, length = int(row["start"]), int(row["length"])
    first, last = start // BLOCK_IDS, (start + length - 1) // BLOCK_IDS
    blocks = np.arange(first, min(last + 1, first + TEXT_BLOCKS))
    ids = corpus.read_blocks(ordinal, blocks).reshape(-1)[start - first * BLOCK_IDS :][:length]
    return {"length": length, "shown": len(ids), "ids": ids[:64].tolist(), "text": _decoded(corpus, ids)}


def _decoded(corpus: Corpus, ids: Any) -> str | None:
    tokenizer = corpus.manifest.tokenizers.text
    store = Store(corpus.base)
    if tokenizer.path is None or not store.exists(tokenizer.path):
        return None
    try:
        from imglish.tokenize.text import TextTokenizer  # sentencepiece may not be installed

        return TextTokenizer(store.read(tokenizer.path), tokenizer.path).decode(ids)
    except (ImglishError, ImportError):
        return None
