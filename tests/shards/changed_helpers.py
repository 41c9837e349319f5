"""A packed corpus to change, and all that it holds as plain values."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.recipe import Recipe
from imglish.shards.manifest import build_manifest
from imglish.shards.pack import pack
from tests.shards.corpus_helpers import facts
from tests.shards.pack_helpers import PlainEngine, Tables, mixed_tables, recipe, store_with

READER = Path(__file__).parents[2] / "docs" / "reference_reader.py"
Held = tuple[str, str, str, dict[str, Any]]
"""Split, kind, key, values by field."""


def packed(root: Path, wanted: Recipe | None = None, tables: Sequence[Tables] | None = None, **about: Any) -> str:
    """A corpus of two landing files under `root`; the path of its manifest."""
    wanted = wanted or recipe()
    store, inputs = store_with(root, mixed_tables(wanted) if tables is None else tables)
    receipts = pack(store, PlainEngine(), wanted, inputs, {})
    manifest = build_manifest(receipts, name="small", version="1", **facts(**about))
    store.put_as("manifest.json", manifest.to_json())
    return str(root / "manifest.json")


def reference_samples(manifest_path: str) -> Iterator[Held]:
    """Everything in a corpus, by the reader in docs/ that knows nothing of this package."""
    spec = importlib.util.spec_from_file_location("reference_reader", READER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield from module.samples(manifest_path)


def text_ids(samples: Sequence[Held], split: str) -> list[int]:
    """All ids of a split that are no padding, sorted."""
    blocks = (values["ids"] for where, kind, _, values in samples if (where, kind) == (split, "text"))
    return sorted(number for block in blocks for number in block if number != 1)


@dataclass(frozen=True)
class Colours:
    """A visual tokenizer whose codes are sums of pixels; `salt` makes another one."""

    salt: int = 0
    size: int = 16
    patch: int = 8
    codes: int = 97

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.salt} {self.size} {self.patch}".encode()).hexdigest()

    @property
    def grid(self) -> tuple[int, int]:
        return self.size // self.patch, self.size // self.patch

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        count, side = len(images), self.size // self.patch
        patches = images.reshape(count, side, self.patch, side, self.patch, 3).astype(np.int64)
        return ((patches.sum(axis=(2, 4, 5)) + self.salt) % self.codes).reshape(count, -1).astype(np.uint16)


def keys_of(samples: Sequence[Held], kind: str) -> list[str]:
    return [key for _, found, key, _ in samples if found == kind]
