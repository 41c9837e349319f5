"""robots.txt: fetched once per origin into a table, read by the fetch, parsed by Protego, judged by RFC 9309.

    table = fetch_robots(["https://example.org"], config)         # one row per origin, schema ROBOTS
    robots = Robots(table, "imglish")
    robots.refusal("https://example.org/private/cat.jpg")          # FetchError("robots_disallowed", ...), or None
    robots.delay("https://example.org/cat.jpg")                    # seconds of Crawl-delay, 0.0 where there is none

What RFC 9309 says of failures (section 2.3.1): an answer 4xx or more than five redirects means that there are no
rules; 5xx, no answer, or an answer that the guard refuses means that everything is disallowed. 429 counts as 5xx here,
as it does for Google. Of a longer file the first 500 KiB count. An origin that is not in the table (where a redirect
leads to) has no rules that we know.
"""

from __future__ import annotations

import hashlib
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from imglish.errors import FetchError, SourceError
from imglish.ingest.addresses import clean_url
from imglish.ingest.guard import Guard, Seen
from imglish.recipe import FetchConfig
from imglish.records import table

ROBOTS_BYTES = 500 << 10
"""RFC 9309 section 2.5: parsers handle at least 500 KiB."""
MAX_DELAY = 30.0
"""Longest Crawl-delay that is kept to, seconds; the directive is no part of RFC 9309."""

ROBOTS = pa.schema(
    [
        pa.field("origin", pa.string(), nullable=False),  # scheme://host[:port]
        pa.field("verdict", pa.string(), nullable=False),  # rules, none or unreachable
        pa.field("detail", pa.string()),  # why there are none
        pa.field("url", pa.string()),  # where it was found, after redirects
        pa.field("sha256", pa.binary()),  # of the body
        pa.field("body", pa.binary()),
        pa.field("fetched", pa.int64(), nullable=False),  # seconds since 1970
    ]
)


def origin_of(url: str) -> str:
    """scheme://host[:port] of a cleaned URL."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def agent_of(user_agent: str) -> str:
    """The product token by which robots.txt and X-Robots-Tag name us."""
    return user_agent.partition("/")[0].strip().lower()


def fetch_robots(origins: Sequence[str], config: FetchConfig) -> pa.Table:
    """One row per origin, in their order; each is asked once, retries as for images. SourceError without Protego."""
    _protego()
    guard = Guard(
        user_agent=config.user_agent,
        max_bytes=ROBOTS_BYTES,
        timeout=config.timeout,
        deadline=config.deadline,
        allow_private=config.allow_private,
        cut=True,
    )
    if not origins:
        return ROBOTS.empty_table()
    with ThreadPoolExecutor(min(config.threads, len(origins)), thread_name_prefix="imglish-robots") as pool:
        return table(list(pool.map(lambda origin: _one(guard, origin), origins)), ROBOTS)


def _one(guard: Guard, origin: str) -> dict[str, Any]:
    seen = Seen()
    row: dict[str, Any] = {"origin": origin, "verdict": "rules", "fetched": int(time.time())}
    try:
        body = guard.fetch(clean_url(f"{origin}/robots.txt"), seen=seen).body
        row |= {"body": body, "sha256": hashlib.sha256(body).digest()}
    except FetchError as error:
        absent = error.reason == "redirects" or (error.reason.startswith("http_4") and error.reason != "http_429")
        barred = error.reason == "refused" and seen.code is None and origin_of(seen.url) == origin  # so is its image
        row |= {"verdict": "none" if absent or barred else "unreachable", "detail": str(error)[:300]}
    return row | {"url": seen.url}


class Robots:
    """The rules of some origins for one agent; thread-safe."""

    def __init__(self, rows: pa.Table | None, agent: str) -> None:
        self.agent = agent
        self._rows = {} if rows is None else {row["origin"]: row for row in rows.to_pylist()}
        self._parsed: dict[str, Any] = {}

    def refusal(self, url: str) -> FetchError | None:
        """Why a cleaned URL must not be fetched, or None."""
        origin = origin_of(url)
        row = self._rows.get(origin)
        if row is None or row["verdict"] == "none":
            return None
        if row["verdict"] == "unreachable":
            return FetchError("robots_unreachable", f"{origin}/robots.txt: {row['detail']}")
        if self._rules(origin).can_fetch(url, self.agent):
            return None
        return FetchError("robots_disallowed", f"by {row['url']}, SHA-256 {row['sha256'].hex()[:16]}")

    def delay(self, origin: str) -> float:
        """Seconds of Crawl-delay for us, 0.0 to MAX_DELAY."""
        row = self._rows.get(origin)
        wanted = self._rules(origin).crawl_delay(self.agent) if row and row["verdict"] == "rules" else None
        return min(max(0.0, float(wanted or 0.0)), MAX_DELAY)

    def _rules(self, origin: str) -> Any:
        if origin not in self._parsed:
            body = self._rows[origin]["body"] or b""
            self._parsed[origin] = _protego().parse(body.decode("utf-8", "replace"))
        return self._parsed[origin]


def origins_of(urls: Iterable[str]) -> list[str]:
    """The distinct origins of URLs that can be fetched at all, in byte order."""
    found: set[str] = set()
    for url in urls:
        try:
            found.add(origin_of(clean_url(url)))
        except FetchError:
            continue
    return sorted(found)


def _protego() -> Any:
    try:
        from protego import Protego
    except ImportError:
        raise SourceError("robots.txt needs Protego; pip install 'imglish[fetch]'") from None
    return Protego
