"""Proofs about shards that take minutes: every single byte of a small shard flipped in turn.

    python -m benchmarks.proof_shards

The shard has pairs, images, text, repeats and removed samples, written by the real writer and removal. For each byte,
one bit (another one from byte to byte) is flipped in the file; `verify` must find it and name the sample and field that
the byte belongs to, and a reader that has never seen the shard must refuse the sample or return what it always did.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg

from imglish.errors import ShardError
from imglish.records import KINDS, Kind
from imglish.shards import Corpus, open_corpus
from imglish.shards import format as fmt
from imglish.shards.images import CODEC
from imglish.shards.manifest import Manifest, build_manifest, load_manifest
from imglish.shards.metadata import Metadata, metadata_digest
from imglish.shards.samples import ImageSample, PairSample
from imglish.shards.tombstones import tombstone
from imglish.shards.verify import Files, shard_faults
from imglish.shards.writer import ShardFacts, write_shard
from imglish.stages import Receipt
from imglish.storage import Store

PICTURES, VIEWS, GRID = 20, 4, (7, 7)
_TEXT_MEMBER = fmt.RECORD + fmt.MEMBER_BLOCKS * fmt.BLOCK_BYTES
Place = tuple[str | None, str | None]
"""Sample and field, as faults name them."""


def byte_sweep() -> dict[str, Any]:
    """Flip every byte of a small shard in turn: verify finds and places each; no reader returns wrong data."""
    with tempfile.TemporaryDirectory() as folder:
        return sweep(Path(folder))


def sweep(folder: Path, step: int = 1) -> dict[str, Any]:
    """`byte_sweep` of every `step`-th byte, in a folder of one's own."""
    manifest = small_corpus(folder)
    shard = manifest.shards[0]
    assert shard_faults(Files(str(folder)), 0, shard, manifest) == []
    corpus = open_corpus(str(folder / "manifest.json"))
    truth = _read_all(corpus)
    owners = dict(_owners(folder, manifest))
    numbers: Counter[str] = Counter()
    began = time.perf_counter()
    with open(folder / shard.path, "r+b", buffering=0) as file:
        for place in range(0, shard.bytes, step):
            with _Flipped(file, place):
                _judge_verify(folder, manifest, owners[place], numbers)
                _judge_reader(corpus, owners[place], truth, numbers)
    assert shard_faults(Files(str(folder)), 0, shard, manifest) == []
    seconds = round(time.perf_counter() - began, 1)
    return {"shard_bytes": shard.bytes, "flipped": len(range(0, shard.bytes, step)), **numbers, "seconds": seconds}


class _Flipped:
    """One bit of a file is other inside the block."""

    def __init__(self, file: Any, place: int) -> None:
        self.file, self.place = file.fileno(), place
        self.byte = os.pread(self.file, 1, place)[0]

    def __enter__(self) -> None:
        os.pwrite(self.file, bytes([self.byte ^ 1 << self.place % 8]), self.place)

    def __exit__(self, *error: object) -> None:
        os.pwrite(self.file, bytes([self.byte]), self.place)


def _judge_verify(
    folder: Path, manifest: Manifest, owner: tuple[Kind | None, int, Place], numbers: Counter[str]
) -> None:
    faults = shard_faults(Files(str(folder)), 0, manifest.shards[0], manifest)
    assert faults, f"a byte of {owner} was flipped and verify saw nothing"
    sample, field = owner[2]
    named = [fault for fault in faults if fault.sample == sample]
    assert named, f"a byte of {owner} was flipped, but verify names {faults}"
    numbers["found"] += 1
    numbers["sample_named"] += sample is not None
    numbers["field_named"] += any(fault.field == field for fault in named)
    assert field is None or any(fault.field == field for fault in named), f"{owner}: {faults}"


def _judge_reader(
    corpus: Corpus, owner: tuple[Kind | None, int, Place], truth: dict[tuple[Kind, int], str], numbers: Counter[str]
) -> None:
    """A reader that knows only the manifest (a copy leaves what was read behind), asked for the byte's sample."""
    kind, row, _ = owner
    if kind is None:
        numbers["not_read"] += 1
        return
    try:
        found = _digest(copy.copy(corpus).read(kind, 0, row))
    except ShardError:
        numbers["reader_refused"] += 1
        return
    assert found == truth[kind, row], f"the reader returned wrong data: {owner}"
    numbers["reader_right"] += 1


def _read_all(corpus: Corpus) -> dict[tuple[Kind, int], str]:
    counts = corpus.manifest.shards[0].counts
    return {(kind, row): _digest(corpus.read(kind, 0, row)) for kind in KINDS for row in range(counts[kind])}


def _digest(sample: Any) -> str:
    values = [
        repr(value) if isinstance(value, (str, bytes)) else repr(np.asarray(value, dtype=object).tolist())
        for value in vars(sample).values()
    ]
    return hashlib.sha256("\0".join(values).encode()).hexdigest()


def _owners(folder: Path, manifest: Manifest) -> Iterator[tuple[int, tuple[Kind | None, int, Place]]]:
    """For every byte: kind and index row of the sample that it belongs to, and what verify has to name."""
    shard = manifest.shards[0]
    corpus = open_corpus(str(folder / "manifest.json"))
    owners: dict[int, tuple[Kind | None, int, Place]] = dict.fromkeys(range(shard.bytes), (None, 0, (None, "end")))
    tail = sum(section.bytes for section in shard.sections.values())
    rows_end = max(section.index_offset + section.index_bytes for section in shard.sections.values())
    head = shard.sections["pair"].index_offset - fmt.INDEX_HEADER.itemsize
    for first, last, field in (
        (tail, head, "header"),
        (head, rows_end, "rows"),
        (rows_end, shard.bytes - 1024, "padding"),
    ):
        owners |= dict.fromkeys(range(first, last), (None, 0, (fmt.INDEX_NAME, field)))
    texts = shard.sections["text"]
    for number, first in enumerate(range(texts.offset, texts.offset + texts.bytes, _TEXT_MEMBER)):
        member = (fmt.text_member(number).removesuffix(".ids"), "ids")
        owners |= dict.fromkeys(range(first, first + fmt.RECORD), ("text", number * fmt.MEMBER_BLOCKS, member))
    for kind in KINDS:
        rows, section = corpus.index(kind, 0), shard.sections[kind]
        width = fmt.INDEX_ROW[kind].itemsize
        for number, row in enumerate(rows):
            sample = fmt.block_key(0, number) if kind == "text" else fmt.PREFIX[kind] + bytes(row["key"]).hex()
            start = section.index_offset + number * width
            for at, name in _cells(kind):
                owners[start + at] = (kind, number, (sample, name))
            for name, first, last in _members(kind, row):
                owners |= dict.fromkeys(range(first, last), (kind, number, (sample, name)))
    yield from owners.items()


def _cells(kind: Kind) -> Iterator[tuple[int, str]]:
    """(byte, column) of an index row."""
    dtype = fmt.INDEX_ROW[kind]
    for name in dtype.names or ():
        cell, offset = (dtype.fields or {})[name][:2]
        yield from ((offset + at, name) for at in range(cell.itemsize))


def _members(kind: Kind, row: Any) -> Iterator[tuple[str, int, int]]:
    """(field, first byte, end) of what belongs to a row: headers, payloads and padding."""
    if kind == "text":
        yield "ids", int(row["offset"]), int(row["offset"]) + fmt.BLOCK_BYTES
        return
    for field in fmt.FIELDS[kind]:
        start, length = int(row[field]["offset"]), int(row[field]["length"])
        yield field, start - fmt.RECORD, start + length + fmt.padding(length)


def small_corpus(folder: Path) -> Manifest:
    """One shard of some 150 kB: 12 pairs, 8 images, 40 blocks; one pair repeated, one pair and one image removed."""
    store, rng = Store(folder), np.random.default_rng(0)
    keys = sorted(hashlib.blake2b(bytes([n]), digest_size=16).hexdigest() for n in range(PICTURES))
    pictures = [_image(key, rng) for key in keys]
    pairs = [_pair(picture, number) for number, picture in enumerate(pictures[:12])]
    documents = [np.array([0, *rng.integers(4, 64_000, 2_000), 2], np.uint16) for _ in range(10)]
    metadata = Metadata()
    member = {"source": "drawn", "merged": False, "priority": 0, "url": None, "licence": None, "language": None}
    for number, sample in enumerate(pairs):
        mine = {**member, "row": str(number), "width": 96, "height": 96}
        metadata.add_pair(sample.key, [mine], [0] * len(sample.ids), sample.ids, sample.codes)
    for number, picture in enumerate(pictures[12:], 12):
        metadata.add_image(picture.key, [{**member, "row": str(number), "width": 96, "height": 96}], picture.codes)
    made: list[ShardFacts] = []

    def write(file: BinaryIO) -> int:
        made.append(write_shard(file, pairs, pictures[12:], documents, {("pair", keys[3]): 3}))
        return 0

    tar, table = store.put("shards", ".tar", write), metadata.table()
    notes = {"split": "train", "distinct": made[0].distinct, "sections": made[0].sections}
    notes["metadata_digest"] = metadata_digest(table)
    outputs = {"shard": tar, "metadata": store.put_table("shards", table)}
    manifest = build_manifest(
        [Receipt("", "pack", outputs, made[0].counts, notes)], name="sweep", version="1", **_facts()
    )
    store.put_as("manifest.json", manifest.to_json())
    tombstone(str(folder / "manifest.json"), [keys[5], keys[15]])
    return load_manifest(str(folder / "manifest.json"))


def _image(key: str, rng: np.random.Generator) -> ImageSample:
    rows, columns = np.mgrid[0:96, 0:96]
    noise = rng.integers(0, 48, (96, 96, 3))
    pixels = (np.stack([rows, columns, rows + columns], axis=2) + noise).astype(np.uint8)
    views = np.tile(np.array([0, 0, 96, 96, 0], np.uint16), (VIEWS, 1))
    codes = rng.integers(0, 8192, (VIEWS, GRID[0] * GRID[1])).astype(np.uint16)
    return ImageSample(key, simplejpeg.encode_jpeg(pixels, 80, "RGB", "420", fastdct=False), views, codes)


def _pair(image: ImageSample, number: int) -> PairSample:
    captions = [f"caption {index} of picture {number}" for index in range(1 + number % 3)]
    ids = [np.array([0, 10 + number, 20 + index, 2], np.uint16) for index in range(len(captions))]
    return PairSample(image.key, image.jpeg, captions, ids, image.views, image.codes)


def _facts() -> dict[str, Any]:
    text = {"digest": "1" * 64, "vocabulary": 64_010, "mask_id": 64_009, "path": None}
    size = {"codes": 8192, "size": 112, "patch": 16, "grid": list(GRID)}
    return {
        "tokenizers": {"text": text, "visual": {"digest": "2" * 64, "type": "codebook", **size, "path": None}},
        "views": {"count": VIEWS},
        "images": {**CODEC, "stored": {"short_side": 96}},
        "sources": {},
        "drops": {},
        "decisions": {"digest": "3" * 64, "files": []},
        "recipe": {},
        "libraries": {},
    }


if __name__ == "__main__":
    print(json.dumps(byte_sweep(), indent=1))
