"""A hostile web server on the loopback: each path answers by a function that writes to the socket as it likes."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from PIL import Image

Answer = Callable[["Web", socket.socket], None]


class Web:
    """Serves `answers` by path on a loopback address; counts connections and requests; `over` is set when it closes."""

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.address = address
        self.answers = dict(answers or {})
        self.tls = tls
        self.connections = 0
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.over = threading.Event()
        self.listener = socket.create_server((address, port))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Web:
        self.threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(timeout=10)

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    def url(self, path: str) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}{path}"

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            client.settimeout(10)
            wrapped = self.tls.wrap_socket(client, server_side=True) if self.tls else client
            with wrapped:
                request = b""
                while b"\r\n\r\n" not in request and (data := wrapped.recv(65536)):
                    request += data
                first, *lines = request.decode("latin-1").split("\r\n")
                path = first.split(" ")[1]
                self.requests[path] += 1
                self.headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                self.answers.get(path, status(404))(self, wrapped)


def body(content: bytes, *headers: str, code: str = "200 OK") -> Answer:
    """An ordinary answer."""

    def answer(web: Web, client: socket.socket) -> None:
        lines = [f"HTTP/1.1 {code}", f"Content-Length: {len(content)}", "Connection: close", *headers]
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + content)

    return answer


def raw(data: bytes) -> Answer:
    """Exactly these bytes, then the connection closes."""
    return lambda web, client: client.sendall(data)


def status(code: int) -> Answer:
    return body(b"sorry", code=f"{code} Something")


def redirect(to: str) -> Answer:
    return body(b"", f"Location: {to}", code="302 Found")


def never(web: Web, client: socket.socket) -> None:
    """Takes the request and says nothing."""
    web.over.wait(30)


def endless(web: Web, client: socket.socket) -> None:
    """A body without end, as fast as it is taken."""
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not web.over.is_set():
        client.sendall(b"\xff\xd8\xff" * 20000)


def endless_headers(web: Web, client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while not web.over.is_set():
        client.sendall(b"X-More: " + b"x" * 60000 + b"\r\n")


def drip(web: Web, client: socket.socket) -> None:
    """A byte every 20 ms: never silent for long, never done."""
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not web.over.wait(0.02):
        client.sendall(b"\xff")


def slow_drip(web: Web, client: socket.socket) -> None:
    """A byte every second."""
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n\xff")
    while not web.over.wait(1.0):
        client.sendall(b"\xff")


def drip_headers(web: Web, client: socket.socket) -> None:
    while not web.over.wait(0.02):
        client.sendall(b"H")


def image_bytes(form: str = "JPEG", colour: tuple[int, int, int] = (200, 30, 30), side: int = 40) -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, form)
    return file.getvalue()
