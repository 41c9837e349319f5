"""The table beside every shard: where its samples came from, and integer histograms; audits open nothing else.

One flat Parquet file with two sorts of rows, told apart by `table`:

    occurrence   one row per (sample, occurrence): source, row, url, licence, language, original size, captions used
                 and their text, what the stored picture is like (at the survivor), and for text the document's span
                 among the ids of the shard
    histogram    one row per (name, kind, source, language, value): how often. Names: codes, ids (captions and
                 documents), captions (a pair), caption_ids and document_ids (lengths)

Codes count for the source of the surviving occurrence, caption ids for the source that the caption came from. A sample
counts once, however often it is repeated; a removed one (a tombstone) not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from imglish.digests import sort_rows, table_digest
from imglish.errors import ManifestError
from imglish.records import Kind
from imglish.shards.samples import U16

METADATA = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string()),  # record id in hex
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.string()),
        pa.field("merged", pa.bool_()),  # false for the survivor
        pa.field("priority", pa.int32()),
        pa.field("url", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
        pa.field("width", pa.int32()),  # of the original, pixels
        pa.field("height", pa.int32()),
        pa.field("captions", pa.int32()),  # of the sample that came from this occurrence
        pa.field("text", pa.string()),  # those captions as stored, one a line
        pa.field("bytes", pa.int32()),  # of the stored JPEG; this and the next two at the survivor only
        pa.field("brightness", pa.int32()),  # mean luma, 0 to 255
        pa.field("sharpness", pa.int32()),  # variance of the Laplacian (`picture_facts`)
        pa.field("start", pa.int64()),  # first id of the document; block start // 512
        pa.field("length", pa.int64()),  # ids of the document
        pa.field("name", pa.string()),  # histograms from here
        pa.field("value", pa.int32()),
        pa.field("count", pa.int64()),
    ]
)
KEYS = ("table", "kind", "key", "source", "row", "name", "language", "value")
NO_PICTURE: Mapping[str, int] = MappingProxyType({})
OCCURRENCE = ("source", "row", "merged", "priority", "url", "licence", "language", "width", "height")
"""Columns of an occurrence that it has from its landing file."""
_COUNTED = 1 << 20
"""Values below this are counted in one array; they are ids, codes and lengths."""
_AT_ONCE = 1 << 18
"""Values that are counted at once: numpy makes 64-bit integers of them first, which stay in cache."""


class Metadata:
    """Collects a shard's metadata while it is written."""

    def __init__(self) -> None:
        self._occurrences: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._values: dict[tuple[str, str, str, str | None], list[NDArray[Any]]] = defaultdict(list)

    def add_pair(
        self,
        key: str,
        members: Sequence[Mapping[str, Any]],
        origins: Sequence[int],
        ids: Sequence[U16],
        codes: U16,
        texts: Sequence[str] = (),
        picture: Mapping[str, int] = NO_PICTURE,
    ) -> None:
        """A pair: its occurrences by (priority, source, row), the number of that which each caption came from, the
        captions' ids, codes u16 [K, N], the captions and `picture_facts`.

        A removal, which takes rows out by their keys, needs neither captions nor facts.
        """
        used = Counter(origins)
        lines: dict[int, list[str]] = defaultdict(list)
        for origin, text in zip(origins, texts, strict=bool(texts)):
            lines[origin].append(text)
        first = survivor(members)
        for origin, member in enumerate(members):
            facts = picture if member is first else NO_PICTURE
            said = "\n".join(lines[origin]) if origin in lines else None
            self.add_occurrence("pair", key, member, captions=used[origin], text=said, **facts)
        for origin, caption in zip(origins, ids, strict=True):
            self.add_values("ids", "pair", members[origin], caption)
            self.add_values("caption_ids", "pair", members[origin], len(caption))
        self.add_values("captions", "pair", members[0], len(origins))
        self.add_values("codes", "pair", first, codes)

    def add_image(
        self, key: str, members: Sequence[Mapping[str, Any]], codes: U16, picture: Mapping[str, int] = NO_PICTURE
    ) -> None:
        """An image: its occurrences, codes u16 [K, N] and `picture_facts`."""
        first = survivor(members)
        for member in members:
            self.add_occurrence("image", key, member, **(picture if member is first else NO_PICTURE))
        self.add_values("codes", "image", first, codes)

    def add_document(self, key: str, members: Sequence[Mapping[str, Any]], start: int, ids: U16) -> None:
        """A document: its occurrences, and its ids, which start at place `start` of the shard's."""
        for member in members:
            self.add_occurrence("text", key, member, start=start, length=len(ids))
        self.add_values("ids", "text", members[0], ids)
        self.add_values("document_ids", "text", members[0], len(ids))

    def add_documents(
        self, occurrences: pa.Table, values: Iterable[tuple[str, str | None, U16, NDArray[np.int64]]]
    ) -> None:
        """Many documents: their occurrences (`occurrence_table`) in the order of `KEYS`, and by source and language
        the ids of all of them and how many each has."""
        self._tables.append(occurrences)
        for source, language, ids, lengths in values:
            self._values["ids", "text", source, language].append(ids)
            self._values["document_ids", "text", source, language].append(lengths)

    def add_occurrence(self, kind: Kind, key: str, member: Mapping[str, Any], **more: int | str | None) -> None:
        """One occurrence of a sample; `more` is captions, text and facts of the picture, or start and length."""
        facts = {name: member[name] for name in OCCURRENCE}
        self._occurrences.append({"table": "occurrence", "kind": kind, "key": key, **facts, **more})

    def add_values(self, name: str, kind: Kind, member: Mapping[str, Any], values: ArrayLike) -> None:
        """Values of a histogram, for the source and language of an occurrence."""
        array = np.asarray(values).reshape(-1)
        self._values[name, kind, member["source"], member["language"]].append(array)

    def table(self) -> pa.Table:
        """All rows in the order of `KEYS`: histograms, occurrences of images and pairs, and those of documents."""
        histograms = [self._histogram(*group) for group in sorted(self._values, key=_histogram_place)]
        occurrences = sort_rows(_table(self._occurrences), KEYS)
        return pa.concat_tables([*histograms, occurrences, *self._tables]).combine_chunks()

    def _histogram(self, name: str, kind: str, source: str, language: str | None) -> pa.Table:
        values, counts = _tally(np.concatenate(self._values[name, kind, source, language]))
        fixed = {"table": "histogram", "kind": kind, "source": source, "language": language, "name": name}
        columns = {"value": pa.array(values, pa.int32()), "count": pa.array(counts, pa.int64())}
        return _filled(fixed, columns, len(values))


def occurrence_table(kind: Kind, keys: pa.Array, members: pa.Table, more: Mapping[str, NDArray[np.int64]]) -> pa.Table:
    """Occurrence rows as `Metadata.add_occurrence` makes them, of many samples: their keys, and the columns
    `OCCURRENCE` of their landing files."""
    columns = {name: members.column(name) for name in OCCURRENCE} | {"key": keys}
    columns |= {name: pa.array(values) for name, values in more.items()}
    return _filled({"table": "occurrence", "kind": kind}, columns, members.num_rows)


def _filled(fixed: Mapping[str, Any], columns: Mapping[str, Any], rows: int) -> pa.Table:
    """A table of columns that are given, are the same in every row, or are null."""
    given = [
        columns[field.name].cast(field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(fixed.get(field.name), field.type), rows)
        for field in METADATA
    ]
    return pa.table(given, schema=METADATA)


def _tally(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Different values in ascending order, and how often each stands there."""
    if values.size and values.max() < _COUNTED:
        counts = np.zeros(int(values.max()) + 1, np.int64)
        for start in range(0, len(values), _AT_ONCE):
            counts += np.bincount(values[start : start + _AT_ONCE], minlength=len(counts))
        found = np.flatnonzero(counts)
        return found, counts[found]
    return np.unique(values, return_counts=True)


def _histogram_place(group: tuple[str, str, str, str | None]) -> tuple[str, str, str, bool, str]:
    """Where a histogram stands in the order of `KEYS`, whose nulls come last."""
    name, kind, source, language = group
    return kind, source, name, language is None, language or ""


def survivor(members: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The occurrence whose content the sample is."""
    return next((member for member in members if not member["merged"]), members[0])


def metadata_digest(table: pa.Table) -> str:
    """Logical digest of a metadata table."""
    return table_digest(table, KEYS)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.table([pa.array([row.get(f.name) for row in rows], f.type) for f in METADATA], schema=METADATA)


def members_of(table: pa.Table, kind: Kind, keys: Collection[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Occurrence rows by key of all samples of a kind, or of those in `keys`; ordered as when they were written."""
    rows = table.filter(pc.and_(pc.equal(table.column("table"), "occurrence"), pc.equal(table.column("kind"), kind)))
    if keys is not None:
        rows = rows.filter(pc.is_in(rows.column("key"), value_set=pa.array(sorted(keys), pa.string())))
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist():
        found[row["key"]].append(row)
    for members in found.values():
        members.sort(key=lambda member: (member["priority"], member["source"], member["row"]))
    return dict(found)


def replace_codes(table: pa.Table, codes: Metadata) -> pa.Table:
    """The table with its histograms of codes replaced."""
    old = pc.and_kleene(pc.equal(table.column("table"), "histogram"), pc.equal(table.column("name"), "codes"))
    return _ordered([table.filter(pc.invert(old)), codes.table()])


def subtract(table: pa.Table, removed: Metadata) -> pa.Table:
    """The table as if the samples in `removed` had never been in the shard.

    ManifestError when their histograms are not part of the table's: it belongs to another shard.
    """
    gone = removed.table()
    split = [_sort_of(one, name) for one in (table, gone) for name in ("occurrence", "histogram")]
    kept, bars, gone_rows, gone_bars = split
    names = [field.name for field in METADATA if field.name != "count"]
    row_names = ["kind", "key", "source", "row"]
    if gone_rows.num_rows:
        kept = kept.join(gone_rows.select(row_names), keys=row_names, join_type="left anti").select(METADATA.names)
    minus = gone_bars.set_column(
        gone_bars.column_names.index("count"), METADATA.field("count"), pc.negate(gone_bars.column("count"))
    )
    summed = pa.concat_tables([bars, minus]).group_by(names).aggregate([("count", "sum")])
    left = summed.rename_columns([*names, "count"]).select(METADATA.names)
    left = left.filter(pc.not_equal(left.column("count"), 0))
    if left.num_rows and pc.min(left.column("count")).as_py() < 0:
        raise ManifestError("a metadata table does not count samples that its shard holds; build the corpus again")
    return _ordered([kept, left])


def _sort_of(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.equal(table.column("table"), name))


def _ordered(parts: Sequence[pa.Table]) -> pa.Table:
    whole = pa.concat_tables([part.cast(METADATA) for part in parts])
    return sort_rows(whole, KEYS).combine_chunks()
