"""`coco` and `visual-genome`: one JSON file of annotations, images in folders or zips beside it.

    annotations/captions_train2017.json                 [[source]]
      {"images": [{"id": 9, "file_name": "..09.jpg"}],  format = "coco"
       "annotations": [{"image_id": 9,                  path = "annotations/captions_*.json"
                        "caption": "..."}], ...}        options = { images = ["../train2017.zip"] }

    region_descriptions.json                            format = "visual-genome"
      [{"id": 1, "regions": [{"phrase": "..."}]}, ..]   options = { images = ["VG_100K", "VG_100K_2"] }

An image is one row with all its captions, named `<file>#<image id>`. A JSON file is one part. COCO's is read whole (its
own have 90 MB; more than JSON_BYTES is refused); Visual Genome's, of 700 MB, element by element.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
from pydantic import Field

from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import expect_kind, find_files, printable, read_options
from imglish.ingest.sources.pictures import Pictures, places_stamp
from imglish.ingest.sources.streams import open_stream, plain_suffixes, read_some
from imglish.recipe import Section, SourceConfig

JSON_BYTES = 1 << 30
"""A larger COCO file is refused: it is held in memory."""
ELEMENT_CHARACTERS = 64 << 20
"""A longer element of a Visual Genome file ends it."""
_CHUNK = 1 << 20


class ImagesOptions(Section):
    """Where the images are."""

    images: list[str] = Field(default=["."], min_length=1)
    """Folders or zips, relative to the JSON file's folder; the first that has an image counts."""


class _Annotations:
    """What both formats share: a part is a file, its images lie beside it."""

    name: str
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, ImagesOptions)
        expect_kind(config, ("pair", "image"), "its images have captions")
        parts = []
        for file in find_files(config, root, plain_suffixes((".json",))):
            base = _folder(file.url)
            stamps = places_stamp(base, options.images)
            parts.append(Part(file.name, [file.url], [file.fingerprint(), *stamps], {"file": file.name}))
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        name, url = part.spec["file"], part.files[0]
        seen: set[str] = set()
        with Pictures(_folder(url), read_options(config, ImagesOptions).images) as pictures:
            for number, (row, file_name) in enumerate(self._found(name, url)):
                if row.row in seen:
                    said = f"{row.row} comes more than once; the first counts"
                    yield Row(f"{row.row}~{number}", status="bad_row", detail=said)
                    continue
                seen.add(row.row)
                if row.status == "ok":
                    row = pictures.read(row, file_name)
                yield row if config.kind == "pair" else replace(row, captions=None)

    def _found(self, name: str, url: str) -> Iterator[tuple[Row, Any]]:
        """(row with captions, file name of its image) for every image, bad rows for what is wrong."""
        raise NotImplementedError


class Coco(_Annotations):
    """COCO captions JSON."""

    name = "coco"

    def _found(self, name: str, url: str) -> Iterator[tuple[Row, Any]]:
        whole, said = _read_json(name, url)
        if whole is None:
            yield Row(f"{name}#", status="bad_row", detail=said), None
            return
        licences = {_id(one): one.get("url") or one.get("name") for one in _objects(whole, "licenses")}
        captions: dict[str, list[Any]] = {_id(one): [] for one in _objects(whole, "images")}
        for number, one in enumerate(_list(whole, "annotations")):
            key = _id(one, "image_id") if isinstance(one, dict) else "?"
            if key not in captions or "caption" not in one:
                said = f"{name}: annotation {number} has no caption or no image of this file (image_id {key[:50]})"
                yield Row(f"{name}#annotation-{number}", status="bad_row", detail=said), None
                continue
            captions[key].append(one["caption"])
        for number, one in enumerate(_list(whole, "images")):
            if not isinstance(one, dict) or "file_name" not in one:
                said = f"{name}: image {number} has no file_name"
                yield Row(f"{name}#image-{number}", status="bad_row", detail=said), None
                continue
            url_of = one.get("coco_url") or one.get("flickr_url")
            licence = licences.get(str(one.get("license")))
            row = Row(
                f"{name}#{_id(one)}",
                captions=captions.get(_id(one), []),
                url=_text(url_of),
                licence=_text(licence),
            )
            yield row, one["file_name"]


class VisualGenome(_Annotations):
    """Visual Genome's region descriptions."""

    name = "visual-genome"

    def _found(self, name: str, url: str) -> Iterator[tuple[Row, Any]]:
        for place, value, said in json_elements(url):
            if said is not None:
                yield Row(f"{name}#@{place}", status="bad_row", detail=f"{name}: character {place}: {said}"), None
                continue
            regions = value.get("regions") if isinstance(value, dict) else None
            if not isinstance(regions, list):
                said = f"{name}: character {place}: no object with a list of regions"
                yield Row(f"{name}#@{place}", status="bad_row", detail=said), None
                continue
            phrases = [region["phrase"] for region in regions if isinstance(region, dict) and "phrase" in region]
            phrases = [" ".join(phrase.split()) if isinstance(phrase, str) else phrase for phrase in phrases]
            number = _id(value) if "id" in value else _id(value, "image_id")
            yield Row(f"{name}#{number}", captions=phrases), f"{number}.jpg"


def json_elements(url: str) -> Iterator[tuple[int, Any, str | None]]:
    """(character offset, element, None) of a top-level JSON array, one by one; (offset, None, why) where it ends badly.

    Bytes that are not UTF-8 become U+FFFD.
    """
    decode = json.JSONDecoder().raw_decode
    text, begin, at = "", 0, 0  # `begin` is the offset of text[0]
    opened = False
    try:
        with open_stream(url) as stream:
            more = True
            while True:
                at = len(text) - len(text[at:].lstrip(" \t\r\n" if opened else " \t\r\n\ufeff"))
                if at < len(text) and not opened:
                    if text[at] != "[":
                        yield begin + at, None, "not a JSON array"
                        return
                    opened, at = True, at + 1
                    continue
                if at < len(text) and text[at] == "]":
                    return
                if at < len(text) and text[at] == ",":
                    at += 1
                    continue
                value, end, error = None, -1, "the file ends in the middle"
                if at < len(text):
                    try:
                        value, end = decode(text, at)
                    except (ValueError, RecursionError) as found:
                        error = f"not JSON: {printable(str(found))[:100]}"
                if end >= 0 and (end < len(text) or not more):
                    yield begin + at, value, None
                    at = end
                elif more and len(text) - at < ELEMENT_CHARACTERS:
                    data = read_some(stream, max(_CHUNK, len(text) - at))
                    more = bool(data)
                    begin, text, at = begin + at, text[at:] + _whole_text(data, stream), 0
                else:
                    yield begin + at, None, error
                    return
    except OSError as error:
        yield begin + at, None, f"cannot be read: {printable(str(error))[:200]}"


def _whole_text(data: bytes, stream: Any) -> str:
    """The bytes as text, with the rest of a character that they cut through."""
    while data and _is_cut(data) and (more := stream.read(1)):
        data += more
    return data.decode("utf-8", "replace")


def _is_cut(data: bytes) -> bool:
    """Whether UTF-8 ends inside a character."""
    for back, byte in enumerate(reversed(data[-3:]), 1):
        if byte >= 0xC0:
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return False
    return False


def _read_json(name: str, url: str) -> tuple[Mapping[str, Any] | None, str | None]:
    try:
        with open_stream(url) as stream:
            data = stream.read(JSON_BYTES + 1)
        if len(data) > JSON_BYTES:
            return None, f"{name}: more than {JSON_BYTES} bytes"
        whole = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError) as error:
        return None, f"{name}: not JSON: {printable(str(error))[:200]}"
    if not isinstance(whole, dict) or "images" not in whole or "annotations" not in whole:
        return None, f"{name}: no object with images and annotations"
    return whole, None


def _list(whole: Mapping[str, Any], key: str) -> list[Any]:
    found = whole.get(key)
    return found if isinstance(found, list) else []


def _objects(whole: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [one for one in _list(whole, key) if isinstance(one, dict)]


def _id(one: Mapping[str, Any], key: str = "id") -> str:
    return printable(str(one.get(key)))[:100]


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _folder(url: str) -> str:
    protocol, separator, path = url.rpartition("://")
    return protocol + separator + posixpath.dirname(path)
