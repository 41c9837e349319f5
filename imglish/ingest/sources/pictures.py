"""Image files that an annotation file names: in folders or in zips beside it.

with Pictures(base, ["train2017.zip", "val2017"]) as pictures:
    row = pictures.read(row, "000000000009.jpg")      # ok, or missing_file, refused, too_large
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from imglish.errors import SourceError
from imglish.ingest.sources.base import Row
from imglish.ingest.sources.files import filesystem, is_inside, open_file, printable, read_payload
from imglish.ingest.sources.tars import BROKEN, MEMBER_BYTES, Archive, Member, open_archive, read_member


class Pictures:
    """Looks a file name up in each place in turn; in a zip by its path or by its last part."""

    def __init__(self, base: str, places: Sequence[str]) -> None:
        self.base, self.places = base, places
        self._stack = ExitStack()
        self._zips: dict[str, tuple[Archive, dict[str, Member]]] = {}

    def __enter__(self) -> Pictures:
        for place in self.places:
            if place.lower().endswith(".zip"):
                self._zips[place] = self._open(f"{self.base}/{place}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, row: Row, name: Any) -> Row:
        """The row with the image's bytes."""
        if not isinstance(name, str) or not name:
            return replace(row, status="bad_row", detail=f"a file name is {type(name).__name__}, not text")
        if not is_inside(name):
            return replace(row, status="refused", detail=f"{printable(name)[:200]!r} leads out of the images")
        found = row
        for place in self.places:
            if place in self._zips:
                archive, members = self._zips[place]
                member = members.get(name)
                found = self._missing(row, name) if member is None else read_member(archive, member, row, MEMBER_BYTES)
            else:
                found = read_payload(row, f"{self.base}/{place}/{name}")
            if found.status != "missing_file":
                return found
        return self._missing(row, name)

    def _missing(self, row: Row, name: str) -> Row:
        said = f"no {printable(name)[:200]!r} in {', '.join(self.places)}"
        return replace(row, status="missing_file", detail=said)

    def _open(self, url: str) -> tuple[Archive, dict[str, Member]]:
        try:
            archive = open_archive(url, self._stack.enter_context(open_file(url)), self._stack)
            members = list(archive.members())
        except (*BROKEN, zipfile.LargeZipFile) as error:
            raise SourceError(f"{url}: not a readable zip: {error}; fetch it again") from None
        short = {member.name.rpartition("/")[2]: member for member in reversed(members)}
        return archive, short | {member.name: member for member in members}


def places_stamp(base: str, places: Sequence[str]) -> list[list[Any]]:
    """What would change with the zips; the files of folders are not looked at. SourceError when a place is missing."""
    stamps: list[list[Any]] = []
    for place in places:
        fs, path = filesystem(f"{base}/{place}")
        try:
            info = fs.info(path)
        except OSError as error:
            raise SourceError(f"no {place} at {base}: {error}; name the images' folders or zips as images") from None
        size = int(info["size"] or 0) if place.lower().endswith(".zip") else 0
        stamps.append([place, size])
    return stamps
