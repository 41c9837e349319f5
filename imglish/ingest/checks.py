"""What landing checks of a row before it is an occurrence: bytes at all, text that decodes, captions that are text.

row = check_row(source, row)          # clean, or with the status that says why it is no use to its kind
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imglish.ingest.sources.base import Row
from imglish.ingest.sources.files import printable
from imglish.recipe import SourceConfig


def check_row(source: SourceConfig, row: Row) -> Row:
    """The row with clean captions, or with the status that says why it is no use to its kind.

    Payload and captions stay only where the status is "ok".
    """
    if row.status == "ok" and not row.payload:
        row = replace(row, status="empty", detail=row.detail or "no bytes")
    if row.status == "ok" and source.kind == "text":
        row = _check_text(row)
    if row.status == "ok" and source.kind == "pair":
        row = check_captions(row)
    if row.status != "ok":
        return replace(row, payload=None, captions=None, detail=None if row.detail is None else printable(row.detail))
    return row if source.kind == "pair" or row.captions is None else replace(row, captions=None)


def _check_text(row: Row) -> Row:
    payload = row.payload or b""
    if row.encoded and b"!" <= payload[:1] <= b"~":  # decoding and encoding 1 GB takes half a second
        return row
    if payload.isascii():  # at the speed of memory, and most documents of an English corpus
        blank = payload.isspace()
    else:
        try:
            blank = payload.decode("utf-8").isspace()
        except UnicodeDecodeError as error:
            return replace(row, status="not_utf8", detail=f"byte {payload[error.start]:#04x} at offset {error.start}")
    return replace(row, status="empty", detail=f"{len(payload)} bytes of white space") if blank else row


def check_captions(row: Row) -> Row:
    """Captions without NUL characters and without those that are empty or not encodable; none left is a status."""
    good: list[str] = []
    bad = 0
    captions: Sequence[Any] = row.captions or ()
    for caption in captions:
        if not isinstance(caption, str):
            return replace(row, status="bad_row", detail=f"a caption is {type(caption).__name__}, not text")
        clean = caption.replace("\0", "")
        if printable(clean) != clean:
            bad += 1
        elif clean.strip():
            good.append(clean)
    if good:
        return replace(row, captions=good)
    if bad:
        return replace(row, status="not_utf8", detail=f"{bad} captions with half surrogate pairs")
    return replace(row, status="no_caption", detail=f"{len(captions)} captions, none with a character")
