"""Pictures for the report, the only thing for which an audit reads shards: thumbnails, and patches with one code.

sheet = [thumbnail(corpus, one) for one in chosen]
strips = code_strips([one.sample for one in sheet], [7, 12], visual)        # {7: Strip, ...}
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imglish.audit.choice import Chosen
from imglish.audit.common import data_uri
from imglish.audit.look_codes import cut, patches_by_code
from imglish.shards import Corpus, ImageSample, PairSample, render
from imglish.shards.images import decode_jpeg
from imglish.shards.manifest import VisualTokenizer
from imglish.storage import Store

SIDE = 144
"""Longest side of a thumbnail in pixels, about 4 kB each."""
PATCHES, PATCH_SIDE = 10, 28
"""Patches shown for a code, and how large, in pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """One sample as a small JPEG in a data URI, with its first caption and the number of the others."""

    uri: str
    width: int
    height: int
    caption: str | None
    more: int
    chosen: Chosen
    sample: PairSample | ImageSample


@dataclass(frozen=True)
class Strip:
    """Patches of one code side by side."""

    uri: str
    width: int
    height: int
    patches: int


def has_tar(corpus: Corpus, ordinal: int) -> bool:
    """Whether a shard's tar is here; an audit does without, but for pictures."""
    return Store(corpus.base).exists(corpus.manifest.shards[ordinal].path)


def thumbnail(corpus: Corpus, chosen: Chosen) -> Thumbnail:
    """A sample of the corpus, made small; ShardError when it is damaged."""
    sample = chosen.read(corpus)
    image = Image.fromarray(decode_jpeg(sample.jpeg))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    captions = sample.captions if isinstance(sample, PairSample) else []
    uri = data_uri(file.getvalue(), "image/jpeg")
    return Thumbnail(uri, *image.size, captions[0] if captions else None, len(captions[1:]), chosen, sample)


def code_strips(
    samples: Sequence[PairSample | ImageSample], codes: Sequence[int], visual: VisualTokenizer
) -> dict[int, Strip]:
    """For each code that the samples' views have, its most typical patches among them."""
    views = [(sample, number) for sample in samples for number in range(len(sample.views))]
    if not views:
        return {}
    patches = np.concatenate([cut(render(one.jpeg, one.views[k], visual.size), visual.grid) for one, k in views])
    found = patches_by_code(patches, np.concatenate([one.codes[k] for one, k in views]), codes, PATCHES)
    return {code: _strip(mine) for code, mine in found.items()}


def _strip(patches: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Strip:
    width = len(patches) * (PATCH_SIDE + 2) - 2
    image = Image.new("RGB", (width, PATCH_SIDE), "#ffffff")
    for place, patch in enumerate(patches):
        tile = Image.fromarray(patch).resize((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BICUBIC)
        image.paste(tile, (place * (PATCH_SIDE + 2), 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Strip(data_uri(file.getvalue(), "image/jpeg"), width, PATCH_SIDE, len(patches))
