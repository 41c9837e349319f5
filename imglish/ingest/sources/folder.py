"""`folder`: a tree of image files, each with its captions beside it in `<name>.txt`, one a line, when kind is pair.

    photos/park/dog.jpg
    photos/park/dog.txt          A dog jumps over a log.
                                 Un chien saute.

A row is named by the image's relative path. A pair without caption file has status "no_caption". With
`captions = "folder"` the name of the image's folder is its caption (class folders); `classes` says what the classes are
called, without which a WordNet id (n01440764) is no caption (labels.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from imglish.errors import SourceError
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    IMAGE_SUFFIXES,
    File,
    caption_lines,
    expect_kind,
    find_files,
    not_utf8,
    read_options,
    read_payload,
    split_files,
)
from imglish.ingest.sources.labels import read_classes, with_class
from imglish.recipe import Section, SourceConfig


class FolderOptions(Section):
    """Where captions come from."""

    captions: Literal["files", "folder"] = "files"
    """Text files beside the images, or the name of the folder that an image is in."""
    classes: str | None = None
    """File of class names, one "n01440764 tench, Tinca tinca" a line, relative to the recipe's `root`."""


class Folder:
    """Images in a folder, with caption files for pairs."""

    name = "folder"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, FolderOptions)
        expect_kind(config, ("pair", "image"), "use format 'text' for documents")
        files = find_files(config, root, (*IMAGE_SUFFIXES, ".txt"))
        captions = {_stem(file.name): file for file in files if _is_text(file)}
        images = [file for file in files if not _is_text(file)]
        if not images:
            raise SourceError(f"source {config.name!r}: {config.path} holds .txt files but no images")
        if config.kind == "image" or options.captions == "folder":
            captions = {}
        names, stamp = read_classes(config, root, options.classes)
        parts = [_part(run, captions) for run in split_files(images, lambda file: _members(file, captions))]
        if stamp is None:
            return parts
        return [
            replace(part, fingerprint=[*part.fingerprint, stamp], spec={**part.spec, "classes": names})
            for part in parts
        ]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        by_folder = read_options(config, FolderOptions).captions == "folder"
        for name, image, caption in part.spec["rows"]:
            row = read_payload(Row(name), part.files[image])
            if row.status == "ok" and config.kind == "pair" and by_folder:
                row = with_class(row, name.rpartition("/")[0].rpartition("/")[2], part.spec.get("classes", {}))
            elif row.status == "ok" and config.kind == "pair":
                row = _with_captions(row, None if caption is None else part.files[caption])
            yield row


def _is_text(file: File) -> bool:
    return file.name.lower().endswith(".txt")


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _members(image: File, captions: Mapping[str, File]) -> list[File]:
    caption = captions.get(_stem(image.name))
    return [image] if caption is None else [image, caption]


def _part(images: list[File], captions: Mapping[str, File]) -> Part:
    files: list[File] = []
    rows: list[tuple[str, int, int | None]] = []
    for image in images:
        members = _members(image, captions)
        rows.append((image.name, len(files), len(files) + 1 if len(members) == 2 else None))
        files.extend(members)
    return Part(
        name=images[0].name,
        files=[file.url for file in files],
        fingerprint=[file.fingerprint() for file in files],
        spec={"rows": rows},
    )


def _with_captions(row: Row, url: str | None) -> Row:
    where = f"{_stem(row.row)}.txt"
    if url is None:
        return replace(row, status="no_caption", detail=f"no {where} beside the image")
    text = read_payload(Row(where), url)
    if text.payload is None:
        return replace(row, status=text.status, detail=text.detail)
    lines = caption_lines(text.payload)
    return not_utf8(row, where, text.payload) if lines is None else replace(row, captions=lines)
