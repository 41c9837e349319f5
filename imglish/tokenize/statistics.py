"""What a text tokenizer does to each language: fertility, unknown ids, compression.

    counts = language_counts("text", [("en", 120, 700, ids), ...])        into the receipt of a unit
    text_statistics(counts_of(receipts))["text"]["en"]["ids_per_word"]

Fertility is ids per word, the words being those that annotate counted (of the text as it was received) or, in captions,
what stands between blanks. Compression is UTF-8 bytes per id. `<s>` and `</s>` count as ids, as the model sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNDETERMINED = "und"
"""ISO 639-2 code for a language that nothing determined."""
UNKNOWN_ID = 3
_FIGURES = ("texts", "words", "bytes", "ids", "unknown")

Encoded = tuple[str | None, int, int, int, int]
"""Language, words, bytes, ids, unknown ids of one document or caption."""


def measured(language: str | None, words: int, size: int, ids: NDArray[np.uint16]) -> Encoded:
    """What is counted of one text."""
    return language, words, size, len(ids), int(np.count_nonzero(ids == UNKNOWN_ID))


def language_counts(what: str, texts: Iterable[Encoded]) -> dict[str, int]:
    """Sums for a receipt, named `language|<what>|<language>|<figure>`; `what` is "text" or "caption"."""
    found: dict[str, int] = {}
    for language, *figures in texts:
        for name, value in zip(_FIGURES, (1, *figures), strict=True):
            key = f"language|{what}|{language or UNDETERMINED}|{name}"
            found[key] = found.get(key, 0) + int(value)
    return found


def text_statistics(counts: Mapping[str, int]) -> dict[str, Any]:
    """Figures and ratios by what and language, sorted; ratios have 4 decimals."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, value in sorted(counts.items()):
        if key.startswith("language|"):
            _, what, language, figure = key.split("|")
            found.setdefault(what, {}).setdefault(language, {})[figure] = value
    for languages in found.values():
        for row in languages.values():
            row["ids_per_word"] = round(row["ids"] / max(1, row["words"]), 4)
            row["unknown_share"] = round(row["unknown"] / max(1, row["ids"]), 4)
            row["bytes_per_id"] = round(row["bytes"] / max(1, row["ids"]), 4)
    return found
