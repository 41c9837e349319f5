"""Synthetic tables of a web-scale corpus: 21 M pairs over 15 M images, 14 M images more, no payloads.

    rows = annotations(plan_files()[0])          # schema ANNOTATIONS, sorted as annotate writes them

Landing files have the sizes that real ones get: 4,000 URLs a unit (of which 27 % fail), and 128 MB of local
pictures of 110 KB each. Record ids are a bijection of the picture's number, so pairs share pictures, and one
million of the images are pictures of pairs. Every value is a pure function of its row's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import sort_rows
from imglish.records import ANNOTATIONS, DOCUMENTS, IMAGES, MEMBERS, ROW_KEYS, pack_json
from imglish.seeds import U64, below, draw, mix, stream, uniform

ROWS = {"pair": 21_000_000, "image": 14_000_000}
PICTURES = 15_000_000
"""Pictures of the pairs."""
SHARED = 1_000_000
"""Images that are pictures of pairs too."""
FILE_ROWS = {"pair": 4_000, "image": 1_220}
"""Rows of a landing file."""
LOST_SHARE = 0.27
"""URLs that give no picture any more."""


@dataclass(frozen=True)
class File:
    """A landing file to be: rows [start, start + rows) of a kind."""

    number: int
    kind: str
    start: int
    rows: int


def plan_files(scale: float = 1.0) -> list[File]:
    """Every landing file of the corpus, or of a fraction of it."""
    spans = [(kind, int(rows * scale), FILE_ROWS[kind]) for kind, rows in ROWS.items()]
    places = [(kind, start, min(size, rows - start)) for kind, rows, size in spans for start in range(0, rows, size)]
    return [File(number, *place) for number, place in enumerate(places)]


def annotations(file: File) -> pa.Table:
    """What annotate would have measured of a landing file."""
    number = np.arange(file.start, file.start + file.rows)
    keys = stream(0, "scale", file.kind).keys(number)
    lost = uniform(draw(keys, 0)) < (LOST_SHARE if file.kind == "pair" else 0.001)
    picture = number % PICTURES if file.kind == "pair" else PICTURES - SHARED + number
    width, height = (200 + below(draw(keys, n), 1200) for n in (1, 2))
    width = np.where(uniform(draw(keys, 3)) < 0.03, width * 5, width)
    long, short = np.maximum(width, height), np.minimum(width, height)
    name = "web" if file.kind == "pair" else "pictures"
    columns: dict[str, Any] = {
        "source": pa.repeat(name, file.rows),
        "row": pc.binary_join_element_wise(f"{name}-00.parquet", pa.array(number).cast(pa.string()), "#"),
        "kind": pa.repeat(file.kind, file.rows),
        "record_id": _ids(picture.astype(np.uint64), lost),
        "status": pc.if_else(pa.array(lost), "http_404", "ok"),
        "detail": pc.if_else(pa.array(lost), "404 Not Found", pa.scalar(None, pa.string())),
        "bytes": pa.array(30_000 + below(draw(keys, 4), 160_000), mask=lost),
        "width": pa.array(width.astype(np.int32), mask=lost),
        "height": pa.array(height.astype(np.int32), mask=lost),
        "aspect": pa.array(long / short, mask=lost),
        "format": pc.if_else(pa.array(lost), pa.scalar(None, pa.string()), "JPEG"),
        "mode": pc.if_else(pa.array(lost), pa.scalar(None, pa.string()), "RGB"),
    }
    if file.kind == "pair":
        columns |= {
            "language": pa.repeat("en", file.rows),
            "language_score": pa.array(uniform(draw(keys, 5))),
            "captions": _CAPTIONS.take(pa.array(below(draw(keys, 6), len(_CAPTIONS)))),
        }
    return sort_rows(_fill(columns, file.rows, ANNOTATIONS), ROW_KEYS)


def _ids(pictures: U64, lost: Any) -> pa.Array:
    """16-byte record ids, uniform, null where the picture was lost."""
    halves = np.stack([mix(pictures * np.uint64(2)), mix(pictures * np.uint64(2) + np.uint64(1))], axis=1)
    data = pa.py_buffer(halves.astype(">u8").tobytes())
    fixed = pa.Array.from_buffers(pa.binary(16), len(pictures), [None, data])
    return pc.if_else(pa.array(lost), pa.scalar(None, pa.binary(16)), fixed)


def _captions() -> pa.Array:
    """Measured captions of 0 to 40 words, one of them too long, one in fifty empty."""
    sizes = [0, 300, *(1 + n % 40 for n in range(98))]
    return pa.array(
        [pack_json([{"words": n, "bytes": 6 * n, "language": "en", "score": 0.9}]) for n in sizes], pa.binary()
    )


_CAPTIONS = _captions()


def tokenized(decisions: pa.Table) -> dict[str, pa.Table]:
    """Members, images and documents as tokenize would make them of a decisions table, with short codes and ids."""
    used = decisions.filter(pc.is_in(decisions.column("verdict"), pa.array(["keep", "merge"])))
    images = used.filter(pc.equal(used.column("verdict"), "keep"))
    merged = pc.equal(used.column("verdict"), "merge")
    paired = pc.equal(used.column("kind"), "pair")
    nothing = pa.scalar(None, pa.binary())
    members = {
        **{name: used.column(name) for name in ("source", "row", "record_id", "split", "priority")},
        "kind": used.column("sample_kind"),
        "merged": merged,
        "captions": pc.if_else(paired, b'["a photograph of the old bridge in winter light"]', nothing),
        "caption_ids": pc.if_else(paired, bytes(24), nothing),
    }
    pictures = {
        **{name: images.column(name) for name in ("record_id", "split")},
        "kind": images.column("sample_kind"),
        "stored_sha256": _repeat(bytes(32), images),
        "width": _repeat(341, images),
        "height": _repeat(256, images),
        "views": _repeat(bytes(40), images),
        "codes": _repeat(bytes(16), images),
    }
    return {
        "members": _fill(members, used.num_rows, MEMBERS),
        "images": _fill(pictures, images.num_rows, IMAGES),
        "documents": DOCUMENTS.empty_table(),
    }


def _repeat(value: Any, rows: pa.Table) -> pa.Array:
    return pa.repeat(pa.scalar(value), rows.num_rows)


def _fill(columns: dict[str, Any], rows: int, schema: pa.Schema) -> pa.Table:
    made = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(made, schema=schema)
