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
from numpy.typing import NDArray

from imglish.errors import StageError, TokenizerError
from imglish.recipe import Recipe, StoredConfig, ViewConfig, VqkdConfig, content_fields
from imglish.records import DOCUMENTS, IMAGES, MEMBERS, pack_json, table, unpack_json
from imglish.shards.images import CODEC
from imglish.stages import Commit, Receipt, Unit, numeric_platform
from imglish.storage import Output, Store, read_rows
from imglish.tokenize.encode_views import ViewEncoder, u16_bytes
from imglish.tokenize.reuse import recall, remember
from imglish.tokenize.rows import (
    FOLDER,
    edited_captions,
    edited_document,
    kept_images,
    kept_rows,
    places,
)
from imglish.tokenize.select import TEXT_MEASURED, Selected
from imglish.tokenize.statistics import Encoded, language_counts, measured
from imglish.tokenize.text import EOS, UNKNOWN, VERSIONS, TextTokenizer
from imglish.tokenize.visual import VisualTokenizer, device_name, placed, read_visual

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
        members, counts = _members(self.store, landing, rows, tokenizer, limit)
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


def _members(
    store: Store, landing: str, rows: pa.Table, tokenizer: TextTokenizer, limit: int
) -> tuple[pa.Table, dict[str, int]]:
    """MEMBERS rows of all kept and merged occurrences, with counts of captions and their ids."""
    counts = dict.fromkeys(("members", "captions", "caption_ids", "caption_characters", "captions_truncated"), 0)
    found: list[dict[str, Any]] = []
    captions_seen: list[Encoded] = []
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
                captions_seen += [
                    measured(member["language"], len(caption.split()), len(caption.encode()), ids_of)
                    for caption, ids_of in zip(captions, encoded, strict=True)
                ]
                member["caption_ids"] = b"".join(u16_bytes(caption) for caption in encoded)
                member["captions"] = pack_json(captions)
                counts["caption_ids"] += len(member["caption_ids"]) // 2
                counts["caption_characters"] += sum(map(len, captions))
        found += members
    counts["members"] = len(found)
    return table(found, MEMBERS), counts | language_counts("caption", captions_seen)


def _member(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MEMBERS whose captions, a list or None, are edited and not yet encoded."""
    captions = None
    if row["kind"] == "pair":
        captions = _edited(row, edited_captions, unpack_json(row["captions"]) or [])
    sample = {"record_id": row["sample_id"], "kind": row["sample_kind"]}
    return row | sample | {"merged": row["verdict"] == "merge", "captions": captions}


def _documents(store: Store, landing: str, rows: pa.Table, tokenizer: TextTokenizer) -> tuple[Output, dict[str, int]]:
    """The committed DOCUMENTS of the kept texts, with their counts; those encoded before are not encoded again."""
    facts = {"tokenizer": tokenizer.digest, "versions": VERSIONS, "version": VERSION}
    earlier = recall(store, TEXT_STAGE, facts, landing)
    kept = rows.filter(pc.and_(pc.equal(rows.column("kind"), "text"), pc.equal(rows.column("verdict"), "keep")))
    marks = [hashlib.blake2b(edits or b"", digest_size=16).hexdigest() for edits in kept.column("edits").to_pylist()]
    places_of = list(zip(kept.column("record_id").to_pylist(), marks, strict=True))
    fresh = kept.filter(pa.array([place not in earlier for place in places_of], pa.bool_()))
    encoded: dict[bytes, dict[str, Any]] = {}
    done = 0
    for received in read_rows(store, landing, places(fresh), ["payload"]):
        joined = _joined(fresh.slice(done, received.num_rows), received)
        done += received.num_rows
        texts = [_edited(row, edited_document, row["payload"]) for row in joined]
        for row, text, ids in zip(joined, texts, tokenizer.encode_many(texts), strict=True):
            unknown = int(np.count_nonzero(ids == UNKNOWN))
            encoded[row["record_id"]] = {"ids": u16_bytes(ids), "unknown": unknown, "characters": len(text)}
    found = []
    texts_seen: list[Encoded] = []
    for row, place in zip(kept.to_pylist(), places_of, strict=True):
        known = encoded.get(row["record_id"]) or earlier[place]
        found.append({**known, "record_id": row["record_id"], "split": row["split"]})
        size, length = row["bytes"] or 0, len(known["ids"]) // 2
        texts_seen.append((row["language"], row["words"] or 0, size, length, known["unknown"]))
    output = store.put_table(f"{FOLDER}/documents", table(found, DOCUMENTS))
    remember(store, TEXT_STAGE, facts, landing, output, marks)
    counts = {
        "documents": len(found),
        "documents_reused": len(found) - fresh.num_rows,
        "document_ids": sum(len(row["ids"]) // 2 for row in found),
        "document_characters": sum(row["characters"] for row in found),
        "document_unknown": sum(row["unknown"] for row in found),
    }
    return output, counts | language_counts("text", texts_seen)


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


def _image_batches(store: Store, landing: str, rows: pa.Table, batch: int) -> Iterator[list[dict[str, Any]]]:
    """Some kept images of a landing file with their payloads, those of one batch together."""

    def stream() -> Iterator[dict[str, Any]]:
        done = 0
        for received in read_rows(store, landing, places(rows), ["payload"]):
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
def _visual_tokenizer(root: str, path: str, digest: str, device: str, threads: int | None) -> VisualTokenizer:
    """Loaded once in a process."""
    return placed(read_visual(Store(root).read(path), path, digest), device, threads)
