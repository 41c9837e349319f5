"""A corpus on which a tiny model trains in milliseconds a step: 2 x 2 codes, 40 ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imglish.recipe import TrainConfig
from imglish.records import Split
from imglish.seeds import below, stream
from imglish.shards.manifest import build_manifest
from imglish.shards.samples import U16, ImageSample, PairSample
from imglish.storage import Store
from tests.shards.corpus_helpers import CODES, VIEWS, facts, image_sample, key, put_shard

VOCABULARY = 40
CODEBOOK = 8


def words(number: int, length: int) -> U16:
    """`<s>`, words, `</s>`."""
    drawn = 4 + below(stream(number, "words").bits(length - 2), VOCABULARY - 5)
    return np.array([0, *drawn, 2], dtype=np.uint16)


def image(number: int) -> ImageSample:
    drawn = image_sample(number)
    codes = below(stream(number, "codes").bits(VIEWS.count * CODES), CODEBOOK).astype(np.uint16)
    return ImageSample(drawn.key, drawn.jpeg, drawn.views, codes.reshape(VIEWS.count, CODES))


def pair(number: int) -> PairSample:
    of = image(number)
    return PairSample(key(number), of.jpeg, ["one", "two"], [words(number, 6), words(-number, 9)], of.views, of.codes)


def corpus(root: Path) -> Path:
    """A train and a validation shard with all kinds under `root`; the manifest's path."""
    store = Store(root)
    receipts = []
    splits: tuple[tuple[Split, int], ...] = (("train", 0), ("validation", 100))
    for split, start in splits:
        pairs = sorted((pair(start + number) for number in range(6)), key=lambda sample: sample.key)
        images = sorted((image(start + number) for number in range(6, 10)), key=lambda sample: sample.key)
        receipts.append(put_shard(store, split, pairs, images, [words(start + number, 700) for number in range(4)]))
    text = {"digest": "1" * 64, "vocabulary": VOCABULARY, "mask_id": VOCABULARY - 1, "path": "models/1.model"}
    visual = {"digest": "2" * 64, "type": "codebook", "codes": CODEBOOK, "size": 32, "patch": 16, "grid": [2, 2]}
    tokenizers = {"text": text, "visual": {**visual, "path": "models/2.safetensors"}}
    manifest = build_manifest(receipts, name="small", version="1", **{**facts(), "tokenizers": tokenizers})
    store.put_as("manifest.json", manifest.to_json())
    return root / "manifest.json"


def config(**changes: Any) -> TrainConfig:
    """12 steps on one thread, with everything that could go wrong on resume switched on."""
    fields: dict[str, Any] = {
        "batch": {"pair": 2, "image": 2, "text": 1},
        "steps": 12,
        "warmup": 2,
        "text_length": 64,
        "drop_path": 0.2,
        "checkpoint_every": 3,
        "threads": 1,
        "evaluate_samples": 4,
    }
    return TrainConfig(**(fields | changes))
