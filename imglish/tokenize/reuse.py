"""Reuse: ids and codes that an earlier unit of the same landing file made, so a changed unit encodes only what is new.

    earlier = recall(store, STAGE, facts, unit.spec["landing"])      # {(record id, mark): row}
    ...
    remember(store, STAGE, facts, unit.spec["landing"], output, marks)

A threshold that keeps other rows makes another unit, but its rows that were kept before need the same ids and codes.
`facts` holds everything else that decides on them (tokenizer digest, stored image, views, batch, numeric platform);
`mark` is what may differ between two rows of one record: the slot in its batch for codes, the digest of its edits for
ids. A record id is the digest of the payload, so the stored image is the same where `facts` are.

What is remembered lies in `index/reuse/<stage>/`, the last few units of a landing file with the marks of their rows.
It may be lost, old or torn without harm: then everything is encoded again, to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from imglish.digests import canonical_json, json_digest
from imglish.errors import StorageError
from imglish.receipts import INDEX_FOLDER
from imglish.storage import Output, Store

REUSE_FOLDER = f"{INDEX_FOLDER}/reuse"
KEPT = 4
"""Units of one landing file that are remembered, the newest ones."""

Earlier = dict[tuple[bytes, str], dict[str, Any]]


def recall(store: Store, stage: str, facts: Mapping[str, Any], landing: str) -> Earlier:
    """Rows of earlier outputs by (record id, mark); empty when nothing fits."""
    found: Earlier = {}
    for entry in _entries(store, _path(stage, facts, landing)):
        with suppress(StorageError, OSError, pa.ArrowException, KeyError, ValueError):
            if store.size(entry["path"]) == entry["bytes"]:
                rows = store.read_table(entry["path"]).to_pylist()
                found |= {(row["record_id"], mark): row for row, mark in zip(rows, entry["marks"], strict=True)}
    return found


def remember(
    store: Store, stage: str, facts: Mapping[str, Any], landing: str, output: Output, marks: Sequence[str]
) -> None:
    """Make a unit's output known to later ones; `marks` in the order of its rows."""
    path = _path(stage, facts, landing)
    others = [entry for entry in _entries(store, path) if entry.get("path") != output.path]
    entry = {"path": output.path, "bytes": output.bytes, "marks": list(marks)}
    store.put_as(path, canonical_json([*others[-(KEPT - 1) :], entry]))


def remembered(store: Store, path: str) -> list[str]:
    """The tables that a file of `REUSE_FOLDER` remembers."""
    return [str(entry.get("path")) for entry in _entries(store, path)]


def _entries(store: Store, path: str) -> list[dict[str, Any]]:
    data = store.read_many([path]).get(path)
    with suppress(ValueError, TypeError):
        found = json.loads(data) if data is not None else []
        return [entry for entry in found if isinstance(entry, dict)]
    return []


def _path(stage: str, facts: Mapping[str, Any], landing: str) -> str:
    return f"{REUSE_FOLDER}/{stage}/{json_digest({**facts, 'landing': landing})[:32]}.json"
