"""What a source reader is: it lists the parts of a source and reads the rows of one part.

A *part* is one restartable piece of a source (a file, a range of rows, a folder): the unit of landing. However large
it is, its rows are read one by one and landing commits them in files of bounded size.
A reader never raises for a bad row: the row says why in `status` and `detail` and becomes a decision.
It raises SourceError only when the source as a whole cannot be listed or opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from imglish.recipe import SourceConfig

TO_FETCH = "to_fetch"
"""Status of a row whose payload is still behind its URL; landing sends it through the fetcher."""


@dataclass(frozen=True)
class Part:
    """One unit of a source.

    `name` is stable and unique in the source; `files` are the paths or URLs to open; `fingerprint` is what
    would change when the part's content does (relative path, size, modification time or etag), as JSON values;
    `spec` is for the reader, picklable JSON values (a row range, say) and enters the unit id like `name`.
    """

    name: str
    files: Sequence[str]
    fingerprint: Sequence[Any]
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Row:
    """One occurrence as a reader found it; `row` is its reference, stable and unique in the source.

    Not frozen, which would take three times as long to make, but treated so: `dataclasses.replace` gives another.
    """

    row: str
    payload: bytes | None = None
    captions: Sequence[str] | None = None
    url: str | None = None
    licence: str | None = None
    status: str = "ok"
    detail: str | None = None
    expected_sha256: str | None = None
    attempts: int | None = None  # requests sent, set by the fetcher
    encoded: bool = False  # a text that the reader had as characters, so that its payload is UTF-8 for certain
    receipt: Mapping[str, Any] | None = None  # of the last answer, set by the fetcher: see `records.LANDING`


class Reader(Protocol):
    """One format. `name` is what the recipe's `format =` says; a new `version` reads a source anew.

    A reader whose rows are to be fetched has an attribute `fetched = True`: its rows are listed, brought together by
    host and fetched in units of their own (`imglish.ingest.listing`).
    """

    name: str
    version: int

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        """The parts of a source in a stable order; SourceError when it is not there or an option is wrong."""
        ...

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        """The rows of one part, in file order, the same ones every time: a killed unit goes on behind what it has."""
        ...
