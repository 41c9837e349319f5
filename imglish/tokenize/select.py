"""Select: what of a landing file each later stage would read, as digests in a receipt.

    for file, digests in select(store, engine, files):
        digests["text"], digests["visual"], digests["fit-text"], digests["fit-visual"]

Unit ids of the fits and of both tokenize stages cover exactly the rows and columns that those read (DESIGN section 5),
so a threshold that changes nothing for a file leaves its unit as it was. Making these digests reads decisions and
annotations of every file; it is done once per file by a worker here, and the driver makes ids from receipts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import table_digest
from imglish.records import ROW_KEYS
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, run_map
from imglish.storage import Store
from imglish.tokenize.rows import FOLDER, LandingFile, kept_images, kept_rows, train_rows

STAGE = "select"
VERSION = 1
TEXT_MEASURED = ("language", "width", "height", "words", "bytes")
"""Annotations that tokenize-text reads."""
FIT_MEASURED = ("language", "bytes")
"""Annotations that fit-text reads."""
VISUAL_COLUMNS = ("record_id", "sample_kind", "split", "image")
"""What tokenize-visual reads of a kept image; record ids are digests of the payloads."""


class Selected(NamedTuple):
    """A landing file and the digests of what `text`, `visual`, `fit-text` and `fit-visual` would read of it."""

    file: LandingFile
    digests: Mapping[str, str]


def select(
    store: Store, engine: Engine, files: Sequence[LandingFile], progress: Progress | None = None
) -> list[Selected]:
    """Every file with its digests; files whose decisions and annotations are as before are not read."""
    receipts = run_map(store, FOLDER, engine, SelectTask(store), select_units(files), progress)
    return [Selected(file, receipt.notes) for file, receipt in zip(files, receipts, strict=True)]


def select_units(files: Sequence[LandingFile]) -> list[Unit]:
    """One unit per landing file."""
    return [Unit(STAGE, VERSION, {}, [file.decisions.sha256, file.annotations.sha256], file.paths()) for file in files]


@dataclass(frozen=True)
class SelectTask:
    """Writes a receipt with the digests and the numbers of kept rows."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        measured = dict.fromkeys([*TEXT_MEASURED, *FIT_MEASURED])
        rows = kept_rows(self.store, unit.spec, list(measured))
        images = kept_images(rows)
        notes = {
            "text": _digest(rows, ["image", *(set(measured) - set(TEXT_MEASURED))]),
            "visual": table_digest(images.select(list(VISUAL_COLUMNS)), ["image"]),
            "fit-text": _digest(train_rows(rows, texts=True), set(measured) - set(FIT_MEASURED)),
            "fit-visual": table_digest(train_rows(rows, texts=False).select(["record_id"]), ["record_id"]),
        }
        texts = pc.and_(pc.equal(rows.column("kind"), "text"), pc.equal(rows.column("verdict"), "keep"))
        counts = {"members": rows.num_rows, "images": images.num_rows, "documents": pc.sum(texts).as_py() or 0}
        return commit({}, counts, notes)


def _digest(rows: pa.Table, without: Sequence[str] | set[str]) -> str:
    return table_digest(rows.drop_columns(sorted(without)), ROW_KEYS)
