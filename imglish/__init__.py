"""Imglish: a data-first pretraining toolkit for BEiT-3.

    corpus = imglish.open_corpus("corpus/manifest.json")
    for batch in imglish.Loader(corpus, batch={"pair": 8, "image": 8, "text": 8}):
        batch["pair"].images, batch["pair"].codes, batch["pair"].ids

Names are loaded when they are first used, so importing the package is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imglish import model, shards, tokenize
    from imglish.ingest.rules import Drop, measure, rule
    from imglish.shards.loader import Loader
    from imglish.shards.masks import Masks
    from imglish.shards.reader import Corpus, open_corpus

__version__ = "0.1.0"
__all__ = ["Corpus", "Drop", "Loader", "Masks", "measure", "model", "open_corpus", "rule", "shards", "tokenize"]

_HOMES = {
    "Corpus": "imglish.shards.reader",
    "Drop": "imglish.ingest.rules",
    "Loader": "imglish.shards.loader",
    "Masks": "imglish.shards.masks",
    "measure": "imglish.ingest.rules",
    "open_corpus": "imglish.shards.reader",
    "rule": "imglish.ingest.rules",
}
_ROOMS = ("model", "shards", "tokenize")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"imglish.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'imglish' has no attribute {name!r}")
