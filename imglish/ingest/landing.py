"""The landing files of one unit: rows in, Parquet files of bounded size out, committed one by one.

    with LandingFiles(store, unit.id, source) as files:
        for row in itertools.islice(rows, files.taken, None):     # behind what an earlier attempt committed
            files.add(row)
        outputs, counts = files.finish()                          # {"rows/000000": Output, ...}

A file is closed when its payloads reach FILE_BYTES or its rows FILE_ROWS, so a unit of any size needs memory for two
files: one is written by a thread while the next one fills. After each but the last, `landing/progress/<unit>.json`
says what is committed and how many rows of the reader that covers; a rerun reads on behind them. Where files end
follows from the rows alone, so an interrupted unit and a clean one have the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imglish.digests import canonical_json
from imglish.errors import SourceError
from imglish.ingest.checks import check_row
from imglish.ingest.sources.base import Row
from imglish.recipe import SourceConfig
from imglish.records import LANDING, pack_json
from imglish.storage import Output, Store

FOLDER = "landing"
FILE_BYTES = 128 << 20
"""Payload bytes of one landing file; one payload more may go over it."""
FILE_ROWS = 1 << 18
_COLUMNS = (
    "record_id", "row", "payload", "captions", "url", "licence", "bytes", "sha256", "status", "detail", "attempts",
    "receipt",
)  # fmt: skip

Hashes = NDArray[np.int64]
Columns = tuple[Any, ...]
"""The cells of one row, in the order of _COLUMNS."""


def progress_path(unit: str) -> str:
    return f"{FOLDER}/progress/{unit}.json"


class LandingFiles:
    """What a unit has landed so far; see the module.

    `goes_on`: whether an interrupted unit goes on behind its committed files. What came over the network may differ
    the next time, so units that fetch begin anew.
    """

    def __init__(self, store: Store, unit: str, source: SourceConfig, goes_on: bool = True) -> None:
        self.store, self.unit, self.source = store, unit, source
        self.taken = 0
        """Rows of the reader in committed files; the next one to add is this one."""
        self._outputs: list[Output] = []
        self._counts: Counter[str] = Counter(occurrences=0, bytes=0)
        self._names: list[Hashes] = []
        self._rows: list[Columns] = []
        self._size = 0
        self._content = b"text\0" if source.kind == "text" else b"image\0"
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._goes_on = goes_on
        if goes_on:
            self._resume()

    def __enter__(self) -> LandingFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)

    def add(self, row: Row) -> None:
        """Take the reader's next row."""
        row = check_row(self.source, row)
        payload = row.payload
        if payload is None:
            known: Columns = (None, row.row, None, None, row.url, row.licence, None, None)
        else:
            record_id = hashlib.blake2b(self._content, digest_size=16)
            record_id.update(payload)
            sha256 = None if self.source.kind == "text" else hashlib.sha256(payload).digest()
            captions = None if row.captions is None else pack_json(list(row.captions))
            size = len(payload)
            self._size += size
            known = (record_id.digest(), row.row, payload, captions, row.url, row.licence, size, sha256)
        receipt = None if row.receipt is None else pack_json(dict(row.receipt))
        self._rows.append((*known, row.status, row.detail, row.attempts, receipt))
        if self._size >= FILE_BYTES or len(self._rows) >= FILE_ROWS:
            self._write(final=False)

    def finish(self) -> tuple[dict[str, Output], dict[str, int]]:
        """All outputs and counts; SourceError for a row name that came more than once."""
        if self._rows or not (self._outputs or self._writing):
            self._write(final=True)
        self._settle()
        refuse_repeats(self.store, self.source, self._outputs, self._names)
        outputs = {f"rows/{number:06d}": output for number, output in enumerate(self._outputs)}
        totals = {name: self._counts.pop(name) for name in ("occurrences", "bytes")}
        return outputs, {**totals, **dict(sorted(self._counts.items()))}

    def _write(self, final: bool) -> None:
        self._settle()
        rows, self._rows, self._size = self._rows, [], 0
        self._writing = self._writer.submit(self._commit, rows, final)

    def _settle(self) -> None:
        """Wait for the file that is being written; its failure is raised here."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _commit(self, rows: list[Columns], final: bool) -> None:
        """On the writer's thread."""
        self._names.append(hashes([row[1] for row in rows]))
        self._counts["occurrences"] += len(rows)
        self._counts["bytes"] += sum(row[6] or 0 for row in rows)
        self._counts.update(f"status/{row[8]}" for row in rows)
        self._outputs.append(put_landing(self.store, landing_table(self.source, rows)))
        self.taken += len(rows)
        if self._goes_on and not final:
            known = {"rows": self.taken, "outputs": [output.to_json() for output in self._outputs]}
            self.store.put_as(progress_path(self.unit), canonical_json({**known, "counts": dict(self._counts)}))

    def _resume(self) -> None:
        """Begin behind what an earlier attempt committed, if all of that is there."""
        path = progress_path(self.unit)
        if not self.store.exists(path):
            return
        known = json.loads(self.store.read(path))
        outputs = [Output(**output) for output in known["outputs"]]
        if any(self.store.size(output.path) != output.bytes for output in outputs):
            return
        self.taken, self._outputs, self._counts = known["rows"], outputs, Counter(known["counts"])
        for output in outputs:
            names = row_names(self.store, output)
            self._names.append(hashes(names))


def refuse_repeats(store: Store, source: SourceConfig, outputs: Sequence[Output], names: Sequence[Hashes]) -> None:
    """SourceError for a row name that came more than once in a unit; `names` are `hashes` of the outputs' rows.

    Eight bytes a row are held; only where two are equal names are compared.
    """
    values, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *names]), return_counts=True)
    twice = set(values[counts > 1].tolist())
    if not twice:
        return
    suspects = Counter(name for output in outputs for name in row_names(store, output) if hash(name) in twice)
    for name, count in suspects.items():
        if count > 1:
            raise SourceError(
                f"source {source.name!r}: row {name!r} comes more than once; "
                f"the reader of format {source.format!r} must name rows uniquely"
            )


def hashes(names: Sequence[str]) -> Hashes:
    """Of this process: another one's differ."""
    return np.fromiter(map(hash, names), np.int64, len(names))


def row_names(store: Store, output: Output) -> list[str]:
    return list(store.read_table(output.path, ["row"]).column("row").to_pylist())


def put_landing(store: Store, table: pa.Table) -> Output:
    """Commit rows of landing in their order; pictures are compressed already, so only texts and the rest are."""
    pictures = "text" not in table.column("kind").unique().to_pylist()
    return store.put_table(FOLDER, table, bulky=("payload",), packed=not pictures)


def landing_table(source: SourceConfig, rows: Sequence[Columns]) -> pa.Table:
    """Rows as landing, in order of (record_id, source, row), null ids last."""
    known = sorted((row for row in rows if row[0] is not None), key=itemgetter(0, 1))
    unknown = sorted((row for row in rows if row[0] is None), key=itemgetter(1))
    columns: Iterable[Sequence[Any]] = zip(*known, *unknown, strict=True) if rows else ([] for _ in _COLUMNS)
    cells = dict(zip(_COLUMNS, columns, strict=True))
    arrays = {name: pa.array(cells[name], LANDING.field(name).type) for name in _COLUMNS if name != "payload"}
    arrays["payload"] = _binary(cells["payload"])
    arrays["source"] = pa.repeat(pa.scalar(source.name), len(rows))
    arrays["kind"] = pa.repeat(pa.scalar(source.kind), len(rows))
    if source.licence is not None:
        arrays["licence"] = arrays["licence"].fill_null(source.licence)
    return pa.table([arrays[name] for name in LANDING.names], schema=LANDING)


def _binary(cells: Sequence[bytes | None]) -> pa.Array:
    """A binary column in one copy; nulls are last."""
    present = [cell for cell in cells if cell is not None]
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum([0 if cell is None else len(cell) for cell in cells], out=offsets[1:])
    valid = np.packbits(np.arange(len(cells)) < len(present), bitorder="little")
    buffers = [pa.py_buffer(valid.tobytes()), pa.py_buffer(offsets), pa.py_buffer(b"".join(present))]
    return pa.Array.from_buffers(pa.binary(), len(cells), buffers)
