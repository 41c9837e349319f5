"""HTML pages as streams of events: their text, and their images with the captions around them.

    page_text(data, TextRules(frozenset({"navheader"})))     "A heading\\nA paragraph ...\\n..."
    page_images(data)                                        [PageImage(1, "images/a.png", "A map", "", "")]

Pages come from the web. libxml2's tree builder takes minutes for one tag with 200,000 attributes and cuts
deeply nested pages silently, so no tree is built: lxml calls a *target* for every start, end and text, which is
linear in the page, and a page nested deeper than `MAX_DEPTH` is refused. Bad markup is repaired as browsers do.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

MAX_DEPTH = 512
"""Open elements at once, as in Blink. It also bounds libxml2's search for the partner of an end tag."""

_ENCODINGS = frozenset(
    codecs.lookup(name).name
    for name in (
        *("utf-8", "ascii", "gb18030", "gbk", "gb2312", "big5", "euc-jp", "shift_jis", "iso-2022-jp", "euc-kr"),
        *("koi8-r", "koi8-u", "mac-roman", "tis-620"),
        *(f"iso-8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
        *(f"cp{page}" for page in (874, 932, 949, 950, *range(1250, 1259))),
    )
)
"""What a page may declare: the WHATWG list. Other Python codecs (idna, unicode_escape) are no web encodings."""

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECLARED = re.compile(rb"""<(?:\?xml[^>]*?\sencoding|meta[^>]*?charset)\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""", re.I)
_SPACE = re.compile(r"[ \t\n\r\f]+")
_NUMBERING = re.compile(r"^[^\W\d]+\.?\s?\d+(?:[.-]\d+)*[.:]?\s+")


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_DROP = _tags(
    "head script style noscript template nav aside form button select option textarea label svg math iframe object "
    "embed audio video canvas dialog"
)
_FURNITURE = _tags("header footer")
_ROLES = _tags("navigation banner contentinfo search complementary")
_BLOCKS = _tags(
    "address article blockquote body br caption center dd details dir div dl dt fieldset figcaption figure footer h1 "
    "h2 h3 h4 h5 h6 header hr html legend li main menu ol p pre section summary table tbody tfoot thead tr ul"
)
_FIGURES = _tags("figure informalfigure mediaobject")


class PageError(Exception):
    """A page, or a reference in it, that cannot be read; `status` is landing's word for it."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class TextRules:
    """Which part of a page is text: classes to leave out, and the id of the element that holds the content."""

    drop_classes: frozenset[str] = frozenset()
    content_id: str | None = None


@dataclass(frozen=True)
class PageImage:
    """The `number`-th `<img>` of a page (from 1); `title` is DocBook's, without "Figure 3.1."."""

    number: int
    src: str
    alt: str
    title: str
    figcaption: str


def page_text(data: bytes, rules: TextRules) -> str:
    """The content of a page, one block a line, inline whitespace folded, `<pre>` kept as it is.

    Content is what lies inside `<main>`, `<article>` or the element `rules.content_id`, else the whole body
    without header and footer. Raises PageError.
    """
    target = _TextTarget(rules)
    _feed(data, target)
    return target.text()


def page_images(data: bytes) -> list[PageImage]:
    """Every `<img>` of a page in document order. Raises PageError."""
    target = _ImageTarget()
    _feed(data, target)
    return target.images()


def fold(text: str) -> str:
    """Text on one line, runs of whitespace as one space."""
    return " ".join(text.split())


def _decode(data: bytes) -> str:
    """The page as text: byte order mark, then the declared encoding, then UTF-8."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None) or _declared(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise PageError("not_utf8", f"byte {error.start} is not {encoding}: {error.reason}") from None


def _declared(data: bytes) -> str:
    """The encoding that the first KB declares, by the rules of the HTML standard."""
    found = _DECLARED.search(data, 0, 1024)
    if found is None:
        return "utf-8"
    label = found[1].decode("ascii")
    if label.lower().startswith("utf-16"):
        return "utf-8"  # a page whose declaration was readable as ASCII cannot be UTF-16
    try:
        name = codecs.lookup(label).name
    except LookupError:
        name = ""
    if name not in _ENCODINGS:
        raise PageError("not_utf8", f"the page declares the encoding {label!r}, which is none of the web's")
    return {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}.get(name, name)


def _feed(data: bytes, target: _Target) -> None:
    page = _decode(data).encode("utf-8")
    # huge_tree lifts libxml2's limits, which truncate without a word; pages are bounded by their reader.
    parser = etree.HTMLParser(encoding="utf-8", target=target, huge_tree=True)
    try:
        etree.fromstring(page, parser)
    except etree.LxmlError as error:
        raise PageError("bad_row", f"not HTML: {fold(str(error))[:200]}") from None


class _Target:
    """Counts depth; subclasses see balanced starts and ends."""

    def __init__(self) -> None:
        self.depth = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PageError("bad_row", f"elements are nested deeper than {MAX_DEPTH}")
        self.opened(tag, attributes, frozenset(attributes.get("class", "").split()))

    def end(self, tag: str) -> None:
        self.closed(tag)
        self.depth -= 1

    def opened(self, tag: str, attributes: Mapping[str, str], classes: frozenset[str]) -> None:
        raise NotImplementedError

    def closed(self, tag: str) -> None:
        raise NotImplementedError

    def data(self, text: str) -> None:
        raise NotImplementedError

    def close(self) -> Any:
        return None


class _TextTarget(_Target):
    def __init__(self, rules: TextRules) -> None:
        super().__init__()
        self.rules = rules
        self.lines: list[str] = []
        self.line: list[str] = []
        self.pre = 0
        self.dropping: int | None = None  # depth of the outermost dropped element
        self.content: int | None = None  # depth of the open content element
        self.spans: list[tuple[int, int]] = []  # lines of each content element

    def text(self) -> str:
        self._end_line()
        inside = [line for first, last in self.spans for line in self.lines[first:last]]
        return "\n".join(inside or self.lines)

    def opened(self, tag: str, attributes: Mapping[str, str], classes: frozenset[str]) -> None:
        if self.dropping is not None:
            return
        if self.content is None and self._is_content(tag, attributes):
            self._end_line()
            self.content = self.depth
            self.spans.append((len(self.lines), len(self.lines)))
        elif self._is_dropped(tag, attributes, classes):
            self.dropping = self.depth
            return
        if tag in _BLOCKS:
            self._end_line()
        elif tag in ("td", "th", "img"):
            self.line.append(" ")
        self.pre += tag == "pre"

    def closed(self, tag: str) -> None:
        if self.dropping is not None:
            self.dropping = None if self.dropping == self.depth else self.dropping
            return
        if tag in _BLOCKS:
            self._end_line()
        self.pre -= tag == "pre"
        if self.content == self.depth:
            self._end_line()
            self.spans[-1] = (self.spans[-1][0], len(self.lines))
            self.content = None

    def data(self, text: str) -> None:
        if self.dropping is None:
            self.line.append(text)

    def _is_content(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if self.rules.content_id is not None:
            return attributes.get("id") == self.rules.content_id
        return tag in ("main", "article") or attributes.get("role") == "main"

    def _is_dropped(self, tag: str, attributes: Mapping[str, str], classes: frozenset[str]) -> bool:
        if tag in _DROP or attributes.get("role") in _ROLES or not classes.isdisjoint(self.rules.drop_classes):
            return True
        return tag in _FURNITURE and self.content is None

    def _end_line(self) -> None:
        text = "".join(self.line)
        self.line.clear()
        text = text.strip("\r\n").rstrip() if self.pre else _SPACE.sub(" ", text).strip()
        if text.strip():
            self.lines.append(text)


@dataclass
class _Scope:
    """An open figure; what its own elements do not say, the figure around it may."""

    parent: _Scope | None
    said: dict[str, str] = field(default_factory=dict)

    def inherit(self) -> None:
        """Take over what the parent says; parents first."""
        if self.parent is not None:
            self.said = {**self.parent.said, **self.said}


class _ImageTarget(_Target):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, _Scope]] = []
        self.scopes = [_Scope(None)]  # all, in document order
        self.open = [(0, self.scopes[0])]  # depth and scope of the figures around the next element
        self.saying: tuple[int, str] | None = None  # depth and name of the open title or caption
        self.words: list[str] = []
        self.in_code = False  # inside <script> or <style>, which hold no elements

    def images(self) -> list[PageImage]:
        for scope in self.scopes:
            scope.inherit()
        made = []
        for number, (src, alt, scope) in enumerate(self.found, 1):
            title = _NUMBERING.sub("", scope.said.get("title", ""))
            made.append(PageImage(number, src, alt, title, scope.said.get("figcaption", "")))
        return made

    def opened(self, tag: str, attributes: Mapping[str, str], classes: frozenset[str]) -> None:
        self.in_code = tag in ("script", "style")
        if tag == "img":
            self.found.append((attributes.get("src", ""), fold(attributes.get("alt", "")), self.open[-1][1]))
        elif tag == "figure" or not classes.isdisjoint(_FIGURES):
            self.scopes.append(_Scope(self.open[-1][1]))
            self.open.append((self.depth, self.scopes[-1]))
        elif self.saying is None and len(self.open) > 1:
            if tag == "figcaption" or "caption" in classes:
                self.saying = (self.depth, "figcaption")
            elif "title" in classes:
                self.saying = (self.depth, "title")

    def closed(self, tag: str) -> None:
        self.in_code = False
        if self.saying is not None and self.saying[0] == self.depth:
            said = fold("".join(self.words))
            self.words.clear()
            if said:
                self.open[-1][1].said.setdefault(self.saying[1], said)
            self.saying = None
        if len(self.open) > 1 and self.open[-1][0] == self.depth:
            self.open.pop()

    def data(self, text: str) -> None:
        if self.saying is not None and not self.in_code:
            self.words.append(text)
