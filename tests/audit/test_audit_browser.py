"""Pages in Debian's Chromium: nothing on the console, nothing asked for, nothing cut off, usable by everybody.

Chromium is not in the package index: `make chromium` installs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

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
