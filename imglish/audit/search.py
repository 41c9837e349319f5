"""Queries of the look page: samples by kind, source, language, key and words, and occurrences by rule.

    search = Search("corpus/manifest.json")
    page = search.samples(Query(kind="pair", words="old bridge"), count=24)
    page.rows, page.after                       # where the next page starts, None at the end

DuckDB reads the metadata tables where they lie. Samples come in the order of shards and rows, and a page ends as soon
as it is full, so a filter that many samples pass reads a few shards only. Values go to DuckDB as parameters, never as
text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imglish.audit.tables import Tables
from imglish.audit.words import connect, index_path, quoted, words_in
from imglish.errors import ManifestError

STEPS = (8, 64, 512)
"""Shards that are looked through before more of them are read at once."""
POSTINGS = 2_000
"""Hits of the index that are turned into rows at once."""

_COLUMNS = "kind, key, source, row, url, licence, language, width, height, captions, text, bytes, brightness, sharpness"


_DECIDED = "source, row, kind, verdict, rule, score, threshold, detail, other_source, other_row"


@dataclass(frozen=True)
class Query:
    """What is asked for; empty fields ask for nothing. `words` must all stand in one occurrence's captions."""

    kind: str = ""
    source: str = ""
    language: str = ""
    key: str = ""
    words: str = ""

    def terms(self) -> list[str]:
        """The words in lower case, each once."""
        return list(dict.fromkeys(words_in(self.words.lower())))


@dataclass(frozen=True)
class Page:
    """Rows of one page and the place (ordinal, row) behind which the next begins, None at the end."""

    rows: Sequence[dict[str, Any]]
    after: tuple[int, int] | None


class Search:
    """The tables of one corpus on a local disk; ManifestError as `load_manifest`, and when a table is not there."""

    def __init__(self, manifest_path: str) -> None:
        self.tables = Tables(str(manifest_path))
        store, manifest = self.tables.store, self.tables.manifest
        self.files = [str(store.path(shard.metadata.path)) for shard in manifest.shards]
        for ordinal, shard in enumerate(manifest.shards):
            if store.size(shard.metadata.path) != shard.metadata.bytes:
                raise ManifestError(
                    f"{manifest_path}: metadata of shard {ordinal} ({shard.metadata.path}) is missing or of another "
                    "size; bring it back, or make it again with 'imglish build'"
                )
        self.index = index_path(store, manifest)
        self._decisions = self._decision_files()
        self._duck = connect()
        self._duck.execute("SET parquet_metadata_cache = true")
        self._lock = threading.Lock()

    def samples(self, query: Query, count: int, after: tuple[int, int] = (0, -1)) -> Page:
        """The next `count` samples behind a place.

        Without words each row is the surviving occurrence of its sample; with words one that has them in its captions,
        and a sample comes once for each.
        """
        terms = query.terms()
        if terms and self.index is not None and query.kind in ("", "pair"):
            return self._indexed(query, terms, count, after)
        where, values = _filters(query, terms)
        found: list[dict[str, Any]] = []
        first, step = after[0], 0
        while first < len(self.files) and len(found) <= count:
            end = min(len(self.files), first + STEPS[min(step, len(STEPS) - 1)])
            behind = after[1] if first == after[0] else -1
            found += self._rows(first, end, where, values, behind, after[0], count + 1 - len(found))
            first, step = end, step + 1
        return _page(found, count)

    def sample(self, kind: str, ordinal: int, key: str) -> list[dict[str, Any]]:
        """Every occurrence of a sample, the survivor first; empty when the shard has none."""
        return self._ask(
            f"SELECT {_COLUMNS}, merged, priority, start, length FROM read_parquet(?) WHERE \"table\" = 'occurrence' "
            "AND kind = ? AND key = ? ORDER BY merged, priority, source, row",
            [self.files[ordinal], kind, key],
        )

    def story(self, occurrences: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """The decisions on some occurrences, by (source, row)."""
        if not self._decisions or not occurrences:
            return []
        marks = ", ".join("(?, ?)" for _ in occurrences)
        return self._ask(
            f"SELECT {_DECIDED} FROM read_parquet([{_listed(self._decisions)}]) WHERE (source, row) IN ({marks}) "
            "ORDER BY source, row",
            [value for place in occurrences for value in place],
        )

    def decided(self, rule: str, source: str, verdict: str, count: int, offset: int) -> list[dict[str, Any]]:
        """Occurrences that a rule decided, `count` of them behind the first `offset`."""
        if not self._decisions:
            return []
        asked = {"rule": rule, "source": source, "verdict": verdict}
        given = {name: value for name, value in asked.items() if value}
        where = " AND ".join(f"{name} = ?" for name in given) or "true"
        return self._ask(
            f"SELECT {_DECIDED} FROM read_parquet([{_listed(self._decisions)}]) WHERE {where} "
            f"LIMIT {int(count)} OFFSET {int(offset)}",
            list(given.values()),
        )

    def close(self) -> None:
        self._duck.close()

    def _rows(
        self, first: int, end: int, where: str, values: Sequence[Any], behind: int, ordinal: int, count: int
    ) -> list[dict[str, Any]]:
        rows = self._ask(
            f"SELECT {_COLUMNS}, file_row_number AS place, filename FROM "
            f"read_parquet([{_listed(self.files[first:end])}], filename=true, file_row_number=true) "
            f"WHERE \"table\" = 'occurrence' AND {where} AND (filename <> ? OR file_row_number > ?) LIMIT {int(count)}",
            [*values, self.files[ordinal], behind],
        )
        numbers = {path: number for number, path in enumerate(self.files[first:end], first)}
        return [{**row, "ordinal": numbers[row["filename"]]} for row in rows]

    def _indexed(self, query: Query, terms: Sequence[str], count: int, after: tuple[int, int]) -> Page:
        """As `samples`, from the postings of the words; the rarest word's are read first."""
        where, values = _filters(query, [])
        found: list[dict[str, Any]] = []
        place: tuple[int, int] | None = after
        while place is not None and len(found) <= count:
            hits = self._postings(terms, place)
            found += self._of_hits(hits, where, values, count + 1 - len(found))
            place = hits[-1] if len(hits) == POSTINGS else None
        return _page(found, count)

    def _postings(self, terms: Sequence[str], after: tuple[int, int]) -> list[tuple[int, int]]:
        """The next places (ordinal, row) where all words stand."""
        index = f"read_parquet('{quoted(str(self.index))}')"
        behind = "(ordinal > ? OR (ordinal = ? AND place > ?))"
        others = " ".join(
            f"SEMI JOIN (SELECT ordinal, place FROM {index} WHERE word = ? AND {behind}) USING (ordinal, place)"
            for _ in terms[1:]
        )
        ordered = sorted(terms, key=self._frequency)
        values = [value for term in ordered for value in (term, after[0], after[0], after[1])]
        rows = self._ask(
            f"SELECT ordinal, place FROM (SELECT ordinal, place FROM {index} WHERE word = ? AND {behind}) {others} "
            f"ORDER BY ordinal, place LIMIT {POSTINGS}",
            values,
        )
        return [(row["ordinal"], row["place"]) for row in rows]

    def _frequency(self, term: str) -> int:
        index = f"read_parquet('{quoted(str(self.index))}')"
        return int(self._ask(f"SELECT count(*) AS n FROM {index} WHERE word = ?", [term])[0]["n"])

    def _of_hits(
        self, hits: Sequence[tuple[int, int]], where: str, values: Sequence[Any], count: int
    ) -> list[dict[str, Any]]:
        """Rows at places, shard by shard, until there are enough."""
        by_shard: dict[int, list[int]] = {}
        for ordinal, place in hits:
            by_shard.setdefault(ordinal, []).append(place)
        found: list[dict[str, Any]] = []
        for ordinal, places in by_shard.items():
            marks = ", ".join(map(str, places))
            rows = self._ask(
                f"SELECT {_COLUMNS}, file_row_number AS place FROM read_parquet(?, file_row_number=true) WHERE "
                f"file_row_number IN ({marks}) AND {where} ORDER BY place LIMIT {int(count - len(found))}",
                [self.files[ordinal], *values],
            )
            found += [{**row, "ordinal": ordinal} for row in rows]
            if len(found) >= count:
                break
        return found

    def _decision_files(self) -> list[str]:
        store = self.tables.store
        return [str(store.path(file.path)) for file in self.tables.manifest.decisions.files if store.exists(file.path)]

    def _ask(self, text: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self._lock:
            found = self._duck.execute(text, list(values))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _filters(query: Query, terms: Sequence[str]) -> tuple[str, list[Any]]:
    """Conditions on a row and their values; words are looked for in the text."""
    given = {name: getattr(query, name) for name in ("kind", "source", "language") if getattr(query, name)}
    parts, values = [f"{name} = ?" for name in given], list(given.values())
    if not terms:
        parts.append("NOT merged")
    if query.key:
        parts.append("key >= ? AND key < ?")  # shards are ranges of keys, so statistics rule most of them out
        values += [query.key.lower(), query.key.lower() + "g"]
    for term in terms:
        parts += ["contains(lower(text), ?)", "regexp_matches(lower(text), ?)"]
        values += [term, rf"(^|[^\p{{L}}\p{{M}}\p{{N}}_]){re.escape(term)}($|[^\p{{L}}\p{{M}}\p{{N}}_])"]
    return " AND ".join(parts) or "true", values


def _page(found: Sequence[dict[str, Any]], count: int) -> Page:
    rows = found[:count]
    more = len(found) > count
    return Page(rows, (rows[-1]["ordinal"], rows[-1]["place"]) if more else None)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(f"'{quoted(path)}'" for path in paths)
