"""Corpora behind URLs of this machine: an HTTP server of ranges that misbehaves on demand, and shards of some MB."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from imglish.shards.manifest import Manifest, build_manifest
from imglish.shards.ranges import Retry
from imglish.shards.samples import ImageSample, PairSample
from imglish.storage import Store
from tests.shards.corpus_helpers import document, facts, key, numbers, put_shard

QUICK = Retry(attempts=4, pause=0.001, timeout=0.5)
Fault = str | None


@dataclass
class Log:
    """What a server was asked for: (path, first byte, bytes sent) of every range."""

    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    fault: Callable[[str, int], Fault] = lambda path, attempt: None
    """(path, how often this very range was asked for before) -> "503", "short", "reset", "stall", "403", "whole"."""

    def sent(self, suffix: str = ".tar") -> int:
        return sum(length for path, _, length in self.ranges if path.endswith(suffix))

    def paths(self, suffix: str = ".tar") -> set[str]:
        return {path for path, _, _ in self.ranges if path.endswith(suffix)}


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again, for 30 seconds at most."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, Log]]:
    """A folder over HTTP with ranges; the URL of the folder, and its log."""
    log = Log()
    asked: dict[tuple[str, str], int] = {}
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def _answer(self, head: bool) -> None:
            file = root / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            wanted = self.headers.get("Range")
            fault = None
            if wanted is not None and not head:
                place = (self.path, wanted)
                fault = log.fault(self.path, asked.get(place, 0))
                asked[place] = asked.get(place, 0) + 1
            if fault in ("503", "403"):
                self.send_error(int(fault))
                return
            size = file.stat().st_size
            start, end = 0, size
            if wanted is not None and fault != "whole":
                first, last = wanted.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1, size)
                if start >= size:
                    self.send_error(416)
                    return
            with file.open("rb") as opened:
                opened.seek(start)
                data = b"" if head else opened.read(end - start)
            self.send_response(200 if wanted is None or fault == "whole" else 206)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if fault == "reset":
                self.close_connection = True
                return
            if fault == "stall":
                self.wfile.write(data[:10])
                self.wfile.flush()
                release.wait(30)
                self.close_connection = True
                return
            if fault == "short":
                self.close_connection = True
                data = data[: len(data) // 2]
            if wanted is not None:
                log.ranges.append((self.path, start, len(data)))
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            pass  # clients that went away are part of these tests

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def noise_jpegs(count: int, side: int = 160) -> list[bytes]:
    """Pictures that do not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return [simplejpeg.encode_jpeg(one, 90, "RGB", "420", fastdct=False) for one in pixels]


def large_corpus(root: Path, shards: int = 3, each: int = 100, ids: int = 300_000) -> Manifest:
    """Train shards of several MB: `each` pairs and images, and about ids / 512 blocks."""
    store = Store(root)
    jpegs = noise_jpegs(8)
    view = np.array([[0, 0, 96, 80, 0], [8, 20, 100, 120, 1]], dtype=np.uint16)
    receipts = []
    for shard in range(shards):
        made = range(2 * each * shard, 2 * each * (shard + 1))
        ordered = sorted((key(number), number) for number in made)
        pairs = [
            PairSample(name, jpegs[n % 8], [f"caption {n}"], [document(n, 6)], view, numbers(2, 4, seed=n, high=64))
            for name, n in ordered[::2]
        ]
        images = [ImageSample(name, jpegs[n % 8], view, numbers(2, 4, seed=n, high=64)) for name, n in ordered[1::2]]
        receipts.append(put_shard(store, "train", pairs, images, [document(shard, ids)]))
    manifest = build_manifest(receipts, name="large", version="1", **facts())
    store.put_as("manifest.json", manifest.to_json())
    return manifest
