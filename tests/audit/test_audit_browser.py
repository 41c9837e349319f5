"""Pages in Debian's Chromium: nothing on the console, nothing asked for, nothing cut off, usable by everybody.

Chromium is not in the package index: `make chromium` installs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator

from imglish.audit.browse import LookServer
from imglish.audit.diff_page import diff_page
from imglish.audit.report import report
from tests.audit.audit_helpers import HOSTILE, corpus, planted
from tests.audit.browser import WIDTHS, Opened, chromium, from_disk, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a corpus with hostile captions."""
    folder = tmp_path_factory.mktemp("hostile")
    return report(str(corpus(folder)), str(folder / "report.html")).report


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on the corpus with planted faults."""
    folder = tmp_path_factory.mktemp("faulty")
    return report(str(planted(folder)), str(folder / "report.html")).report


LOOKS = [(390, "light", True), (390, "dark", False), (1440, "light", False), (1440, "dark", True)]
"""Width, theme, and whether axe-core looks too (3 s; structure is the same in all, contrast by theme)."""


def is_well(page: Opened, axe: bool) -> None:
    assert page.errors == []
    assert page.overflow() <= 0
    assert not axe or page.serious() == []


@pytest.mark.parametrize(("width", "scheme", "axe"), LOOKS)
def test_the_report_opens_from_disk_and_is_well(
    browser: Browser, hostile: str, width: int, scheme: str, axe: bool
) -> None:
    with opened(browser, from_disk(hostile), width, scheme) as page:
        assert [url for url in page.requests if not url.startswith("data:")] == [from_disk(hostile)]
        assert page.page.title() == "small@1: audit"
        is_well(page, axe)


def test_hostile_captions_do_nothing_and_are_shown(browser: Browser, hostile: str) -> None:
    with opened(browser, from_disk(hostile)) as page:
        assert page.page.locator("script").count() == 0
        assert page.page.locator(".sheet img[onerror]").count() == 0
        assert HOSTILE[0] in page.page.locator(".sheet").first.inner_text()
        assert page.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


@pytest.mark.parametrize("width", WIDTHS)
def test_planted_faults_are_findings_on_the_first_screen(browser: Browser, faulty: str, width: int) -> None:
    said = ["coco-test", "“Image” (500)", "codes (3.1%)", "Source tiny lost 100.0%", "in one language: drawn (en)"]
    with opened(browser, from_disk(faulty), width) as page:
        for words in said:
            box = page.page.locator(".findings li", has_text=words).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= WIDTHS[width], words


def test_the_report_can_be_walked_with_the_keyboard(browser: Browser, hostile: str) -> None:
    with opened(browser, from_disk(hostile)) as page:
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.className") == "skip"
        page.page.keyboard.press("Enter")
        assert page.page.url.endswith("#main")
        page.page.keyboard.press("Tab")
        assert page.page.evaluate("document.activeElement.tagName") == "A"


def test_the_report_prints_whole(browser: Browser, hostile: str, tmp_path: Path) -> None:
    with opened(browser, from_disk(hostile)) as page:
        page.page.emulate_media(media="print")
        assert page.page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert page.page.evaluate(
            "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth + 1)"
        )
        assert len(page.page.pdf(path=tmp_path / "report.pdf")) > 10_000


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LookServer]:
    with LookServer(str(corpus(tmp_path_factory.mktemp("look"), pairs=40))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.stop()
        thread.join()


def follow(page: Opened, link: Locator) -> None:
    """Click what leads to another page, and wait until that is loaded."""
    with page.page.expect_navigation():
        link.click()


@pytest.mark.parametrize(("width", "scheme", "axe"), LOOKS)
def test_a_sample_is_searched_for_and_clicked(
    browser: Browser, look: LookServer, width: int, scheme: str, axe: bool
) -> None:
    with opened(browser, look.url, width, scheme) as page:
        is_well(page, axe)
        page.page.get_by_label("words").fill("alert")
        follow(page, page.page.get_by_role("button", name="Search"))
        assert page.page.locator(".sheet li").count() == 1
        follow(page, page.page.locator(".sheet a"))
        page.page.wait_for_load_state("networkidle")
        assert HOSTILE[0] in page.page.inner_text("main")
        assert "keep" in page.page.inner_text("main")
        assert page.page.evaluate(
            "[...document.images].filter(i => i.loading != 'lazy').every(i => i.naturalWidth > 0)"
        )
        is_well(page, axe)
        follow(page, page.page.get_by_role("link", name="Decisions"))
        page.page.get_by_label("rule").select_option("image_size@1")
        follow(page, page.page.get_by_role("button", name="Search"))
        assert page.page.locator("tbody tr").count() == 8
        is_well(page, False)
        assert {urlsplit(url).netloc for url in page.requests if not url.startswith("data:")} == {
            urlsplit(look.url).netloc
        }


def test_pages_are_turned(browser: Browser, look: LookServer) -> None:
    with opened(browser, look.url) as page:
        seen = page.page.locator(".sheet a").evaluate_all("all => all.map(a => a.href)")
        while page.page.get_by_role("link", name="Next page").count():
            follow(page, page.page.get_by_role("link", name="Next page"))
            seen += page.page.locator(".sheet a").evaluate_all("all => all.map(a => a.href)")
        assert len(seen) == len(set(seen)) == 40 + 6 + 5


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_the_page_of_a_diff_is_well(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    old, new = str(corpus(tmp_path / "old", pairs=12)), str(corpus(tmp_path / "new", pairs=9))
    diff_page(old, new, str(tmp_path / "diff.html"))
    with opened(browser, from_disk(tmp_path / "diff.html"), width, scheme) as page:
        is_well(page, True)
