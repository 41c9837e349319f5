"""Class names as captions: what the folder or archive of an image says it shows.

    names, stamp = read_classes(config, root, "LOC_synset_mapping.txt")      # {"n01440764": ["tench", "Tinca tinca"]}
    with_class(row, "n01440764", names).captions                             # ["tench", "Tinca tinca"]
    with_class(row, "golden_retriever", {}).captions                         # ["golden retriever"]

A WordNet id is a label and no caption: without a name it stays in the row's reference, and a pair has no caption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from imglish.digests import json_digest
from imglish.errors import SourceError
from imglish.ingest.sources.base import Row
from imglish.ingest.sources.files import locate, read_payload
from imglish.recipe import SourceConfig

ClassNames = Mapping[str, list[str]]

_WORDNET = re.compile(r"n\d{8}")


def read_classes(config: SourceConfig, root: str, path: str | None) -> tuple[dict[str, list[str]], str | None]:
    """The names of each class and their digest; SourceError when the file is not there or not UTF-8.

    A line is a class, white space (or a tab), and its names, separated by commas.
    """
    if path is None:
        return {}, None
    found = read_payload(Row(path), locate(path, root))
    if found.payload is None:
        raise SourceError(f"source {config.name!r}: classes = {path!r}: {found.detail}")
    try:
        lines = [line.split(None, 1) for line in found.payload.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise SourceError(f"source {config.name!r}: classes = {path!r}: not UTF-8: {error}") from None
    names = {line[0]: [name.strip() for name in line[1].split(",")] for line in lines if len(line) == 2}
    return names, json_digest(names)


def with_class(row: Row, label: str, names: ClassNames) -> Row:
    """The row with the names of its class as captions."""
    if label in names:
        return replace(row, captions=names[label])
    if not label or _WORDNET.fullmatch(label):
        said = f"class {label!r} is no caption; name a file of class names as option classes"
        return replace(row, payload=None, status="no_caption", detail=said)
    return replace(row, captions=[label.replace("_", " ")])
