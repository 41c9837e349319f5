"""Evaluation sets: pictures, captions and questions that must not be trained on, as fingerprints.

    outputs = evaluation_sets(store, engine, recipe)      # one EVALUATION table a set, keyed by the set's content

A set is a folder of pictures and .txt files (a text a line), a table (.jsonl or .parquet) with a column of pictures and
columns of texts, or the manifest of a corpus. SourceError when there is nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imglish.digests import file_digest
from imglish.errors import ImageError, SourceError
from imglish.ingest.match.fingerprints import VERSIONS
from imglish.ingest.match.looks import perceptual_hash, sketch
from imglish.ingest.match.shingles import as_set, shingles_of
from imglish.ingest.match.words import normal_digest, read_words
from imglish.recipe import Recipe
from imglish.recipe_match import EvaluationConfig
from imglish.shards.images import probe_with
from imglish.shards.reader import open_corpus
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, run_map
from imglish.storage import Output, Store

STAGE = "evaluation"
VERSION = 1
FOLDER = "tables"
GRAM_WORDS = 13
"""Words of a run that two texts share by copying rather than by chance (GPT-3, Marin: 13)."""
_PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"))

_BATCH = 1024
"""Texts whose words are read at once."""
_LINES = (".jsonl", ".ndjson")

EVALUATION = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),  # file, row or key within the set
        pa.field("hash", pa.uint64()),  # of a picture
        pa.field("sketch", pa.binary()),  # of a picture: pixel digest, thumbnail
        pa.field("words", pa.int32()),  # of a text
        pa.field("normal", pa.binary()),
        pa.field("grams", pa.binary()),  # distinct 13-grams, u64 little-endian ascending; null below 13 words
    ]
)


class Item(NamedTuple):
    """A picture or a text of an evaluation set."""

    name: str
    payload: bytes | None
    text: str | None


def evaluation_sets(store: Store, engine: Engine, recipe: Recipe, progress: Progress | None = None) -> list[Output]:
    """EVALUATION tables in the recipe's order; a set whose files are as before is not read again but for its digest."""
    check_sets(recipe)
    units = [_unit(recipe, one) for one in recipe.match.evaluation]
    receipts = run_map(store, FOLDER, engine, EvaluationTask(store), units, progress)
    return [receipt.outputs["items"] for receipt in receipts]


def check_sets(recipe: Recipe) -> None:
    """SourceError for an evaluation set that is not there."""
    for config in recipe.match.evaluation:
        path = Path(recipe.root, config.path)
        if not path.exists():
            raise SourceError(
                f"evaluation set {config.name!r}: {path} is not there; give match.evaluation.path another one"
            )


def _unit(recipe: Recipe, config: EvaluationConfig) -> Unit:
    path = Path(recipe.root, config.path)
    params = {"image": config.image, "texts": config.texts, "versions": VERSIONS, "gram_words": GRAM_WORDS}
    spec = {"path": str(path), "name": config.name, "max_pixels": recipe.tokenize.stored.max_pixels}
    return Unit(STAGE, VERSION, params, [_content(path, config)], spec)


def _content(path: Path, config: EvaluationConfig) -> str:
    """Digest of a set: names and bytes of its files; of JSON lines also those of the pictures that they name.

    A manifest names its shards by their digests, so it speaks for them.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if path.suffix in _LINES:
        named = {row.get(config.image) for row in _json_rows(config.name, path)}
        files += [file for name in sorted(filter(None, named)) if (file := Path(path.parent, name)).is_file()]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{os.path.relpath(file, path.parent)} {file_digest(file)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class EvaluationTask:
    """Reads one evaluation set."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        name, path = unit.spec["name"], Path(unit.spec["path"])
        columns = (unit.params["image"], tuple(unit.params["texts"]))
        rows: list[dict[str, Any]] = []
        texts: list[Item] = []
        bad = 0
        for item in _items(name, path, *columns):
            if item.payload is None:
                texts.append(item)
                if len(texts) == _BATCH:
                    rows += _text_rows(texts)
                    texts = []
                continue
            try:
                rows.append(_picture_row(item, unit.spec["max_pixels"]))
            except ImageError:
                bad += 1
        rows += _text_rows(texts)
        if not rows:
            raise SourceError(
                f"evaluation set {name!r}: {path} holds no picture that can be decoded and no text "
                f"({bad} damaged pictures); give a folder of pictures and .txt files, a .jsonl or .parquet table with "
                f"a column {columns[0]!r} or one of {', '.join(columns[1])}, or a manifest.json"
            )
        rows.sort(key=lambda row: str(row["item"]))
        table = pa.table([pa.array([row[f.name] for row in rows], f.type) for f in EVALUATION], schema=EVALUATION)
        pictures = sum(row["hash"] is not None for row in rows)
        counts = {"pictures": pictures, "texts": len(rows) - pictures, "damaged": bad}
        return commit({"items": self.store.put_table(f"{FOLDER}/evaluation", table)}, counts)


def _picture_row(item: Item, max_pixels: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(EVALUATION.names) | {"item": item.name}
    return row | probe_with(item.payload or b"", max_pixels, _picture)[1]


def _text_rows(items: Sequence[Item]) -> list[dict[str, Any]]:
    words = read_words([item.text or "" for item in items])
    runs = shingles_of(words, GRAM_WORDS)
    rows = []
    for number, (item, count) in enumerate(zip(items, np.diff(words.starts).tolist(), strict=True)):
        grams = as_set(runs.of(number)).astype("<u8").tobytes() if count >= GRAM_WORDS else None
        said = {"words": count, "normal": normal_digest(words.forms[number]), "grams": grams}
        rows.append(dict.fromkeys(EVALUATION.names) | {"item": item.name} | said)
    return rows


def _picture(image: Image.Image) -> dict[str, Any]:
    return {"hash": perceptual_hash(image), "sketch": sketch(image)}


def _items(name: str, path: Path, image: str, texts: Sequence[str]) -> Iterator[Item]:
    if path.is_dir():
        return _folder(path)
    if path.name.endswith(".json"):
        return _manifest(path)
    if path.suffix in _LINES:
        return _table(_json_rows(name, path), path, image, texts)
    if path.suffix == ".parquet":
        return _table(_parquet_rows(name, path, (image, *texts)), path, image, texts)
    raise SourceError(f"evaluation set {name!r}: {path} is no folder, .jsonl, .parquet or manifest.json")


def _folder(path: Path) -> Iterator[Item]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.suffix.lower() in _PICTURES and file.is_file():
            yield Item(name, file.read_bytes(), None)
        elif file.suffix.lower() == ".txt" and file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from (Item(f"{name}:{n}", None, line) for n, line in enumerate(lines, 1) if line.strip())


def _manifest(path: Path) -> Iterator[Item]:
    for split in ("train", "validation"):
        corpus = open_corpus(str(path), split=split)
        for kind in ("pair", "image"):
            for sample in corpus[kind]:
                yield Item(f"{kind}/{sample.key}", sample.jpeg, None)
                for n, caption in enumerate(getattr(sample, "captions", ())):
                    yield Item(f"{kind}/{sample.key}:{n}", None, caption)


def _json_rows(name: str, path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield dict(json.loads(line))
                except (ValueError, TypeError) as error:
                    raise SourceError(
                        f"evaluation set {name!r}: {path} line {number} is no JSON object: {error}"
                    ) from None


def _parquet_rows(name: str, path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"evaluation set {name!r}: {path} is no Parquet file: {error}") from None
    there = [column for column in columns if column in file.schema_arrow.names]
    for batch in file.iter_batches(256, columns=there):
        yield from batch.to_pylist()


def _table(rows: Iterator[dict[str, Any]], path: Path, image: str, texts: Sequence[str]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        payload = _payload(row.get(image), path.parent)
        if payload is not None:
            yield Item(f"{number}/{image}", payload, None)
        for column in texts:
            value = row.get(column)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and text.strip():
                    yield Item(f"{number}/{column}", None, text)


def _payload(value: Any, folder: Path) -> bytes | None:
    """Bytes, a struct with bytes as `datasets` writes it, or a path relative to the table."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        path = Path(folder, value)
        return path.read_bytes() if path.is_file() else b""
    return value if isinstance(value, bytes) else None
