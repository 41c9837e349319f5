"""Landing files and tokenize's tables for pack, and the smallest engine that keeps the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imglish import records
from imglish.digests import record_id, sort_rows
from imglish.recipe import Recipe, make_recipe
from imglish.shards.format import encode_u16
from imglish.shards.images import store_image
from imglish.shards.pack import PackInput
from imglish.shards.views import draw_views
from imglish.stages import Load, Receipt, Reduce, Task, Unit
from imglish.storage import Store
from tests.shards.corpus_helpers import CODES, document, numbers, picture


class PlainEngine:
    """Loops; rows of a bucket come in the order that `shuffle` gives."""

    def __init__(self, shuffle: int = 0) -> None:
        self.shuffle = shuffle
        self.reduced: list[int] = []

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        yield from (task(unit) for unit in units)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        rows = pa.concat_tables([load(piece) for piece in pieces])
        order = np.random.default_rng(self.shuffle).permutation(rows.num_rows)
        rows = rows.take(order)
        for bucket in buckets:
            self.reduced.append(bucket)
            yield reduce(bucket, rows.filter(pa.compute.equal(rows.column("bucket"), bucket)))

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Tables:
    """Rows of one landing file, gathered by the `add` functions."""

    landing: list[dict[str, Any]] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)

    def add_image(
        self,
        number: int,
        recipe: Recipe,
        captions: Sequence[str] | None = None,
        source: str = "web",
        priority: int = 0,
        merged: bool = False,
        split: str = "train",
    ) -> bytes:
        payload = picture(number)
        name = record_id("image", payload)
        kind = "image" if captions is None else "pair"
        row = f"{source}-{number}-{len(self.members)}"
        occurrence = {"source": source, "row": row, "kind": kind, "record_id": name}
        ids = [np.array([0, *numbers(3 + i, seed=number), 2], np.uint16) for i in range(len(captions or ()))]
        texts = None if captions is None else records.pack_json(list(captions))
        self.landing.append({**occurrence, "payload": payload, "captions": texts, "status": "ok"})
        facts = {"split": split, "merged": merged, "priority": priority, "language": "en", "width": 48, "height": 32}
        coded = encode_u16(np.concatenate(ids)) if ids else None
        self.members.append({**occurrence, **facts, "captions": texts, "caption_ids": coded})
        if not merged:
            stored = store_image(payload, recipe.tokenize.stored)
            views = draw_views([name], [(stored.width, stored.height)], recipe.tokenize.views, recipe.seed)[0]
            codes = numbers(len(views), CODES, seed=number, high=64)
            cells = {"views": encode_u16(views), "codes": encode_u16(codes), "split": split, "kind": kind}
            sha = hashlib.sha256(stored.jpeg).digest()
            size = {"width": stored.width, "height": stored.height}
            self.images.append({"record_id": name, "stored_sha256": sha, **size, **cells})
        return name

    def add_text(self, number: int, length: int = 700, split: str = "train") -> bytes:
        text = f"text number {number}".encode()
        name = record_id("text", text)
        occurrence = {"source": "books", "row": str(number), "kind": "text", "record_id": name}
        self.landing.append({**occurrence, "payload": text, "status": "ok"})
        self.members.append({**occurrence, "split": split, "merged": False, "priority": 0, "language": "de"})
        ids = encode_u16(document(number, length))
        self.documents.append({"record_id": name, "split": split, "ids": ids, "unknown": 0, "characters": len(text)})
        return name

    def put(self, store: Store) -> PackInput:
        def sorted_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
            keys = [name for name in records.ROW_KEYS if name in schema.names]
            return sort_rows(records.table(rows, schema), keys)

        return PackInput(
            store.put_table("landing", sorted_table(self.landing, records.LANDING)),
            store.put_table("tables/members", sorted_table(self.members, records.MEMBERS)),
            store.put_table("tables/documents", sorted_table(self.documents, records.DOCUMENTS)),
            store.put_table("tables/images", sorted_table(self.images, records.IMAGES)),
        )


def recipe(**pack: Any) -> Recipe:
    source = {"name": "web", "format": "folder", "kind": "pair", "path": "."}
    sizes = {"train_shards": 3, "validation_shards": 1}
    values = {"name": "small", "source": [source], "pack": {**sizes, **pack}, "tokenize": {"views": {"count": 2}}}
    return make_recipe(values)


def mixed_tables(recipe: Recipe, files: int = 2) -> list[Tables]:
    """`files` landing files of pairs, images and text in both splits; image 0 of the first is merged in the last."""
    made = []
    for number in range(files):
        tables = Tables()
        for i in range(100 * number, 100 * number + 12):
            split = "validation" if i % 5 == 0 else "train"
            captions = [f"caption {c} of {i}" for c in range(1 + i % 3)]
            tables.add_image(i, recipe, captions if i % 2 else None, split=split)
            tables.add_text(i, 300 + 60 * (i % 7), split=split)
        made.append(tables)
    made[-1].add_image(1, recipe, ["CAPTION elsewhere", "caption 0  of\n1"], source="album", priority=-1, merged=True)
    return made


def store_with(root: Path, tables: Sequence[Tables]) -> tuple[Store, list[PackInput]]:
    store = Store(root)
    return store, [one.put(store) for one in tables]
