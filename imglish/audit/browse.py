"""The look page: search and leaf through a corpus in a browser, on this machine only.

    with LookServer("corpus/manifest.json") as server:
        print(server.url)                       # http://127.0.0.1:PORT/
        server.serve_forever()

It listens on loopback, answers GET and HEAD only, reads and never writes. A request whose Host is not this server's own
name is refused, so no page of the web can read the corpus through the visitor's browser; no page has a script, and a
content security policy forbids any. Everything that came from outside is escaped and stripped of control characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

from imglish.audit.browse_sample import Pictures, sample_page
from imglish.audit.common import clean, require, template
from imglish.audit.search import Query, Search
from imglish.audit.view import ROWS, f, s, table
from imglish.errors import ImglishError
from imglish.records import KINDS, Kind
from imglish.shards import open_corpus

COUNT = 24
"""Samples on a page."""
HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
VERDICTS = ("keep", "merge", "drop")


class LookServer:
    """A server on a free port of loopback, or on `port`; ManifestError and StorageError when the corpus is not here."""

    def __init__(self, manifest_path: str, port: int = 0) -> None:
        require("jinja2")
        self.search = Search(manifest_path)
        self.corpus = open_corpus(manifest_path)
        self.pictures = Pictures(self.corpus)
        try:
            self._http = _Server((HOST, port), _Handler)
        except OSError as error:
            raise ImglishError(
                f"port {port} cannot be used: {error.strerror}; leave --port out for a free one"
            ) from None
        self._http.look = self

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._http.server_port}/"

    def __enter__(self) -> LookServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.server_close()
        self.search.close()

    def serve_forever(self) -> None:
        """Answer until `stop` or an interrupt."""
        self._http.serve_forever()

    def stop(self) -> None:
        self._http.shutdown()

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """What the forms offer."""
        manifest = self.search.tables.manifest
        rules = {str(rule["rule"]) for rule in manifest.decisions.rules} | set(manifest.drops) | {"exact_duplicate@1"}
        return {
            "kind": list(KINDS),
            "source": sorted(manifest.sources),
            "rule": sorted(rules),
            "verdict": list(VERDICTS),
        }

    def home(self, asked: Mapping[str, str]) -> str:
        """The page of samples."""
        query = Query(**{name: asked.get(name, "")[:200] for name in ("kind", "source", "language", "key", "words")})
        after = _place(asked.get("after", ""))
        page = self.search.samples(query, COUNT, after)
        more = {name: value for name, value in vars(query).items() if value}
        return self._page(
            "look.html",
            query=query,
            page=page,
            cards=[self._card(row) for row in page.rows],
            next=None if page.after is None else "/?" + urlencode({**more, "after": "{}:{}".format(*page.after)}),
            first="/?" + urlencode(more) if after != (0, -1) else None,
            indexed=self.search.index is not None,
        )

    def _card(self, row: Mapping[str, Any]) -> dict[str, Any]:
        place = f"{row['kind']}/{row['ordinal']}/{row['key']}"
        lines = (row["text"] or "").split("\n")
        return {
            "row": row,
            "url": f"/sample/{place}",
            "picture": f"/stored/{place}.jpg",
            "caption": lines[0],
            "more": len(lines) - 1,
        }

    def decided(self, asked: Mapping[str, str]) -> str:
        """The page of occurrences by what was decided on them."""
        rule, source, verdict = (asked.get(name, "")[:200] for name in ("rule", "source", "verdict"))
        offset = int(asked["from"]) if re.fullmatch(r"\d{1,9}", asked.get("from", "")) else 0
        rows = self.search.decided(rule, source, verdict, ROWS + 1, offset)
        more = {name: value for name, value in (("rule", rule), ("source", source), ("verdict", verdict)) if value}
        return self._page(
            "decided.html",
            rule=rule,
            source=source,
            verdict=verdict,
            table=decision_table("Occurrences", rows[:ROWS]),
            next="/decided?" + urlencode({**more, "from": offset + ROWS}) if len(rows) > ROWS else None,
            first="/decided?" + urlencode(more) if offset else None,
        )

    def sample(self, kind: str, ordinal: int, key: str) -> str | None:
        """The page of one sample, None when there is none."""
        if not 0 <= ordinal < len(self.search.files):
            return None
        rows = self.search.sample(kind, ordinal, key)
        if not rows:
            return None
        story = self.search.story([(row["source"], row["row"]) for row in rows])
        facts = sample_page(self.corpus, kind, ordinal, key, rows)
        return self._page(
            "sample.html", **facts, rows=rows, story=decision_table("What was decided on its occurrences", story)
        )

    def _page(self, name: str, **values: Any) -> str:
        manifest = self.search.tables.manifest
        title = f"{manifest.name}@{manifest.version}"
        return template(name, choices=self.choices, corpus=title, digest=manifest.digest, **values)


def decision_table(title: str, rows: Any) -> Any:
    """Decisions as a table."""
    return table(
        title,
        ["source", "row", "kind", "verdict", "rule", "score", "threshold", "detail", "survivor"],
        (
            [
                *(s(row[name]) for name in ("source", "row", "kind", "verdict", "rule")),
                f(row["score"]),
                f(row["threshold"]),
                s(row["detail"], 200),
                s(f"{row['other_source']}/{row['other_row']}" if row["other_row"] else ""),
            ]
            for row in rows
        ),
    )


def _place(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6}):(\d{1,12})", text)
    return (int(found[1]), int(found[2])) if found else (0, -1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    look: LookServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on the terminal for a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    """Routes of one request."""

    server_version, sys_version = "imglish", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        port = cast(_Server, self.server).server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(HTTPStatus.FORBIDDEN, b"this page is for the browser of this machine\n", "text/plain")
            return
        try:
            status, data, media = self._route()
        except (ImglishError, ValueError, require("duckdb").Error) as error:
            page = template("error.html", corpus="", said=clean(f"{type(error).__name__}: {error}", 600))
            status, data, media = HTTPStatus.INTERNAL_SERVER_ERROR, page.encode(), "text/html"
        self._answer(status, data, media)

    do_HEAD = do_GET  # noqa: N815

    def _route(self) -> tuple[HTTPStatus, bytes, str]:
        look = cast(_Server, self.server).look
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query, max_num_fields=20).items()}
        pages: dict[str, Callable[[Mapping[str, str]], str]] = {"/": look.home, "/decided": look.decided}
        found: str | bytes | None = pages[url.path](asked) if url.path in pages else None
        media = "text/html"
        place = re.fullmatch(r"/([a-z]+)/(pair|image|text)/(\d{1,6})/([0-9a-f]{32})(\.jpg|\.png)?", url.path)
        if place is not None and place[1] == "sample" and not place[5]:
            found = look.sample(place[2], int(place[3]), place[4])
        elif place is not None and place[5]:
            media = "image/jpeg" if place[5] == ".jpg" else "image/png"
            found = look.pictures.get(place[1], cast(Kind, place[2]), int(place[3]), place[4], asked.get("view", "0"))
        if found is None:
            page = template("error.html", corpus="", said="There is nothing here.")
            return HTTPStatus.NOT_FOUND, page.encode(), "text/html"
        return HTTPStatus.OK, found if isinstance(found, bytes) else found.encode(), media

    def _answer(self, status: HTTPStatus, data: bytes, media: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{media}; charset=utf-8" if media.startswith("text/") else media)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""
