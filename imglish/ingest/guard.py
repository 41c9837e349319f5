"""A urllib opener that is safe on the open web: whoever wrote the URL, it reaches public servers only.

    guard = Guard(user_agent="imglish/1", max_bytes=64 << 20, timeout=10.0, deadline=30.0)
    answer = guard.fetch("https://example.org/cat.jpg")     # Answer(url, headers, body), or FetchError

The check sits where the socket is made, so redirects, odd spellings of addresses and DNS answers that change
between check and use cannot pass it: a host is resolved once per connection, every answer must be public, and the
socket is connected to the address that was checked (Host header, SNI and certificate still use the name).
Only http and https, only listed ports, no proxies, at most five redirects. Sizes (headers, body, decoded body)
and the wall clock are bounded whatever the server sends. `allow_private` lifts address and port checks for exactly
the named "host:port" pairs. Every failure is a FetchError whose reason is a status word of `records.LANDING`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import queue
import re
import socket
import ssl
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from email.message import Message
from typing import Any

from imglish.errors import FetchError

PORTS = frozenset({80, 443, 8080, 8443})
"""Ports of public web servers; others are how a URL list probes databases and mail servers."""
MAX_REDIRECTS = 5
HEADER_BYTES = 256 << 10
"""Status line, headers and read-ahead of one answer; servers in use send under 64 KB."""
_CHUNK = 64 << 10
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # names and IPv6 addresses, no zone
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_UNICAST6 = ipaddress.ip_network("2000::/3")  # RFC 4291: all global unicast assigned so far
_NOT_PUBLIC = (
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890; is_global before Python 3.11.9 passes most of it
    ipaddress.ip_network("168.63.129.16/32"),  # metadata service of Azure, on a public address
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is a server on the open internet; an IPv4 address inside IPv6 is judged as itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner_ipv4(address)
        if inner is not None:
            return is_public(inner)
        return address.is_global and address in _UNICAST6
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved)
        and not any(address in network for network in _NOT_PUBLIC)
    )


def _inner_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4, Teredo or NAT64 address leads to."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def clean_url(url: object) -> str:
    """An absolute http(s) URL in ASCII without fragment; FetchError "refused" for anything else."""
    if not isinstance(url, str):
        raise FetchError("refused", f"a URL must be text, not {type(url).__name__}")
    text = url.strip()
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise FetchError("refused", "control character in the URL")
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
        path, query = _quote(parts.path or "/"), _quote(parts.query)
    except ValueError as error:
        raise FetchError("refused", f"not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise FetchError("refused", f"scheme {parts.scheme or 'none'}: only http and https are fetched")
    if parts.username is not None or not _HOST.fullmatch(host):
        raise FetchError("refused", "user name in the URL" if parts.username is not None else f"no host: {host[:80]!r}")
    shown = f"[{host}]" if ":" in host else host
    return urllib.parse.urlunsplit((parts.scheme, shown if port is None else f"{shown}:{port}", path, query, ""))


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe=string.punctuation.replace("\\", "").replace('"', ""))


@dataclass(frozen=True)
class Answer:
    """A whole answer; also the context manager that callers of `urllib.request.urlopen` expect."""

    url: str  # after redirects
    headers: Message
    body: bytes

    def read(self) -> bytes:
        return self.body

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open any more."""


class Guard(urllib.request.OpenerDirector):
    """Fetches public URLs within bounds; thread-safe, holds no connection.

    `timeout` is seconds to connect and between two packets, `deadline` seconds for one URL altogether,
    `max_bytes` bounds the body as sent and as decoded.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        max_bytes: int,
        timeout: float,
        deadline: float,
        allow_private: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.user_agent, self.max_bytes = user_agent, max_bytes
        self.timeout, self.deadline = timeout, deadline
        self.allow_private = frozenset(name.lower() for name in allow_private)
        self.tls = ssl.create_default_context()
        self.tls.sslsocket_class = _TlsSocket

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Answer:
        """What `urllib.request.urlopen` calls once this opener is installed; GET only, own time-outs."""
        return self.fetch(fullurl if isinstance(fullurl, str) else fullurl.full_url)

    def fetch(self, url: str, until: float | None = None) -> Answer:
        """The whole answer to a GET, all of it before `until` (`time.monotonic`, default now + deadline).

        Raises FetchError only: refused, timeout, too_large, http_<code>, fetch_error.
        """
        request = urllib.request.Request(clean_url(url), headers={"User-Agent": self.user_agent, "Accept": "*/*"})
        until = time.monotonic() + self.deadline if until is None else until
        try:
            with self._inner(until).open(request, timeout=self.timeout) as response:
                return Answer(response.url, response.headers, self._body(response))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failure(error) from None

    def _inner(self, until: float) -> urllib.request.OpenerDirector:
        """urllib's own machinery for one URL: no proxies, cookies, files or ftp."""
        director = urllib.request.OpenerDirector()
        for handler in (
            _Http(functools.partial(_Connection, self, until)),
            _Https(functools.partial(_TlsConnection, self, until)),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            director.add_handler(handler)
        return director

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        announced = response.length
        if announced is not None and announced > self.max_bytes:
            raise FetchError("too_large", f"{announced} bytes announced, the limit is {self.max_bytes}")
        sent = bytearray()
        while data := response.read(min(_CHUNK, self.max_bytes + 1 - len(sent))):
            sent += data
            if len(sent) > self.max_bytes:
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
        if len(body) > self.max_bytes:
            raise FetchError("too_large", f"{len(sent)} bytes sent decode to more than {self.max_bytes}")
        if not inflate.eof:
            raise FetchError("fetch_error", f"the {coding} coding breaks off after {len(body)} bytes")
        return body

    def connect(self, host: str, port: int, until: float) -> _PlainSocket:
        """A socket to a checked address of `host`; FetchError when an address or the port is not allowed."""
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        allowed = name.lower() in self.allow_private
        if not allowed and port not in PORTS:
            raise FetchError("refused", f"port {port} of {host}: only {sorted(PORTS)} are fetched")
        answers = _resolve(host, port, min(until, time.monotonic() + self.timeout))
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


def _resolve(host: str, port: int, until: float) -> list[tuple[Any, ...]]:
    """`getaddrinfo` within a time limit; it has none of its own, hence the thread."""
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, ValueError) as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True, name="imglish-dns").start()
    try:
        found = answers.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        raise FetchError("timeout", f"no DNS answer for {host}") from None
    if isinstance(found, Exception):
        raise FetchError("fetch_error", f"cannot resolve {host}: {found}")
    return found


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

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib would read the body of a redirect whole, whatever its size
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, clean_url(newurl))


def _failure(error: Exception) -> FetchError:
    """The status word for what urllib, http.client, ssl or the socket raised."""
    if isinstance(error, urllib.error.HTTPError):
        with contextlib.suppress(OSError):
            error.close()
        if 300 <= error.code < 400:
            return FetchError("refused", f"redirect not followed: {' '.join(str(error.msg).split())[:200]}")
        return FetchError(f"http_{error.code}", f"{error.code} {str(error.reason)[:200]}".strip())
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _failure(error.reason)
    if isinstance(error, TimeoutError):
        return FetchError("timeout", str(error) or "no answer in time")
    return FetchError("fetch_error", f"{type(error).__name__}: {str(error)[:300]}")
