"""What `measures.texts` says of a text, written out plainly: one text, Python's own strings, no numpy.

Formulas follow datatrove 0.10 (filters of Gopher and FineWeb), dolma's tagger `gopher_v1` and Rae et al. 2021.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

STOP = {"the", "be", "to", "of", "and", "that", "have", "with"}


def repeats(items: Sequence[str]) -> tuple[int, int]:
    """Occurrences after the first and their characters, as datatrove's `find_duplicates`."""
    seen: set[str] = set()
    again = [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def skipped(words: Sequence[str], n: int) -> int:
    """Datatrove's `find_all_duplicate`."""
    seen: set[tuple[str, ...]] = set()
    found = place = 0
    while place < len(words) - n + 1:
        gram = tuple(words[place : place + n])
        if gram in seen:
            found += sum(map(len, gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return found


def plain(text: str, tokens: Sequence[str]) -> dict[str, Any]:
    words, lines = text.split(), text.split("\n")
    filled = [line for line in lines if line.strip()]
    body = lines[:-1] if lines[-1] == "" else lines
    runs, paragraphs = re.split("\n+", text), re.split("\n{2,}", text.strip())
    copies = {line: count for line, count in Counter(lines).items() if count > 1}
    found: dict[str, Any] = {
        "text_words": len(words),
        "word_characters": sum(map(len, words)),
        "word_length_median": float(median(map(len, words))) if words else 0.0,
        "words_alpha": sum(any(c.isalpha() for c in word) for word in words),
        "words_symbol": sum("#" in word or "…" in word for word in words),
        "stop_words": sum(word in STOP for word in words),
        "stop_words_distinct": len(STOP & set(words)),
        "tokens": len(tokens),
        "tokens_alpha": sum(any(c.isalpha() for c in token) for token in tokens),
        "stop_tokens_distinct": len(STOP & set(tokens)),
        "text_characters": len(text),
        "newlines": text.count("\n"),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(body),
        "lines_filled": len(filled),
        "lines_bullet": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "lines_bullet_plain": sum(line.startswith(("*", "-")) for line in lines),
        "lines_ellipsis": sum(line.rstrip().endswith(("...", "…")) for line in lines),
        "lines_ellipsis_plain": sum(line.endswith("…") for line in lines),
        "lines_quoted": sum(line.endswith((".", "'", '"', "!", "?")) for line in filled),
        "lines_short": sum(len(line) <= 30 for line in filled),
        "runs": len(runs),
        "run_repeats": repeats(runs)[0],
        "run_repeat_characters": repeats(runs)[1],
        "paragraphs": len(paragraphs),
        "paragraph_repeats": repeats(paragraphs)[0],
        "paragraph_repeat_characters": repeats(paragraphs)[1],
        "line_copies": sum(copies.values()),
        "line_copy_characters": sum(len(line) * count for line, count in copies.items()),
        "filled_repeat_characters": repeats(filled)[1],
    }
    for n in range(2, 11):
        found |= _grams(words, tokens, n)
    return found


def _grams(words: Sequence[str], tokens: Sequence[str], n: int) -> dict[str, int]:
    grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
    counted = Counter(grams)
    if n <= 4:
        joined = Counter(" ".join(tokens[k : k + n]) for k in range(len(tokens) - n + 1))
        top, count = counted.most_common(1)[0] if counted else ((), 0)
        text, times = joined.most_common(1)[0] if joined else ("", 0)
        return {f"top_{n}": count * sum(map(len, top)), f"token_top_{n}": times * len(text)}
    covered = {k + j for k, gram in enumerate(grams) if counted[gram] > 1 for j in range(n)}
    return {
        f"dup_{n}_covered": sum(len(words[k]) for k in covered),
        f"dup_{n}_copies": sum(count * sum(map(len, gram)) for gram, count in counted.items() if count > 1),
        f"dup_{n}_all": sum(sum(map(len, gram)) for gram in grams),
        f"token_dup_{n}": skipped(tokens, n),
    }
