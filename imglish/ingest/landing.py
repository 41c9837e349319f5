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
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import canonical_json
from imglish.errors import SourceError
from imglish.ingest.checks import check_row
from imglish.ingest.sources.base import Row
from imglish.recipe import SourceConfig
from imglish.records import LANDING, ROW_KEYS, pack_json
from imglish.storage import Output, Store

FOLDER = "landing"
FILE_BYTES = 128 << 20
"""Payload bytes of one landing file; one payload more may go over it."""
FILE_ROWS = 1 << 18
_OVER = 16 << 20
"""Bytes for the payload that goes over FILE_BYTES; only a larger one has the buffer copied."""
_DEFAULTS = dict.fromkeys(("captions", "url", "licence", "sha256", "status", "detail", "attempts", "receipt")) | {
    "status": "ok"
}
"""Columns in which a plain text has nothing to say, and what stands there then."""
_PLAIN = tuple(_DEFAULTS.values())

Hashes = NDArray[np.int64]


def progress_path(unit: str) -> str:
    return f"{FOLDER}/progress/{unit}.json"


class LandingFiles:
    """What a unit has landed so far; see the module.

    `goes_on`: whether an interrupted unit goes on behind its committed files. What came over the network may differ
    the next time, so units that fetch begin anew. `compressed`: texts by zstd.
    """

    def __init__(
        self, store: Store, unit: str, source: SourceConfig, goes_on: bool = True, compressed: bool = True
    ) -> None:
        self.store, self.unit, self.source = store, unit, source
        self.taken = 0
        """Rows of the reader in committed files; the next one to add is this one."""
        self._outputs: list[Output] = []
        self._counts: Counter[str] = Counter(occurrences=0, bytes=0)
        self._names: list[Hashes] = []
        self._rows = _Rows()
        self._spare: _Rows | None = None  # is being written, or was
        self._hash = hashlib.blake2b(b"text\0" if source.kind == "text" else b"image\0", digest_size=16)
        self._compressed = compressed
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
        record_id = captions = sha256 = None
        if payload is not None:
            digest = self._hash.copy()
            digest.update(payload)
            record_id = digest.digest()
            sha256 = None if self.source.kind == "text" else hashlib.sha256(payload).digest()
            captions = None if row.captions is None else pack_json(list(row.captions))
        receipt = None if row.receipt is None else pack_json(dict(row.receipt))
        others = (captions, row.url, row.licence, sha256, row.status, row.detail, row.attempts, receipt)
        self._rows.add(row.row, payload, record_id, others)
        if self._rows.size >= FILE_BYTES or len(self._rows) >= FILE_ROWS:
            self._write(final=False)

    def finish(self) -> tuple[dict[str, Output], dict[str, int]]:
        """All outputs and counts; SourceError for a row name that came more than once."""
        if len(self._rows) or not (self._outputs or self._writing):
            self._write(final=True)
        self._settle()
        refuse_repeats(self.store, self.source, self._outputs, self._names)
        outputs = {f"rows/{number:06d}": output for number, output in enumerate(self._outputs)}
        totals = {name: self._counts.pop(name) for name in ("occurrences", "bytes")}
        return outputs, {**totals, **dict(sorted(self._counts.items()))}

    def _write(self, final: bool) -> None:
        self._settle()
        rows, self._rows = self._rows, _Rows() if self._spare is None else self._spare
        self._rows.clear()
        self._spare = rows
        self._writing = self._writer.submit(self._commit, rows, final)

    def _settle(self) -> None:
        """Wait for the file that is being written; its failure is raised here."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _commit(self, rows: _Rows, final: bool) -> None:
        """On the writer's thread."""
        self._names.append(hashes(rows.names))
        self._counts["occurrences"] += len(rows)
        self._counts["bytes"] += rows.size
        for status, count in Counter(rows.column("status")).items():
            self._counts[f"status/{status}"] += count
        self._outputs.append(put_landing(self.store, rows.table(self.source), self._compressed))
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


def put_landing(store: Store, table: pa.Table, compressed: bool = True) -> Output:
    """Commit rows of landing in order of (record_id, source, row), null ids last.

    Pictures are compressed already, so only texts and the rest may be.
    """
    pictures = "text" not in table.column("kind").unique().to_pylist()
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in ROW_KEYS])
    return store.put_table(FOLDER, table, bulky=("payload",), packed=compressed and not pictures, order=order)


class _Rows:
    """The rows of one file as they come: payloads end to end in one buffer, the other cells by column.

    Tuples of cells would be walked by the garbage collector again and again, a tenth of the time; and most texts have
    nothing but a name and a payload, so columns end with the last row that has something to say in them.
    """

    def __init__(self) -> None:
        self.clear()
        self._buffer = np.empty(FILE_BYTES + _OVER, np.uint8)  # huge pages; those never touched cost nothing
        self._view = self._buffer.data

    def clear(self) -> None:
        """Begin another file in the same memory."""
        self.names: list[str] = []
        self._ids: list[bytes | None] = []
        self._sizes: list[int | None] = []
        self._others: dict[str, list[Any]] = {name: [] for name in _DEFAULTS}
        self.size = 0
        """Bytes of payload."""

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, payload: bytes | None, record_id: bytes | None, others: tuple[Any, ...]) -> None:
        """`others` in the order of _DEFAULTS."""
        if others != _PLAIN:
            for (column, default), cell in zip(_DEFAULTS.items(), others, strict=True):
                if cell != default:
                    self.column(column).append(cell)
        self.names.append(name)
        self._ids.append(record_id)
        if payload is None:
            self._sizes.append(None)
            return
        size = len(payload)
        self._sizes.append(size)
        end = self.size + size
        if end > len(self._buffer):
            self._grow(end)
        self._view[self.size : end] = payload
        self.size = end

    def column(self, name: str) -> list[Any]:
        """One of _DEFAULTS, with a cell for every row so far."""
        cells = self._others[name]
        missing = len(self.names) - len(cells)
        if missing:
            cells += [_DEFAULTS[name]] * missing
        return cells

    def _grow(self, size: int) -> None:
        """For a payload of more than _OVER that goes over FILE_BYTES."""
        grown = np.empty(size, np.uint8)
        grown[: self.size] = self._buffer[: self.size]
        self._buffer, self._view = grown, grown.data

    def table(self, source: SourceConfig) -> pa.Table:
        """As landing, in the order in which they came; it looks into the buffer."""
        cells = {name: self.column(name) for name in _DEFAULTS}
        cells |= {"row": self.names, "record_id": self._ids, "bytes": self._sizes}
        arrays = {name: pa.array(column, LANDING.field(name).type) for name, column in cells.items()}
        arrays["payload"] = self._payloads(arrays["bytes"])
        arrays["source"] = pa.repeat(pa.scalar(source.name), len(self))
        arrays["kind"] = pa.repeat(pa.scalar(source.kind), len(self))
        if source.licence is not None:
            arrays["licence"] = arrays["licence"].fill_null(source.licence)
        return pa.table([arrays[name] for name in LANDING.names], schema=LANDING)

    def _payloads(self, sizes: pa.Int64Array) -> pa.BinaryArray:
        """The buffer as a column, without a copy; a row without size has no payload."""
        offsets = np.zeros(len(self) + 1, np.int32)
        np.cumsum(sizes.fill_null(0).to_numpy(), out=offsets[1:])
        valid = np.packbits(sizes.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
        buffers = [pa.py_buffer(valid.tobytes()), pa.py_buffer(offsets), pa.py_buffer(self._buffer)]
        return pa.Array.from_buffers(pa.binary(), len(self), buffers)
