"""The look page: loopback only, read-only, harmless, and every page says what it should."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imglish.audit.browse import LookServer
from imglish.errors import ImglishError
from imglish.shards import open_corpus
from tests.audit.audit_helpers import HOSTILE, corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"), pairs=40)


@pytest.fixture(scope="module")
def server(manifest: Path) -> Iterator[LookServer]:
    with LookServer(str(manifest)) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.stop()
        thread.join()


def ask(
    server: LookServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    address = server.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path, headers={"Host": host or address})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_it_listens_on_loopback_only(server: LookServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_page_of_the_web_cannot_read_through_the_browser(server: LookServer, host: str) -> None:
    status, _, data = ask(server, "/", host=host)
    assert status == 403
    assert b"caption" not in data


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_reading_is_answered(server: LookServer, method: str) -> None:
    assert ask(server, "/", method)[0] == 501


def test_pages_forbid_scripts_and_frames(server: LookServer) -> None:
    _, headers, data = ask(server, "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"<script" not in data


def test_head_answers_without_a_body(server: LookServer) -> None:
    status, headers, data = ask(server, "/", "HEAD")
    assert (status, data) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/sample/pair/0/" + "0" * 32, "/sample/pair/99/" + "0" * 32, "/stored/pair/0/" + "0" * 32 + ".jpg",
        "/../manifest.json", "/manifest.json", "/other/pair/0/" + "0" * 32 + ".png",
        "/sample/pair/0/..%2f..%2fmanifest",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(server: LookServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/?after=x",
        "/?after=99999:5",
        "/?words=%00%27%22%3Cscript%3E",
        "/?kind=none",
        "/decided?from=-1",
        "/?" + "a=1&" * 9,
    ],
)
def test_odd_questions_get_an_ordinary_page(server: LookServer, path: str) -> None:
    status, _, data = ask(server, path)
    assert status == 200
    assert b"<script>" not in data


def test_hostile_captions_are_shown_harmlessly(server: LookServer, manifest: Path) -> None:
    pairs = [*open_corpus(str(manifest))["pair"], *open_corpus(str(manifest), "validation")["pair"]]
    for sample in pairs:
        if len(sample.captions) == 2:
            found = next(row for row in server.search.samples(_key(sample.key), 5).rows if row["kind"] == "pair")
            status, _, data = ask(server, f"/sample/pair/{found['ordinal']}/{sample.key}")
            assert status == 200
            assert not any(
                bad in data for bad in (b"<script>alert", b"<img src=x", b"\x00", b"\x07", "\u202e".encode())
            )
            assert max(map(len, data.split(b"\n"))) < 9_000


def _key(key: str):  # type: ignore[no-untyped-def]
    from imglish.audit.search import Query

    return Query(key=key)


def test_pictures_of_a_sample_are_pictures(server: LookServer) -> None:
    row = server.search.samples(_key(""), 1).rows[0]
    place = f"{row['kind']}/{row['ordinal']}/{row['key']}"
    assert ask(server, f"/stored/{place}.jpg")[2].startswith(b"\xff\xd8")
    for what in ("box", "codes", "mask"):
        status, headers, data = ask(server, f"/{what}/{place}.png?view=1")
        assert (status, headers["Content-Type"], data[:4]) == (200, "image/png", b"\x89PNG")


def test_a_document_without_its_tokenizer_is_shown_as_ids(server: LookServer) -> None:
    from imglish.audit.search import Query

    row = server.search.samples(Query(kind="text"), 1).rows[0]
    data = ask(server, f"/sample/text/{row['ordinal']}/{row['key']}")[2].decode()
    assert "are shown as ids" in data


def test_a_port_that_is_taken_is_said(server: LookServer, manifest: Path) -> None:
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ImglishError, match=f"port {port} cannot be used"):
        LookServer(str(manifest), port)


def test_the_hostile_captions_of_the_helpers_are_all_there(server: LookServer) -> None:
    page = ask(server, "/?words=quotes")[2].decode()
    assert page.count('<p class="caption">') == 1
    assert HOSTILE[1][0] not in page
