"""The text of a shard, column by column: the same metadata as document by document, and tables that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from imglish.digests import sort_rows
from imglish.errors import StageError
from imglish.shards.metadata import KEYS, METADATA, Metadata
from imglish.shards.pack_load import ROWS
from imglish.shards.pack_texts import Texts
from imglish.shards.text import pack_blocks

IDS = {bytes([number]) * 16: np.arange(number % 3, 9 * number, dtype=np.uint16) for number in (7, 2, 200, 31)}


def rows(documents: Sequence[bytes] = tuple(IDS), members: Sequence[dict[str, Any]] = ()) -> pa.Table:
    """Rows of one shard; documents have two occurrences, in two languages, unless `members` are given."""
    found: list[dict[str, Any]] = [
        {"part": "documents", "record_id": key, "ids": IDS[key].astype("<u2").tobytes()} for key in documents
    ]
    found += members or [member for key in IDS for member in occurrences(key)]
    filled = [{"bucket": 3, "kind": "text"} | row for row in found]
    columns = [pa.array([row.get(field.name) for row in filled], field.type) for field in ROWS]
    return pa.table(columns, schema=ROWS)


def occurrences(key: bytes) -> list[dict[str, Any]]:
    first = {"source": "b", "row": f"b:{key[0]}", "priority": 1, "language": "de" if key[0] % 2 else None}
    second = {"source": "a", "row": f"a:{key[0]}", "priority": 2, "language": "en", "merged": True, "width": 5}
    return [{"part": "members", "record_id": key, "merged": False, "url": "u"} | one for one in (second, first)]


def of_texts(table: pa.Table) -> tuple[Texts, pa.Table]:
    texts, metadata = Texts(table), Metadata()
    _, starts = pack_blocks(texts.documents)
    metadata.add_documents(texts.occurrences(starts), texts.values())
    return texts, metadata.table()


def test_metadata_is_that_of_adding_document_by_document_in_the_order_of_its_keys() -> None:
    texts, found = of_texts(rows())
    expected, start = Metadata(), 0
    for key in sorted(IDS):
        members = sorted(occurrences(key), key=lambda member: member["priority"])
        filled = [dict.fromkeys(METADATA.names) | member for member in members]
        expected.add_document(key.hex(), filled, start, IDS[key])
        start += len(IDS[key])
    assert found.equals(expected.table())
    assert found.equals(sort_rows(found, KEYS).combine_chunks())
    assert [one.tolist() for one in texts.documents] == [IDS[key].tolist() for key in sorted(IDS)]


def test_the_order_of_rows_and_their_chunks_do_not_matter() -> None:
    order = np.random.default_rng(0).permutation(rows().num_rows)
    shuffled = rows().take(pa.array(order))
    parts = pa.concat_tables([shuffled.slice(0, 5), shuffled.slice(5)])
    assert of_texts(parts)[1].equals(of_texts(rows())[1])


def test_a_shard_without_text_has_none() -> None:
    texts, found = of_texts(ROWS.empty_table())
    assert (len(texts.documents), found.num_rows, texts.members.num_rows) == (0, 0, 0)


def test_tables_that_disagree_name_the_document() -> None:
    twice = next(iter(IDS))
    with pytest.raises(StageError, match=f"text {twice.hex()} stands twice in the documents tables"):
        Texts(rows(documents=[*IDS, twice]))
    with pytest.raises(StageError, match=f"text {twice.hex()} has occurrences but no codes or ids"):
        Texts(rows(documents=[key for key in IDS if key != twice]))
    with pytest.raises(StageError, match=f"text {twice.hex()} has codes or ids but no occurrence"):
        Texts(rows(members=[member for key in IDS if key != twice for member in occurrences(key)]))
