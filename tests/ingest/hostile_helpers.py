"""A hostile web: every trick that a URL list can play on a fetcher, each with the receipt that docs/fetch.md promises.

    with Hostile() as web:                      # a server that counts as public, a sentinel that does not, false DNS
        for case in web.cases: ...              # Case(name, url, status, annotated, attempts)
        web.sentinel.connections                # must stay 0

The same list is run through plain img2dataset by benchmarks/hostile.py.
"""

from __future__ import annotations

import gzip
import io
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from imglish.ingest import guard as guard_module
from imglish.ingest.addresses import is_public
from imglish.recipe import FetchConfig
from tests.ingest.web_helpers import (
    Answer,
    Web,
    body,
    endless,
    endless_headers,
    never,
    raw,
    redirect,
    slow_drip,
    status,
)

MAX_BYTES = 1 << 20
PUBLIC = "127.0.0.2"
"""The one loopback address that the guard is told to take for a public one."""
REBOUND = "rebound.example"


@dataclass(frozen=True)
class Case:
    """A URL, and what landing and then annotate must say of it, after how many attempts of at most two."""

    name: str
    url: str
    status: str
    annotated: str | None = None  # of rows that are ok in landing
    attempts: int = 1


def picture(form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """A small picture that no flat colour gives."""
    gradient = np.add.outer(np.arange(150), np.arange(200)).astype(np.uint8)
    image = Image.fromarray(np.dstack([gradient, gradient * 2, gradient * 3]).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(gradient.astype(np.uint16) * 256)
    elif mode != "RGB":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def animated() -> bytes:
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (0, 120, 240)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(exif=exif)


def huge_png() -> bytes:
    """50,000 x 50,000 pixels of one bit, a valid file of 300 KB."""
    packer = zlib.compressobj(6)
    row = bytes(1 + 50_000 // 8)
    data = b"".join(packer.compress(row * 500) for _ in range(100)) + packer.flush()
    header = (50_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    packed = (len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bomb() -> bytes:
    """Gzip of 64 MB of zeros."""
    return gzip.compress(bytes(64 << 20), 1)


GOOD = picture()
HALF = GOOD[: len(GOOD) // 2]
PAGE = b"<!doctype html><title>Image not found</title>"
ANSWERS: dict[str, tuple[Answer, str, str | None, int]] = {
    "gzip bomb": (body(bomb(), "Content-Encoding: gzip"), "too_large", None, 1),
    "PNG of 50,000 x 50,000": (body(huge_png()), "ok", "too_many_pixels", 1),
    "endless body": (endless, "too_large", None, 1),
    "one byte a second": (slow_drip, "timeout", None, 1),
    "headers without end": (endless_headers, "too_large", None, 1),
    "Content-Length too long": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + GOOD),
        "fetch_error",
        None,
        2,
    ),
    "Content-Length too short": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(HALF) + GOOD),
        "ok",
        "truncated",
        1,
    ),
    "Content-Length too large": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "too_large", None, 1),
    "never an answer": (never, "timeout", None, 2),
    "HTML as JPEG": (body(PAGE, "Content-Type: image/jpeg"), "not_image", None, 1),
    "animated GIF": (body(animated()), "ok", "ok", 1),
    "CMYK JPEG": (body(picture(mode="CMYK")), "ok", "ok", 1),
    "16-bit PNG": (body(picture("PNG", "I;16")), "ok", "ok", 1),
    "EXIF-rotated JPEG": (body(turned()), "ok", "ok", 1),
    "truncated JPEG": (body(HALF), "ok", "truncated", 1),
    "polyglot of JPEG and HTML": (body(GOOD + PAGE + b"<script>"), "ok", "ok", 1),
    "polyglot of GIF and script": (body(b"GIF89a/*" + PAGE + b"*/=1;"), "ok", "not_image", 1),
    "X-Robots-Tag: noai": (body(GOOD, "X-Robots-Tag: noai"), "opted_out", None, 1),
    "X-Robots-Tag: noimageai": (body(GOOD, "X-Robots-Tag: all, noimageai"), "opted_out", None, 1),
    "X-Robots-Tag: imglish: noai": (body(GOOD, "X-Robots-Tag: imglish: noai"), "opted_out", None, 1),
    "X-Robots-Tag: otherbot: noai": (body(GOOD, "X-Robots-Tag: otherbot: noindex, noai"), "ok", "ok", 1),
    "TDM-Reservation: 1": (body(GOOD, "TDM-Reservation: 1"), "opted_out", None, 1),
    "redirect loop": (redirect("/redirect-loop"), "redirects", None, 1),
    "404": (status(404), "http_404", None, 1),
    "500": (status(500), "http_500", None, 2),
}
"""name: (answer, status in landing, status in annotations, attempts with one retry)"""


def slug(name: str) -> str:
    return "/" + "".join(character if character.isalnum() else "-" for character in name.lower())


def _twins() -> tuple[Web, Web]:
    """A server on the public address and one on a private address, on the same port."""
    while True:
        web = Web(address=PUBLIC)
        try:
            return web, Web(port=web.port)
        except OSError:  # somebody else has it
            web.listener.close()


def cases() -> list[Case]:
    """The cases of servers that are gone: for names and promises."""
    with Hostile() as web:
        return web.cases


class Hostile:
    """The servers, and the list of cases that lead to them."""

    def __init__(self) -> None:
        self.web, self.sentinel = _twins()
        self.web.answers |= {slug(name): what[0] for name, what in ANSWERS.items()}
        self.sentinel.answers |= {"/secret.jpg": body(GOOD), "/rebound.jpg": body(GOOD)}
        self.robots = {name: Web({"/x.jpg": body(GOOD)}, address=f"127.0.0.{n + 3}") for n, name in enumerate(_ROBOTS)}
        self.lookups = 0
        self.web.answers["/robots.txt"] = status(404)
        self.web.answers["/retry-after.jpg"] = self._busy
        self.web.answers["/rebound.jpg"] = status(503)
        for name, server in self.robots.items():
            server.answers["/robots.txt"] = _ROBOTS[name][0]

    def __enter__(self) -> Hostile:
        with ExitStack() as stack:
            for server in (self.web, self.sentinel, *self.robots.values()):
                stack.enter_context(server)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stack.close()

    @property
    def allowed(self) -> list[str]:
        """What the guard may reach although it is no public address."""
        return [server.host for server in (self.web, *self.robots.values())]

    @property
    def cases(self) -> list[Case]:
        """Every case, in the order of the document."""
        return [*self._addresses(), *self._answers(), *self._rules()]

    def _addresses(self) -> Iterator[Case]:
        port = self.sentinel.port
        spellings = {
            "127.0.0.1": "127.0.0.1",
            "10.x": "10.0.0.7",
            "169.254.169.254": "169.254.169.254",
            "[::1]": "[::1]",
            "IPv4-mapped IPv6": "[::ffff:127.0.0.1]",
            "decimal host": "2130706433",
            "octal host": "0177.0.0.1",
            "hexadecimal host": "0x7f.1",
            "localhost": "localhost",
        }
        for name, host in spellings.items():
            url = f"http://{host}:{port}/secret.jpg"
            self.web.answers[slug(f"to {name}")] = redirect(url)
            yield Case(f"redirect to {name}", self.web.url(slug(f"to {name}")), "refused")
            yield Case(f"URL of {name}", url, "refused")
        for scheme in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"):
            self.web.answers[slug(scheme)] = redirect(scheme)
            name = scheme.partition("/")[0]
            yield Case(f"redirect to {name}", self.web.url(slug(scheme)), "refused")
            yield Case(f"URL of {name}", scheme, "refused", attempts=0)
        yield Case("port of a mail server", f"http://{PUBLIC}:25/x.jpg", "refused")
        rebound = f"http://{REBOUND}:{self.web.port}/rebound.jpg"
        yield Case("DNS first public, then private", rebound, "http_503", attempts=2)

    def _answers(self) -> Iterator[Case]:
        for name, (_, word, annotated, attempts) in ANSWERS.items():
            yield Case(name, self.web.url(slug(name)), word, annotated, attempts)
        yield Case("429 with Retry-After", self.web.url("/retry-after.jpg"), "ok", "ok", 2)

    def _rules(self) -> Iterator[Case]:
        for name, (_, word, annotated) in _ROBOTS.items():
            url = self.robots[name].url("/x.jpg")
            yield Case(f"robots.txt: {name}", url, word, annotated, 1 if word == "ok" else 0)

    def _busy(self, web: Web, client: socket.socket) -> None:
        first = web.requests["/retry-after.jpg"] == 1
        answer = body(b"later", "Retry-After: 1", code="429 Too Many Requests") if first else body(GOOD)
        answer(web, client)

    @contextmanager
    def disguised(self) -> Iterator[None]:
        """False DNS for REBOUND, PUBLIC taken for a public address, and every port allowed that a server here has."""
        real = socket.getaddrinfo

        def look_up(host: str, port: int, *more: Any, **options: Any) -> list[tuple[Any, ...]]:
            if host != REBOUND:
                return list(real(host, port, *more, **options))
            self.lookups += 1
            address = PUBLIC if self.lookups <= 2 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        ports = frozenset({80, 443, self.web.port})
        with (
            mock.patch.object(socket, "getaddrinfo", look_up),
            mock.patch.object(guard_module, "is_public", lambda address: str(address) == PUBLIC or is_public(address)),
            mock.patch.object(guard_module, "PORTS", ports),
        ):
            yield

    def config(self) -> FetchConfig:
        """Short caps, so that every case ends in seconds."""
        return FetchConfig(
            allow_private=tuple(self.allowed),
            max_bytes=MAX_BYTES,
            timeout=1.5,
            deadline=2.0,
            retries=1,
            backoff=0.1,
            host_delay=0.0,
            host_connections=32,
            host_failures=0,
        )


_ROBOTS: dict[str, tuple[Answer, str, str | None]] = {
    "disallow": (body(b"User-agent: *\nDisallow: /\n"), "robots_disallowed", None),
    "404": (status(404), "ok", "ok"),
    "5xx": (status(500), "robots_unreachable", None),
    "loop": (redirect("/robots.txt"), "ok", "ok"),
    "never an answer": (never, "robots_unreachable", None),
    "endless": (endless, "ok", "ok"),
}
