"""`sbu`: the SBU captioned photographs, two text files line by line, or one JSON file of lists.

    SBU_captioned_photo_dataset_urls.txt                http://static.flickr.com/2723/4385058960_b0f291553e.jpg
    SBU_captioned_photo_dataset_captions.txt            A wooden chair in the living room
    sbu-captions-all.json                               {"image_urls": [...], "captions": [...], "user_ids": [...]}

Rows are to be fetched and named by their line, from 0: `SBU_captioned_photo_dataset_urls.txt#17`. The text files are
walked through once (120 MB) to find where every unit of `unit_rows` lines begins in both; the JSON file is one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import orjson

from imglish.errors import SourceError
from imglish.ingest.sources import streams
from imglish.ingest.sources.base import TO_FETCH, Part, Row
from imglish.ingest.sources.files import File, expect_kind, find_files, printable, read_options
from imglish.ingest.sources.streams import Span, open_stream, plain_suffixes, span_lines, stream_lines
from imglish.recipe import Section, SourceConfig

UNIT_ROWS = 100_000
JSON_BYTES = 1 << 30
"""A larger JSON file is refused: it is held in memory."""
_URLS, _CAPTIONS = "_urls.txt", "_captions.txt"


class Sbu:
    """URLs and captions side by side."""

    name = "sbu"
    version = 1
    fetched = True

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        read_options(config, Section)
        expect_kind(config, ("pair", "image"), "only images are fetched")
        files = find_files(config, root, (*plain_suffixes((".json",)), _URLS, _CAPTIONS))
        captions = {file.name.removesuffix(_CAPTIONS): file for file in files if file.name.endswith(_CAPTIONS)}
        parts = []
        for file in files:
            if file.name.endswith(_URLS):
                beside = captions.get(file.name.removesuffix(_URLS))
                if beside is None:
                    raise SourceError(f"source {config.name!r}: no captions file beside {file.name}")
                parts += _line_parts(file, beside)
            elif not file.name.endswith(_CAPTIONS):
                parts.append(Part(file.name, [file.url], [file.fingerprint()], {"file": file.name}))
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        found = _json_rows(part) if "first" not in part.spec else _line_rows(part)
        for name, url, caption in found:
            yield _row(name, url, caption, config.kind)


def _row(name: str, url: Any, caption: Any, kind: str) -> Row:
    if isinstance(url, _Broken):
        return Row(name, status="bad_row", detail=str(url))
    if not isinstance(url, str) or not url.strip():
        return Row(name, status="bad_row", detail=f"{name}: no URL")
    captions = None if kind != "pair" else [] if caption is None else [caption]
    return Row(name, url=printable(url.strip()), captions=captions, status=TO_FETCH)


class _Broken(str):
    """Why the files break off, in the place of a URL."""


def _line_parts(urls: File, captions: File) -> list[Part]:
    """Units of UNIT_ROWS lines, with the bytes where they begin in both files."""
    parts = []
    for number, (at, beside) in enumerate(zip_longest(_starts(urls), _starts(captions), fillvalue=None)):
        if at is None:
            break  # captions without URLs: the last unit reads on to the end and says so
        parts.append(
            Part(
                name=f"{urls.name}#{number * UNIT_ROWS}",
                files=[urls.url, captions.url],
                fingerprint=[urls.fingerprint(), captions.fingerprint()],
                spec={"file": urls.name, "first": number * UNIT_ROWS, "starts": [at, beside]},
            )
        )
    last = parts[-1]
    return [*parts[:-1], Part(last.name, last.files, last.fingerprint, {**last.spec, "last": True})]


def _starts(file: File) -> Iterator[int]:
    """Where every UNIT_ROWS-th line begins."""
    yield 0
    try:
        for number, (offset, _) in enumerate(span_lines(file.url, Span())):
            if number and number % UNIT_ROWS == 0:
                yield offset
    except OSError:
        return  # the rows will say


def _line_rows(part: Part) -> Iterator[tuple[str, Any, Any]]:
    name, first = part.spec["file"], part.spec["first"]
    urls, captions = (_lines(url, at) for url, at in zip(part.files, part.spec["starts"], strict=True))
    for number, (url, caption) in enumerate(zip_longest(urls, captions), first):
        if number - first >= UNIT_ROWS and not part.spec.get("last"):
            return
        yield f"{name}#{number}", url, caption
        if isinstance(url, _Broken):
            return


def _lines(url: str, at: int | None) -> Iterator[str]:
    """Lines from a byte on, as text with what is not UTF-8 escaped; none when a file has no such line."""
    if at is None:
        return
    place = at
    try:
        with open_stream(url, at) as stream:
            for offset, line in stream_lines(stream, at, streams.LINE_BYTES):
                place = offset
                yield line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    except OSError as error:
        yield _Broken(f"cannot be read after the line at byte {place}: {printable(str(error))[:200]}")


def _json_rows(part: Part) -> Iterator[tuple[str, Any, Any]]:
    name = part.spec["file"]
    try:
        with open_stream(part.files[0]) as stream:
            data = stream.read(JSON_BYTES + 1)
        whole: Any = orjson.loads(data) if len(data) <= JSON_BYTES else None
        urls, captions = list(whole["image_urls"]), list(whole["captions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{name}: no JSON object with lists image_urls and captions: {printable(str(error))[:200]}"
        yield f"{name}#", _Broken(said), None
        return
    for number, (url, caption) in enumerate(zip_longest(urls, captions)):
        yield f"{name}#{number}", url, caption
