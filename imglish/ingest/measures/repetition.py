"""How much of a text repeats: spans that occur again, and n-grams of words, by three published definitions.

    repeated(spans, hashes, lengths)          # Repeated: elements and characters, repeats only or all copies
    ngrams(words, hashes, lengths)            # {"top_2": ..., "dup_5_covered": ..., "dup_5_copies": ...}

An n-gram that occurs twice holds an (n-1)-gram that does, so n-grams are looked for only where shorter ones repeat:
in prose the sorting is done with after a few. What Gopher (Rae et al. 2021, appendix A) says of duplicate n-grams,
"taking care not to count characters that occur in overlapping n-grams more than once", is read in three ways:

    covered   characters of words that lie in some n-gram that occurs more than once (rae2021)
    copies    characters of all copies of such n-grams, overlaps counted again, over those of all n-grams (dolma)
    skipped   from left to right, each n-gram seen before counts and the next n - 1 words are passed over (datatrove)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imglish.ingest.measures.spans import Hashes, Ints, Spans
from imglish.seeds import mix

TOP = (2, 3, 4)
"""Sizes of which the most frequent n-gram is measured (Rae et al. 2021, table A1)."""
DUPLICATE = (5, 6, 7, 8, 9, 10)
"""Sizes of which duplicates are measured (ibid.)."""
_STEP = np.uint64(0xD6E8FEB86659FD93)
_TEXT = np.uint64(0xA0761D6478BD642F)


@dataclass(frozen=True)
class Groups:
    """Equal keys: the places of group k are `order[starts[k] : starts[k] + counts[k]]`."""

    order: Ints
    starts: Ints
    counts: Ints

    @property
    def firsts(self) -> Ints:
        """The smallest place of each group, however the sort left equal keys."""
        return np.minimum.reduceat(self.order, self.starts) if len(self.order) else self.order

    def spread(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """A value of each group for each of its places, in the order of places."""
        out = np.empty(len(self.order), values.dtype)
        out[self.order] = np.repeat(values, self.counts)
        return out


def grouped(keys: Hashes) -> Groups:
    """Places by equal keys."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(keys) else np.zeros(0, bool)
    starts = np.flatnonzero(new)
    return Groups(order, starts, np.diff(np.append(starts, len(keys))))


@dataclass(frozen=True)
class Repeated:
    """By text, int64 [texts]: occurrences after the first, their lengths; all of what occurs twice, their lengths."""

    repeats: Ints
    repeat_lengths: Ints
    copies: Ints
    copy_lengths: Ints


def repeated(spans: Spans, hashes: Hashes, lengths: Ints) -> Repeated:
    """Which spans of a text occur more than once in it."""
    groups = grouped(mix(hashes + spans.text.astype(np.uint64) * _TEXT))
    first, more = groups.firsts, groups.counts - 1
    copies = np.where(more > 0, groups.counts, 0)
    texts, length = spans.text[first], lengths[first]
    count = len(spans.bounds) - 1
    found = [np.zeros(count, np.int64) for _ in range(4)]
    for into, values in zip(found, (more, more * length, copies, copies * length), strict=True):
        np.add.at(into, texts, values)
    return Repeated(*found)


def ngrams(words: Spans, hashes: Hashes, lengths: Ints) -> Iterator[tuple[int, Ints, Groups]]:
    """For n = 2 .. 10 the places of words where an n-gram begins that occurs more than once in its text, grouped."""
    last = words.bounds[words.text + 1] if len(words) else words.starts
    places = np.arange(len(words))
    keys = hashes + words.text.astype(np.uint64) * _TEXT
    for n in range(2, DUPLICATE[-1] + 1):
        fits = places + n <= last[places]
        places, keys = places[fits], keys[fits]
        keys = mix(keys * _STEP + hashes[places + n - 1])
        groups = grouped(keys)
        many = np.asarray(groups.spread(groups.counts > 1), dtype=bool)
        places, keys = places[many], keys[many]
        yield n, places, grouped(keys)


def word_measures(words: Spans, hashes: Hashes, lengths: Ints) -> dict[str, Ints]:
    """`top_n` (characters of the most frequent n-gram times its count), `dup_n_covered`, `dup_n_copies`, `.._all`."""
    found: dict[str, Ints] = {}
    total = np.concatenate([[0], np.cumsum(lengths)])
    for n, places, groups in ngrams(words, hashes, lengths):
        size = total[places + n] - total[places]
        if n in TOP:
            found[f"top_{n}"] = _top(words, places, groups, size, total, n)
            continue
        found[f"dup_{n}_covered"] = words.sums(np.where(_covered(len(words), places, n), lengths, 0))
        copies = np.zeros(len(words.bounds) - 1, np.int64)
        np.add.at(copies, words.text[places], size)
        found[f"dup_{n}_copies"] = copies
        found[f"dup_{n}_all"] = _all_ngrams(words, total, n)
    return found


def token_measures(tokens: Spans, hashes: Hashes, lengths: Ints) -> dict[str, Ints]:
    """`token_top_n` with the blanks that join tokens, and `token_dup_n` by skipping."""
    found: dict[str, Ints] = {}
    total = np.concatenate([[0], np.cumsum(lengths)])
    joined = np.concatenate([[0], np.cumsum(lengths + 1)])
    for n, places, groups in ngrams(tokens, hashes, lengths):
        if n in TOP:
            size = joined[places + n] - joined[places] - 1
            found[f"token_top_{n}"] = _top(tokens, places, groups, size, joined, n, blank=1)
        else:
            found[f"token_dup_{n}"] = _skipped(tokens, places, groups, total[places + n] - total[places], n)
    return found


def _top(words: Spans, places: Ints, groups: Groups, size: Ints, total: Ints, n: int, blank: int = 0) -> Ints:
    """Characters of the most frequent n-gram of each text, of equals the first, times its count."""
    starts = words.bounds[:-1]
    has = np.diff(words.bounds) >= n
    found = np.zeros(len(starts), np.int64)
    found[has] = total[starts[has] + n] - total[starts[has]] - blank  # nothing repeats: the first, once
    first = groups.firsts
    texts = words.text[places[first]]
    best = np.lexsort((first, -groups.counts, texts))
    texts = texts[best]
    leader = np.concatenate([[True], texts[1:] != texts[:-1]]) if len(texts) else np.zeros(0, bool)
    chosen = best[leader]
    found[texts[leader]] = groups.counts[chosen] * size[first[chosen]]
    return found


def _covered(count: int, places: Ints, n: int) -> NDArray[np.bool_]:
    """Words that lie in an n-gram that begins at one of the places."""
    steps = np.zeros(count + 1, np.int32)
    steps[places] += 1
    np.subtract.at(steps, places + n, 1)
    return np.asarray(np.cumsum(steps[:-1]) > 0)


def _all_ngrams(words: Spans, total: Ints, n: int) -> Ints:
    """Characters of all n-grams of each text."""
    sums = np.concatenate([[0], np.cumsum(total)])
    first, last = words.bounds[:-1], np.maximum(words.bounds[1:], words.bounds[:-1] + n - 1)
    last = np.minimum(last, len(total) - 1)
    found = (sums[last + 1] - sums[np.minimum(first + n, len(total))]) - (
        sums[np.maximum(last - n + 1, first)] - sums[first]
    )
    return np.where(np.diff(words.bounds) >= n, found, 0)


def _skipped(words: Spans, places: Ints, groups: Groups, size: Ints, n: int) -> Ints:
    """Characters by datatrove's walk; only n-grams that occur twice can matter to it, so only they are walked."""
    found = [0] * (len(words.bounds) - 1)
    names = groups.spread(np.arange(len(groups.counts)))
    seen: set[int] = set()
    free = 0
    texts = words.text[places].tolist()
    for place, name, length, text in zip(places.tolist(), names.tolist(), size.tolist(), texts, strict=True):
        if place < free:
            continue
        if name in seen:
            found[text] += length
            free = place + n
        else:
            seen.add(name)
    return np.array(found, np.int64)
