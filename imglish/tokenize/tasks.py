"""The two tokenize stages: kept occurrences of one landing file become ids, views and codes.

    files = select(store, engine, landing_files)
    run_map(store, "tables", engine, TokenizeText(store), text_units(recipe, files, text_notes))
    run_map(store, "tables", engine, TokenizeVisual(store), visual_units(recipe, files, visual_notes))

`tokenize-text` writes members (every kept or merged occurrence, captions encoded) and documents; `tokenize-visual`
writes images (views and codes). Schemas are in `imglish.records`. The notes are those of the fits' receipts.

Images are encoded in batches of one shape. Batch and slot follow from an image's place among all images of its landing
file, kept or not, and slots that are not needed stay zero; so an image has the same codes whatever else is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.errors import StageError, TokenizerError
from imglish.recipe import Recipe, StoredConfig, ViewConfig, content_fields
from imglish.records import DOCUMENTS, IMAGES, MEMBERS, pack_json, table, unpack_json
from imglish.shards.images import CODEC, StoredImage, decode_jpeg
from imglish.shards.views import Views, draw_views, render
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Store
from imglish.tokenize.rows import (
    FOLDER,
    edited_captions,
    edited_document,
    kept_images,
    kept_rows,
    places,
    read_rows,
    stored_image,
)
from imglish.tokenize.select import TEXT_MEASURED, Selected
from imglish.tokenize.text import EOS, UNKNOWN, VERSIONS, TextTokenizer
from imglish.tokenize.visual import VisualTokenizer, read_visual

TEXT_STAGE, VISUAL_STAGE = "tokenize-text", "tokenize-visual"
VERSION = 1
IMAGE_VERSIONS = {**CODEC, "pillow": PIL.__version__, "opencv": cv2.__version__}
"""What stored images and views depend on besides the recipe."""

_MEMBER_COLUMNS = ["url", "licence", "captions"]

Ids = NDArray[np.uint16]


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
    model = {"model": model_path(notes["digest"], ".safetensors")}
    return [Unit(VISUAL_STAGE, VERSION, params, [digests["visual"]], file.paths() | model) for file, digests in files]


@dataclass(frozen=True)
class TokenizeText:
    """Writes `members` and `documents` of one landing file."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, TEXT_STAGE, unit.id)
        tokenizer = _text_tokenizer(self.store.root, unit.spec["model"], unit.params["tokenizer"])
        rows = kept_rows(self.store, unit.spec, TEXT_MEASURED)
        landing, limit = unit.spec["landing"], unit.params["max_caption_ids"]
        members, counts = _members(self.store, landing, rows, tokenizer, limit)
        documents, document_counts = _documents(self.store, landing, rows, tokenizer)
        outputs = {
            "members": self.store.put_table(f"{FOLDER}/members", members),
            "documents": self.store.put_table(f"{FOLDER}/documents", documents),
        }
        return commit(outputs, counts | document_counts)


@dataclass(frozen=True)
class TokenizeVisual:
    """Writes `images` of one landing file."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, VISUAL_STAGE, unit.id)
        tokenizer = _visual_tokenizer(self.store.root, unit.spec["model"], unit.params["tokenizer"])
        encoder = _ViewEncoder(
            tokenizer,
            StoredConfig(**unit.params["stored"]),
            ViewConfig(**unit.params["views"]),
            unit.params["seed"],
            unit.params["batch"],
        )
        found: list[dict[str, Any]] = []
        for batch in _image_batches(self.store, unit.spec, encoder.batch):
            found += encoder(batch)
        output = self.store.put_table(f"{FOLDER}/images", table(found, IMAGES))
        return commit({"images": output}, {"images": len(found), "views": len(found) * encoder.views.count})


def _members(
    store: Store, landing: str, rows: pa.Table, tokenizer: TextTokenizer, limit: int
) -> tuple[pa.Table, dict[str, int]]:
    """MEMBERS rows of all kept and merged occurrences, with counts of captions and their ids."""
    counts = dict.fromkeys(("members", "captions", "caption_ids", "caption_characters", "captions_truncated"), 0)
    found: list[dict[str, Any]] = []
    for received in read_rows(store, landing, places(rows), _MEMBER_COLUMNS):
        decided = rows.slice(len(found), received.num_rows)
        members = [_member(row) for row in _joined(decided, received)]
        ids = tokenizer.encode_many([caption for member in members for caption in member["captions"] or ()])
        counts["captions"] += len(ids)
        counts["captions_truncated"] += sum(len(caption) > limit for caption in ids)
        short = iter([_truncate(caption, limit) for caption in ids])
        for member in members:
            captions = member["captions"]
            if captions is not None:
                encoded = [next(short) for _ in captions]
                member["caption_ids"] = b"".join(_bytes(caption) for caption in encoded)
                member["captions"] = pack_json(captions)
                counts["caption_ids"] += len(member["caption_ids"]) // 2
                counts["caption_characters"] += sum(map(len, captions))
        found += members
    counts["members"] = len(found)
    return table(found, MEMBERS), counts


def _member(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MEMBERS whose captions, a list or None, are edited and not yet encoded."""
    captions = None
    if row["kind"] == "pair":
        captions = _edited(row, edited_captions, unpack_json(row["captions"]) or [])
    return row | {"kind": row["sample_kind"], "merged": row["verdict"] == "merge", "captions": captions}


def _documents(store: Store, landing: str, rows: pa.Table, tokenizer: TextTokenizer) -> tuple[pa.Table, dict[str, int]]:
    """DOCUMENTS rows of the kept texts, with their counts."""
    kept = rows.filter(pc.and_(pc.equal(rows.column("kind"), "text"), pc.equal(rows.column("verdict"), "keep")))
    found: list[dict[str, Any]] = []
    for received in read_rows(store, landing, places(kept), ["payload"]):
        joined = _joined(kept.slice(len(found), received.num_rows), received)
        texts = [_edited(row, edited_document, row["payload"]) for row in joined]
        for row, text, ids in zip(joined, texts, tokenizer.encode_many(texts), strict=True):
            unknown = int(np.count_nonzero(ids == UNKNOWN))
            found.append(row | {"ids": _bytes(ids), "unknown": unknown, "characters": len(text)})
    counts = {
        "documents": len(found),
        "document_ids": sum(len(row["ids"]) // 2 for row in found),
        "document_characters": sum(row["characters"] for row in found),
        "document_unknown": sum(row["unknown"] for row in found),
    }
    return table(found, DOCUMENTS), counts


def _joined(decided: pa.Table, received: pa.Table) -> list[dict[str, Any]]:
    return [left | right for left, right in zip(decided.to_pylist(), received.to_pylist(), strict=True)]


def _edited(row: Mapping[str, Any], edit: Any, value: Any) -> Any:
    try:
        return edit(value, unpack_json(row["edits"]))
    except StageError as error:
        raise StageError(f"{row['source']} row {row['row']}: {error}") from None


def _truncate(ids: Ids, limit: int) -> Ids:
    """At most `limit` ids, the last one still `</s>`."""
    return ids if len(ids) <= limit else np.append(ids[: limit - 1], np.uint16(EOS))


def _bytes(values: NDArray[np.uint16]) -> bytes:
    return values.astype("<u2", copy=False).tobytes()


@dataclass(frozen=True)
class _ViewEncoder:
    """Stored image, views and codes of the images of one batch."""

    tokenizer: VisualTokenizer
    stored: StoredConfig
    views: ViewConfig
    seed: int
    batch: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """IMAGES rows of `rows`, which have record_id, payload and image (the number that gives the slot)."""
        images = [stored_image(row, self.stored) for row in rows]
        sizes = [(image.width, image.height) for image in images]
        views = draw_views([row["record_id"] for row in rows], sizes, self.views, self.seed)
        codes = self._encode(images, views, np.array([row["image"] % self.batch for row in rows]))
        return [
            {
                "record_id": row["record_id"],
                "kind": row["sample_kind"],
                "split": row["split"],
                "stored_sha256": hashlib.sha256(image.jpeg).digest(),
                "width": image.width,
                "height": image.height,
                "views": _bytes(boxes),
                "codes": _bytes(grid),
            }
            for row, image, boxes, grid in zip(rows, images, views, codes, strict=True)
        ]

    def _encode(self, images: Sequence[StoredImage], views: Views, slots: NDArray[np.int64]) -> Ids:
        """uint16 [n, K, N]: view k of every image goes through the tokenizer in the k-th batch, at its slot."""
        size = self.tokenizer.size
        pixels = np.zeros((self.views.count, self.batch, size, size, 3), np.uint8)
        for image, boxes, slot in zip(images, views, slots, strict=True):
            rgb = decode_jpeg(image.jpeg)
            for number, box in enumerate(boxes):
                pixels[number, slot] = render(rgb, box, size)
        return np.stack([self.tokenizer.encode(view)[slots] for view in pixels], axis=1)


def _image_batches(store: Store, paths: Mapping[str, Any], batch: int) -> Iterator[list[dict[str, Any]]]:
    """The kept images of a landing file with their payloads, those of one batch together."""
    rows = kept_images(kept_rows(store, paths, []))

    def stream() -> Iterator[dict[str, Any]]:
        done = 0
        for received in read_rows(store, paths["landing"], places(rows), ["payload"]):
            yield from _joined(rows.slice(done, received.num_rows), received)
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
def _visual_tokenizer(root: str, path: str, digest: str) -> VisualTokenizer:
    """Loaded once in a process."""
    return read_visual(Store(root).read(path), path, digest)
