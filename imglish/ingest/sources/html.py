"""`html-figures` and `html-text`: what saved web pages and manuals hold, as images with captions and as documents.

    [[source]]                               # manual/intro.html: <img src="images/a.png" alt="The main window" />
    name = "manual"
    format = "html-figures"
    kind = "pair"
    path = "manual"
    options = { captions = ["alt", "figcaption"], skip_alts = ["Next", "Up"] }

A figure is named `<page>#<number of the img on its page>`, a document by its page. Only files below the source's
folder are read: a `src` that leads elsewhere (an absolute path, `..`, a symbolic link, a URL) gives a row with
status "refused", one that leads nowhere "missing_file". `_pages` parses; it does so in linear time.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from imglish.ingest.sources import _pages
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import (
    File,
    expect_kind,
    filesystem,
    find_files,
    printable,
    read_options,
    read_payload,
    split_files,
)
from imglish.recipe import Section, SourceConfig

PAGES = (".html", ".htm", ".xhtml")
PAGE_BYTES = 32 << 20
"""A longer page is `too_large`; the longest manual on one page (Python's, all of it) has about 10 MB."""


class FigureOptions(Section):
    """Which images of a page are rows, and what their captions are."""

    captions: list[Literal["alt", "title", "figcaption"]] = Field(default=["alt", "figcaption"], min_length=1)
    """In this order: the alt text, DocBook's figure title, `<figcaption>` (or DocBook's caption); each text once."""
    skip_alts: list[str] = Field(default=[])
    """Images with one of these alt texts are no rows: the icons of a manual ("Tip", "Next")."""
    min_alt_characters: int = Field(default=0, ge=0)
    """Images with a shorter alt text are no rows."""


class PageTextOptions(Section):
    """Which part of a page is its text; scripts, forms, navigation and asides never are."""

    drop_classes: list[str] = Field(default=["navheader", "navfooter", "toc"])
    """Elements of these classes are left out; the default is DocBook's navigation."""
    content_id: str | None = None
    """Id of the element that holds the content; otherwise `<main>` or `<article>`, otherwise the body."""


class HtmlFigures:
    """The images of pages, for pairs with the captions that the pages give them."""

    name = "html-figures"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, FigureOptions)
        expect_kind(config, ("pair", "image"), "use format 'html-text' for documents")
        pages = find_files(config, root, PAGES)
        images = {page.name: _image_files(page, options) for page in pages}
        runs = split_files(pages, lambda page: [page, *images[page.name]])
        return [_part(run, {image.name: image for page in run for image in images[page.name]}) for run in runs]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, FigureOptions)
        for name, url in zip(part.spec["pages"], part.files, strict=True):
            page = _read_page(name, url)
            try:
                images = _pages.page_images(page.payload) if page.payload is not None else []
            except _pages.PageError as error:
                page, images = _failed(page, error), []
            if page.status != "ok":
                yield page
            for image in _wanted(images, options):
                row = _figure(name, url, image)
                yield replace(row, captions=_captions(image, options)) if config.kind == "pair" else row


class HtmlText:
    """One document a page: its content as lines, one for each block."""

    name = "html-text"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        read_options(config, PageTextOptions)
        expect_kind(config, ("text",), "use format 'html-figures' for images")
        return [_part(run, {}) for run in split_files(find_files(config, root, PAGES))]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, PageTextOptions)
        rules = _pages.TextRules(frozenset(options.drop_classes), options.content_id)
        for name, url in zip(part.spec["pages"], part.files, strict=True):
            row = _read_page(name, url)
            if row.payload is None:
                yield row
                continue
            try:
                text = _pages.page_text(row.payload, rules)
            except _pages.PageError as error:
                yield _failed(row, error)
                continue
            yield replace(row, payload=text.encode("utf-8")) if text else replace(row, payload=None, status="empty")


def _part(pages: Sequence[File], images: Mapping[str, File]) -> Part:
    return Part(
        name=pages[0].name,
        files=[page.url for page in pages],
        fingerprint=[file.fingerprint() for file in [*pages, *images.values()]],
        spec={"pages": [page.name for page in pages]},
    )


def _read_page(name: str, url: str) -> Row:
    if (why := _refusal(_folder(name, url), url)) is not None:
        return Row(name, status="refused", detail=f"{name}: {why}")
    row = read_payload(Row(name), url)
    if row.payload is not None and len(row.payload) > PAGE_BYTES:
        return replace(row, payload=None, status="too_large", detail=f"a page of more than {PAGE_BYTES} bytes")
    return row


def _failed(row: Row, error: _pages.PageError) -> Row:
    return replace(row, payload=None, status=error.status, detail=f"{row.row}: {error}")


def _wanted(images: Sequence[_pages.PageImage], options: FigureOptions) -> Iterator[_pages.PageImage]:
    for image in images:
        if image.alt not in options.skip_alts and len(image.alt) >= options.min_alt_characters:
            yield image


def _captions(image: _pages.PageImage, options: FigureOptions) -> list[str]:
    texts = {"alt": image.alt, "title": image.title, "figcaption": image.figcaption}
    return list(dict.fromkeys(texts[name] for name in options.captions if texts[name]))


def _figure(page: str, page_url: str, image: _pages.PageImage) -> Row:
    """The row of one image, with its bytes or the reason why there are none."""
    row = Row(f"{page}#{image.number}")
    folder = _folder(page, page_url)
    try:
        name = _resolve(page, image.src)
        if (why := _refusal(folder, f"{folder}/{name}")) is not None:
            raise _pages.PageError("refused", f"{name}: {why}")
    except _pages.PageError as error:
        return replace(row, status=error.status, detail=str(error))
    read = read_payload(Row(name), f"{folder}/{name}")
    return replace(row, payload=read.payload, status=read.status, detail=read.detail)


def _resolve(page: str, src: str) -> str:
    """The name, below the source's folder, of the file that a page's `src` means; PageError for a bad one."""
    shown = repr(printable(src)[:200])
    try:
        parts = urlsplit(src.strip())
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise _pages.PageError("bad_row", f"src {shown} is not a path") from None
    if parts.scheme or parts.netloc:
        raise _pages.PageError("refused", f"src {shown} is a URL; only files of the source are read")
    if not path or "\0" in path:
        raise _pages.PageError("bad_row", f"src {shown} names no file")
    name = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if path.startswith("/") or name == ".." or name.startswith("../"):
        raise _pages.PageError("refused", f"src {shown} leads out of the source's folder")
    return name


def _folder(name: str, url: str) -> str:
    """The source's folder, from a file's name in it and its full path or URL."""
    return url.rsplit("/", name.count("/") + 1)[0]


def _refusal(folder: str, url: str) -> str | None:
    """Why a file below the folder is not read: a link that leads out, a pipe or device. A URL is neither."""
    if "://" in url:
        return None
    if not os.path.realpath(url).startswith(f"{os.path.realpath(folder).rstrip('/')}/"):
        return "a link that leads out of the source's folder"
    try:
        return None if stat.S_ISREG(Path(url).stat().st_mode) else "not a plain file"
    except OSError:
        return None  # reading it says what is wrong


def _image_files(page: File, options: FigureOptions) -> list[File]:
    """The image files that a page's rows will read, as far as they are there."""
    read = _read_page(page.name, page.url)
    try:
        images = _pages.page_images(read.payload) if read.payload is not None else []
    except _pages.PageError:
        return []  # its row says so
    names = set()
    for image in _wanted(images, options):
        with suppress(_pages.PageError):
            names.add(_resolve(page.name, image.src))
    folder = _folder(page.name, page.url)
    return [file for name in sorted(names) if (file := _stat(folder, name)) is not None]


def _stat(folder: str, name: str) -> File | None:
    url = f"{folder}/{name}"
    fs, path = filesystem(url)
    try:
        info = fs.info(path)
    except (OSError, ValueError):
        return None
    stamp = next((str(info[key]) for key in ("mtime", "ETag", "etag", "created") if info.get(key) is not None), "")
    return File(url, name, int(info["size"] or 0), stamp)
