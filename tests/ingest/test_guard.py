"""The guard against real servers on the loopback, which it must refuse unless they are named."""

from __future__ import annotations

import gzip
import ipaddress
import pickle
import socket
import ssl
import time
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import FetchError
from imglish.ingest import guard as guard_module
from imglish.ingest.addresses import clean_url, is_public
from imglish.ingest.guard import HEADER_BYTES, MAX_REDIRECTS, Guard
from tests.ingest.web_helpers import (
    Web,
    body,
    drip,
    drip_headers,
    endless,
    endless_headers,
    image_bytes,
    never,
    raw,
    redirect,
    status,
)

PICTURE = image_bytes()


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({"/cat.jpg": body(PICTURE, "Content-Type: image/jpeg")}) as server:
        yield server


def guard(*allowed: Web, max_bytes: int = 1 << 20, timeout: float = 5.0, deadline: float = 10.0) -> Guard:
    return Guard(
        user_agent="imglish-test/1",
        max_bytes=max_bytes,
        timeout=timeout,
        deadline=deadline,
        allow_private=[server.host for server in allowed],
    )


def reason(opener: Guard, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        opener.fetch(url)
    return caught.value


def test_an_allowed_server_answers_with_the_bytes_it_sent(web: Web) -> None:
    answer = guard(web).fetch(web.url("/cat.jpg"))
    assert answer.body == PICTURE
    assert answer.headers.get_content_type() == "image/jpeg"
    assert web.headers["user-agent"] == "imglish-test/1"
    assert web.headers["host"] == web.host


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
def test_no_spelling_of_the_loopback_gets_a_connection(
    web: Web, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "PORTS", frozenset({web.port}))  # so that only the address can refuse
    error = reason(guard(), f"http://{spelling}:{web.port}/cat.jpg")
    assert (error.reason, "not a public address" in error.detail) == ("refused", True)
    assert web.connections == 0


def test_a_name_is_refused_if_one_of_its_addresses_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.216.34", "10.0.0.7")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    error = reason(guard(), "http://two-faced.example/")
    assert (error.reason, error.detail) == ("refused", "two-faced.example is at 10.0.0.7, not a public address")


def test_the_checked_address_is_the_one_connected_to(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []

    def once(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", once)
    opener = guard()
    opener.allow_private = frozenset({f"pictures.example:{web.port}"})
    assert opener.fetch(f"http://pictures.example:{web.port}/cat.jpg").body == PICTURE
    assert lookups == ["pictures.example"]
    assert web.headers["host"] == f"pictures.example:{web.port}"


def test_a_dns_server_that_never_answers_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web() as clock:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: clock.over.wait(30) and [])
        began = time.monotonic()
        assert reason(guard(timeout=0.2), "http://slow.example/").reason == "timeout"
        assert time.monotonic() - began < 5


def test_an_allowed_address_does_not_allow_its_other_ports(web: Web) -> None:
    with Web({"/cat.jpg": body(PICTURE)}) as sentinel:
        error = reason(guard(web), sentinel.url("/cat.jpg"))
        assert error.reason == "refused"
        assert "port" in error.detail
        assert sentinel.connections == 0


def test_a_redirect_to_a_server_that_is_not_allowed_sees_no_connection(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Web({"/secret": body(PICTURE)}) as sentinel:
        web.answers["/hop"] = redirect(sentinel.url("/secret"))
        assert reason(guard(web), web.url("/hop")).reason == "refused"
        monkeypatch.setattr(guard_module, "PORTS", frozenset({sentinel.port}))
        assert "not a public address" in reason(guard(web), web.url("/hop")).detail
        assert sentinel.connections == 0


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x", "gopher://x/", "data:,x", "//u:p@h/"])
def test_redirects_lead_to_http_only(web: Web, target: str) -> None:
    web.answers["/hop"] = redirect(target)
    assert reason(guard(web), web.url("/hop")).reason == "refused"


def test_five_redirects_are_followed_and_a_sixth_is_not(web: Web) -> None:
    for number in range(MAX_REDIRECTS):
        web.answers[f"/hop{number}"] = redirect(f"/hop{number + 1}" if number + 1 < MAX_REDIRECTS else "/cat.jpg")
    web.answers["/more"] = redirect("/hop0")
    assert guard(web).fetch(web.url("/hop0")).url == web.url("/cat.jpg")
    error = reason(guard(web), web.url("/more"))
    assert (error.reason, "redirect" in error.detail) == ("redirects", True)


def test_the_body_of_a_redirect_is_not_read(web: Web) -> None:
    def endless_redirect(server: Web, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 302 Found\r\nLocation: /cat.jpg\r\n\r\n")
        while not server.over.is_set():
            client.sendall(b"x" * 60000)

    web.answers["/hop"] = endless_redirect
    assert guard(web, deadline=5).fetch(web.url("/hop")).body == PICTURE


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "data:image/png;base64,AAAA", "x", "", 7])
def test_urls_that_are_not_http_are_refused(url: Any) -> None:
    with pytest.raises(FetchError, match="refused"):
        clean_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:word@example.org/",
        "http://",
        "http://[::1",
        "http://exa mple.org/",
        "http://a\r\nb/",
        "http://a:b/",
        "http://127.0.0.1%0d%0ax/",
        "http://[fe80::1%25eth0]/",
        "http://" + "ä" * 70 + ".org/",
        "http://a\\@b/",
    ],
)
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(FetchError, match="refused"):
        clean_url(url)


def test_a_url_in_any_script_becomes_ascii() -> None:
    assert clean_url(" http://bücher.example/käse 1.jpg?q=ü#part ") == (
        "http://xn--bcher-kva.example/k%C3%A4se%201.jpg?q=%C3%BC"
    )
    assert clean_url("https://example.org:8443/a%20b") == "https://example.org:8443/a%20b"


@given(st.text(max_size=60))
def test_a_cleaned_url_stays_what_it_is(text: str) -> None:
    try:
        once = clean_url("http://example.org/" + text)
    except FetchError:
        return
    assert once.isascii()
    assert clean_url(once) == once


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:0:0:0:0:80ff:fffe",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "100::1",
    ],
)
def test_addresses_that_are_not_servers_on_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_servers_on_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_ports_other_than_those_of_web_servers_are_refused() -> None:
    assert "port 22" in reason(guard(), "http://93.184.216.34:22/").detail


def test_proxies_in_the_environment_are_ignored(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with Web() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        assert guard(web).fetch(web.url("/cat.jpg")).body == PICTURE
        assert proxy.connections == 0


@pytest.mark.parametrize("code", [400, 403, 404, 410, 429, 500, 503])
def test_a_status_code_is_the_reason(web: Web, code: int) -> None:
    web.answers["/x"] = status(code)
    assert reason(guard(web), web.url("/x")).reason == f"http_{code}"


def test_an_endless_body_is_cut_at_the_limit(web: Web) -> None:
    web.answers["/x"] = endless
    assert reason(guard(web, max_bytes=300_000), web.url("/x")).reason == "too_large"


def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(web: Web) -> None:
    assert guard(web, max_bytes=len(PICTURE)).fetch(web.url("/cat.jpg")).body == PICTURE
    assert reason(guard(web, max_bytes=len(PICTURE) - 1), web.url("/cat.jpg")).reason == "too_large"


def test_endless_headers_are_cut_at_their_limit(web: Web) -> None:
    web.answers["/x"] = endless_headers
    error = reason(guard(web), web.url("/x"))
    assert (error.reason, str(HEADER_BYTES) in error.detail) == ("too_large", True)


@pytest.mark.parametrize("answer", [drip, drip_headers, never])
def test_a_server_that_stalls_or_drips_ends_at_the_deadline(web: Web, answer: Any) -> None:
    web.answers["/x"] = answer
    began = time.monotonic()
    assert reason(guard(web, timeout=5, deadline=0.4), web.url("/x")).reason == "timeout"
    assert 0.3 < time.monotonic() - began < 3


def test_silence_between_packets_ends_at_the_timeout(web: Web) -> None:
    web.answers["/x"] = never
    began = time.monotonic()
    assert reason(guard(web, timeout=0.2, deadline=20), web.url("/x")).reason == "timeout"
    assert time.monotonic() - began < 3


def test_a_body_shorter_than_announced_is_an_error(web: Web) -> None:
    web.answers["/x"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + PICTURE[:100])
    error = reason(guard(web), web.url("/x"))
    assert (error.reason, error.detail) == ("fetch_error", "connection closed after 100 of 5000 bytes")


def test_a_body_longer_than_announced_ends_where_announced(web: Web) -> None:
    web.answers["/x"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + PICTURE)
    assert guard(web).fetch(web.url("/x")).body == PICTURE[:100]


def test_chunked_bodies_are_joined_and_broken_ones_are_errors(web: Web) -> None:
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    web.answers["/good"] = raw(start + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    web.answers["/short"] = raw(start + b"3\r\nabc\r\n9\r\nde")
    web.answers["/junk"] = raw(start + b"zz\r\nabc")
    assert guard(web).fetch(web.url("/good")).body == b"abcde"
    assert reason(guard(web), web.url("/short")).reason == "fetch_error"
    assert reason(guard(web), web.url("/junk")).reason == "fetch_error"


@pytest.mark.parametrize("junk", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 banana\r\n\r\n", b"\0" * 100])
def test_what_is_not_http_is_an_error(web: Web, junk: bytes) -> None:
    web.answers["/x"] = raw(junk)
    assert reason(guard(web), web.url("/x")).reason == "fetch_error"


def test_a_content_coding_that_was_not_asked_for_is_undone(web: Web) -> None:
    web.answers["/gzip"] = body(gzip.compress(PICTURE), "Content-Encoding: gzip")
    web.answers["/deflate"] = body(zlib.compress(PICTURE), "Content-Encoding: deflate")
    web.answers["/br"] = body(b"abc", "Content-Encoding: br")
    web.answers["/short"] = body(gzip.compress(PICTURE)[:-20], "Content-Encoding: gzip")
    assert guard(web).fetch(web.url("/gzip")).body == PICTURE
    assert guard(web).fetch(web.url("/deflate")).body == PICTURE
    assert reason(guard(web), web.url("/br")).reason == "fetch_error"
    assert reason(guard(web), web.url("/short")).reason == "fetch_error"


def test_a_compressed_bomb_is_too_large(web: Web) -> None:
    web.answers["/bomb"] = body(gzip.compress(bytes(50 << 20)), "Content-Encoding: gzip")
    assert reason(guard(web, max_bytes=1 << 20), web.url("/bomb")).reason == "too_large"


def test_a_closed_port_is_an_error() -> None:
    with Web() as gone:
        pass
    assert reason(guard(gone), gone.url("/x")).reason == "fetch_error"


def test_tls_is_verified_for_the_name_in_the_url(tls_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tls_files
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: names.append(name)  # type: ignore[assignment]
    with Web({"/cat.jpg": body(PICTURE)}, context) as server:
        local = f"localhost:{server.port}"
        stranger = guard(server)
        stranger.allow_private |= {local}
        assert "certificate verify failed" in reason(stranger, f"https://{local}/cat.jpg").detail
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        friend = guard(server)
        friend.allow_private |= {local}
        assert friend.fetch(f"https://{local}/cat.jpg").body == PICTURE
        assert names[-1] == "localhost"
        assert "127.0.0.1" in reason(friend, server.url("/cat.jpg")).detail  # right certificate, wrong name


def test_urlopen_goes_through_an_installed_guard(web: Web) -> None:
    opener = guard(web)
    urllib.request.install_opener(opener)
    try:
        with urllib.request.urlopen(web.url("/cat.jpg"), timeout=3) as answer:
            assert answer.read() == PICTURE
        with pytest.raises(FetchError, match="refused"):
            urllib.request.urlopen("file:///etc/passwd")
    finally:
        urllib.request.install_opener(None)  # type: ignore[arg-type]


def test_a_fetch_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(FetchError("http_404", "404 Not Found")))
    assert (error.reason, error.detail, str(error)) == ("http_404", "404 Not Found", "http_404: 404 Not Found")
