"""A web server on this machine that answers like the open web: with photographs, and with everything that goes wrong.

    with PhotographServer(folder) as server:       # http://127.0.0.1:18377/photographs/A001.jpeg
        ...

It serves the demo's URL list, so that its photographs take the same way into landing as any others. It listens on the
loopback address only, knows only the files that it saw when it was made, and answers `BAD_PATHS` badly on purpose.
"""

from __future__ import annotations

import errno
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from imglish.errors import SourceError

HOST = "127.0.0.1"
PORT = 18377
"""Where the demo's recipe expects it; if taken, the next free one of PORTS_TRIED."""
PORTS_TRIED = 20
BAD_PATHS = {
    "/bad/not-there.jpeg": "404: Not Found",
    "/bad/broken.jpeg": "500: Internal Server Error",
    "/bad/a-page.jpeg": "an HTML page that calls itself image/jpeg",
    "/bad/silent.jpeg": "never answers",
    "/bad/truncated.jpeg": "the first half of a photograph",
    "/bad/empty.jpeg": "no bytes at all",
}
_PAGE = b"<!DOCTYPE html><title>Sign in</title><p>Please sign in to see this picture.</p>\n"


class PhotographServer:
    """Serves the files of a folder below `/photographs/`; a context manager that runs it.

    The port is bound at once (`port`, `address`, `url` are known), requests are answered inside `with`; leaving it
    or `close` frees the port. Raises SourceError when no port is free.
    """

    def __init__(self, folder: Path, port: int = PORT) -> None:
        photographs = {f"/photographs/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
        self._server = _bind(photographs, port)
        self._thread: threading.Thread | None = None
        self.port = int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """host:port, as `fetch.allow_private` wants it."""
        return f"{HOST}:{self.port}"

    def url(self, name: str) -> str:
        """The URL of a photograph by its file name."""
        return f"http://{self.address}/photographs/{quote(name)}"

    def bad_urls(self) -> list[str]:
        """One URL for each of BAD_PATHS."""
        return [f"http://{self.address}{path}" for path in BAD_PATHS]

    def __enter__(self) -> PhotographServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering and free the port; harmless when done twice."""
        self._server.stopping.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a fetcher connects many times at once

    def __init__(self, photographs: dict[str, Path], port: int) -> None:
        self.photographs = photographs
        self.stopping = threading.Event()
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that hangs up is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30  # seconds that a connection may idle

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in self.server.photographs:
            self._send(self.server.photographs[path].read_bytes())
        elif path == "/bad/broken.jpeg":
            self.send_error(500)
        elif path == "/bad/a-page.jpeg":
            self._send(_PAGE)
        elif path == "/bad/silent.jpeg":
            self.server.stopping.wait()
        elif path == "/bad/truncated.jpeg":
            whole = next(iter(self.server.photographs.values())).read_bytes()
            self._send(whole[: len(whole) // 2])
        elif path == "/bad/empty.jpeg":
            self._send(b"")
        else:
            self.send_error(404)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: landing records what happened to every URL."""


def _bind(photographs: dict[str, Path], port: int) -> _Server:
    for candidate in range(port, port + PORTS_TRIED):
        try:
            return _Server(photographs, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SourceError(f"cannot listen on {HOST}:{candidate}: {error}") from None
    raise SourceError(f"ports {port} to {port + PORTS_TRIED - 1} of {HOST} are all taken; free one of them")
