"""The samples of a corpus, as the reader returns them and the writer takes them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

U16 = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class PairSample:
    """One image with 1..m captions.

    `key` is the record id in hex (32 digits), `jpeg` the stored image, `captions` m strings, `ids` m arrays u16 [*]
    (`<s>` ... `</s>`) in the same order, `views` u16 [K, 5] of (x, y, w, h, flip), `codes` u16 [K, N].
    """

    key: str
    jpeg: bytes = field(repr=False)
    captions: list[str]
    ids: list[U16]
    views: U16
    codes: U16


@dataclass(frozen=True, eq=False)
class ImageSample:
    """One image: `key`, `jpeg`, `views` and `codes` as in PairSample."""

    key: str
    jpeg: bytes = field(repr=False)
    views: U16
    codes: U16


@dataclass(frozen=True, eq=False)
class TextSample:
    """One block: `key` is `<shard ordinal, 6 digits>/<block number>`, `ids` u16 [512]."""

    key: str
    ids: U16
