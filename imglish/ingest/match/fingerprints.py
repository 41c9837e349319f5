"""Fingerprints: what annotate measures so that copies can be proposed without reading payloads again.

    fingerprints(rows, looks)         # schema FINGERPRINTS, row by row beside landing

A text has a digest of its normal form and a MinHash signature, a picture a perceptual hash and a key of its pixels,
a pair's captions a hash each. What has no usable payload has nulls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imglish.ingest.match.looks import LOOK_VERSION, Look
from imglish.ingest.match.shingles import (
    TEXT_VERSION,
    hash_words,
    minhash,
    normal_digest,
    shingles_of_hashes,
    words_of,
)

RUN_WORDS = 5
"""Words of a run (datatrove, FineWeb and others: 5)."""
VERSIONS = {"look": LOOK_VERSION, "text": TEXT_VERSION}

FINGERPRINTS = pa.schema(
    [
        pa.field("record_id", pa.binary()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("hash", pa.uint64()),  # perceptual hash of a picture
        pa.field("pixels", pa.binary()),  # 8 bytes, equal for equal pixels
        pa.field("normal", pa.binary()),  # 16 bytes of a text, equal for equal normal forms
        pa.field("signature", pa.binary()),  # 112 x u32 little-endian, of a text with at least one word
        pa.field("captions", pa.binary()),  # 8 bytes for each caption's normal form
    ]
)


def fingerprints(
    rows: Sequence[Mapping[str, Any]],
    looks: Sequence[Look | None],
    texts: Sequence[str | None],
    captions: Sequence[Sequence[str]],
) -> pa.Table:
    """FINGERPRINTS of rows with `record_id` and `kind`; per row its look or text, where it has one, and captions."""
    normal, words = zip(*(_normal(text) for text in texts), strict=True) if texts else ((), ())
    signatures = minhash(shingles_of_hashes([found for found in words if len(found)], RUN_WORDS)).astype("<u4")
    signed = iter(signatures)
    columns: dict[str, list[Any]] = {
        "record_id": [row["record_id"] for row in rows],
        "kind": [row["kind"] for row in rows],
        "hash": [None if look is None else look.hash for look in looks],
        "pixels": [None if look is None else look.pixels for look in looks],
        "normal": list(normal),
        "signature": [next(signed).tobytes() if len(found) else None for found in words],
        "captions": [b"".join(caption_key(caption) for caption in said) if said else None for said in captions],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in FINGERPRINTS], schema=FINGERPRINTS)


def _normal(text: str | None) -> tuple[bytes | None, NDArray[np.uint64]]:
    """Digest of a text's normal form and hashes of its words."""
    if text is None:
        return None, np.zeros(0, np.uint64)
    words = words_of(text)
    return normal_digest(words), hash_words(words)


def caption_key(caption: str) -> bytes:
    """8 bytes of a caption's normal form."""
    return normal_digest(words_of(caption))[:8]
