"""Small corpora for the tests of this room, made of drawn pictures and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from imglish.recipe import StoredConfig, ViewConfig
from imglish.records import Split
from imglish.shards.images import CODEC, store_image
from imglish.shards.manifest import Manifest, build_manifest
from imglish.shards.samples import U16, ImageSample, PairSample
from imglish.shards.views import draw_views
from imglish.shards.writer import ShardFacts, write_shard
from imglish.stages import Receipt
from imglish.storage import Output, Store

VIEWS = ViewConfig(count=2)
CODES = 4


def picture(number: int, width: int = 48, height: int = 32) -> bytes:
    """A PNG that differs for every number."""
    import io

    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5 + number, columns * 3 + number * 7, rows + columns], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def key(number: int, name: str = "k") -> str:
    return hashlib.blake2b(f"{name}{number}".encode(), digest_size=16).hexdigest()


def numbers(*shape: int, seed: int = 0, low: int = 4, high: int = 60_000) -> U16:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


def pair(number: int, captions: int = 2) -> PairSample:
    image = image_sample(number)
    texts = [f"caption {index} of {number}: déjà vu 漢字" for index in range(captions)]
    ids = [np.array([0, *numbers(index + 3, seed=number), 2], dtype=np.uint16) for index in range(captions)]
    return PairSample(key(number), image.jpeg, texts, ids, image.views, image.codes)


def image_sample(number: int) -> ImageSample:
    stored = store_image(picture(number), StoredConfig())
    sizes = [(stored.width, stored.height)]
    views = draw_views([bytes.fromhex(key(number))], sizes, VIEWS, 0)[0]
    return ImageSample(key(number), stored.jpeg, views, numbers(VIEWS.count, CODES, seed=number, high=64))


def document(number: int, length: int) -> U16:
    return np.array([0, *numbers(length - 2, seed=number), 2], dtype=np.uint16)


def samples(pairs: int, images: int) -> tuple[list[PairSample], list[ImageSample]]:
    """Pairs and images in key order, all different."""
    made_pairs = sorted((pair(number, 1 + number % 3) for number in range(pairs)), key=lambda sample: sample.key)
    made_images = [image_sample(number) for number in range(pairs, pairs + images)]
    return made_pairs, sorted(made_images, key=lambda sample: sample.key)


def facts(**changes: Any) -> dict[str, Any]:
    """Facts that the pipeline gives to the manifest."""
    text = {"digest": "1" * 64, "vocabulary": 64_010, "mask_id": 64_009, "path": "models/1.model"}
    visual = {"digest": "2" * 64, "type": "codebook", "codes": 64, "size": 32, "patch": 16, "grid": [2, 2]}
    return {
        "tokenizers": {"text": text, "visual": {**visual, "path": "models/2.safetensors"}},
        "views": {"count": VIEWS.count},
        "images": {**CODEC, "stored": {"short_side": 256}},
        "sources": {"drawn": {"rows": 3}},
        "drops": {},
        "decisions": {"digest": "3" * 64, "files": []},
        "recipe": {"seed": 0, "pack": {"train_shards": 1}},
        "libraries": {"simplejpeg": "1"},
        **changes,
    }


def put_shard(
    store: Store,
    split: Split,
    pairs: Sequence[PairSample],
    images: Sequence[ImageSample],
    documents: Sequence[U16],
) -> Receipt:
    """Write one shard and a receipt as pack would."""
    import pyarrow as pa

    from imglish.digests import table_digest

    made: list[ShardFacts] = []

    def write(file: BinaryIO) -> int:
        made.append(write_shard(file, pairs, images, documents))
        return 0

    tar = store.put("shards", ".tar", write)
    table = pa.table({"value": [len(pairs)]})
    notes: Mapping[str, Any] = {
        "split": split,
        "distinct": made[0].distinct,
        "sections": made[0].sections,
        "metadata_digest": table_digest(table, ["value"]),
    }
    outputs: dict[str, Output] = {"shard": tar, "metadata": store.put_table("shards", table)}
    return Receipt("", "pack", outputs, made[0].counts, notes)


def small_corpus(root: Path, shards: int = 2, pairs: int = 3, images: int = 2, ids: int = 3000) -> Manifest:
    """`shards` train shards and one validation shard under `root`, with `manifest.json`."""
    store = Store(root)
    receipts = []
    for number in range(shards + 1):
        all_pairs, all_images = samples((number + 1) * pairs, images)
        new = [sample for sample in all_pairs if sample.key not in {key(i) for i in range(number * pairs)}]
        split: Split = "train" if number < shards else "validation"
        documents = [document(100 * number + index, 2 + ids // 3) for index in range(3)]
        receipts.append(put_shard(store, split, new, all_images, documents))
    manifest = build_manifest(receipts, name="small", version="1", **facts())
    store.put_as("manifest.json", manifest.to_json())
    return manifest
