"""Images of pages: captions, icons, and sources of images that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from imglish.errors import RecipeError
from imglish.ingest.sources._pages import MAX_DEPTH, page_images
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()
DOCBOOK = """<?xml version="1.0" encoding="UTF-8"?>
<html xmlns="http://www.w3.org/1999/xhtml"><body>
<a accesskey="n" href="next.html"><img src="images/next.png" alt="Next" /></a>
<div class="figure"><p class="title"><strong>Figure 17.97. Example  for
 Whirl</strong></p><div class="figure-contents">
  <div class="mediaobject"><img src="images/a.jpg" alt="Example for Whirl" />
    <div class="caption"><p>Before</p></div></div>
  <div class="mediaobject"><img src="images/b.jpg" alt="Example for Whirl" /></div>
</div></div>
<p class="title">No figure</p><img src="images/a.jpg"/></body></html>
"""
FIGURE = """<figure class=photo><img src=a.jpg alt='A "dog" &amp; a log'>
<figcaption>A <b>dog</b> jumps<script>x()</script></figcaption></figure>"""


def pages(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    write(tmp_path, {"images/a.jpg": JPEG, "images/b.jpg": JPEG + b"b", "images/next.png": b"icon", **files})


def test_captions_come_from_alt_figcaption_and_docbook_titles_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": DOCBOOK})
    rows = rows_of(source("html-figures", "pair", captions=["title", "figcaption", "alt"]), tmp_path)
    assert [(row.row, row.captions) for row in rows] == [
        ("one.html#1", ["Next"]),
        ("one.html#2", ["Example for Whirl", "Before"]),
        ("one.html#3", ["Example for Whirl"]),
        ("one.html#4", []),
    ]
    assert [row.payload for row in rows] == [b"icon", JPEG, JPEG + b"b", JPEG]


def test_an_html_figure_gives_its_alt_text_and_its_figcaption(tmp_path: Path) -> None:
    write(tmp_path, {"deep/in/page.htm": FIGURE, "deep/in/a.jpg": JPEG})
    (row,) = rows_of(source("html-figures", "pair"), tmp_path)
    assert (row.row, row.payload) == ("deep/in/page.htm#1", JPEG)
    assert row.captions == ['A "dog" & a log', "A dog jumps"]


def test_only_what_the_options_name_is_left_out_and_numbers_stay(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": DOCBOOK})
    rows = rows_of(source("html-figures", "pair", skip_alts=["Next"], min_alt_characters=1), tmp_path)
    assert [row.row for row in rows] == ["one.html#2", "one.html#3"]


def test_images_need_no_captions(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": DOCBOOK})
    rows = rows_of(source("html-figures", "image"), tmp_path)
    assert [(row.captions, row.status) for row in rows] == [(None, "ok")] * 4


@pytest.mark.parametrize(
    ("src", "status"),
    [
        ("../secret.jpg", "refused"),
        ("%2e%2e/secret.jpg", "refused"),
        ("images/../../secret.jpg", "refused"),
        ("/etc/hostname", "refused"),
        ("//example.org/a.jpg", "refused"),
        ("https://example.org/a.jpg", "refused"),
        ("file:///etc/hostname", "refused"),
        ("data:image/png;base64,AAAA", "refused"),
        ("linked.jpg", "refused"),
        ("linked-folder/secret.jpg", "refused"),
        ("pipe.jpg", "refused"),
        ("images", "refused"),
        ("", "bad_row"),
        ("a%00.jpg", "bad_row"),
        ("http://[broken/a.jpg", "bad_row"),
        ("a%ff.jpg", "bad_row"),
        ("gone.jpg", "missing_file"),
        ("x" * 5000, "missing_file"),
        (" images/a.jpg?size=3#top ", "ok"),
        ("images//./a.jpg", "ok"),
        ("images/%61.jpg", "ok"),
    ],
)
def test_no_src_leads_out_of_the_folder(tmp_path: Path, src: str, status: str) -> None:
    pages(tmp_path, {"one.html": f'<p><img src="{src}" alt="A picture">'})
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (tmp_path / "data" / "linked.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "data" / "linked-folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "data" / "pipe.jpg")
    (row,) = rows_of(source("html-figures", "pair"), tmp_path)
    assert (row.status, row.payload) == (status, JPEG if status == "ok" else None)
    assert row.captions == ["A picture"]
    assert status == "ok" or row.detail


def test_a_page_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": FIGURE})
    (tmp_path / "private.html").write_text("<p>Private")
    (tmp_path / "data" / "two.html").symlink_to(tmp_path / "private.html")
    for form, kind in (("html-figures", "pair"), ("html-text", "text")):
        assert statuses(rows_of(source(form, kind), tmp_path))["two.html"] == "refused"


def test_a_glob_confines_images_to_its_fixed_folder(tmp_path: Path) -> None:
    pages(tmp_path, {"text/one.html": '<img src="../images/a.jpg" alt="up and down">'})
    assert [row.status for row in rows_of(source("html-figures", "pair", "data/*/*.html"), tmp_path)] == ["ok"]
    assert [row.status for row in rows_of(source("html-figures", "pair", "data/text/*.html"), tmp_path)] == ["refused"]


def test_a_changed_image_is_read_again_and_an_untouched_part_is_not(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": DOCBOOK, "two.html": DOCBOOK})
    config = source("html-figures", "pair")
    before = parts_of(config, tmp_path)
    assert parts_of(config, tmp_path) == before
    (tmp_path / "data/images/b.jpg").write_bytes(JPEG)
    after = parts_of(config, tmp_path)
    assert [part.name for part in after] == [part.name for part in before]
    assert [part.fingerprint for part in after] != [part.fingerprint for part in before]


def test_a_page_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    deep = b"<div>" * (MAX_DEPTH + 1) + FIGURE.encode()
    pages(
        tmp_path,
        {"bad.html": b'<meta charset=utf-8><img src="images/a.jpg">\xff', "deep.html": deep, "empty.html": b""},
    )
    rows = rows_of(source("html-figures", "pair"), tmp_path)
    assert statuses(rows) == {"bad.html": "not_utf8", "deep.html": "bad_row"}
    assert all(row.row in str(row.detail) for row in rows)


def test_pages_and_images_are_read_from_any_file_system() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/web/manual/en/one.html": FIGURE.encode(), "/web/manual/en/a.jpg": JPEG})
    try:
        rows = rows_of(source("html-figures", "pair", "manual"), "memory://web")
        assert [(row.row, row.payload, row.status) for row in rows] == [("en/one.html#1", JPEG, "ok")]
    finally:
        memory.rm("/web", recursive=True)


def test_documents_are_not_figures(tmp_path: Path) -> None:
    pages(tmp_path, {"one.html": FIGURE})
    with pytest.raises(RecipeError, match="use format 'html-text'"):
        parts_of(source("html-figures", "text"), tmp_path)
    with pytest.raises(RecipeError, match="did you mean skip_alts"):
        parts_of(source("html-figures", "pair", skip_alt=["Next"]), tmp_path)
    with pytest.raises(RecipeError, match="captions"):
        parts_of(source("html-figures", "pair", captions=[]), tmp_path)


@pytest.mark.timeout(30)
def test_figures_in_figures_cost_linear_time() -> None:
    page = b"<figure><figcaption>c</figcaption>" * 500 + b"<img src=a alt=b>" * 100_000
    images = page_images(page)
    assert len(images) == 100_000
    assert images[-1].figcaption == "c"
