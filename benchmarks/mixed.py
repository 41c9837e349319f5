"""The landing of the proof "Same bytes": some 8,900 real records of all kinds, small, with planted faults.

    recipe = landing(Path("proof/same-bytes"))      # made, fetched and built once; the recipe's file

Pictures and texts are those of the demo's packages, made smaller so that a build takes a minute on two cores: emoji at
96 pixels with captions in four languages, photographs of foods fetched from loopback, four crops of each as images, and
pages of an office suite's help in four languages. Planted: images that are a pair's own bytes, copies of images and of
pages, images cut short, empty or no images at all, URLs that answer badly.
"""

from __future__ import annotations

import csv
import io
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from imglish.demo.packages import get_packages
from imglish.demo.tables import EMOJI_IMAGES, PHOTOGRAPHS, write_emoji
from imglish.versions import source_digest

LANGUAGES = ("en", "de", "fr", "ja")
PAGES = {"en-us": "en-US", "de": "de", "fr": "fr", "es": "es"}
SIDE, CROPS = 96, 4
SHARED, COPIES, BROKEN = 300, 200, 100
"""Images that are pairs too; copies of images and of pages; images that are none."""

RECIPE = """\
name = "mixed"
root = "sources"
work = "reference"

[[source]]
name = "emoji"
format = "folder"
kind = "pair"
path = "pairs"

[[source]]
name = "foods"
format = "url-list"
kind = "pair"
path = "foods.csv"
priority = 1
options = {{ url = "url", captions = ["name"] }}

[[source]]
name = "images"
format = "folder"
kind = "image"
path = "images"
priority = 2

[[source]]
name = "pages"
format = "html-text"
kind = "text"
path = "pages"
options = {{ content_id = "DisplayArea" }}

[fetch]
allow_private = ["127.0.0.1:{port}"]
timeout = 3.0
deadline = 6.0

[decide.rule.text_length]
min_words = 20

[tokenize.text]
vocabulary = 1000
sample_bytes = 1_000_000

[tokenize.stored]
short_side = 80

[tokenize.views]
count = 2

[tokenize.visual]
size = 64
patch = 16
codes = 64
sample_images = 1000
iterations = 5

[pack]
train_shards = 7
validation_shards = 1
rounds = 2
"""


def landing(folder: Path, packages: Path) -> Path:
    """The recipe of a corpus that this source landed and built in `folder/reference`; its own sources are gone."""
    recipe, sources, made = folder / "recipe.toml", folder / "sources", folder / "reference.source"
    if made.exists() and made.read_text() == source_digest():
        return recipe
    shutil.rmtree(folder, ignore_errors=True)
    packages.mkdir(parents=True, exist_ok=True)
    missing = get_packages(packages, lambda text: sys.stderr.write(f"{text}\n"))
    assert not missing, missing
    write_emoji(packages)
    with _serve(packages / PHOTOGRAPHS) as port:
        _write_sources(packages, sources, port)
        recipe.write_text(RECIPE.format(port=port))
        subprocess.run([sys.executable, "-m", "imglish", "build", str(recipe)], check=True)
    shutil.rmtree(sources)
    made.write_text(source_digest())
    return recipe


def _write_sources(packages: Path, sources: Path, port: int) -> None:
    for name in ("pairs", "images", "pages"):
        (sources / name).mkdir(parents=True)
    rng = random.Random(0)
    pairs = _pairs(packages, sources / "pairs")
    photographs = sorted((packages / PHOTOGRAPHS).glob("*.jpeg"))
    _foods(photographs, sources / "foods.csv", port)
    images = _crops(photographs, sources / "images")
    for number, path in enumerate(rng.sample(pairs, SHARED)):
        shutil.copy(path, sources / "images" / f"shared-{number:04d}.jpg")
    for number, path in enumerate(rng.sample(images, COPIES)):
        shutil.copy(path, sources / "images" / f"copy-{number:04d}.jpg")
    for number, path in enumerate(rng.sample(images, BROKEN)):
        data = path.read_bytes()
        broken = (data[: len(data) // 2], b"", b"<html>gone</html>", data[:2] + bytes(64) + data[66:])[number % 4]
        (sources / "images" / f"broken-{number:04d}.jpg").write_bytes(broken)
    _pages(packages, sources / "pages", rng)


def _pairs(packages: Path, folder: Path) -> list[Path]:
    rows = pq.read_table(packages / "emoji.parquet", columns=["image", *LANGUAGES]).to_pylist()
    made = []
    for number, row in enumerate(rows):
        with Image.open(packages / EMOJI_IMAGES / Path(row["image"]).name) as picture:
            path = folder / f"{number:04d}.jpg"
            flat = Image.new("RGB", picture.size, "white")
            flat.paste(picture.convert("RGBA"), mask=picture.convert("RGBA").getchannel("A"))
            path.write_bytes(_jpeg(flat))
        captions = [row[language] for language in LANGUAGES if row[language]]
        path.with_suffix(".txt").write_text("\n".join(captions), encoding="utf-8")
        made.append(path)
    return made


def _foods(photographs: list[Path], table: Path, port: int) -> None:
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "name"])
        names = [path.name for path in photographs] + [f"gone-{number}.jpeg" for number in range(8)]
        rows.writerows([f"http://127.0.0.1:{port}/{name}", f"a photograph of food {name[:-5]}"] for name in names)


def _crops(photographs: list[Path], folder: Path) -> list[Path]:
    made = []
    for path in photographs:
        with Image.open(path) as picture:
            width, height = picture.size
            for number in range(CROPS):
                left, top = number % 2 * width // 4, number // 2 * height // 4
                crop = picture.convert("RGB").crop((left, top, left + width * 3 // 4, top + height * 3 // 4))
                made.append(folder / f"{path.stem}-{number}.jpg")
                made[-1].write_bytes(_jpeg(crop))
    return made


def _pages(packages: Path, folder: Path, rng: random.Random) -> None:
    pages = []
    for package, language in PAGES.items():
        texts = packages / f"libreoffice-help-{package}/usr/share/libreoffice/help/{language}/text/shared"
        for path in sorted(texts.rglob("*.html")):
            target = folder / language / path.relative_to(texts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            pages.append(target)
    for number, path in enumerate(rng.sample(pages, COPIES)):
        shutil.copy(path, folder / f"copy-{number:04d}.html")


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((SIDE * 2, SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


@contextmanager
def _serve(folder: Path) -> Iterator[int]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
