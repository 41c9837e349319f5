"""Presets: lists of rules under one name, `preset:NAME` in a recipe's `decide.rules`."""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    "basic": ("payload", "image_size", "image_aspect", "caption_length", "text_length", "language"),
}
"""Each source says which of its rules are ours and which are left out (docs/rules.md)."""
