"""The text of a shard, column by column: documents in record-id order, their occurrences, and what is counted of them.

    texts = Texts(rows)                               rows of `pack_load.ROWS` whose kind is text, in any order
    texts.documents                                   one array of ids a document, views of one buffer
    metadata.add_documents(texts.occurrences(starts), texts.values())

Documents are short and many, so nothing goes through Python cell by cell.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves, sort_rows
from imglish.errors import StageError
from imglish.shards.metadata import OCCURRENCE, occurrence_table
from imglish.shards.samples import U16


class Texts:
    """Documents and occurrences of a shard.

    StageError when a document stands twice, or has no occurrence, or an occurrence no document.
    """

    def __init__(self, rows: pa.Table) -> None:
        is_document = pc.equal(rows.column("part"), "documents")
        documents = rows.select(["record_id", "ids"]).filter(is_document)
        members = rows.select(["record_id", *OCCURRENCE]).filter(pc.invert(is_document))
        records, order = _by_record(documents)
        twice = np.flatnonzero(records[1:] == records[:-1])
        if len(twice):
            raise StageError(f"pack: text {_shown(records[twice[0]])} stands twice in the documents tables")
        owners, by_owner = _by_record(members)
        same = owners[1:] == owners[:-1]
        if same.any():
            members = sort_rows(members, ("record_id", "priority", "source", "row"))
        else:
            members = members.take(pa.array(by_owner))
        first = np.append(True, ~same)[: len(owners)]
        _check(records, owners[first])
        self.members = members
        self._document_of = np.cumsum(first) - 1  # number of the document that each occurrence is of
        self._first = np.flatnonzero(first)  # its first occurrence
        flat, edges = _flat(documents.column("ids").take(pa.array(order)))
        self.lengths = np.diff(edges)
        self.documents = [flat[start:end] for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]

    def occurrences(self, starts: NDArray[np.int64]) -> pa.Table:
        """Rows of the metadata table, in its order; `starts` are the places of the documents' first ids."""
        keys = _hex(self.members.column("record_id"))
        spans = {"start": starts[self._document_of], "length": self.lengths[self._document_of]}
        table = occurrence_table("text", keys, self.members, spans)
        return table if len(self._first) == table.num_rows else sort_rows(table, ("key", "source", "row"))

    def values(self) -> Iterator[tuple[str, str | None, U16, NDArray[np.int64]]]:
        """(source, language, ids, lengths) of the documents whose first occurrence is of that source and language."""
        firsts = self.members.select(["source", "language"]).take(pa.array(self._first))
        numbered = firsts.append_column("number", pa.array(np.arange(firsts.num_rows)))
        groups = numbered.group_by(["source", "language"]).aggregate([("number", "list")]).to_pylist()
        for group in groups:
            numbers = group["number_list"]
            ids = np.concatenate([self.documents[number] for number in numbers])
            yield group["source"], group["language"], ids, self.lengths[numbers]


def _by_record(rows: pa.Table) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Record ids in ascending order, and the rows that have them."""
    high, low = record_halves(rows.column("record_id"))
    order = np.lexsort((low, high))
    records = np.stack([high[order], low[order]], axis=1).astype(">u8").view("V16").reshape(-1)
    return records, order


def _check(records: NDArray[np.void], owners: NDArray[np.void]) -> None:
    """The same records on both sides; StageError names the first that is not."""
    if np.array_equal(records, owners):
        return
    known, found = ({_shown(one) for one in side} for side in (records, owners))
    odd = min(known ^ found)
    has = "codes or ids but no occurrence" if odd in known else "occurrences but no codes or ids"
    raise StageError(f"pack: text {odd} has {has}; run the tokenize stage again")


def _shown(record: np.void) -> str:
    return record.tobytes().hex()


def _flat(column: pa.ChunkedArray) -> tuple[U16, NDArray[np.int64]]:
    """Cells of little-endian u16 as one array, and the edges between them, int64 [cells + 1]."""
    edges = np.zeros(len(column) + 1, np.int64)
    np.cumsum(pc.binary_length(column).to_numpy() // 2, out=edges[1:])
    data = b"".join(_bytes_of(chunk) for chunk in column.chunks)
    return np.frombuffer(data, "<u2").astype(np.uint16, copy=False), edges


def _bytes_of(cells: pa.BinaryArray) -> memoryview | bytes:
    if not len(cells) or cells.buffers()[2] is None:
        return b""
    edges = np.frombuffer(cells.buffers()[1], np.int32)[cells.offset : cells.offset + len(cells) + 1]
    return memoryview(cells.buffers()[2])[int(edges[0]) : int(edges[-1])]


def _hex(record_ids: pa.ChunkedArray) -> pa.StringArray:
    """Record ids as the keys of samples."""
    high, low = record_halves(record_ids)
    data = np.stack([high, low], axis=1).astype(">u8").tobytes().hex().encode()
    edges = np.arange(0, 32 * len(high) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(high), [None, pa.py_buffer(edges), pa.py_buffer(data)])
