"""What must not come back: record ids and URLs that `imglish forget` removed, beside landing.

    forgotten = Forgotten.read(store)
    forgotten.filtered(row, "pair")       # the row, or one with the status `forgotten` and nothing else left

`landing/forgotten.json` is read by every unit that lands rows, so a source that is read again, a list that is fetched
again and a retry all leave out what was removed, the URLs without a request. It holds record ids, SHA-256 digests of
URLs, and the patterns as they were given; it is no input of a unit's id: what landed before is changed by `forget`
itself (`imglish.forget`, docs/adr/0014).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from imglish.digests import canonical_json, record_id
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.records import Kind
from imglish.storage import Store

PATH = "landing/forgotten.json"
STATUS = "forgotten"
DETAIL = "removed by imglish forget"


@dataclass(frozen=True)
class Forgotten:
    """Record ids (hex), SHA-256 of URLs (hex), and URL patterns with `*` and `?`."""

    keys: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    _regex: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        joined = "|".join(f"(?:{pattern_regex(pattern)})" for pattern in self.patterns)
        object.__setattr__(self, "_regex", re.compile(joined) if joined else None)

    @classmethod
    def read(cls, store: Store) -> Forgotten:
        """What a store's landing must not hold; nothing when nothing was ever forgotten."""
        if not store.exists(PATH):
            return cls()
        found = json.loads(store.read(PATH))
        return cls(frozenset(found["keys"]), frozenset(found["urls"]), tuple(found["patterns"]))

    def write(self, store: Store) -> None:
        value = {"keys": sorted(self.keys), "urls": sorted(self.urls), "patterns": sorted(self.patterns)}
        store.put_as(PATH, canonical_json(value))

    def joined(self, keys: Iterable[str], urls: Iterable[str], patterns: Collection[str]) -> Forgotten:
        """With more record ids, digests of URLs and patterns."""
        every = tuple(sorted({*self.patterns, *patterns}))
        return Forgotten(self.keys | frozenset(keys), self.urls | frozenset(urls), every)

    def has_url(self, url: str | None) -> bool:
        if url is None:
            return False
        return (self._regex is not None and self._regex.search(url) is not None) or (
            bool(self.urls) and url_digest(url) in self.urls
        )

    def filtered(self, row: Row, kind: Kind) -> Row:
        """The row, or what is left of one that was forgotten: its name."""
        if self == _NOTHING or not (row.status in ("ok", TO_FETCH) or row.url):
            return row
        gone = self.has_url(row.url)
        if not gone and self.keys and row.payload is not None:
            gone = record_id("text" if kind == "text" else "image", row.payload).hex() in self.keys
        return Row(row.row, status=STATUS, detail=DETAIL, attempts=row.attempts) if gone else row

    def filtered_all(self, rows: Iterator[Row], kind: Kind) -> Iterator[Row]:
        """`filtered` of every row; the rows themselves when nothing was ever forgotten."""
        return rows if self == _NOTHING else (self.filtered(row, kind) for row in rows)


def pattern_regex(pattern: str) -> str:
    """A URL pattern as a regular expression of Python and RE2: `*` any characters, `?` one, all else itself."""
    parts = {"*": ".*", "?": "."}
    return "^(?s:" + "".join(parts.get(character) or re.escape(character) for character in pattern) + ")$"


def url_digest(url: str) -> str:
    """SHA-256 (hex) of a URL as the list spells it."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


_NOTHING = Forgotten()
