"""Real documents for benchmarks: pages of Debian packages without markup, fetched and unpacked, not installed.

texts = documents(Path("benchmarks/.dedup"), ["linux-doc-6.1"], megabytes=64)
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from lxml import html

from imglish.demo.packages import Package, get_packages

_ENDINGS = (".txt", ".rst", ".md", ".html")


def documents(folder: Path, names: Sequence[str], megabytes: float) -> list[str]:
    """Pages of at least 200 characters, taking turns between the packages, until there is so much."""
    missing = get_packages(folder, print, [Package(name, "apt-get", "text") for name in names])
    if missing:
        raise SystemExit(f"packages cannot be had: {missing}")
    turns = zip_longest(*(pages(folder / name) for name in names))
    texts, size = [], 0
    for text in chain.from_iterable(turns):
        if text is not None:
            texts.append(text)
            size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return texts


def pages(folder: Path) -> Iterator[str]:
    """Texts of a package's pages in the order of their paths."""
    for path in files(folder):
        text = page(path)
        if len(text) >= 200:
            yield text


def files(folder: Path) -> list[Path]:
    """Pages of a package, in order."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in found if path.name.removesuffix(".gz").endswith(_ENDINGS)]


def page(path: Path) -> str:
    """Text of one page."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.name.removesuffix(".gz").endswith(".html"):
        return str(html.document_fromstring(data).text_content()) if data.strip() else ""
    return data.decode("utf-8", "replace")
