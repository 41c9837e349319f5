"""Text of pages: what is content, how blocks become lines, and pages made to break a parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import RecipeError
from imglish.ingest.sources._pages import MAX_DEPTH, PageError, TextRules, page_images, page_text
from imglish.ingest.sources.html import PAGE_BYTES
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write

PAGE = """<!DOCTYPE html><html lang=en><head><title>Title</title><style>p {}</style></head><body>
<header><h1>Site</h1></header><nav><a href=x>Home</a></nav><div class="navheader extra">Prev</div>
<h2>A   heading</h2><p>One <b>bold</b>
word,<br>two lines.</p><script>alert("no")</script><!-- no -->
<ul><li>first<li>second <select><option>no</select></ul>
<table><tr><td>a</td><td>b</td></tr><tr><th>c</th></tr></table>
<pre>
def f():
    return 1
</pre>
<aside>no</aside><div role=navigation>no</div>tail<footer>no</footer></body></html>"""
LINES = [
    *("A heading", "One bold word,", "two lines.", "first", "second", "a b", "c"),
    *("def f():\n    return 1", "tail"),
]


def text(page: str | bytes, **rules: object) -> str:
    data = page if isinstance(page, bytes) else page.encode()
    return page_text(data, TextRules(**rules))  # type: ignore[arg-type]


def test_blocks_become_lines_and_furniture_is_left_out() -> None:
    assert text(PAGE, drop_classes=frozenset({"navheader"})) == "\n".join(LINES)


def test_main_and_article_hold_the_content_when_there_are_any() -> None:
    page = "<body><p>around</p><article><header><h1>Title</h1></header><p>body</p></article><p>after</p>"
    assert text(page) == "Title\nbody"
    assert text(page + "<article>another</article>") == "Title\nbody\nanother"
    assert text("<body><p>around</p><div role=main>x<main>y</main></div>") == "x\ny"


def test_the_content_can_be_named_by_its_id_and_the_body_serves_when_it_is_missing() -> None:
    page = "<body><p>around</p><div id=Area>inside</div></body>"
    assert text(page, content_id="Area") == "inside"
    assert text(page, content_id="Other") == "around\ninside"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('<meta charset="iso-8859-1"><p>café “x”'.encode("cp1252"), "café “x”"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"><p>猫'.encode("shift_jis"), "猫"),
        ('<?xml version="1.0" encoding="gb2312"?><html><body>猫</body></html>'.encode("gb18030"), "猫"),
        ("\ufeff<p>猫".encode("utf-16"), "猫"),
        (b"\xef\xbb\xbf<meta charset=latin-1><p>\xe7\x8c\xab", "猫"),
        ("<p>猫 &eacute;&#x732b;&nosuch;".encode(), "猫 é猫&nosuch;"),
        (b'<meta charset="utf-16"><p>plain', "plain"),
        (b"<p>a\x00b", "a\ufffdb"),
    ],
)
def test_the_encoding_is_the_documents_own(data: bytes, expected: str) -> None:
    assert text(data) == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<p>caf\xe9", "byte 6 is not utf-8"),
        (b"<meta charset=idna><p>a", "'idna'"),
        (b"<meta charset=zip><p>a", "'zip'"),
        (b"<meta charset=no-such><p>a", "'no-such'"),
    ],
)
def test_what_does_not_decode_is_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(PageError, match=why) as caught:
        text(data)
    assert caught.value.status == "not_utf8"


def test_a_page_is_a_document_named_by_its_path(tmp_path: Path) -> None:
    files = {
        "a/one.html": PAGE,
        "two.xhtml": "<p>two</p>",
        "three.html": "<nav>x</nav>",
        "four.html": b"\xff",
        "x.css": "",
    }
    write(tmp_path, files)
    rows = rows_of(source("html-text", "text", drop_classes=["navheader"]), tmp_path)
    assert statuses(rows) == {"a/one.html": "ok", "four.html": "not_utf8", "three.html": "empty", "two.xhtml": "ok"}
    assert [row.payload for row in rows] == ["\n".join(LINES).encode(), None, None, b"two"]


def test_a_page_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    write(tmp_path, {"one.html": b" " * (PAGE_BYTES + 1)})
    assert statuses(rows_of(source("html-text", "text"), tmp_path)) == {"one.html": "too_large"}


def test_a_changed_page_changes_its_part(tmp_path: Path) -> None:
    write(tmp_path, {"one.html": "<p>one", "two.html": "<p>two"})
    config = source("html-text", "text")
    before = parts_of(config, tmp_path)
    write(tmp_path, {"two.html": "<p>another two"})
    assert parts_of(config, tmp_path)[0].fingerprint[:-1] == before[0].fingerprint[:-1]
    assert parts_of(config, tmp_path) != before


def test_images_are_not_documents(tmp_path: Path) -> None:
    write(tmp_path, {"one.html": PAGE})
    with pytest.raises(RecipeError, match="use format 'html-figures'"):
        parts_of(source("html-text", "pair"), tmp_path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "page",
    [
        b"<a " + b" ".join(b"a%d=1" % number for number in range(300_000)) + b">x",
        b"<font>" * MAX_DEPTH + b"x",
        b"<div>" * (MAX_DEPTH - 10) + b"</a>" * 300_000,
        b"<table><b>" * 100_000 + b"x",
        b"&amp" * 1_000_000,
        b"<!--" * 1_000_000,
        b"<p>" + b"a" * (16 << 20),
    ],
    ids=["attributes", "nesting", "ends", "tables", "entities", "comments", "one long text"],
)
def test_hostile_pages_take_linear_time(page: bytes) -> None:
    for read in (text, page_images):
        try:
            read(page)  # type: ignore[operator]
        except PageError as error:
            assert error.status == "bad_row"


def test_nothing_is_cut_off_silently() -> None:
    assert text(b"<p>" + b"a" * (12 << 20) + b"<p>end").endswith("\nend")
    assert text(b"<div>" * (MAX_DEPTH - 10) + b"deep") == "deep"
    with pytest.raises(PageError, match="nested deeper"):
        text(b"<div>" * (MAX_DEPTH + 10) + b"deep")


MARKUP = """<p> </p> <main> </main> <nav> </nav> <pre> </pre> <figure> </figure> <figcaption> </figcaption> <img src=a>
<b </b <!-- --> <?xml ?> <script> </script> <td> &lt; &#0; &#xD800; word <![CDATA[ ]]> <title> <svg> <header> \0 é"""
FRAGMENTS = st.sampled_from([*MARKUP.split(), "\n", " "])


@given(st.lists(FRAGMENTS, max_size=30).map("".join))
def test_any_markup_is_read_without_crashing(page: str) -> None:
    found = text(page)
    assert found == found.strip("\n")
    assert all(found.split("\n")) or not found or "<pre>" in page
    assert [image.number for image in page_images(page.encode())] == list(range(1, len(page_images(page.encode())) + 1))


@given(st.binary(max_size=300))
def test_any_bytes_give_text_or_a_reason(data: bytes) -> None:
    for read in (text, page_images):
        try:
            read(data)  # type: ignore[operator]
        except PageError as error:
            assert error.status in ("not_utf8", "bad_row")
