"""What the report and the contact sheet share: making untrusted text fit to show, optional libraries, writing."""

from __future__ import annotations

import importlib
import unicodedata
from types import ModuleType

from imglish.errors import ImglishError
from imglish.storage import Store

_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u061c"))  # invisible, and at home in right-to-left text
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # can reorder what stands around them
REPLACEMENT = "\ufffd"


def clean(text: str, longest: int) -> str:
    """One line of at most `longest` characters.

    White space is folded, direction marks go, control characters and direction overrides become U+FFFD.
    """
    cut = " ".join(text[: 4 * longest].translate(_MARKS).split())
    shown = "".join(REPLACEMENT if _hostile(character) else character for character in cut)
    return shown if len(shown) <= longest and len(text) <= 4 * longest else shown[: longest - 1].rstrip() + "…"


def _hostile(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in _CONTROLS


def number(count: int) -> str:
    """A count with thousands apart."""
    return f"{count:,}"


def require(module: str) -> ModuleType:
    """A library of the `audit` extra; ImglishError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImglishError(
            f"{name} is needed for this and not installed ({error}); pip install 'imglish[audit]'"
        ) from None


def write_file(path: str, data: bytes) -> str:
    """Replace a file, local or behind an fsspec URL, in one step; its full path. StorageError when that fails."""
    folder, slash, name = path.rpartition("/")
    store = Store(folder or slash or ".")
    store.put_as(name, data)
    return store.url(name)
