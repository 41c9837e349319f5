"""The demo's recipe on a user's folder: images with captions, tables that name images, and text files.

    recipe = folder_recipe(Path("my-data"), work=Path("my-corpus"))

    my-data/dogs/rex.jpg + rex.txt          a pair; the text file's lines are captions
    my-data/birds/0001.png                  an image
    my-data/birds/list.csv                  columns file,caption: pairs; usual column names are recognised
    my-data/essays/one.txt, two.md          documents

Rules and sizes that suit the demo's 30 MB are scaled down to what a small folder supports.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

from imglish.demo.packages import Report
from imglish.demo.recipes import DEMO_RECIPE, restrict
from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources.files import IMAGE_SUFFIXES, File
from imglish.ingest.sources.tabular import SUFFIXES, Table, open_table
from imglish.recipe import CodebookConfig, FetchConfig, Recipe, SourceConfig, load_recipe
from imglish.records import Kind

IMAGE_COLUMNS = ("image", "image_path", "file_name", "filename", "filepath", "file", "path", "img", "photo", "picture")
URL_COLUMNS = ("url", "image_url", "img_url")
CAPTION_COLUMNS = ("caption", "captions", "alt", "alt_text", "title", "description", "sentence")
TEXT_COLUMNS = ("text", "content", "document", "body")
"""Usual column names, compared in lower case; `text` beside an image is a caption (Hugging Face's image folders)."""

CAPTION_BYTES = 60
"""Of captions in a table row, assumed when sizes are chosen."""
BYTES_PER_PIECE = 200
"""Training text for one piece of vocabulary: 300 kB support the demo's 1,500."""


@dataclass
class _Found:
    """Files of a folder by their use, as paths relative to it, and how much they hold."""

    images: list[PurePosixPath] = field(default_factory=list)
    captions: list[PurePosixPath] = field(default_factory=list)
    documents: list[PurePosixPath] = field(default_factory=list)
    tables: list[PurePosixPath] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=lambda: {"pair": 0, "image": 0, "text": 0})
    text_bytes: int = 0


def folder_recipe(data: Path, work: Path, report: Report = lambda line: None, recipe: Path = DEMO_RECIPE) -> Recipe:
    """The recipe for the images, tables and texts in `data`, built in `work`.

    `report` gets a line for each file or folder that is not used, with the reason. Raises SourceError when
    there is nothing to use, RecipeError when `work` lies inside `data`.
    """
    data, work = data.resolve(), work.resolve()
    if not data.is_dir():
        raise SourceError(f"{data} is not a folder; give one with images, captions or texts")
    if work.is_relative_to(data):
        raise RecipeError(f"the work folder {work} lies inside the data folder {data}; a later build would take it in")
    found = _scan(data)
    sources = [*_image_sources(found), *_table_sources(data, found, report), *_text_sources(found, report)]
    if not sources:
        raise SourceError(
            f"{data} holds nothing to build from; it takes images ({', '.join(IMAGE_SUFFIXES)}) with captions in "
            "<name>.txt, csv, tsv, jsonl or parquet tables that name images and captions, and .txt or .md documents"
        )
    base = load_recipe(recipe).model_copy(update={"root": str(data), "work": str(work), "fetch": FetchConfig()})
    named = base.model_copy(update={"name": re.sub(r"[^A-Za-z0-9_.-]", "-", data.name).lstrip("-_.") or "corpus"})
    return _scaled(restrict(named, sources), found)


def _scan(data: Path) -> _Found:
    """Every file below `data` that is not hidden, sorted by use; links are not followed."""
    found = _Found()
    texts: list[PurePosixPath] = []
    for folder, below, names in os.walk(data):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = PurePosixPath((Path(folder) / name).relative_to(data).as_posix())
            if name.lower().endswith(IMAGE_SUFFIXES):
                found.images.append(path)
            elif name.lower().endswith(tuple(chain.from_iterable(SUFFIXES.values()))):
                found.tables.append(path)
            elif name.lower().endswith((".txt", ".md")):
                texts.append(path)
    stems = {image.with_suffix("") for image in found.images}
    for path in texts:
        is_caption = path.suffix.lower() == ".txt" and path.with_suffix("") in stems
        (found.captions if is_caption else found.documents).append(path)
        found.text_bytes += (data / path).stat().st_size
    return found


def _image_sources(found: _Found) -> list[SourceConfig]:
    sources = []
    if found.captions:
        sources.append(SourceConfig(name="pairs", format="folder", kind="pair", path=".", priority=0))
        found.counts["pair"] += len(found.captions)
    if found.images:
        sources.append(SourceConfig(name="images", format="folder", kind="image", path=".", priority=2))
        found.counts["image"] += len(found.images)
    return sources


def _table_sources(data: Path, found: _Found, report: Report) -> list[SourceConfig]:
    sources: list[SourceConfig] = []
    for path in found.tables:
        table = open_table(File(str(data / path), path.name, (data / path).stat().st_size, ""))
        columns = table.columns()
        choice = _choose(columns, _first_row(table))
        if choice is None:
            report(f"{path} is not used: none of its columns ({', '.join(columns)}) has a usual name")
            continue
        kind, fetched, options = choice
        suffix = next(form for form, suffixes in SUFFIXES.items() if path.name.lower().endswith(suffixes))
        sources.append(
            SourceConfig(
                name=_name(path, sources),
                format="url-list" if fetched else suffix,
                kind=kind,
                path=glob.escape(str(path)),
                priority=1,
                options=options,
            )
        )
        rows = sum(cut["rows"] if "rows" in cut else sum(1 for _ in table.read(cut)) for cut in table.cuts())
        found.counts[kind] += rows
        found.text_bytes += (data / path).stat().st_size if kind == "text" else rows * CAPTION_BYTES
    return sources


def _choose(columns: Sequence[str], first: dict[str, Any]) -> tuple[Kind, bool, dict[str, Any]] | None:
    """(kind, whether it is a list of URLs, reader's options) for a table by its column names."""
    lower = {name.lower(): name for name in reversed(columns)}
    image = next((lower[name] for name in IMAGE_COLUMNS if name in lower), None)
    url = next((lower[name] for name in URL_COLUMNS if name in lower), None)
    text = next((lower[name] for name in TEXT_COLUMNS if name in lower), None)
    if image is None and url is None:
        return None if text is None else ("text", False, {"text": text})
    where = {"url": url} if image is None else {"image": image}
    captions = [name for name in columns if name.lower() in CAPTION_COLUMNS or name.lower().startswith("caption_")]
    captions = captions or ([text] if text is not None else [])
    if not captions:
        return "image", image is None, where
    lists = [name for name in captions if _is_list(first.get(name))]
    return "pair", image is None, {**where, "captions": lists[0] if lists else captions}


def _first_row(table: Table) -> dict[str, Any]:
    specs = table.cuts()[:1]
    return dict(next((record.values for record in table.read(specs[0]) if record.values), {})) if specs else {}


def _is_list(value: Any) -> bool:
    """Whether a cell holds a list of captions; a JSON list in formats that have only text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, list)


def _name(path: PurePosixPath, taken: Sequence[SourceConfig]) -> str:
    """A source name from a path, unique among `taken`."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", str(path).lower()).strip("-_.") or "table"
    names = {source.name for source in taken}
    return next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in names)


def _text_sources(found: _Found, report: Report) -> list[SourceConfig]:
    """Documents by glob; none that would take a caption file for a document."""
    captioned = {folder for path in found.captions for folder in path.parents}
    beside = {path.parent for path in found.captions}
    globs: dict[str, None] = {}
    for path in found.documents:
        folders = [*reversed(path.parents)]
        free = next((folder for folder in folders if folder not in captioned), None)
        if path.suffix.lower() == ".md" or not captioned:
            globs[f"**/*{path.suffix}"] = None
        elif free is not None:
            globs[f"{glob.escape(str(free))}/**/*{path.suffix}"] = None
        elif path.parent not in beside:
            globs[str(PurePosixPath(glob.escape(str(path.parent)), f"*{path.suffix}"))] = None
        else:
            report(f"{path} is not used: beside captions it may be one; move documents to a folder of their own")
            continue
        found.counts["text"] += 1
    return [
        SourceConfig(name=f"texts-{number}", format="text", kind="text", path=path, priority=1)
        for number, path in enumerate(globs, 1)
    ]


def _scaled(recipe: Recipe, found: _Found) -> Recipe:
    """The recipe with rules and sizes that a corpus of this size supports."""
    pictures = found.counts["pair"] + found.counts["image"]
    samples = pictures + found.counts["text"]
    text, visual = recipe.tokenize.text, recipe.tokenize.visual
    pieces = min(text.vocabulary, max(512, found.text_bytes // BYTES_PER_PIECE))
    if isinstance(visual, CodebookConfig):
        most = 1 << max(4, pictures.bit_length() - 1)  # about 64 patches, one picture's, for a code
        visual = visual.model_copy(update={"codes": min(visual.codes, most)})
    tokenize = recipe.tokenize.model_copy(
        update={
            "text": text.model_copy(update={"vocabulary": pieces}),
            "visual": visual,
        }
    )
    mild = {"language": {"languages": (), "min_score": 0.0}, "text_length": {"min_words": 5}}
    decide = recipe.decide.model_copy(
        update={
            "rule": {**recipe.decide.rule, **mild},
            "validation_share": recipe.decide.validation_share if samples >= 2000 else 0.1,
            "captioned_images": "both",  # otherwise a folder of pairs leaves no image for the image stream
        }
    )
    pack = recipe.pack.model_copy(update={"train_shards": min(recipe.pack.train_shards, max(1, samples // 250))})
    batch = {kind: min(size, max(1, found.counts[kind] // 2)) for kind, size in recipe.train.batch.items()}
    train = recipe.train.model_copy(update={"batch": batch})
    return recipe.model_copy(update={"tokenize": tokenize, "decide": decide, "pack": pack, "train": train})
