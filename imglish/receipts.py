"""Receipts: the durable results of units, found by one listing a stage and read in bulk.

    receipts = find_receipts(store, "tables", "annotate", ids)      # {unit id: Receipt} of the finished ones

A receipt lies at `<folder>/receipts/<stage>/<unit id>.json`. It counts when it is whole JSON, names its unit, and every
output that it names is there in its size. For more than a few units the receipts' folder and the outputs' folders are
listed once each, and nothing is asked for file by file.

`index/<folder>-<stage>.parquet` holds copies of a stage's receipts, each with the stamp (size, time or etag) that its
file had. A copy whose stamp differs from the listing is read anew, so the index may be lost, old or torn without harm;
it only saves one read per unit, which is what takes long on an object store.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from imglish.digests import canonical_json
from imglish.errors import StorageError
from imglish.storage import Output, Store

INDEX_FOLDER = "index"
FEW = 16
"""Up to so many files are asked for one by one; more are listed."""
INDEX_FROM = 256
"""Receipts read one by one that make a new index worth its writing."""

_INDEX = pa.schema([pa.field("unit", pa.string()), pa.field("stamp", pa.string()), pa.field("receipt", pa.binary())])


@dataclass(frozen=True)
class Receipt:
    """The durable result of a unit: outputs by name, integer counts, facts about the run."""

    unit: str
    stage: str
    outputs: Mapping[str, Output]
    counts: Mapping[str, int]
    notes: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        outputs = {name: output.to_json() for name, output in self.outputs.items()}
        facts = {"unit": self.unit, "stage": self.stage, "outputs": outputs, "counts": dict(self.counts)}
        return canonical_json({**facts, "notes": dict(self.notes), "run": dict(self.run)})

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        facts = orjson.loads(data)
        outputs = {name: Output(**output) for name, output in facts["outputs"].items()}
        return cls(facts["unit"], facts["stage"], outputs, facts["counts"], facts["notes"], facts["run"])


def receipt_path(folder: str, stage: str, unit: str) -> str:
    """Where a unit's receipt lies in the store."""
    return f"{folder}/receipts/{stage}/{unit}.json"


def find_receipt(store: Store, folder: str, stage: str, unit: str) -> Receipt | None:
    """The receipt of a finished unit, or None when it is missing or torn, or one of its outputs is missing."""
    return find_receipts(store, folder, stage, [unit]).get(unit)


def find_receipts(store: Store, folder: str, stage: str, units: Iterable[str]) -> dict[str, Receipt]:
    """The receipts of those units that are finished, by unit id, in the order of `units`."""
    wanted = list(dict.fromkeys(units))
    texts = _few(store, folder, stage, wanted) if len(wanted) <= FEW else _many(store, folder, stage, wanted)
    store.mark_read(receipt_path(folder, stage, unit) for unit in texts)
    parsed = {unit: receipt for unit, text in texts.items() if (receipt := _parse(unit, text)) is not None}
    sizes = _sizes(store, {output.path for receipt in parsed.values() for output in receipt.outputs.values()})
    return {unit: parsed[unit] for unit in wanted if unit in parsed and _whole(parsed[unit], sizes)}


def _few(store: Store, folder: str, stage: str, units: Sequence[str]) -> dict[str, bytes]:
    paths = {receipt_path(folder, stage, unit): unit for unit in units}
    return {paths[path]: text for path, text in store.read_many(list(paths)).items()}


def _many(store: Store, folder: str, stage: str, units: Sequence[str]) -> dict[str, bytes]:
    """The text of every receipt that is there: from the index where that is current, else from its file."""
    listed = store.listing(posixpath.dirname(receipt_path(folder, stage, "")))
    stamps = {name.removesuffix(".json"): file.stamp for name, file in listed.items() if name.endswith(".json")}
    path = f"{INDEX_FOLDER}/{folder}-{stage}.parquet"
    known = {unit: text for unit, stamp, text in _read_index(store, path) if stamps.get(unit) == stamp}
    texts = {unit: known[unit] for unit in units if unit in known}
    absent = [unit for unit in units if unit in stamps and unit not in known]
    texts |= _few(store, folder, stage, absent)
    if len(absent) >= INDEX_FROM:
        with suppress(StorageError):  # a copy for next time; who may only read does without
            _write_index(store, path, known | texts, stamps)
    return texts


def indexed(store: Store, path: str) -> Iterator[str]:
    """The paths of the receipts that an index has copies of; none of a file that is no index."""
    found = re.fullmatch(rf"{INDEX_FOLDER}/([^-/]+)-([^/]+)\.parquet", path)
    for unit, _, _ in _read_index(store, path) if found else ():
        yield receipt_path(found[1], found[2], unit)  # type: ignore[index]


def _read_index(store: Store, path: str) -> Iterator[tuple[str, str, bytes]]:
    """(unit, stamp, receipt) of an index; nothing of one that is missing or damaged."""
    data = store.read_many([path]).get(path)
    if data is None:
        return
    try:
        table = pq.read_table(io.BytesIO(data), schema=_INDEX)
    except (OSError, ValueError):
        return
    yield from zip(*(table.column(name).to_pylist() for name in _INDEX.names), strict=True)


def _write_index(store: Store, path: str, texts: Mapping[str, bytes], stamps: Mapping[str, str]) -> None:
    rows = sorted((unit, stamps[unit], text) for unit, text in texts.items() if unit in stamps)
    columns = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), _INDEX, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_INDEX), sink, compression="zstd", row_group_size=1 << 15)
    store.put_as(path, sink.getvalue())


def _parse(unit: str, text: bytes) -> Receipt | None:
    """A receipt, or None for a torn one or one of another unit."""
    try:
        receipt = Receipt.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return receipt if receipt.unit == unit else None


def _sizes(store: Store, paths: set[str]) -> dict[str, int]:
    """Sizes of those files that exist."""
    if len(paths) <= FEW:
        return {path: size for path in paths if (size := store.size(path)) is not None}
    folders = {posixpath.dirname(path) for path in paths}
    listed = {folder: store.listing(folder) for folder in sorted(folders)}
    return {f"{folder}/{name}": file.size for folder, files in listed.items() for name, file in files.items()}


def _whole(receipt: Receipt, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(output.path) == output.bytes for output in receipt.outputs.values())
