"""What a labeller sees of an occurrence: a small picture, captions, a text; with what was removed or differs marked.

    side = make_side(landing_row, edits)
    left, right = mark_differences(left, right)
    side.texts[0]           # [Piece("", "An image of "), Piece("del", "ann@example.org"), Piece("ins", "<email>")]

Payloads are hostile: pictures are decoded as a build decodes them and drawn anew, texts stay plain text in pieces.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from PIL import Image

from imglish.audit.common import data_uri
from imglish.errors import ImageError
from imglish.records import unpack_json
from imglish.shards.images import probe_with, upright_rgb

THUMBNAIL_SIDE = 320
"""Longest side in pixels, about 12 kB each."""
MAX_PIXELS = 100_000_000
LONGEST = 2400
"""Characters of a text that are shown."""
_RUN = 500
"""Characters of an unmarked run that are shown when other parts are marked, half at either end."""
_COMPARED = 2000
"""Words of a text that are compared; the work grows with their square."""
_CAPTIONS = 16


class Piece(NamedTuple):
    """A run of text; `tag` is "" or one of del (removed), ins (put in its place), mark (only on this side)."""

    tag: str
    text: str


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Side:
    """An occurrence as it is shown; `texts` are its document, or its captions."""

    occurrence: str
    kind: str
    picture: str | None
    """JPEG in a data URI."""
    size: tuple[int, int]
    texts: tuple[Pieces, ...]
    url: str | None
    licence: str | None
    note: str | None
    """What is missing, and why."""


def make_side(row: Mapping[str, Any], edits: bytes | None) -> Side:
    """A row of landing, with its decision's edits."""
    kind, payload, note = row["kind"], row.get("payload"), None
    picture, size = None, (0, 0)
    if payload is None:
        note = "no payload"
    elif kind != "text":
        try:
            picture, size = _thumbnail(payload)
        except ImageError as error:
            note = f"not to be decoded: {error.reason}"
    changes = unpack_json(edits) or []
    if kind == "text":
        texts = [] if payload is None else [_pieces(payload, changes, -1)]
    else:
        captions = (unpack_json(row.get("captions")) or [])[:_CAPTIONS]
        texts = [_pieces(caption.encode(), changes, number) for number, caption in enumerate(captions)]
    name = f"{row['source']}/{row['row']}"
    return Side(name, kind, picture, size, tuple(texts), row.get("url"), row.get("licence"), note)


def _thumbnail(payload: bytes) -> tuple[str, tuple[int, int]]:
    def small(image: Image.Image) -> Image.Image:
        drawn = upright_rgb(image)
        drawn.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        return drawn

    _, drawn = probe_with(payload, MAX_PIXELS, small)
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "image/jpeg"), drawn.size


def _pieces(data: bytes, edits: Sequence[Sequence[Any]], number: int) -> Pieces:
    """A text with its edits marked; bytes that are no UTF-8 are replaced."""
    found: list[Piece] = []
    end = 0
    for _, first, last, put in sorted((edit for edit in edits if edit[0] == number), key=lambda edit: edit[1]):
        found += [Piece("", _text(data[end:first])), Piece("del", _text(data[first:last])), Piece("ins", put)]
        end = last
    found.append(Piece("", _text(data[end:])))
    return tuple(piece for piece in found if piece.text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def shortened(pieces: Sequence[Piece]) -> Pieces:
    """At most LONGEST characters; of long unmarked runs only the ends, so that what is marked is in sight."""
    if any(piece.tag for piece in pieces):
        pieces = [
            Piece("", f"{p.text[: _RUN // 2]} […] {p.text[-_RUN // 2 :]}") if not p.tag and len(p.text) > _RUN else p
            for p in pieces
        ]
    found: list[Piece] = []
    left = LONGEST
    for piece in pieces:
        if left <= 0:
            break
        found.append(Piece(piece.tag, piece.text if len(piece.text) <= left else f"{piece.text[:left]} […]"))
        left -= len(piece.text)
    return tuple(found)


def mark_differences(left: Side, right: Side) -> tuple[Side, Side]:
    """Two documents with the words marked that only one of them has; anything else as it is."""
    if (left.kind, right.kind) != ("text", "text") or not left.texts or not right.texts:
        return left, right
    words = [re.findall(r"\S+\s*", "".join(p.text for p in side.texts[0] if p.tag != "ins")) for side in (left, right)]
    ours, theirs = (side[:_COMPARED] for side in words)
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    marked = [
        [Piece("" if tag == "equal" else "mark", "".join(ours[a:b])) for tag, a, b, _, _ in blocks],
        [Piece("" if tag == "equal" else "mark", "".join(theirs[a:b])) for tag, _, _, a, b in blocks],
    ]
    found = [tuple(piece for piece in pieces if piece.text) for pieces in marked]
    return replace(left, texts=(found[0],)), replace(right, texts=(found[1],))
