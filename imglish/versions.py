"""What decides on bytes besides recipe and landing: our own code and the libraries that encode.

    code = code_facts()             # {"python": "3.11", "imglish": "4f0c...", "numpy": "2.4.6", ...}
    code == code_facts()            # on another machine: whether it would write the same bytes

The manifest names the libraries. A worker whose facts differ from the driver's is refused before it writes anything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.resources.abc import Traversable

BYTES_LIBRARIES = ("numpy", "pyarrow", "pillow", "simplejpeg", "opencv-python-headless", "sentencepiece")
"""Libraries that produce bytes of a corpus; their versions enter the manifest's digest."""


@cache
def code_facts() -> dict[str, str]:
    """Python's version, a digest of this package's source, and the versions of the libraries that produce bytes."""
    facts = {"python": ".".join(platform.python_version_tuple()[:2]), "imglish": source_digest()}
    for name in BYTES_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    return facts


@cache
def source_digest() -> str:
    """16 hex digits over names and contents of this package's modules; the same for a folder, a wheel and a zip."""
    digest = hashlib.sha256()
    for name, module in sorted(_modules(importlib.resources.files("imglish"), "")):
        digest.update(f"{name}\0".encode() + hashlib.sha256(module.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _modules(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _modules(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry
