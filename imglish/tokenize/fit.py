"""Fit the tokenizers on the corpus: one unit each, one process, one thread.

    text = run_map(store, "tables", engine, FitText(store), [text_fit_unit(recipe, files)])[0]      # files of `select`
    text.notes["digest"], text.outputs["model"].path           models/<digest>.model

Both fits see kept records of the train split only, those with the smallest H(seed, record id): texts and captions up
to a byte budget shared by (source, language), images up to a number. Which ones is decided from small columns; then
only the row groups that hold them are read. Texts go to the trainer in the order of their record ids, so neither the
order nor the layout of the files matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import file_digest, record_halves
from imglish.errors import StageError, TokenizerError
from imglish.recipe import (
    CodebookConfig,
    PluginConfig,
    Recipe,
    StoredConfig,
    TextTokenizerConfig,
    ViewConfig,
    VqkdConfig,
    content_fields,
)
from imglish.records import unpack_json
from imglish.seeds import U64, stream
from imglish.shards.images import StoredImage, decode_jpeg
from imglish.shards.views import draw_views, render
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Output, Store, read_rows
from imglish.tokenize.codebook import CodebookFit
from imglish.tokenize.rows import (
    FOLDER,
    edited_captions,
    edited_document,
    kept_rows,
    places,
    split_rows,
    stored_image,
    train_rows,
)
from imglish.tokenize.select import FIT_MEASURED, Selected
from imglish.tokenize.tasks import IMAGE_VERSIONS, model_path
from imglish.tokenize.text import VERSIONS, TextTokenizer, train_text
from imglish.tokenize.visual import VisualTokenizer, read_visual, write_plugin

TEXT_STAGE, VISUAL_STAGE = "fit-text", "fit-visual"
VERSION = 1

Paths = Mapping[str, str]


def text_fit_unit(recipe: Recipe, files: Sequence[Selected]) -> Unit:
    """The `fit-text` unit; with `tokenize.text.model` it takes that file (below `root`) instead of training.

    Raises TokenizerError when that file is missing.
    """
    config = recipe.tokenize.text
    if config.model is not None:
        path = Path(recipe.root, config.model)
        if not path.is_file():
            raise TokenizerError(f"tokenize.text.model: no file at {path}; leave it out to train one on the corpus")
        return Unit(TEXT_STAGE, VERSION, {"given": True}, [file_digest(path)], {"given": str(path)})
    params = {"config": content_fields(config), "seed": recipe.seed, "versions": VERSIONS}
    inputs = [digest for file, digests in files for digest in (file.landing.sha256, digests["fit-text"])]
    return Unit(TEXT_STAGE, VERSION, params, inputs, {"files": [file.paths() for file, _ in files]})


def visual_fit_unit(recipe: Recipe, files: Sequence[Selected]) -> Unit:
    """The `fit-visual` unit: k-means on the corpus, or the tokenizer that the recipe gives by file or plug-in.

    Raises TokenizerError when that file is missing, and for a VQ-KD tokenizer that was not trained yet.
    """
    config = recipe.tokenize.visual
    if isinstance(config, PluginConfig):
        return Unit(VISUAL_STAGE, VERSION, {"given": content_fields(config)}, [])
    if isinstance(config, VqkdConfig):
        if config.weights is None:
            raise TokenizerError(
                "the VQ-KD tokenizer of this recipe is not trained yet, and a build does not train it; run "
                "'imglish fit visual', or name a file in tokenize.visual.weights"
            )
        path = Path(recipe.root, config.weights)
        if not path.is_file():
            raise TokenizerError(f"tokenize.visual.weights: no file at {path}; leave it out to train a tokenizer")
        facts = {"type": config.type, "size": config.size, "precision": config.precision}
        return Unit(VISUAL_STAGE, VERSION, {"given": facts}, [file_digest(path)], {"given": str(path)})
    params = {
        "config": content_fields(config),
        "stored": content_fields(recipe.tokenize.stored),
        "views": content_fields(recipe.tokenize.views),
        "seed": recipe.seed,
        "versions": IMAGE_VERSIONS,
    }
    inputs = [digests["fit-visual"] for _, digests in files]
    return Unit(VISUAL_STAGE, VERSION, params, inputs, {"files": [file.paths() for file, _ in files]})


@dataclass(frozen=True)
class FitText:
    """Writes `models/<digest>.model`; notes {digest, pieces, requested, vocabulary, mask_id, versions}."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, TEXT_STAGE, unit.id)
        counts: dict[str, int] = {}
        requested = None
        if "given" in unit.spec:
            model = Path(unit.spec["given"]).read_bytes()
        else:
            config = TextTokenizerConfig(**unit.params["config"])
            texts = list(training_texts(self.store, unit.spec["files"], config.sample_bytes, unit.params["seed"]))
            counts = {"texts": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
            model, requested = train_text(texts, config), config.vocabulary
        tokenizer = TextTokenizer(model, unit.spec.get("given", "fitted text tokenizer"))
        notes = {
            "digest": tokenizer.digest,
            "pieces": tokenizer.pieces,
            "requested": requested or tokenizer.pieces,
            "vocabulary": tokenizer.vocabulary,
            "mask_id": tokenizer.mask_id,
            "versions": VERSIONS,
        }
        output = _put_model(self.store, model_path(tokenizer.digest, ".model"), model, tokenizer.pieces)
        return commit({"model": output}, counts, notes)


@dataclass(frozen=True)
class FitVisual:
    """Writes `models/<digest>.safetensors`; notes {digest, type, codes, size, patch, grid}."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, VISUAL_STAGE, unit.id)
        images = 0
        if "given" in unit.params:
            kind, model = unit.params["given"]["type"], _given_visual(unit)
        else:
            config = CodebookConfig(**unit.params["config"])
            fit, kind = CodebookFit(config, unit.params["seed"]), config.type
            for pixels in training_views(self.store, unit, config):
                fit.add(pixels[None])
                images += 1
            model = fit.finish()
        output, notes = put_visual(self.store, model, kind)
        return commit({"model": output}, {"images": images}, notes)


def put_visual(store: Store, model: bytes, kind: str) -> tuple[Output, dict[str, Any]]:
    """Put a visual tokenizer's file where tasks look for it, and say what manifest and model need to know of it."""
    tokenizer = read_visual(model, "fitted visual tokenizer")
    output = _put_model(store, model_path(tokenizer.digest, ".safetensors"), model, tokenizer.codes)
    return output, visual_notes(tokenizer, kind)


def _given_visual(unit: Unit) -> bytes:
    """The file of a tokenizer that the recipe names."""
    facts = unit.params["given"]
    if facts["type"] == "plugin":
        return write_plugin(facts["plugin"], facts["options"])
    from imglish.tokenize.vqkd import adopt  # torch is loaded only where it is needed

    return adopt(unit.spec["given"], facts["size"], facts["precision"])


def visual_notes(tokenizer: VisualTokenizer, kind: str) -> dict[str, Any]:
    """What manifest and model need to know of a visual tokenizer."""
    facts = {"digest": tokenizer.digest, "type": kind, "codes": tokenizer.codes}
    return {**facts, "size": tokenizer.size, "patch": tokenizer.patch, "grid": list(tokenizer.grid)}


def training_texts(store: Store, files: Sequence[Paths], budget: int, seed: int) -> Iterator[str]:
    """Documents and captions to train on, after their edits, in the order of record ids.

    Held are about 120 bytes for each candidate of the corpus and all of the chosen.
    """
    candidates = [_text_candidates(store, paths) for paths in files]
    edges = np.cumsum([0, *(rows.num_rows for rows in candidates)]).tolist()
    if not edges[-1]:
        return
    chosen = _within_budget(pa.concat_tables(candidates), budget, seed)
    found: list[tuple[bytes, list[str]]] = []
    for paths, start, end in zip(files, edges, edges[1:], strict=False):
        if not chosen[start:end].any():
            continue
        mine = _text_rows(store, paths).filter(pa.array(chosen[start:end]))
        done = 0
        for received in read_rows(store, paths["landing"], places(mine), ["payload", "captions"]):
            for row, landed in zip(mine.slice(done, received.num_rows).to_pylist(), received.to_pylist(), strict=True):
                found.append((row["record_id"], _texts(row, landed)))
            done += received.num_rows
    for _, texts in sorted(found, key=lambda item: item[0]):
        yield from texts


def training_views(store: Store, unit: Unit, config: CodebookConfig) -> Iterator[NDArray[np.uint8]]:
    """The first view of each chosen image, uint8 [S, S, 3]; an unreadable one is a StageError."""
    views, seed = ViewConfig(**unit.params["views"]), unit.params["seed"]
    stored = StoredConfig(**unit.params["stored"])
    for record, image in chosen_images(store, unit.spec["files"], stored, config.sample_images, seed):
        boxes = draw_views([record], [(image.width, image.height)], views, seed)
        yield render(decode_jpeg(image.jpeg), boxes[0, 0], config.size)


def chosen_images(
    store: Store, files: Sequence[Paths], stored: StoredConfig, count: int, seed: int, split: str = "train"
) -> Iterator[tuple[bytes, StoredImage]]:
    """(record id, stored image) of the `count` kept images of a split with the smallest hashes, file by file."""
    columns = ["record_id", "place", "source", "row"]
    tables = [split_rows(kept_rows(store, paths, []), ("image", "pair"), split).select(columns) for paths in files]
    chosen = _smallest([rows.column("record_id").to_pylist() for rows in tables], count, seed)
    for paths, rows, numbers in zip(files, tables, chosen, strict=True):
        mine = rows.take(pa.array(numbers))
        done = 0
        for received in read_rows(store, paths["landing"], places(mine), ["payload"]):
            for row, landed in zip(mine.slice(done, received.num_rows).to_pylist(), received.to_pylist(), strict=True):
                yield row["record_id"], stored_image(row | landed, stored)
            done += received.num_rows


def _text_rows(store: Store, paths: Paths) -> pa.Table:
    return train_rows(kept_rows(store, paths, FIT_MEASURED), texts=True)


def _text_candidates(store: Store, paths: Paths) -> pa.Table:
    """Kept texts and pairs of a file: record id, group (source and language), bytes (of the JSON list for captions)."""
    rows = _text_rows(store, paths)
    captions = store.read_table(paths["landing"], ["captions"]).column("captions").take(rows.column("place"))
    size = pc.fill_null(pc.if_else(pc.equal(rows.column("kind"), "pair"), pc.binary_length(captions), rows["bytes"]), 0)
    group = pc.binary_join_element_wise(rows["source"], pc.fill_null(rows["language"], ""), "\n")
    columns = [
        rows["record_id"].cast(pa.binary(16)),
        group.cast(pa.string()).dictionary_encode(),
        size.cast(pa.int64()),
    ]
    return pa.table(columns, names=["record_id", "group", "size"])


def _texts(row: Mapping[str, Any], landed: Mapping[str, Any]) -> list[str]:
    edits = unpack_json(row["edits"])
    try:
        if row["kind"] == "text":
            return [edited_document(landed["payload"], edits)]
        return edited_captions(unpack_json(landed["captions"]) or [], edits)
    except StageError as error:
        raise StageError(f"{row['source']} row {row['row']}: {error}") from None


def _within_budget(rows: pa.Table, budget: int, seed: int) -> NDArray[np.bool_]:
    """Which candidates fit: in each (source, language) those with the smallest hashes up to the group's share."""
    group = _numbered(rows.unify_dictionaries().column("group"))
    sizes = np.asarray(rows["size"].to_numpy(), np.int64)
    high, low = record_halves(rows["record_id"])
    order = np.lexsort((high, low, stream(seed, TEXT_STAGE).keys(low), group))
    share = _shares(np.bincount(group, weights=sizes).astype(np.int64), budget)[group]
    counted = np.where(sizes <= share, sizes, 0)[order]
    running = np.cumsum(counted)
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    before = (running - counted)[starts][group[order]]
    fits = np.zeros(len(sizes), bool)
    fits[order] = running - before <= share[order]
    return np.asarray(fits & (sizes <= share))


def _numbered(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """The place of every name among all that occur, in their order; one dictionary for all chunks."""
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in names.chunks])
    ordered = pc.rank(names.chunk(0).dictionary, tiebreaker="dense").to_numpy().astype(np.int64) - 1
    return np.unique(ordered[codes], return_inverse=True)[1].astype(np.int64)


def _shares(totals: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """The budget split evenly; what a small group leaves goes to the larger ones."""
    shares = np.zeros(len(totals), np.int64)
    left = budget
    for done, number in enumerate(np.argsort(totals, kind="stable")):
        shares[number] = min(int(totals[number]), left // (len(totals) - done))
        left -= int(shares[number])
    return shares


def _smallest(files: Sequence[Sequence[bytes]], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Row numbers, ascending, per file of the `count` distinct ids with the smallest hashes; a first copy wins."""
    sizes = [len(ids) for ids in files]
    high, low = _halves([record for ids in files for record in ids])
    order = np.lexsort((high, low, stream(seed, VISUAL_STAGE).keys(low)))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    chosen = np.sort(order[fresh][:count])
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = np.split(chosen, np.searchsorted(chosen, edges[1:-1]))
    return [part - edge for part, edge in zip(parts, edges[:-1], strict=True)] if sizes else []


def _halves(record_ids: Sequence[bytes]) -> tuple[U64, U64]:
    """High and low 64 bits, big-endian, so that (high, low) sorts like the ids."""
    halves = np.frombuffer(b"".join(record_ids), ">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]


def _put_model(store: Store, path: str, data: bytes, rows: int) -> Output:
    store.put_as(path, data)
    return Output(path, hashlib.sha256(data).hexdigest(), len(data), rows)
