"""Small landings with annotations and decisions, and models to tokenize them with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from PIL import Image

from imglish.digests import record_id
from imglish.recipe import Recipe, TextTokenizerConfig, make_recipe
from imglish.records import ANNOTATIONS, DECISIONS, LANDING, pack_json, table
from imglish.seeds import stream
from imglish.storage import Store
from imglish.tokenize.rows import LandingFile
from imglish.tokenize.select import Selected, SelectTask, select_units
from imglish.tokenize.text import train_text

WORDS = """
    red green blue old new small big house tree river mountain cat dog bird walks runs sleeps near under
    über straße école garçon 山 川 猫 собака дом река שלום עולם
""".split()  # noqa: SIM905


def corpus(lines: int = 400) -> list[str]:
    """Sentences over a few scripts, always the same."""
    bits = stream(0, "test corpus").bits(lines * 8).reshape(lines, 8)
    return [" ".join(WORDS[int(bit) % len(WORDS)] for bit in row) for row in bits]


@cache
def text_model(vocabulary: int = 330) -> bytes:
    return train_text(corpus(), TextTokenizerConfig(vocabulary=vocabulary))


def sentencepiece_model(**options: Any) -> bytes:
    """A model straight from SentencePiece, with any special ids."""
    model = io.BytesIO()
    settings = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=model, **settings)
    return model.getvalue()


def picture(number: int, size: tuple[int, int] = (60, 50)) -> NDArray[np.uint8]:
    """A smooth colour field with a box and some texture, uint8 [H, W, 3]; another one for every number."""
    width, height = size
    draws = (stream(number, "test picture").bits(16) % np.uint64(200)).astype(np.int64)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    field = np.stack([draws[c] + 55 * x * (c + 1) / 3 - 40 * y for c in range(3)], axis=2)
    field[height // 4 : height // 2, width // 5 : width // 2] = draws[3:6]
    field += (12 * np.sin(x * draws[6] / 4) * np.cos(y * draws[7] / 4))[:, :, None]
    return np.clip(field, 0, 255).astype(np.uint8)


def png(number: int, size: tuple[int, int] = (60, 50)) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(number, size)).save(data, "PNG")
    return data.getvalue()


def pair(row: str, payload: bytes, captions: Sequence[str], **decided: Any) -> dict[str, Any]:
    return {"row": row, "kind": "pair", "payload": payload, "captions": list(captions)} | decided


def image(row: str, payload: bytes, **decided: Any) -> dict[str, Any]:
    return {"row": row, "kind": "image", "payload": payload} | decided


def text(row: str, words: str, **decided: Any) -> dict[str, Any]:
    return {"row": row, "kind": "text", "payload": words.encode()} | decided


def landing_file(store: Store, source: str, rows: Sequence[Mapping[str, Any]]) -> LandingFile:
    """Three files of these rows, kept in the train split unless a row says otherwise."""
    whole = sorted((_row(source, row) for row in rows), key=lambda row: (row["record_id"], row["row"]))
    landed = [row | {"captions": None if row["captions"] is None else pack_json(row["captions"])} for row in whole]
    return LandingFile(
        store.put_table("landing", table(landed, LANDING)),
        store.put_table("tables/annotate", table([row | {"captions": None} for row in whole], ANNOTATIONS)),
        store.put_table("tables/decide", table(whole, DECISIONS)),
    )


def select_files(store: Store, files: Sequence[LandingFile]) -> list[Selected]:
    """The files as the stage "select" hands them on, without an engine."""
    receipts = [SelectTask(store)(unit) for unit in select_units(files)]
    return [Selected(file, receipt.notes) for file, receipt in zip(files, receipts, strict=True)]


def _row(source: str, row: Mapping[str, Any]) -> dict[str, Any]:
    kept = row.get("verdict", "keep") != "drop"
    made = {
        "source": source,
        "record_id": record_id("text" if row["kind"] == "text" else "image", row["payload"]),
        "bytes": len(row["payload"]),
        "status": "ok",
        "language": "en",
        "url": f"https://example.org/{row['row']}",
        "licence": "CC0-1.0",
        "verdict": "keep",
        "sample_kind": row["kind"] if kept else None,
        "split": "train" if kept else None,
        "fired": 0,
        "priority": 0,
        "captions": None,
        "edits": None,
    }
    made |= row
    return made | {"edits": pack_json(made["edits"]) if made["edits"] else None}


def recipe(**tokenize: Any) -> Recipe:
    """A recipe with small views: 32 pixels, patches of 8."""
    visual = {"size": 32, "patch": 8, "codes": 16, "iterations": 4, "sample_images": 50}
    sections = {
        "text": {"vocabulary": 330, "sample_bytes": 1 << 20} | tokenize.pop("text", {}),
        "visual": visual | tokenize.pop("visual", {}),
        "stored": {"short_side": 48},
        "views": {"count": 2},
        "batch": 4,
    }
    source = {"name": "one", "format": "folder", "kind": "pair", "path": "."}
    return make_recipe({"name": "test", "source": [source], "tokenize": sections | tokenize})
