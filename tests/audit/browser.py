"""Debian's Chromium, driven by Playwright: no network but what a page may ask for, and everything it says is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {390: 844, 1440: 900}
"""Width and height of a telephone's and a desk's screen, CSS pixels."""


@dataclass
class Opened:
    """A page with what went wrong on it (console errors, exceptions) and what it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def serious(self) -> list[str]:
        """What axe-core calls serious or critical: rule and first element of each."""
        self.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
        found = json.loads(self.page.evaluate("axe.run().then(r => JSON.stringify(r.violations))"))
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A new Chromium with an empty profile."""
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, f"--data-path={profile}"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1440, scheme: Any = "light") -> Iterator[Opened]:
    """A page at a URL in a window of that width and theme."""
    context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme)
    page = context.new_page()
    seen = Opened(page)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(message.text)

    def asked(request: Request) -> None:
        seen.requests.append(request.url)

    page.on("console", said)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", asked)
    page.goto(url)
    yield seen
    context.close()


def from_disk(path: str | Path) -> str:
    """The URL of a file."""
    return Path(path).resolve().as_uri()
