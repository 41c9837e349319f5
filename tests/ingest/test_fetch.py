"""The real download path: img2dataset behind the guard, against a server that misbehaves in every way."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from imglish.errors import SourceError
from imglish.ingest.fetch import _img2dataset, fetch_rows, image_format
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.recipe import FetchConfig
from tests.ingest.web_helpers import Web, body, drip, endless, image_bytes, never, raw, redirect, status

JPEG = image_bytes()
PNG = image_bytes("PNG")
WEBP = image_bytes("WEBP")


@pytest.fixture
def web() -> Iterator[Web]:
    answers = {
        "/cat.jpg": body(JPEG),
        "/cat.png": body(PNG),
        "/cat.webp": body(WEBP, "Content-Type: text/plain"),
        "/moved": redirect("/cat.png"),
        "/half.jpg": body(JPEG[: len(JPEG) // 2]),
        "/page": body(b"<!doctype html><title>Sorry</title>", "Content-Type: text/html; charset=utf-8"),
        "/nothing": body(b""),
        "/500": status(500),
        "/endless": endless,
        "/cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + JPEG),
        "/noai": body(JPEG, "X-Robots-Tag: noai"),
        "/never": never,
        "/drip": drip,
    }
    with Web(answers) as server:
        yield server


def config(*allowed: Web, **fields: Any) -> FetchConfig:
    settings: dict[str, Any] = {"max_bytes": 1 << 20, "timeout": 5.0, "deadline": 10.0, "threads": 4, "retries": 1}
    return FetchConfig(allow_private=tuple(server.host for server in allowed), **{**settings, **fields})


def wanted(web: Web, *paths: str) -> list[Row]:
    return [Row(f"list.csv#{n}", url=web.url(path), status=TO_FETCH, captions=[path]) for n, path in enumerate(paths)]


def test_images_arrive_byte_for_byte_in_the_order_of_the_rows(web: Web) -> None:
    rows = wanted(web, "/cat.webp", "/cat.jpg", "/moved", "/cat.png", "/half.jpg")
    found = fetch_rows(rows, config(web))
    assert [row.payload for row in found] == [WEBP, JPEG, PNG, PNG, JPEG[: len(JPEG) // 2]]
    assert [(row.row, row.captions, row.status, row.attempts) for row in found] == [
        (row.row, row.captions, "ok", 1) for row in rows
    ]
    assert found[2].detail == f"from {web.url('/cat.png')}"


def test_every_failure_has_its_word(web: Web) -> None:
    with Web({"/x.jpg": body(JPEG)}) as sentinel:
        rows = [
            *wanted(web, "/missing", "/500", "/page", "/nothing", "/endless", "/cut", "/noai"),
            Row("list.csv#7", url=sentinel.url("/x.jpg"), status=TO_FETCH),
            Row("list.csv#8", url="file:///etc/passwd", status=TO_FETCH),
            Row("list.csv#9", url="not a url", status=TO_FETCH),
            Row("list.csv#10", url=None, status=TO_FETCH),
        ]
        found = fetch_rows(rows, config(web))
        assert sentinel.connections == 0
    words = ["http_404", "http_500", "not_image", "empty", "too_large", "fetch_error", "opted_out", *["refused"] * 4]
    assert [row.status for row in found] == words
    assert all(row.payload is None and row.detail for row in found)
    assert "text/html" in str(found[2].detail)
    assert "X-Robots-Tag" in str(found[6].detail)


def test_only_failures_that_may_pass_are_tried_again(web: Web) -> None:
    paths = ("/missing", "/500", "/cut", "/endless", "/noai")
    found = fetch_rows(wanted(web, *paths), config(web, retries=2))
    assert [row.attempts for row in found] == [1, 3, 3, 1, 1]
    assert [web.requests[path] for path in paths] == [1, 3, 3, 1, 1]


def test_a_retry_that_succeeds_is_a_success(web: Web) -> None:
    def second_time(server: Web, client: socket.socket) -> None:
        (body(JPEG) if server.requests["/flaky"] > 1 else status(503))(server, client)

    web.answers["/flaky"] = second_time
    (row,) = fetch_rows(wanted(web, "/flaky"), config(web))
    assert (row.status, row.payload, row.attempts) == ("ok", JPEG, 2)


def test_servers_that_never_answer_or_drip_end_by_the_deadline(web: Web) -> None:
    began = time.monotonic()
    found = fetch_rows(wanted(web, "/never", "/drip", "/cat.jpg"), config(web, timeout=5.0, deadline=1.0, retries=5))
    assert [row.status for row in found] == ["timeout", "timeout", "ok"]
    assert time.monotonic() - began < 8


def test_the_deadline_covers_all_attempts_together(web: Web) -> None:
    began = time.monotonic()
    (row,) = fetch_rows(wanted(web, "/never"), config(web, timeout=0.2, deadline=0.5, retries=50))
    assert row.status == "timeout"
    assert row.attempts in (2, 3)
    assert time.monotonic() - began < 8


def test_a_url_that_comes_twice_is_asked_for_once(web: Web) -> None:
    found = fetch_rows(wanted(web, "/cat.jpg", "/cat.jpg", "/cat.jpg#part"), config(web))
    assert [row.payload for row in found] == [JPEG] * 3
    assert web.requests["/cat.jpg"] == 1


def test_content_other_than_announced_is_not_taken(web: Web) -> None:
    right, wrong = wanted(web, "/cat.jpg", "/cat.png")
    digest = hashlib.sha256(JPEG).hexdigest()
    rows = [Row(row.row, url=row.url, status=TO_FETCH, expected_sha256=digest.upper()) for row in (right, wrong)]
    assert [row.status for row in fetch_rows(rows, config(web))] == ["ok", "sha256_mismatch"]


def test_nothing_is_printed_and_the_former_opener_is_back(web: Web, capfd: pytest.CaptureFixture[str]) -> None:
    mine = urllib.request.build_opener()
    urllib.request.install_opener(mine)
    try:
        fetch_rows(wanted(web, "/cat.jpg", "/missing", "/cut"), config(web))
        assert urllib.request._opener is mine  # type: ignore[attr-defined]
    finally:
        urllib.request.install_opener(None)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_no_rows_need_no_img2dataset() -> None:
    assert fetch_rows([], FetchConfig()) == []


def test_a_missing_img2dataset_is_named_with_the_way_out(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "img2dataset", None)
    _img2dataset.cache_clear()  # a test before this one may have found it
    with pytest.raises(SourceError, match=r"pip install 'imglish\[fetch\]'"):
        fetch_rows(wanted(web, "/cat.jpg"), config(web))


def test_fetching_loads_nothing_of_img2dataset_but_its_downloader() -> None:
    """Not torch, nor albumentations, which asks pypi.org for its version; an import of the package finds all of it."""
    code = """
import sys
from imglish.ingest.fetch import _img2dataset
_img2dataset().Downloader
sys.exit(bool({"torch", "albumentations", "img2dataset", "img2dataset.downloader"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_fetcher_does_not_import_img2dataset() -> None:
    code = "import sys, imglish.ingest.fetch; sys.exit('img2dataset' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO"])
def test_what_pillow_writes_is_recognised(form: str) -> None:
    assert image_format(image_bytes(form)) == {"WEBP": "WebP"}.get(form, form)


@pytest.mark.parametrize("junk", [b"", b"<svg", b"%PDF-1.7", b"\xff\xd8", b"PK\x03\x04", b'{"error": 404}'])
def test_what_is_no_image_is_not(junk: bytes) -> None:
    assert image_format(junk) is None
