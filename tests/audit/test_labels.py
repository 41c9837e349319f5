"""The page of decisions to label: a fair, seeded draw; harmless whatever captions say; usable by keyboard."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imglish.audit.labels import EDITED, KEPT, Stratum, chosen_strata, count_strata, draw
from imglish.audit.labels_page import write_sample
from imglish.audit.precision import precision, read_labels
from imglish.audit.sides import LONGEST, Piece, make_side, mark_differences, shortened
from imglish.errors import RecipeError
from imglish.ingest.trail import Opened, open_trail
from imglish.recipe import Recipe
from tests.pipeline.corpora import claimed_png, drawing
from tests.pipeline.decided import HOSTILE

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def opened(decided: Recipe) -> Opened:
    return open_trail(f"{decided.work}/manifest.json")


@pytest.fixture(scope="module")
def made(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(opened, str(folder), each=50, seed=0)
    return folder


def test_strata_cover_every_decision_once(opened: Opened) -> None:
    strata = count_strata(opened)
    assert sum(strata.values()) == sum(file.rows for file in opened.trail.files)
    assert strata[Stratum("lines", EDITED, "keep")] == 1 and strata[Stratum("lines", KEPT, "keep")] == 1
    assert strata[Stratum("lines", "near_text@1", "drop")] == 1
    assert {s.rule for s in chosen_strata(strata, ["near_text"])} == {"near_text@1"}
    assert {s.source for s in chosen_strata(strata, (), ["web"])} == {"web"}
    with pytest.raises(RecipeError, match="'nsfw' decided nothing here; there are "):
        chosen_strata(strata, ["nsfw"])


def test_the_draw_follows_the_seed_and_a_larger_one_contains_a_smaller(opened: Opened) -> None:
    strata = count_strata(opened)
    few, many = ([item.occurrence for item in draw(opened, strata, each, 0)] for each in (3, 6))
    assert set(few) < set(many) and few == [item.occurrence for item in draw(opened, strata, 3, 0)]
    assert few != [item.occurrence for item in draw(opened, strata, 3, 1)]
    items = draw(opened, strata, 3, 0)
    assert all(count <= 3 for count in Counter(item.stratum for item in items).values())
    assert {item.stratum for item in items} == set(strata)


def test_a_near_duplicate_is_shown_beside_the_record_it_was_compared_with(opened: Opened) -> None:
    (item,) = draw(opened, chosen_strata(count_strata(opened), ["near_text"]), 5, 0)
    assert item.other is not None and item.other.occurrence == "lines/lines.jsonl#0"
    marked = [
        [piece.text.strip() for piece in side.texts[0] if piece.tag == "mark"] for side in (item.shown, item.other)
    ]
    assert all(marked) and marked[0] != marked[1]


def test_edits_are_shown_as_removed_and_put(opened: Opened) -> None:
    (item,) = draw(opened, {Stratum("lines", EDITED, "keep"): 1}, 5, 0)
    assert [piece for piece in item.shown.texts[0] if piece.tag] == [
        Piece("del", "ann@example.org"),
        Piece("ins", "<email>"),
    ]


def test_sides_say_what_cannot_be_shown() -> None:
    row = {"source": "s", "row": "1", "kind": "image", "captions": None, "url": None, "licence": None}
    assert make_side({**row, "payload": claimed_png(50_000, 50_000)}, None).note == "not to be decoded: too_many_pixels"
    assert make_side({**row, "payload": None}, None).note == "no payload"
    side = make_side({**row, "payload": drawing(1, (2000, 1000))}, None)
    assert side.picture is not None and side.size == (320, 160)
    text = make_side({**row, "kind": "text", "payload": b"caf\xe9 " * 9000}, None)
    assert sum(len(piece.text) for piece in shortened(text.texts[0])) < LONGEST + 10
    assert mark_differences(side, text) == (side, text)


class Page(HTMLParser):
    """Tags, attributes and policy of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_asks_for_nothing_and_escapes_everything(made: Path, opened: Opened) -> None:
    text = (made / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1 and "<script>document" not in text and "&lt;script&gt;" in text
    assert not any(name in attributes for _, attributes in page.tags for name in ("onclick", "onerror", "srcset"))
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/=]+'", policy)
    assert len(page.all("article")) == sum(min(50, count) for count in count_strata(opened).values())
    assert all(one.get("alt") for one in page.all("img"))
    picture = next(str(one["src"]) for one in page.all("img"))
    Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).load()


def test_the_same_sample_gives_the_same_bytes(made: Path, opened: Opened, tmp_path: Path) -> None:
    write_sample(opened, str(tmp_path), each=50, seed=0)
    for name in ("index.html", "labels.csv"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_only_row_groups_of_landing_with_a_drawn_row_are_read(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = type(opened.store).open

    def watched(store: Any, path: str) -> Any:
        read.append(path)
        return real(store, path)

    monkeypatch.setattr(type(opened.store), "open", watched)
    draw(opened, {Stratum("lines", EDITED, "keep"): 1}, 5, 0)
    assert {path for path in read if path.startswith("landing/")} == {
        file.landing for file in opened.trail.files if file.source == "lines"
    }


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")
@pytest.mark.filterwarnings("default")
def test_labels_are_given_by_keyboard_in_a_browser_saved_and_read_back(
    made: Path, opened: Opened, tmp_path: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("dark", "light"):
            context = browser.new_context(
                color_scheme=scheme, accept_downloads=True, viewport={"width": 390, "height": 844}
            )
            page = context.new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, said=said: said.append(request.url))
            page.goto((made / "index.html").as_uri())
            asked = [url for url in said if not url.startswith("data:")]
            assert asked == [(made / "index.html").as_uri()] and "to label" in page.title()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert light == (scheme == "light")
        for key in "jrwjku":  # the first right, the second wrong, the fourth by way of back to the third: unsure
            page.keyboard.press(key)
        assert page.inner_text("#done").startswith("3 of ")
        page.reload()
        assert page.inner_text("#done").startswith("3 of ")
        page.check("#item-4 input[value=right]")
        with page.expect_download() as download:
            page.keyboard.press("s")
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        browser.close()
    rows, empty = (list(csv.DictReader(io.StringIO(path.read_text()))) for path in (saved, made / "labels.csv"))
    assert [row["label"] for row in rows[:5]] == ["right", "wrong", "unsure", "right", ""]
    assert [{**row, "label": ""} for row in rows] == empty
    strata = count_strata(opened)
    found = precision(read_labels(str(saved), opened.trail.decisions, strata), strata)
    assert sum(one.right for one in found) == 2 and sum(one.wrong for one in found) == 1


def test_a_hostile_caption_is_shown_as_it_is(made: Path) -> None:
    assert "cmd|" in HOSTILE and "cmd|" in (made / "index.html").read_text(encoding="utf-8")
