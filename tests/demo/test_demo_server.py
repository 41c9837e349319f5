"""The photograph server, and that every bad answer of it becomes a status of its own."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from imglish.demo import server as module
from imglish.demo.server import BAD_PATHS, PhotographServer
from imglish.errors import SourceError
from imglish.ingest.fetch import fetch_rows
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.recipe import FetchConfig
from tests.demo.demo_helpers import picture, put


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    put(tmp_path / "photographs/a b.jpeg", picture(1, "JPEG"))
    put(tmp_path / "secret.jpeg", b"secret")
    return tmp_path / "photographs"


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


def test_photographs_are_served_on_loopback_and_nothing_else_is(photographs: Path) -> None:
    with PhotographServer(photographs, 0) as server:
        assert server.url("a b.jpeg") == f"http://127.0.0.1:{server.port}/photographs/a%20b.jpeg"
        assert get(server.url("a b.jpeg")) == picture(1, "JPEG")
        for path in ("/", "/photographs/", "/photographs/../secret.jpeg", "/photographs/%2e%2e/secret.jpeg"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"http://{server.address}{path}")


def test_a_taken_port_gives_the_next_one_and_is_free_afterwards(photographs: Path) -> None:
    first = PhotographServer(photographs, 0)
    second = PhotographServer(photographs, first.port)
    assert first.port < second.port < first.port + module.PORTS_TRIED
    second.close()
    second.close()
    first.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first.port), timeout=5)


def test_no_free_port_is_an_error(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORTS_TRIED", 1)
    with PhotographServer(photographs, 0) as server, pytest.raises(SourceError, match=f"ports {server.port} to"):
        PhotographServer(photographs, server.port)


def test_a_client_that_hangs_up_and_one_that_waits_do_not_disturb(
    photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PhotographServer(photographs, 0) as server:
        waiting = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        waiting.sendall(b"GET /bad/silent.jpeg HTTP/1.1\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as gone:
            gone.sendall(b"GET /photographs/a%20b.jpeg HTTP/1.1\r\n\r\n")
        assert get(server.url("a b.jpeg")) == picture(1, "JPEG")
    waiting.close()
    assert capsys.readouterr() == ("", "")


def test_every_planted_url_fails_in_its_own_way(photographs: Path) -> None:
    with PhotographServer(photographs, 0) as server:
        urls = [server.url("a b.jpeg"), *server.bad_urls()]
        config = FetchConfig(allow_private=(server.address,), timeout=0.3, deadline=0.6, retries=0)
        rows = fetch_rows([Row(url, url=url, status=TO_FETCH) for url in urls], config)
    assert [row.status for row in rows] == ["ok", "http_404", "http_500", "not_image", "timeout", "ok", "empty"]
    truncated = rows[1 + list(BAD_PATHS).index("/bad/truncated.jpeg")]
    assert truncated.payload == picture(1, "JPEG")[: len(picture(1, "JPEG")) // 2]
