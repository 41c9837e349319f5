"""Which reader a recipe's `format =` names: ours, one that a package offers, or one in a Python file.

    reader(config)                          # format = "parquet"
    reader(config)                          # format = "epub": entry point "epub" in the group "imglish.sources"
    reader(config, recipe.root)             # format = "readers/epub.py:Epub", relative to the recipe's root

An entry point gives a reader or a class of one. A file's digest stands for its version, so a change to it reads the
source anew.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources.annotations import Coco, VisualGenome
from imglish.ingest.sources.archives import Archives
from imglish.ingest.sources.base import Reader
from imglish.ingest.sources.files import locate
from imglish.ingest.sources.folder import Folder
from imglish.ingest.sources.html import HtmlFigures, HtmlText
from imglish.ingest.sources.mediawiki import MediaWiki
from imglish.ingest.sources.sbu import Sbu
from imglish.ingest.sources.tables import Tables
from imglish.ingest.sources.tabular import SUFFIXES
from imglish.ingest.sources.texts import Texts
from imglish.ingest.sources.urls import UrlList
from imglish.ingest.sources.webdataset import Img2dataset, WebDataset
from imglish.recipe import SourceConfig

GROUP = "imglish.sources"
"""Entry points of other packages' readers."""

_READERS: tuple[Reader, ...] = (
    Folder(),
    *(Tables(name) for name in SUFFIXES),
    UrlList(),
    Sbu(),
    Coco(),
    VisualGenome(),
    Archives(),
    WebDataset(),
    Img2dataset(),
    Texts(),
    MediaWiki(),
    HtmlFigures(),
    HtmlText(),
)
READERS: dict[str, Reader] = {found.name: found for found in _READERS}


def reader(config: SourceConfig, root: str = ".") -> Reader:
    """The reader of a source's format; RecipeError with the nearest name for an unknown one."""
    if config.format in READERS:
        return READERS[config.format]
    file, name = _python_file(config.format)
    if file is not None:
        return _from_file(config.name, locate(file, root), name)
    for point in importlib.metadata.entry_points(group=GROUP, name=config.format):
        return _made(config.name, point.load())
    near = difflib.get_close_matches(config.format, READERS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(READERS))}"
    raise RecipeError(f"source {config.name!r}: unknown format {config.format!r}; {hint}")


def reader_version(config: SourceConfig, root: str = ".") -> int | str:
    """What of a reader enters the ids of its units."""
    file, _ = _python_file(config.format)
    if file is None:
        return reader(config, root).version
    return hashlib.sha256(Path(locate(file, root)).read_bytes()).hexdigest()


def _python_file(form: str) -> tuple[str | None, str]:
    """(file, name in it) of a format such as "readers/epub.py:Epub"; no file for any other."""
    file, _, name = form.rpartition(":")
    return (file, name) if file.endswith(".py") else (None, form)


@cache
def _from_file(source: str, path: str, name: str) -> Reader:
    spec = importlib.util.spec_from_file_location(
        f"imglish_source_{hashlib.sha256(path.encode()).hexdigest()[:8]}", path
    )
    try:
        if spec is None or spec.loader is None:
            raise SourceError(f"source {source!r}: {path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return _made(source, getattr(module, name))
    except (OSError, AttributeError) as error:
        raise SourceError(f"source {source!r}: cannot take {name!r} from {path}: {error}") from None


def _made(source: str, found: Any) -> Reader:
    made = found() if isinstance(found, type) else found
    for needed in ("parts", "rows", "version"):
        if not hasattr(made, needed):
            raise SourceError(f"source {source!r}: {found!r} is no reader: it has no {needed}")
    return made  # type: ignore[no-any-return]
