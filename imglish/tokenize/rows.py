"""What the stages of this room read: the rows of a landing file that a decision keeps, and their texts after edits.

    file = LandingFile(landing, annotations, decisions)        three files with the same rows in the same order
    kept = kept_rows(store, file, ["language"])                decisions, columns of annotations, place in the file
    for rows in read_rows(store, file.landing.path, places, ["payload"]): ...

Payloads are the bulk of landing, so columns are judged first and only row groups that hold a wanted row are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.errors import ImageError, StageError
from imglish.recipe import StoredConfig
from imglish.shards.images import StoredImage, store_image
from imglish.storage import Output, Store

FOLDER = "tables"
"""Where this room's tables and receipts go."""

Places = NDArray[np.int64]

_DECIDED = ["source", "row", "kind", "record_id", "verdict", "sample_kind", "sample_id", "split", "edits", "priority"]


class LandingFile(NamedTuple):
    """A landing file with its annotations and decisions, row by row the same occurrences."""

    landing: Output
    annotations: Output
    decisions: Output

    def paths(self) -> dict[str, str]:
        """For a unit's `spec`."""
        return {name: output.path for name, output in self._asdict().items()}


def kept_rows(store: Store, paths: Mapping[str, Any], measured: Sequence[str]) -> pa.Table:
    """The kept and merged rows: decisions' columns, some of annotations', and two places.

    `place` is the row number in the file, `image` the number among its pairs and images, kept or not (null for a
    text). Raises StageError when decisions and annotations do not have the same rows.
    """
    decided = store.read_table(paths["decisions"], _DECIDED)
    annotated = store.read_table(paths["annotations"], ["source", "row", *measured])
    if not decided.select(["source", "row"]).equals(annotated.select(["source", "row"])):
        raise StageError(
            f"{paths['decisions']} and {paths['annotations']} do not have the same rows; "
            "remove both and build again, landing is kept"
        )
    pictured = np.asarray(pc.not_equal(decided.column("kind"), "text").to_numpy(zero_copy_only=False), bool)
    numbers = {"place": pa.array(np.arange(len(pictured))), "image": pa.array(np.cumsum(pictured) - 1, mask=~pictured)}
    columns = {name: annotated.column(name) for name in measured} | numbers
    for name, values in columns.items():
        decided = decided.append_column(name, values)
    return decided.filter(pc.is_in(decided.column("verdict"), pa.array(["keep", "merge"])))


def kept_images(rows: pa.Table) -> pa.Table:
    """Of `kept_rows`, the pairs and images that are records of their own."""
    return rows.filter(pc.and_(pc.not_equal(rows.column("kind"), "text"), pc.equal(rows.column("verdict"), "keep")))


def train_rows(rows: pa.Table, texts: bool) -> pa.Table:
    """Of `kept_rows`, the records of the train split: texts and pairs, or pairs and images."""
    return split_rows(rows, ("text", "pair") if texts else ("image", "pair"), "train")


def split_rows(rows: pa.Table, kinds: Sequence[str], split: str) -> pa.Table:
    """Of `kept_rows`, the records of these kinds in a split."""
    kept = pc.and_(pc.equal(rows.column("verdict"), "keep"), pc.equal(rows.column("split"), split))
    return rows.filter(pc.and_(kept, pc.is_in(rows.column("kind"), pa.array(kinds))))


def places(rows: pa.Table) -> Places:
    """The column `place` of `kept_rows`, int64 [n], ascending."""
    return np.asarray(rows.column("place").to_numpy(), np.int64)


def edited_document(payload: bytes, edits: Sequence[Sequence[Any]] | None) -> str:
    """A text after its edits [-1, start byte, end byte, replacement]; StageError for one that does not fit."""
    return _edit(payload, [edit for edit in edits or () if edit[0] == -1])


def edited_captions(captions: Sequence[str], edits: Sequence[Sequence[Any]] | None) -> list[str]:
    """Captions after their edits [number, start byte, end byte, replacement]; one that ends up blank is left out."""
    edited = list(captions)
    for number in sorted({edit[0] for edit in edits or () if edit[0] >= 0}):
        if number >= len(captions):
            raise StageError(f"an edit names caption {number}, but there are {len(captions)}; run decide again")
        mine = [edit for edit in edits or () if edit[0] == number]
        edited[number] = _edit(captions[number].encode(), mine)
    return [caption for caption in edited if caption.strip()]


def stored_image(row: Mapping[str, Any], config: StoredConfig) -> StoredImage:
    """The stored image of a kept row's `payload`; StageError when it cannot be decoded, which annotate had found."""
    try:
        return store_image(row["payload"], config)
    except ImageError as error:
        raise StageError(
            f"{row['source']} row {row['row']}: kept, but its image cannot be stored ({error}); "
            "remove the annotations of its landing file and build again"
        ) from None


def _edit(data: bytes, edits: Sequence[Sequence[Any]]) -> str:
    out: list[bytes] = []
    end = 0
    for _, first, last, replacement in sorted(edits, key=lambda edit: (edit[1], edit[2])):
        if not end <= first <= last <= len(data):
            raise StageError(f"edit of bytes {first}..{last} does not fit {len(data)} bytes edited up to {end}")
        out += [data[end:first], replacement.encode()]
        end = last
    try:
        return b"".join([*out, data[end:]]).decode()
    except UnicodeDecodeError as error:
        raise StageError(f"an edit cuts a character at byte {error.start}; edits must lie between characters") from None
