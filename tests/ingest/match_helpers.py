"""Real photographs and documents with planted copies, and the way from sources to decisions."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageEnhance
from sklearn.datasets import load_sample_images

from imglish.digests import json_digest, table_digest
from imglish.ingest.annotate import AnnotateTask, annotate_units, detect_language
from imglish.ingest.decide import decide
from imglish.ingest.land import land, landing_files
from imglish.ingest.match.fingerprints import wanted
from imglish.ingest.match.join import Matched
from imglish.ingest.match.stage import match
from imglish.recipe import Recipe, make_recipe
from imglish.seeds import stream
from imglish.stages import Engine, run_map
from imglish.storage import Store

PHOTOGRAPHS = "astronaut camera coffee chelsea coins moon page rocket text brick grass gravel cell".split()  # noqa: SIM905


@cache
def photographs() -> dict[str, Image.Image]:
    """Fifteen photographs that packages ship, at most 400 pixels a side."""
    found = {name: Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS}
    found |= {name: Image.fromarray(one) for name, one in zip(("temple", "flower"), load_sample_images().images)}  # noqa: B905
    for image in found.values():
        image.thumbnail((400, 400))
    return {name: image.convert("RGB") for name, image in found.items()}


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def watermarked(image: Image.Image) -> Image.Image:
    """White letters, half transparent, in a corner."""
    marked = image.convert("RGBA")
    layer = Image.new("RGBA", image.size)
    place = (image.width // 2, image.height * 5 // 6)
    ImageDraw.Draw(layer).text(place, "example.org", fill=(255, 255, 255, 150), font_size=max(10, image.height // 12))
    return Image.alpha_composite(marked, layer).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """3 % of each side cut off, half at either end."""
    x, y = round(image.width * 0.015), round(image.height * 0.015)
    return image.crop((x, y, image.width - x, image.height - y))


TRANSFORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda image: jpeg(image, 60),
    "half": lambda image: jpeg(image.resize((image.width // 2, image.height // 2)), 85),
    "cropped": lambda image: jpeg(cropped(image)),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
    "watermarked": lambda image: jpeg(watermarked(image)),
}


@cache
def documents() -> list[str]:
    """Docstrings of numpy of 150 to 600 words: prose, lists and code that repeat each other's phrases."""
    names = sorted(name for name in dir(np) if not name.startswith("_"))
    found = {str(getattr(np, name).__doc__ or "") for name in names}
    english = (text for text in sorted(found) if (detect_language(text)[1] or 0) > 0.75)
    return [text for text in english if 150 <= len(text.split()) <= 600][:60]


def changed(text: str, every: int) -> str:
    """The text with every so-manieth word another one."""
    return " ".join("changed" if n % every == every - 1 else word for n, word in enumerate(text.split()))


class Decisions(NamedTuple):
    """Rows and evidence by "source/row", what was matched, and a digest that no file layout moves."""

    rows: dict[str, dict[str, Any]]
    evidence: list[dict[str, Any]]
    matched: Matched
    digest: str
    notes: list[str]


def recipe(
    root: Path, work: str = "work", sources: tuple[str, ...] = ("pairs", "images", "texts"), **match: Any
) -> Recipe:
    """Three folders, and whatever is said of matching; documents of any length pass."""
    kinds = {"pairs": "pair", "images": "image", "texts": "text"}
    listed = [
        {"name": name, "format": "folder" if name != "texts" else "text", "kind": kinds[name], "path": path,
         "priority": list(kinds).index(name)}
        for name in sources
        for path in [name if name != "texts" else "texts/*.txt"]
    ]  # fmt: skip
    values = {"name": "m", "root": str(root), "work": str(root / work), "source": listed, "match": match}
    return make_recipe(values)


def decided(made: Recipe, engine: Engine, shuffled: int | None = None) -> Decisions:
    """From sources to decisions; `shuffled` seeds an order of the landing files."""
    store = Store(made.work)
    notes: list[str] = []
    landed = [file for receipts in land(store, engine, made).values() for file in landing_files(receipts)]
    if shuffled is not None:
        landed = [landed[place] for place in stream(shuffled, "files").permutation(len(landed))]
    units = annotate_units(landed, made.tokenize.stored.max_pixels, wanted(made.match))
    annotated = run_map(store, "tables", engine, AnnotateTask(store), units)
    prints = [receipt.outputs["fingerprints"] for receipt in annotated if wanted(made.match)]
    matched = match(store, engine, made, landed, prints, note=notes.append)
    found = decide(store, engine, made, [receipt.outputs["rows"] for receipt in annotated], matched=matched)
    tables = [store.read_table(file.path) for file in found.decisions]
    rows = {f"{row['source']}/{row['row']}": row for table in tables for row in table.to_pylist()}
    evidence = [row for file in found.evidence for row in store.read_table(file.path).to_pylist()]
    digest = json_digest(sorted(table_digest(table, ["source", "row"]) for table in tables if table.num_rows))
    return Decisions(rows, evidence, matched, digest, notes)
