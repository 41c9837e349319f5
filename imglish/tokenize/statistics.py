"""What a text tokenizer does to each language: fertility, unknown ids, compression.

    counts = language_counts("text", languages, {"words": words, ...})    into the receipt of a unit
    text_statistics(counts_of(receipts))["text"]["en"]["ids_per_word"]

Fertility is ids per word, the words being those that annotate counted (of the text as it was received) or, in captions,
what stands between blanks. Compression is UTF-8 bytes per id. `<s>` and `</s>` count as ids, as the model sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

UNDETERMINED = "und"
"""ISO 639-2 code for a language that nothing determined."""
_FIGURES = ("texts", "words", "bytes", "ids", "unknown")

Figures = Mapping[str, Sequence[int] | pa.ChunkedArray]
"""Words, bytes, ids and unknown ids of every document or caption."""


def language_counts(what: str, languages: pa.Array | pa.ChunkedArray, figures: Figures) -> dict[str, int]:
    """Sums for a receipt, named `language|<what>|<language>|<figure>`; `what` is "text" or "caption".

    A missing language is `UNDETERMINED`, a missing figure 0.
    """
    named = pc.fill_null(languages.cast(pa.string()), UNDETERMINED)
    columns = {name: figures[name] for name in _FIGURES[1:]}
    grouped = pa.table({"language": named, **columns}).group_by("language")
    sums = grouped.aggregate([("language", "count"), *((name, "sum") for name in columns)]).to_pylist()
    return {
        f"language|{what}|{row['language']}|{name}": int(row[key] or 0)
        for row in sums
        for name, key in zip(_FIGURES, ["language_count", *(f"{name}_sum" for name in columns)], strict=True)
    }


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
