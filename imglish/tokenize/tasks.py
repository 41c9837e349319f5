"""The two tokenize stages: kept occurrences of one landing file become ids, views and codes.

    files = select(store, engine, landing_files)
    run_map(store, "tables", engine, TokenizeText(store), text_units(recipe, files, text_notes))
    run_map(store, "tables", engine, TokenizeVisual(store), visual_units(recipe, files, visual_notes))

`tokenize-text` writes members (every kept or merged occurrence, captions encoded) and documents; `tokenize-visual`
writes images (views and codes). Schemas are in `imglish.records`. The notes are those of the fits' receipts.

Images are encoded in batches of one shape. Batch and slot follow from an image's place among all images of its landing
file, kept or not, and slots that are not needed stay zero; so an image has the same codes whatever else is kept, and
those of an earlier unit of the same file are taken over (`imglish.tokenize.reuse`).

A worker process holds one model. With `tokenize.visual.device = "cuda"` it is on the first GPU that the process sees:
start one worker per GPU, each with its own CUDA_VISIBLE_DEVICES (docs/tokenizers.md says how for Dask and Spark).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from imglish.errors import TokenizerError
from imglish.recipe import Recipe, StoredConfig, ViewConfig, VqkdConfig, content_fields
from imglish.records import DOCUMENTS, IMAGES, table
from imglish.shards.images import CODEC
from imglish.stages import Commit, Receipt, Unit, numeric_platform
from imglish.storage import Output, Store, read_rows
from imglish.tokenize.encode_texts import encode_documents, encode_members, joined
from imglish.tokenize.encode_views import ViewEncoder
from imglish.tokenize.reuse import recall, remember
from imglish.tokenize.rows import FOLDER, kept_images, kept_rows, places
from imglish.tokenize.select import TEXT_MEASURED, Selected
from imglish.tokenize.statistics import language_counts
from imglish.tokenize.text import VERSIONS, TextTokenizer
from imglish.tokenize.visual import VisualTokenizer, device_name, placed, read_visual

TEXT_STAGE, VISUAL_STAGE = "tokenize-text", "tokenize-visual"
VERSION = 1
IMAGE_VERSIONS = {**CODEC, "pillow": PIL.__version__, "opencv": cv2.__version__}
"""What stored images and views depend on besides the recipe."""


def model_path(digest: str, suffix: str) -> str:
    """Where a fitted tokenizer lies in the store; suffix ".model" (text) or ".safetensors" (visual)."""
    return f"models/{digest}{suffix}"


def text_units(recipe: Recipe, files: Sequence[Selected], notes: Mapping[str, Any]) -> list[Unit]:
    """One `tokenize-text` unit per landing file; `notes` are those of the text tokenizer's receipt."""
    params = {"tokenizer": notes["digest"], "max_caption_ids": recipe.pack.max_caption_ids, "versions": VERSIONS}
    model = {"model": model_path(notes["digest"], ".model")}
    return [
        Unit(TEXT_STAGE, VERSION, params, [file.landing.sha256, digests["text"]], file.paths() | model)
        for file, digests in files
    ]


def visual_units(recipe: Recipe, files: Sequence[Selected], notes: Mapping[str, Any]) -> list[Unit]:
    """One `tokenize-visual` unit per landing file; `notes` are those of the visual tokenizer's receipt.

    Its input is the kept images' record ids, which are digests of the payloads, and their slots.
    """
    tokenize = recipe.tokenize
    params = {
        "tokenizer": notes["digest"],
        "stored": content_fields(tokenize.stored),
        "views": content_fields(tokenize.views),
        "batch": tokenize.batch,
        "seed": recipe.seed,
        "versions": IMAGE_VERSIONS,
    }
    spec = {"model": model_path(notes["digest"], ".safetensors")}
    if isinstance(tokenize.visual, VqkdConfig):
        params |= {"threads": tokenize.visual.threads, "versions": {**IMAGE_VERSIONS, "torch": version("torch")}}
        spec |= {"device": tokenize.visual.device}
    return [Unit(VISUAL_STAGE, VERSION, params, [digests["visual"]], file.paths() | spec) for file, digests in files]


@dataclass(frozen=True)
class TokenizeText:
    """Writes `members` and `documents` of one landing file."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, TEXT_STAGE, unit.id)
        tokenizer = _text_tokenizer(self.store.root, unit.spec["model"], unit.params["tokenizer"])
        rows = kept_rows(self.store, unit.spec, TEXT_MEASURED)
        landing, limit = unit.spec["landing"], unit.params["max_caption_ids"]
        members, counts = encode_members(self.store, landing, rows, tokenizer, limit)
        documents, document_counts = _documents(self.store, landing, rows, tokenizer)
        outputs = {"members": self.store.put_table(f"{FOLDER}/members", members), "documents": documents}
        return commit(outputs, counts | document_counts)


@dataclass(frozen=True)
class TokenizeVisual:
    """Writes `images` of one landing file; rows that an earlier unit coded in the same slot are taken from there."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, VISUAL_STAGE, unit.id)
        device, threads = unit.spec.get("device", "cpu"), unit.params.get("threads")
        tokenizer = _visual_tokenizer(self.store.root, unit.spec["model"], unit.params["tokenizer"], device, threads)
        encoder = ViewEncoder(
            tokenizer,
            StoredConfig(**unit.params["stored"]),
            ViewConfig(**unit.params["views"]),
            unit.params["seed"],
            unit.params["batch"],
        )
        platform = numeric_platform(device_name(tokenizer))
        facts = {**unit.params, "version": VERSION, "platform": platform}
        landing = unit.spec["landing"]
        rows = kept_images(kept_rows(self.store, unit.spec, []))
        wanted = rows.select(["record_id", "sample_kind", "split", "image"]).to_pylist()
        marks = [str(encoder.slot(row)) for row in wanted]
        earlier = recall(self.store, VISUAL_STAGE, facts, landing)
        known = [earlier.get((row["record_id"], mark)) for row, mark in zip(wanted, marks, strict=True)]
        fresh = rows.filter(pa.array([one is None for one in known], pa.bool_()))
        coded = encoder.run(_image_batches(self.store, landing, fresh, encoder.batch))
        new = (row for batch in coded for row in batch)
        found = [
            next(new) if one is None else one | {"kind": row["sample_kind"], "split": row["split"]}
            for row, one in zip(wanted, known, strict=True)
        ]
        output = self.store.put_table(f"{FOLDER}/images", table(found, IMAGES))
        remember(self.store, VISUAL_STAGE, facts, landing, output, marks)
        counts = {
            "images": len(found),
            "views": len(found) * encoder.views.count,
            "images_reused": len(found) - fresh.num_rows,
        }
        return commit({"images": output}, counts, platform=platform)


def _documents(store: Store, landing: str, rows: pa.Table, tokenizer: TextTokenizer) -> tuple[Output, dict[str, int]]:
    """The committed DOCUMENTS of the kept texts, with their counts; those encoded before are not encoded again."""
    facts = {"tokenizer": tokenizer.digest, "versions": VERSIONS, "version": VERSION}
    earlier = recall(store, TEXT_STAGE, facts, landing)
    kept = rows.filter(pc.and_(pc.equal(rows.column("kind"), "text"), pc.equal(rows.column("verdict"), "keep")))
    marks = [_UNEDITED if edits is None else _mark(edits) for edits in kept.column("edits").to_pylist()]
    known: list[dict[str, Any] | None] = [None] * kept.num_rows
    if earlier:
        ids = kept.column("record_id").to_pylist()
        known = [earlier.get(place) for place in zip(ids, marks, strict=True)]
    new = pa.array([one is None for one in known], pa.bool_())
    encoded = encode_documents(store, landing, kept.filter(new), tokenizer)
    found = _merged(encoded, known, kept)
    # Ids shrink by 1 to 15 % (DESIGN section 7), which is not worth the time that packing takes.
    output = store.put_table(f"{FOLDER}/documents", found, bulky=["ids"], packed=False)
    remember(store, TEXT_STAGE, facts, landing, output, marks)
    lengths = pc.divide(pc.binary_length(found.column("ids")), 2)
    counts = {
        "documents": found.num_rows,
        "documents_reused": found.num_rows - encoded.num_rows,
        "document_ids": pc.sum(lengths).as_py() or 0,
        "document_characters": pc.sum(found.column("characters")).as_py() or 0,
        "document_unknown": pc.sum(found.column("unknown")).as_py() or 0,
    }
    figures = {name: pc.fill_null(kept.column(name), 0) for name in ("words", "bytes")}
    figures |= {"ids": lengths, "unknown": found.column("unknown")}
    return output, counts | language_counts("text", kept.column("language"), figures)


def _merged(encoded: pa.Table, known: Sequence[dict[str, Any] | None], kept: pa.Table) -> pa.Table:
    """DOCUMENTS rows in the order of `kept`: the new ones, and those known from earlier, whose split may be another."""
    if encoded.num_rows == kept.num_rows:
        return encoded
    old = table([one for one in known if one is not None], DOCUMENTS)
    fresh = np.array([one is None for one in known])
    order = np.where(fresh, np.cumsum(fresh) - 1, encoded.num_rows + np.cumsum(~fresh) - 1)
    both = pa.concat_tables([encoded, old]).take(pa.array(order))
    split = both.column_names.index("split")
    return both.set_column(split, DOCUMENTS.field("split"), kept.column("split"))


def _mark(edits: bytes) -> str:
    return hashlib.blake2b(edits, digest_size=16).hexdigest()


_UNEDITED = _mark(b"")


def _image_batches(store: Store, landing: str, rows: pa.Table, batch: int) -> Iterator[list[dict[str, Any]]]:
    """Some kept images of a landing file with their payloads, those of one batch together."""

    def stream() -> Iterator[dict[str, Any]]:
        done = 0
        for received in read_rows(store, landing, places(rows), ["payload"]):
            yield from joined(rows.slice(done, received.num_rows), received)
            done += received.num_rows

    for _, group in groupby(stream(), key=lambda row: row["image"] // batch):
        yield list(group)


@cache
def _text_tokenizer(root: str, path: str, digest: str) -> TextTokenizer:
    """Loaded once in a process."""
    tokenizer = TextTokenizer(Store(root).read(path), path)
    if tokenizer.digest != digest:
        raise TokenizerError(f"{path}: text tokenizer {tokenizer.digest[:16]}…, not {digest[:16]}…; fit it again")
    return tokenizer


@cache
def _visual_tokenizer(root: str, path: str, digest: str, device: str, threads: int | None) -> VisualTokenizer:
    """Loaded once in a process."""
    return placed(read_visual(Store(root).read(path), path, digest), device, threads)
