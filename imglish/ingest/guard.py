"""A urllib opener that is safe on the open web: whoever wrote the URL, it reaches public servers only.

    guard = Guard(user_agent="imglish/1", max_bytes=64 << 20, timeout=10.0, deadline=30.0)
    answer = guard.fetch("https://example.org/cat.jpg")     # Answer(url, code, headers, sent, body), or FetchError

The check sits where the socket is made, so redirects, odd spellings of addresses and DNS answers that change between
check and use cannot pass it: a host is resolved once, every answer must be public, and the socket is connected to the
address that was checked (Host header, SNI and certificate still use the name). Only http and https, only listed ports,
no proxies, at most five redirects. Sizes (headers, body, decoded body) and the wall clock are bounded whatever the
server sends. `allow_private` lifts address and port checks for exactly the named "host:port" pairs. Every failure is a
FetchError whose reason is a status word of `records.LANDING`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.message import Message
from typing import Any

from imglish.errors import FetchError
from imglish.ingest.addresses import Resolver, clean_url, is_public

PORTS = frozenset({80, 443, 8080, 8443})
"""Ports of public web servers; others are how a URL list probes databases and mail servers."""
MAX_REDIRECTS = 5
HEADER_BYTES = 256 << 10
"""Status line, headers and read-ahead of one answer; servers in use send under 64 KB."""
_CHUNK = 64 << 10


@dataclass(frozen=True)
class Answer:
    """A whole answer; also the context manager that callers of `urllib.request.urlopen` expect."""

    url: str  # after redirects
    code: int
    headers: Message
    sent: int  # bytes of the body before a content coding was undone
    body: bytes

    def read(self) -> bytes:
        return self.body

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open any more."""


@dataclass
class Seen:
    """What one fetch has seen so far, so that a failure can say which answer decided: the last one."""

    url: str = ""
    code: int | None = None
    headers: Message | None = None
    sent: int = 0


class Guard(urllib.request.OpenerDirector):
    """Fetches public URLs within bounds; thread-safe, holds no connection.

    `timeout` is seconds to connect and between two packets, `deadline` seconds for one URL altogether,
    `max_bytes` bounds the body as sent and as decoded; with `cut` a longer body is cut there instead of refused.
    `hop(url)` is asked before every request, redirects included, and `accept(headers)` before a body is read; either
    refuses by raising FetchError.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        max_bytes: int,
        timeout: float,
        deadline: float,
        allow_private: Collection[str] = (),
        cut: bool = False,
        hop: Callable[[str], None] = lambda url: None,
        accept: Callable[[Message], None] = lambda headers: None,
    ) -> None:
        super().__init__()
        self.user_agent, self.max_bytes, self.cut = user_agent, max_bytes, cut
        self.timeout, self.deadline = timeout, deadline
        self.allow_private = frozenset(name.lower() for name in allow_private)
        self.hop, self.accept = hop, accept
        self.resolver = Resolver()
        self.tls = _tls_context(os.environ.get("SSL_CERT_FILE"))

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Answer:
        """What `urllib.request.urlopen` calls once this opener is installed; GET only, own time-outs."""
        return self.fetch(fullurl if isinstance(fullurl, str) else fullurl.full_url)

    def fetch(self, url: str, until: float | None = None, seen: Seen | None = None) -> Answer:
        """The whole answer to a GET, all of it before `until` (`time.monotonic`, default now + deadline).

        `seen` is filled in on the way, for failures too. Raises FetchError only: refused, redirects, unresolved,
        timeout, too_large, http_<code>, fetch_error, and what `hop` and `accept` raise.
        """
        request = urllib.request.Request(clean_url(url), headers={"User-Agent": self.user_agent, "Accept": "*/*"})
        until = time.monotonic() + self.deadline if until is None else until
        seen = Seen() if seen is None else seen
        seen.url = request.full_url
        try:
            with self._inner(until, seen).open(request, timeout=self.timeout) as response:
                seen.url, seen.code, seen.headers = response.url, response.status, response.headers
                self.accept(response.headers)
                body = self._body(response, seen)
                return Answer(response.url, response.status, response.headers, seen.sent, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failure(error) from None

    def _inner(self, until: float, seen: Seen) -> urllib.request.OpenerDirector:
        """urllib's own machinery for one URL: no proxies, cookies, files or ftp."""
        director = urllib.request.OpenerDirector()
        for handler in (
            _Http(functools.partial(_Connection, self, until)),
            _Https(functools.partial(_TlsConnection, self, until)),
            _Redirects(self.hop, seen),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            director.add_handler(handler)
        return director

    def _body(self, response: http.client.HTTPResponse, seen: Seen) -> bytes:
        announced = response.length
        if announced is not None and announced > self.max_bytes and not self.cut:
            raise FetchError("too_large", f"{announced} bytes announced, the limit is {self.max_bytes}")
        sent = bytearray()
        while data := response.read(min(_CHUNK, self.max_bytes + 1 - len(sent))):
            sent += data
            seen.sent = len(sent)
            if len(sent) > self.max_bytes:
                if self.cut:
                    return bytes(sent[: self.max_bytes])
                raise FetchError("too_large", f"more than {self.max_bytes} bytes sent")
        if response.length:
            raise FetchError("fetch_error", f"connection closed after {len(sent)} of {announced} bytes")
        return self._decoded(bytes(sent), response.headers.get("Content-Encoding", "identity").strip().lower())

    def _decoded(self, sent: bytes, coding: str) -> bytes:
        """The body without a content coding, which we never ask for and some servers apply all the same."""
        if coding in ("identity", "", "none") or not sent:
            return sent
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise FetchError("fetch_error", f"content coding {coding[:40]!r} was not asked for")
        inflate = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib header
        try:
            body = inflate.decompress(sent, self.max_bytes + 1)
        except zlib.error as error:
            raise FetchError("fetch_error", f"broken {coding} coding: {error}") from None
        if len(body) > self.max_bytes and not self.cut:
            raise FetchError("too_large", f"{len(sent)} bytes sent decode to more than {self.max_bytes}")
        if not inflate.eof and not self.cut:
            raise FetchError("fetch_error", f"the {coding} coding breaks off after {len(body)} bytes")
        return body[: self.max_bytes]

    def connect(self, host: str, port: int, until: float) -> _PlainSocket:
        """A socket to a checked address of `host`; FetchError when an address or the port is not allowed."""
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        allowed = name.lower() in self.allow_private
        if not allowed and port not in PORTS:
            raise FetchError("refused", f"port {port} of {host}: only {sorted(PORTS)} are fetched")
        answers = self.resolver.find(host, port, min(until, time.monotonic() + self.timeout))
        for *_, address in answers:
            if not allowed and not is_public(ipaddress.ip_address(address[0])):
                raise FetchError("refused", f"{host} is at {address[0]}, not a public address")
        failure: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in answers:
            connection = _PlainSocket(family, kind, protocol)
            try:
                connection.bound(self.timeout, until)
                connection.patience()
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure


@functools.cache
def _tls_context(file: str | None) -> ssl.SSLContext:
    """Certificates are verified against the system's, or those in `file`, which OpenSSL finds in SSL_CERT_FILE itself.

    One context serves the process, as loading the certificates takes 50 ms.
    """
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    return context


class _Bounded:
    """Mixed into sockets: no receive waits longer than `timeout`, none goes past `until` or the header allowance."""

    _timeout: float = 0.0
    _until: float = 0.0
    allowance: int | None = HEADER_BYTES

    def bound(self, timeout: float, until: float) -> None:
        self._timeout, self._until = timeout, until

    def patience(self) -> None:
        """Set the time-out of the next call on the socket; TimeoutError when the deadline has passed."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline for this URL has passed")
        self.settimeout(min(self._timeout, left))  # type: ignore[attr-defined]

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.patience()
        count: int = super().recv_into(*arguments, **options)  # type: ignore[misc]
        if self.allowance is not None:
            self.allowance -= count
            if self.allowance < 0:
                raise FetchError("too_large", f"more than {HEADER_BYTES} bytes of headers")
        return count


class _PlainSocket(_Bounded, socket.socket):
    pass


class _TlsSocket(_Bounded, ssl.SSLSocket):
    pass


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket from the guard."""

    def __init__(self, guard: Guard, until: float, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._guard, self._deadline = guard, until

    def connect(self) -> None:
        self.sock = self._guard.connect(self.host, self.port, self._deadline)

    def getresponse(self) -> http.client.HTTPResponse:
        connection: Any = self.sock
        response = super().getresponse()
        connection.allowance = None  # the body has its own limit
        return response


class _TlsConnection(_Connection):
    """HTTPS: the certificate must be valid for the name in the URL."""

    default_port = 443

    def connect(self) -> None:
        super().connect()
        plain: Any = self.sock
        try:
            plain.patience()
            secure: Any = self._guard.tls.wrap_socket(plain, server_hostname=self.host)
        except (OSError, ValueError):
            plain.close()
            raise
        secure.bound(self._guard.timeout, self._deadline)
        self.sock = secure


class _Http(urllib.request.AbstractHTTPHandler):
    """Opens http URLs with our connections."""

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)

    http_request = urllib.request.AbstractHTTPHandler.do_request_


class _Https(urllib.request.AbstractHTTPHandler):
    """Opens https URLs with our connections."""

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self._connection = connection

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)

    https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most MAX_REDIRECTS hops; each is a new connection, checked like the first."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def __init__(self, hop: Callable[[str], None], seen: Seen) -> None:
        self._hop, self._seen = hop, seen

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib would read the body of a redirect whole, whatever its size
        self._seen.url, self._seen.code, self._seen.headers = req.full_url, code, headers
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def http_error_default(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        """Any other answer that is no success; urllib's own handler raises it."""
        self._seen.url, self._seen.code, self._seen.headers = req.full_url, code, headers

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        target = clean_url(newurl)
        self._hop(target)
        self._seen.url, self._seen.code, self._seen.headers = target, None, None
        return super().redirect_request(req, fp, code, msg, headers, target)


def _failure(error: Exception) -> FetchError:
    """The status word for what urllib, http.client, ssl or the socket raised."""
    if isinstance(error, urllib.error.HTTPError):
        with contextlib.suppress(OSError):
            error.close()
        if 300 <= error.code < 400:
            endless = urllib.request.HTTPRedirectHandler.inf_msg in str(error.msg)
            word = "redirects" if endless else "refused"
            return FetchError(word, f"redirect not followed: {' '.join(str(error.msg).split())[:200]}")
        return FetchError(f"http_{error.code}", f"{error.code} {str(error.reason)[:200]}".strip())
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _failure(error.reason)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", str(error) or "no answer in time")
    return FetchError("fetch_error", f"{type(error).__name__}: {str(error)[:300]}")
