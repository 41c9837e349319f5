"""`mediawiki`: articles of Wikipedia dumps as plain text, streamed from `.xml`, `.xml.bz2`, `.xml.gz`, ...

    enwiki-20261101-pages-articles-multistream1.xml-p1p41242.bz2        format = "mediawiki", kind = "text"

A page is cut out of the stream by its tags and parsed alone, so a broken one is one bad row, and no document type
definition is ever seen (entity expansion, "billion laughs"). Redirects and pages of other namespaces are rows with
status "skipped". Markup is stripped by mwparserfromhell after files, categories, tables and references are taken out.

A multistream dump is one bzip2 stream for every hundred pages; a part owns the streams that begin in its SPAN_BYTES, so
one is read without its index. Any other dump is one part. A row is named by the byte where its stream begins and its
number in that stream, `<file>#614/12`; `url` says the page's id.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import mwparserfromhell
from lxml import etree
from pydantic import Field

from imglish.ingest.sources import streams
from imglish.ingest.sources.base import Part, Row
from imglish.ingest.sources.files import File, expect_kind, find_files, open_file, printable, read_options
from imglish.ingest.sources.streams import Span, coding_of, open_stream, read_some
from imglish.recipe import Section, SourceConfig

PAGE_BYTES = 16 << 20
"""A longer page is cut off and recorded; MediaWiki allows 2 MB of text."""
STREAM_BYTES = 1 << 30
"""A bzip2 stream of a multistream dump that unpacks to more breaks off."""
_DUMPS = tuple(f".xml{packed}" for packed in ("", *streams.COMPRESSED))
_PART_NAME = re.compile(r"\.xml-p\d+p\d+(\.bz2)?$")  # ...-pages-articles1.xml-p1p41242.bz2
_STREAM = b"1AY&SY"  # pi, the mark of the first block behind "BZh9"
_READ = 1 << 20
_LANGUAGE = re.compile(r"(?:^|/)([a-z]{2,3}(?:_[a-z]+)*?)wiki-\d")
_PICTURE = re.compile(r"\.(jpe?g|png|gif|svg|webp|tiff?|ogg|ogv|oga|webm|pdf|djvu|mp3|wav)\s*$", re.IGNORECASE)
_LINK_PREFIXES = (
    *("File", "Image", "Media", "Category", "Datei", "Bild", "Kategorie", "Fichier", "Catégorie", "Archivo"),
    *("Categoría", "Immagine", "Categoria", "Ficheiro", "Файл", "Категория", "ファイル", "画像", "分类", "文件"),
)
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
_BLANKS = re.compile(r"\n{3,}")


class MediaWikiOptions(Section):
    """What of a dump is read."""

    multistream: bool | None = None
    """Whether a `.bz2` is a multistream dump, cut between its streams; None is by the word in its name."""
    namespaces: list[int] = Field(default=[0])
    """Namespaces whose pages are documents; 0 is the articles."""
    link_prefixes: list[str] = Field(default=list(_LINK_PREFIXES))
    """Links to these are no text: pictures and categories. Add those of your language."""
    drop_tags: list[str] = Field(default=["ref", "table", "gallery", "math", "timeline", "imagemap", "score"])
    """Elements that are no text."""


class MediaWiki:
    """Pages of a dump."""

    name = "mediawiki"
    version = 1

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        options = read_options(config, MediaWikiOptions)
        expect_kind(config, ("text",), "articles have no images of their own")
        parts = []
        for file in find_files(config, root, ("",)):
            name = file.name.lower()
            if not name.endswith(_DUMPS) and not _PART_NAME.search(name):
                continue
            for span in _spans(file, options.multistream):
                spec = {"file": file.name, "span": span.to_json()}
                parts.append(Part(f"{file.name}#{span.start}", [file.url], [file.fingerprint()], spec))
        return parts

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        options = read_options(config, MediaWikiOptions)
        name, span = part.spec["file"], Span.from_json(part.spec["span"])
        language = _LANGUAGE.search(name)
        site = None if language is None else f"https://{language[1].replace('_', '-')}.wikipedia.org/?curid="
        for row, page in _pages(name, part.files[0], span):
            yield row if page is None else _article(row, page, site, options)


def _spans(file: File, multistream: bool | None) -> list[Span]:
    """Byte ranges of a multistream dump; anything else is read as a whole."""
    split = "multistream" in file.name if multistream is None else multistream
    if coding_of(file.name) != "bz2" or not split:
        return [Span()]
    starts = range(0, max(1, file.size), streams.SPAN_BYTES)
    return [Span(start, min(start + streams.SPAN_BYTES, file.size)) for start in starts]


def _pages(name: str, url: str, span: Span) -> Iterator[tuple[Row, bytes | None]]:
    """(row, XML of the page) for every page of the streams that begin in a span; None for what cannot be read."""
    if span == Span():
        yield from _cut_pages(name, 0, lambda: open_stream(url))
        return
    with open_file(url) as file:
        for start in _stream_starts(file, span):
            yield from _cut_pages(name, start, partial(_Bzip2, file, start))


def _cut_pages(name: str, start: int, opened: Callable[[], Any]) -> Iterator[tuple[Row, bytes | None]]:
    number = 0
    try:
        stream = opened()
        for number, (page, whole) in enumerate(_elements(stream)):
            row = Row(f"{name}#{start}/{number}")
            if whole:
                yield row, page
            else:
                row.status, row.detail = "too_large", f"{row.row}: a page of more than {PAGE_BYTES} bytes"
                yield row, None
    except OSError as error:
        said = f"{name}: the stream at byte {start} cannot be read after page {number}: {printable(str(error))[:200]}"
        yield Row(f"{name}#{start}/+", status="bad_row", detail=said), None


def _elements(stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """(<page>...</page>, True), or False for one that is cut at PAGE_BYTES; OSError when the last has no end.

    MediaWiki escapes `<` in texts, so its tags are nowhere else.
    """
    buffer = b""
    while data := read_some(stream, _READ):
        buffer += data
        while (begin := buffer.find(b"<page>")) >= 0:
            end = buffer.find(b"</page>", begin)
            following = buffer.find(b"<page>", begin + 6, None if end < 0 else end)
            if following >= 0:  # the end tag is lost
                yield buffer[begin:following], following - begin <= PAGE_BYTES
                buffer = buffer[following:]
            elif end >= 0:
                yield buffer[begin : end + 7], end - begin <= PAGE_BYTES
                buffer = buffer[end + 7 :]
            else:
                break
        buffer = buffer[max(0, begin) :] if begin >= 0 else buffer[-6:]
        if len(buffer) > 2 * PAGE_BYTES:
            yield buffer, False
            buffer = b""
    if b"<page>" in buffer:
        raise OSError("the stream ends in the middle of a page")


def _stream_starts(file: BinaryIO, span: Span) -> Iterator[int]:
    """Where the bzip2 streams begin whose first byte is in [start, stop); the first of a file is taken for one."""
    if span.start == 0:
        yield 0
    place = max(1, span.start)
    file.seek(place)
    buffer = file.read(_READ)
    while len(buffer) >= 10:
        at = buffer.find(_STREAM)
        while at >= 0:
            begin = place + at - 4
            if span.stop is not None and begin >= span.stop:
                return
            if at >= 4 and buffer[at - 4 : at - 1] == b"BZh" and 0x31 <= buffer[at - 1] <= 0x39:
                yield begin
            at = buffer.find(_STREAM, at + 1)
        place += len(buffer) - 9
        if span.stop is not None and place >= span.stop:
            return
        file.seek(place)
        buffer = file.read(_READ)


class _Bzip2:
    """One bzip2 stream of a file as a stream of bytes."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file, self._at, self._left = file, at, STREAM_BYTES
        self._stream = bz2.BZ2Decompressor()

    def read(self, size: int) -> bytes:
        while not self._stream.eof:
            packed = b""
            if self._stream.needs_input:
                self._file.seek(self._at)
                packed = self._file.read(256 << 10)
                self._at += len(packed)
                if not packed:
                    raise OSError("the stream breaks off")
            data = self._stream.decompress(packed, size)
            self._left -= len(data)
            if self._left < 0:
                raise OSError(f"more than {STREAM_BYTES} bytes in one stream of a multistream dump")
            if data:
                return data
        return b""


@dataclass(frozen=True)
class _Page:
    """The fields of a page that are read."""

    title: str
    namespace: str
    id: str
    redirect: str | None
    text: str
    model: str


def _article(row: Row, xml: bytes, site: str | None, options: MediaWikiOptions) -> Row:
    try:
        page = _parse(xml)
    except (etree.LxmlError, ValueError) as error:
        row.status, row.detail = "bad_row", f"{row.row}: not a page: {printable(str(error))[:200]}"
        return row
    row.url = f"{site}{page.id}" if site is not None and page.id.isdecimal() else None
    title = printable(page.title)[:200]
    if page.redirect is not None:
        row.status, row.detail = "skipped", f"{title!r} is a redirect to {printable(page.redirect)[:200]!r}"
    elif page.namespace not in map(str, options.namespaces):
        row.status, row.detail = "skipped", f"{title!r} is in namespace {page.namespace[:20]}"
    elif page.model not in ("", "wikitext"):
        row.status, row.detail = "skipped", f"{title!r} is {page.model[:50]}, not wikitext"
    else:
        try:
            row.payload = f"{page.title}\n\n{strip_markup(page.text, options)}\n".encode()
        except (mwparserfromhell.parser.ParserError, RecursionError, ValueError) as error:
            row.status, row.detail = "bad_row", f"{title!r}: markup cannot be parsed: {printable(str(error))[:200]}"
    return row


def _parse(xml: bytes) -> _Page:
    """ValueError or LxmlError when it is no well-formed page."""
    root = etree.fromstring(xml, _PARSER)
    redirect = root.find("redirect")
    revision = root.find("revision")
    return _Page(
        title=root.findtext("title") or "",
        namespace=(root.findtext("ns") or "0").strip(),
        id=(root.findtext("id") or "").strip(),
        redirect=None if redirect is None else redirect.get("title", ""),
        text="" if revision is None else revision.findtext("text") or "",
        model="" if revision is None else (revision.findtext("model") or "").strip(),
    )


def strip_markup(text: str, options: MediaWikiOptions) -> str:
    """Wikitext as plain text: link texts stay; templates, files, categories, tables and references go."""
    code = mwparserfromhell.parse(text, skip_style_tags=False)
    prefixes = tuple(f"{prefix.lower()}:" for prefix in options.link_prefixes)
    unread = [tag for tag in code.filter_tags() if str(tag.tag).strip().lower() in options.drop_tags]
    for node in [*unread, *(link for link in code.filter_wikilinks() if _is_no_text(link, prefixes))]:
        with suppress(ValueError):  # inside one that is gone already
            code.remove(node)
    plain = str(code.strip_code(normalize=True, collapse=True))
    return _BLANKS.sub("\n\n", "\n".join(line.strip() for line in plain.split("\n"))).strip()


def _is_no_text(link: Any, prefixes: tuple[str, ...]) -> bool:
    target = str(link.title).strip().lower()
    return target.startswith(prefixes) or (":" in target and _PICTURE.search(target) is not None)
