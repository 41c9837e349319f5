"""Presets: lists of rules under one name, `preset:NAME` in a recipe's `decide.rules`."""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    "basic": ("payload", "image_size", "image_aspect", "caption_length", "text_length", "language"),
    "gopher": ("payload", "gopher_repetition@rae2021", "gopher_quality@rae2021"),
    "dolma": ("payload", "gopher_quality@dolma", "gopher_repetition@dolma"),
    "c4": ("payload", "language", "c4@reference"),
    "fineweb": (
        "payload",
        "language",
        "gopher_repetition@datatrove",
        "gopher_quality@datatrove",
        "c4@fineweb",
        "fineweb@datatrove",
        "pii@redact",
    ),
    "datacomp": ("payload", "datacomp_basic"),
    "laion": ("payload", "laion", "nsfw"),
    "cc12m": ("payload", "cc12m"),
    "coyo": ("payload", "coyo", "nsfw"),
}
"""Each source says which of its rules are ours and which are left out (docs/rules.md)."""
