"""Source readers by the name that a recipe's `format =` says.

parts = reader(config).parts(config, root)
for row in reader(config).rows(config, parts[0]): ...
"""

from __future__ import annotations

import difflib

from imglish.errors import RecipeError
from imglish.ingest.sources.archives import Archives
from imglish.ingest.sources.base import Reader
from imglish.ingest.sources.folder import Folder
from imglish.ingest.sources.html import HtmlFigures, HtmlText
from imglish.ingest.sources.tables import Tables
from imglish.ingest.sources.tabular import SUFFIXES
from imglish.ingest.sources.texts import Texts
from imglish.ingest.sources.urls import UrlList
from imglish.recipe import SourceConfig

_READERS: tuple[Reader, ...] = (
    Folder(),
    *(Tables(name) for name in SUFFIXES),
    UrlList(),
    Texts(),
    Archives(),
    HtmlFigures(),
    HtmlText(),
)
READERS: dict[str, Reader] = {found.name: found for found in _READERS}


def reader(config: SourceConfig) -> Reader:
    """The reader of a source's format; RecipeError with the nearest name for an unknown one."""
    found = READERS.get(config.format)
    if found is None:
        near = difflib.get_close_matches(config.format, READERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(READERS))}"
        raise RecipeError(f"source {config.name!r}: unknown format {config.format!r}; {hint}")
    return found
