"""Fingerprints: what annotate measures so that copies can be proposed without reading payloads again.

    wanted(recipe.match)                       # {"look": 3, "text": 2}, or less, or nothing when matching is off
    fingerprints(rows, looks, texts, captions) # schema FINGERPRINTS, row by row beside landing

A text has a digest of its normal form and a MinHash signature, a picture a perceptual hash and a key of its pixels,
a pair's captions a hash each. What has no usable payload has nulls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from imglish.ingest.match.looks import LOOK_VERSION, Look, hash_looks
from imglish.ingest.match.minhash import HASHES, minhash
from imglish.ingest.match.shingles import TEXT_VERSION, shingles_of
from imglish.ingest.match.words import normal_digest, read_words
from imglish.recipe_match import MatchConfig

RUN_WORDS = 5
"""Words of a run (datatrove, FineWeb and others: 5)."""
_CHUNK = 1 << 17
"""Characters of texts that are read at once, so that their words stay in the second-level cache."""
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


def wanted(config: MatchConfig) -> dict[str, int]:
    """Versions of what the recipe's matching reads: "look" of pictures, "text" of texts and captions."""
    asked = {"look": config.compares_pictures(), "text": config.compares_texts()}
    return {name: VERSIONS[name] for name, is_asked in asked.items() if is_asked}


def fingerprints(
    rows: Sequence[Mapping[str, Any]],
    looks: Sequence[Look | None],
    texts: Sequence[str | None],
    captions: Sequence[Sequence[str]],
) -> pa.Table:
    """FINGERPRINTS of rows with `record_id` and `kind`; per row its look or text, where it has one, and captions."""
    said = [caption for each in captions for caption in each]
    keys = iter([normal_digest(form)[:8] for form in read_words(said).forms])
    normal, signatures = _of_texts(texts)
    hashed = hash_looks([look for look in looks if look is not None])
    hashes, pixels = iter(hashed.hashes.tolist()), iter(hashed.keys)
    columns: dict[str, list[Any]] = {
        "record_id": [row["record_id"] for row in rows],
        "kind": [row["kind"] for row in rows],
        "hash": [None if look is None else next(hashes) for look in looks],
        "pixels": [None if look is None else next(pixels) for look in looks],
        "normal": normal,
        "signature": signatures,
        "captions": [b"".join(next(keys) for _ in each) if each else None for each in captions],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in FINGERPRINTS], schema=FINGERPRINTS)


def _of_texts(texts: Sequence[str | None]) -> tuple[list[bytes | None], list[bytes | None]]:
    """Digests of normal forms, and signatures of those that have a word."""
    normal: list[bytes | None] = [None] * len(texts)
    signatures: list[bytes | None] = [None] * len(texts)
    for places in _chunks(texts):
        words = read_words([texts[place] or "" for place in places])
        signed = minhash(shingles_of(words, RUN_WORDS)).astype("<u4").tobytes()
        for number, (place, form) in enumerate(zip(places, words.forms, strict=True)):
            normal[place] = normal_digest(form)
            if len(form):
                signatures[place] = signed[number * 4 * HASHES : (number + 1) * 4 * HASHES]
    return normal, signatures


def _chunks(texts: Sequence[str | None]) -> Iterator[list[int]]:
    """Places of texts of at least `_CHUNK` characters in all, one after another."""
    places, size = [], 0
    for place, text in enumerate(texts):
        if text is not None:
            places.append(place)
            size += len(text)
        if size >= _CHUNK:
            yield places
            places, size = [], 0
    if places:
        yield places
