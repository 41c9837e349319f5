"""What the pages of this room share: untrusted text and numbers for people, templates, optional libraries, writing."""

from __future__ import annotations

import base64
import importlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any

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


def percent(value: float) -> str:
    """A share for people; a small one is not shown as nothing."""
    return f"{value:.1%}" if value == 0 or value >= 0.001 else "<0.1%"


def size(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, word in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {word}"
    return f"{count} bytes"


def score(value: float | None) -> str:
    """A score or threshold, at most four significant digits; empty when there is none."""
    return "" if value is None else f"{value:.4g}"


def template(page: str, style: str = "audit.css", /, **values: Any) -> str:
    """A page of this room, every value escaped; ImglishError when jinja2 is not installed."""
    return str(_environment().get_template(page).render(style=asset(style), **values))


@cache
def asset(name: str) -> str:
    """A style sheet or script of this room."""
    return (resources.files("imglish.audit") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imglish.audit", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "clean": clean, "bytes": size, "score": score}
    return environment


def data_uri(data: bytes, media_type: str) -> str:
    """A file inside a page."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


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
    return write_files({path: data})[0]


def write_files(files: Mapping[str, bytes]) -> list[str]:
    """The same for files of one folder, none of which is replaced when one cannot be written; their full paths."""
    folder, slash, _ = next(iter(files)).rpartition("/")
    store = Store(folder or slash or ".")
    named = {path.rpartition("/")[2]: data for path, data in files.items()}
    store.put_all(named)
    return [store.url(name) for name in named]
