"""Captions: lengths, the ones that repeat, and frequent word runs.

    captions = Captions(tables)
    captions.add(ordinal, occurrences)              # of every shard
    captions.values()["repeated"][0]                # {"text": "Image", "count": 500}

Captions are counted by their 64-bit hash (XXH3), so memory is 16 bytes for each different one of a shard; the texts of
the most frequent are then read once more. Word runs are counted in the pairs whose rank is among the lowest `SAMPLE`:
ranks are draws by record id, so the pairs do not depend on shards or order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from imglish.audit.choice import low_halves
from imglish.audit.histograms import add_all
from imglish.audit.pictures import described
from imglish.audit.tables import Tables
from imglish.audit.words import words_in
from imglish.seeds import U64, stream

REPEATED = 20
"""Captions that are named."""
SAMPLE = 100_000
"""Pairs whose captions are cut into words, about; all of them in a smaller corpus."""
RUNS = (1, 2, 3)
TOP_RUNS = 15
COLUMNS = ("kind", "key", "text")


class Captions:
    """Counts over shards."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        pairs = sum(shard.distinct["pair"] for shard in tables.manifest.shards)
        self.limit = min(2**64 - 1, SAMPLE * 2**64 // max(1, pairs))
        self.ranks = stream(0, "audit", "words")
        self.sampled = 0
        self.words: Counter[int] = Counter()
        self.characters: Counter[int] = Counter()
        self._runs: dict[int, Counter[str]] = {length: Counter() for length in RUNS}
        self._hashes: list[tuple[int, U64, np.ndarray[Any, np.dtype[np.int64]]]] = []  # shard, hashes, counts

    def add(self, ordinal: int, occurrences: pa.Table) -> None:
        """The occurrence rows of one shard."""
        rows = occurrences.filter(pc.is_valid(occurrences.column("text"))).select(["key", "text"])
        if not rows.num_rows:
            return
        captions = lines(rows.column("text"))
        add_all(self.characters, pc.utf8_length(captions).to_numpy(zero_copy_only=False))
        add_all(self.words, pc.count_substring(captions, " ").to_numpy(zero_copy_only=False) + 1)
        self._hashes.append((ordinal, *np.unique(_hashes(captions), return_counts=True)))
        chosen = self.ranks.keys(low_halves(rows.column("key").to_pylist())) <= np.uint64(self.limit)
        sampled = rows.filter(pa.array(chosen)).column("text")
        self.sampled += len(sampled)
        for caption in lines(sampled).to_pylist():
            words = words_in(caption.casefold())
            for length, counts in self._runs.items():
                counts.update(" ".join(words[n : n + length]) for n in range(len(words) - length + 1))

    def values(self) -> dict[str, Any]:
        """The finished numbers; reads the shards that hold the most repeated captions again."""
        values, counts = self._total()
        repeated = counts > 1
        order = np.lexsort((values, -counts))[:REPEATED]
        top = {int(values[place]): int(counts[place]) for place in order if counts[place] > 1}
        found = [{"text": text, "count": top[key]} for key, text in self._texts(top).items()]
        return {
            "count": int(counts.sum()),
            "different": len(values),
            "repeated_different": int(repeated.sum()),
            "repeated_count": int(counts[repeated].sum()),
            "repeated": sorted(found, key=lambda item: (-item["count"], item["text"])),
            "words": described(self.words),
            "characters": described(self.characters),
            "word_runs": {
                "occurrences": self.sampled,
                **{str(length): _top(counts) for length, counts in self._runs.items()},
            },
        }

    def _total(self) -> tuple[U64, np.ndarray[Any, np.dtype[np.int64]]]:
        """Different hashes in order, and how often each occurs."""
        if not self._hashes:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        keys = np.concatenate([keys for _, keys, _ in self._hashes])
        counts = np.concatenate([counts for _, _, counts in self._hashes])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return keys[first], np.add.reduceat(counts, first)

    def _texts(self, wanted: Iterable[int]) -> dict[int, str]:
        """The text of each hash, from the first shard that has it."""
        left = np.array(sorted(wanted), np.uint64)
        found: dict[int, str] = {}
        for ordinal, keys, _ in self._hashes:
            here = left[np.isin(left, keys)]
            if len(here):
                table = self.tables.read_shard(ordinal, ["text"])
                captions = lines(table.column("text").drop_null())
                hashes = _hashes(captions)
                found |= {int(key): captions[int(np.flatnonzero(hashes == key)[0])].as_py() for key in here}
                left = np.setdiff1d(left, here)
        return found


def lines(texts: pa.ChunkedArray) -> pa.Array:
    """Every caption of the cells, each of which holds one a line."""
    return pc.list_flatten(pc.split_pattern(texts, "\n").combine_chunks())


def _hashes(captions: pa.Array) -> U64:
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, captions.cast(pa.binary()).to_pylist()), np.uint64, len(captions))


def _top(counts: Counter[str]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP_RUNS]
    return [{"words": words, "count": count} for words, count in ordered]
