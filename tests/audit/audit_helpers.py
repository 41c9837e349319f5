"""A small corpus with known numbers: two sources of pairs, one of images, one of texts, one that the rules wipe out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from imglish.digests import table_digest
from imglish.records import DECISIONS, Split, table
from imglish.shards.format import fold
from imglish.shards.manifest import build_manifest
from imglish.shards.metadata import Metadata, metadata_digest
from imglish.shards.picture_facts import picture_facts
from imglish.shards.samples import ImageSample, PairSample
from imglish.shards.writer import ShardFacts, write_shard
from imglish.stages import Receipt
from imglish.storage import Store
from tests.shards.corpus_helpers import document, facts, image_sample, key

HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\u202etxt.exe \u200f\u05e9\u05dc\u05d5\u05dd\u2069 & \"quotes\" 'too'",
    "NUL \x00 and bell \x07 and $\\frac{1}{0}$",
    "x" * 10_000,
    "ภาษาไทย",
]


def member(source: str, row: int, language: str | None, size: tuple[int, int] | None, **more: Any) -> dict[str, Any]:
    """An occurrence as pack knows it."""
    width, height = size or (None, None)
    fixed = {"merged": False, "priority": 0, "url": None, "licence": "MIT" if source == "drawn" else None}
    return (
        {"source": source, "row": f"{row:04d}", "language": language, "width": width, "height": height} | fixed | more
    )


def pair(number: int, captions: Sequence[str]) -> PairSample:
    image = image_sample(number)
    ids = [np.array([0, *range(10, 11 + n), 2], dtype=np.uint16) for n in range(len(captions))]
    return PairSample(key(number), image.jpeg, list(captions), ids, image.views, image.codes)


class Shard:
    """One shard with its metadata, as pack would write them."""

    def __init__(self, split: Split) -> None:
        self.split: Split = split
        self.pairs: list[PairSample] = []
        self.images: list[ImageSample] = []
        self.documents: list[Any] = []
        self.metadata = Metadata()

    def add_pair(self, number: int, source: str, language: str | None, captions: Sequence[str]) -> None:
        sample = pair(number, captions)
        survivor = member(source, number, language, (480, 320))
        self.pairs.append(sample)
        facts = picture_facts(sample.jpeg)
        text = "\n".join(fold(caption) for caption in captions)
        self.metadata.add_occurrence("pair", sample.key, survivor, captions=len(captions), text=text, **facts)
        twin = member("images", 1000 + number, None, (480, 320), merged=True)
        self.metadata.add_occurrence("pair", sample.key, twin, captions=0)
        self.metadata.add_values("codes", "pair", survivor, sample.codes)
        self.metadata.add_values("captions", "pair", survivor, len(captions))
        for ids in sample.ids:
            self.metadata.add_values("ids", "pair", survivor, ids)
            self.metadata.add_values("caption_ids", "pair", survivor, len(ids))

    def add_image(self, number: int) -> None:
        sample = image_sample(number)
        self.images.append(sample)
        survivor, facts = member("images", number, None, (100, 300)), picture_facts(sample.jpeg)
        self.metadata.add_occurrence("image", sample.key, survivor, **facts)
        self.metadata.add_values("codes", "image", member("images", number, None, None), sample.codes)

    def add_document(self, number: int, length: int, source: str = "books") -> None:
        ids = document(number, length)
        who = member(source, number, "de" if number % 2 else "en", None)
        self.metadata.add_occurrence("text", key(number, "d"), who, start=0, length=length)
        self.metadata.add_values("ids", "text", who, ids)
        self.metadata.add_values("document_ids", "text", who, length)
        self.documents.append(ids)

    def put(self, store: Store) -> Receipt:
        written: list[ShardFacts] = []
        pairs, images = (sorted(found, key=lambda sample: sample.key) for found in (self.pairs, self.images))

        def write(file: BinaryIO) -> int:
            written.append(write_shard(file, pairs, images, self.documents))
            return 0

        tar, rows = store.put("shards", ".tar", write), self.metadata.table()
        found = written[0]
        notes = {"split": self.split, "distinct": found.distinct, "sections": found.sections}
        notes["metadata_digest"] = metadata_digest(rows)
        return Receipt("", "pack", {"shard": tar, "metadata": store.put_table("shards", rows)}, found.counts, notes)


RULES = [{"rule": name, "thresholds": {}} for name in ("payload@1", "image_size@1", "image_aspect@1")]


def decision(source: str, row: int, kind: str, verdict: str, rule: str | None = None, **more: Any) -> dict[str, Any]:
    base = {"source": source, "row": f"{row:04d}", "kind": kind, "record_id": row.to_bytes(16, "big")}
    return {**base, "verdict": verdict, "rule": rule, "fired": 0, "priority": 0, **more}


def decisions(pairs: int, images: int, texts: int) -> list[dict[str, Any]]:
    """Every sample kept, every pair with a merged image, and ten rows of a source that the rules wiped out."""
    kept = [decision(_pair_source(n), n, "pair", "keep", edits=b"[]" if n == 0 else None) for n in range(pairs)]
    kept += [decision("images", n, "image", "keep") for n in range(pairs, pairs + images)]
    kept += [decision("books", n, "text", "keep") for n in range(texts)]
    merged = [decision("images", 1000 + n, "image", "merge", "exact_duplicate@1") for n in range(pairs)]
    lost = [decision("tiny", 7, "image", "drop", "image_size@1", fired=0b110, detail="<b>8 x 30</b>")]
    lost += [
        decision("tiny", n, "image", "drop", "image_size@1", fired=0b010, score=8.0, threshold=32.0, detail="8 x 8")
        for n in range(7)
    ]
    lost += [decision("tiny", n, "image", "drop", "payload@1", fired=0b001, detail="truncated: end") for n in (8, 9)]
    return kept + merged + lost


def _pair_source(number: int) -> str:
    return "drawn" if number % 4 else "rare"


def planted(root: Path) -> Path:
    """A corpus with five faults: each is a finding (`test_planted_faults_are_findings_on_the_first_screen`)."""
    store, shard = Store(root), Shard("train")
    for number in range(30):
        shard.add_pair(number, "drawn", "en", [f"caption {number}"])
    for number in range(30, 60):
        shard.add_pair(number, "web", "en" if number % 2 else "fr", [f"caption {number}"])
    for number in range(60, 68):
        shard.add_image(number)
    for number in range(30):
        shard.add_document(number, 60, "books")
    for number in range(500):
        member_of = member("web", 5000 + number, "en", (480, 320))
        key_of = shard.pairs[number % 60].key
        shard.metadata.add_occurrence("pair", key_of, {**member_of, "merged": True}, captions=1, text="Image")
    _use_codes(shard, 62)
    rows = decisions(60, 8, 30) + [decision("web", 6000 + n, "pair", "keep") for n in range(30)]
    leak = {"score": 0.97, "threshold": 0.8, "detail": "its picture is 000123.jpg of evaluation set coco-test"}
    rows.append(decision("web", 9000, "pair", "drop", "contaminated@1", fired=0b1000, **leak))
    match = {"evaluation": [{"name": "coco-test", "path": "coco/test", "texts": ["caption"]}]}
    match["leak"] = {"similarity": 0.8, "radius": 8, "containment": 0.5, "min_words": 5}
    return _sealed(store, [shard], rows, recipe={"match": match})


def _use_codes(shard: Shard, used: int) -> None:
    """Make the histogram of codes one of `used` different codes, whatever the pictures have."""
    for name in [name for name in shard.metadata._values if name[0] == "codes"]:
        shard.metadata._values[name] = [values % used for values in shard.metadata._values[name]]
    who = member("drawn", 0, "en", None)
    shard.metadata.add_values("codes", "pair", who, np.arange(used))


def corpus(root: Path, shards: int = 2, pairs: int = 24, images: int = 6, texts: int = 5) -> Path:
    """The corpus in `shards` train shards and one of validation; the path of its manifest."""
    store = Store(root)
    made = [*(Shard("train") for _ in range(shards)), Shard("validation")]
    for number in range(pairs):
        captions = [f"caption {number}"] if number >= len(HOSTILE) else [HOSTILE[number], f"caption {number}"]
        language = "fr" if number == 0 else "en"
        made[number % len(made)].add_pair(number, _pair_source(number), language, captions)
    for number in range(pairs, pairs + images):
        made[number % len(made)].add_image(number)
    for number in range(texts):
        made[number % len(made)].add_document(number, 100 * (number + 1))
    return _sealed(store, made, decisions(pairs, images, texts))


def _sealed(store: Store, shards: Sequence[Shard], decided: Sequence[dict[str, Any]], **more: Any) -> Path:
    rows = table(list(decided), DECISIONS)
    output = store.put_table("tables", rows)
    files = [{"path": output.path, "sha256": output.sha256, "bytes": output.bytes}]
    about = facts(decisions={"digest": table_digest(rows, ["source", "row"]), "files": files, "rules": RULES}, **more)
    manifest = build_manifest([shard.put(store) for shard in shards], name="small", version="1", **about)
    store.put_as("manifest.json", manifest.to_json())
    return store.path("manifest.json")
