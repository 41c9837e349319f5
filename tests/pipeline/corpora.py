"""A small corpus on disk: drawings with captions in two languages, word soup in two languages, and planted faults."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from imglish.recipe import Recipe, make_recipe

WORDS = "a photograph of the old bridge over river in winter light with trees boats people and birds".split()  # noqa: SIM905
DEUTSCH = "ein altes Haus am Fluss mit Booten und Menschen im Licht des Winters unter Wolken".split()  # noqa: SIM905


def drawing(number: int, size: tuple[int, int] = (160, 120)) -> bytes:
    """A JPEG that no other number gives."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (int(v) for v in rng.integers(0, 100, 4))
        draw.ellipse((x, y, x + w + 5, y + h + 5), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def sentence(number: int, words: list[str] = WORDS, length: int = 8) -> str:
    rng = np.random.default_rng(number)
    return " ".join(words[i] for i in rng.integers(0, len(words), length))


def claimed_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def write_sources(root: Path, pairs: int = 40, images: int = 20, texts: int = 30) -> None:
    """Pairs, images and texts in folders; some images of "pairs" stand in "images" too, with other faults beside."""
    for folder in ("pairs", "images", "texts"):
        (root / folder).mkdir(parents=True)
    for number in range(pairs):
        (root / "pairs" / f"{number:04d}.jpg").write_bytes(drawing(number))
        captions = f"{sentence(number)}\n{sentence(number, DEUTSCH)}\n"
        (root / "pairs" / f"{number:04d}.txt").write_text(captions, encoding="utf-8")
    for number in range(images):
        (root / "images" / f"{number:04d}.jpg").write_bytes(drawing(pairs - 5 + number))
    for number in range(texts):
        words = WORDS if number % 2 else DEUTSCH
        lines = [sentence(1000 * number + line, words, 12) + "." for line in range(20)]
        (root / "texts" / f"{number:04d}.txt").write_text("\n".join(lines), encoding="utf-8")


def plant_faults(root: Path) -> dict[str, str]:
    """Broken inputs; the deciding rule and the beginning of its detail by row."""
    pairs, images, texts = root / "pairs", root / "images", root / "texts"
    good = drawing(900)
    faults = {
        "f-truncated.jpg": (good[: len(good) // 2], b"a caption", "payload@1|truncated"),
        "f-zero.jpg": (b"", b"a caption", "payload@1|empty"),
        "f-claims.png": (claimed_png(50_000, 50_000), b"a caption", "payload@1|too_many_pixels"),
        "f-blank.jpg": (drawing(901), b"  \n", "payload@1|no_caption"),
        "f-latin.jpg": (drawing(902), "café".encode("latin-1"), "payload@1|not_utf8"),
        "f-tiny.jpg": (drawing(903, (20, 20)), b"a caption", "image_size@1|20 x 20"),
        "f-long.jpg": (drawing(904, (400, 60)), b"a caption", "image_aspect@1|"),
    }
    expected = {}
    for name, (payload, caption, said) in faults.items():
        (pairs / name).write_bytes(payload)
        (pairs / name).with_suffix(".txt").write_bytes(caption)
        expected[name] = said
    (images / "html.jpg").write_bytes(b"<html>not here</html>")
    (texts / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 100)
    (texts / "short.txt").write_text("too short")
    return expected | {
        "html.jpg": "payload@1|not_image",
        "latin.txt": "payload@1|not_utf8",
        "short.txt": "text_length@1|",
    }


def small_recipe(root: Path, work: Path, **changes: object) -> Recipe:
    """A recipe that builds `write_sources` in seconds."""
    sources = [
        {"name": "pairs", "format": "folder", "kind": "pair", "path": "pairs", "licence": "CC0-1.0"},
        {"name": "images", "format": "folder", "kind": "image", "path": "images", "priority": 1},
        {"name": "texts", "format": "text", "kind": "text", "path": "texts"},
    ]
    values: dict[str, object] = {
        "name": "small",
        "root": str(root),
        "work": str(work),
        "source": sources,
        "decide": {"rule": {"language": {"min_score": 0.1}}, "validation_share": 0.2},
        "tokenize": {
            "text": {"vocabulary": 400},
            "visual": {"size": 64, "patch": 16, "codes": 32, "iterations": 5},
            "stored": {"short_side": 96},
            "views": {"count": 2},
            "batch": 16,
        },
        "pack": {"train_shards": 3, "validation_shards": 1},
    }
    return make_recipe(values | changes)
