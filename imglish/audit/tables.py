"""The tables that a manifest names, each checked against its digest before a number is taken from it.

    corpus = Tables("corpus/manifest.json")
    for ordinal, rows in corpus.metadata(["kind", "source"]): ...     # one table a shard
    for rows in corpus.decisions(["verdict", "rule"]): ...            # one table a landing file

A file that is missing, changed or lacks a column is a ManifestError that names it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import ManifestError, StorageError
from imglish.shards.manifest import FileRef, load_manifest
from imglish.shards.ranges import parent
from imglish.storage import Store

AHEAD = 2
"""Metadata tables that are read while others are counted."""


class Tables:
    """A manifest and its tables; ManifestError as `load_manifest`."""

    def __init__(self, manifest_path: str) -> None:
        self.path = manifest_path
        self.manifest = load_manifest(manifest_path)
        self.store = Store(parent(manifest_path))

    def metadata(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """(shard ordinal, rows) of every shard's metadata, in manifest order."""
        with ThreadPoolExecutor(1) as ahead:  # reading, SHA-256 and decompression let go of the interpreter
            following: deque[Future[pa.Table]] = deque()
            for ordinal in range(len(self.manifest.shards) + AHEAD):
                if ordinal < len(self.manifest.shards):
                    following.append(ahead.submit(self.read_shard, ordinal, columns))
                if ordinal >= AHEAD:
                    yield ordinal - AHEAD, following.popleft().result()

    def read_shard(self, ordinal: int, columns: Sequence[str]) -> pa.Table:
        """Rows of one shard's metadata."""
        return self.read(self.manifest.shards[ordinal].metadata, f"metadata of shard {ordinal}", columns)

    def decisions(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of every decisions table, in manifest order; evidence tables in the list are passed over."""
        for file in self.manifest.decisions.files:
            data = self._checked(file, "decisions table")
            if "verdict" in _schema(data, file, "decisions table").names:
                yield _parse(data, file, "decisions table", columns)

    def read(self, file: FileRef, what: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of one table."""
        return _parse(self._checked(file, what), file, what, columns)

    def _checked(self, file: FileRef, what: str) -> bytes:
        try:
            data = self.store.read(file.path)
        except StorageError:
            raise ManifestError(
                f"{self.path}: {what} ({file.path}) is missing; copy it beside the shards, or make it again with "
                "'imglish build'"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise ManifestError(
                f"{self.path}: {what} ({file.path}): sha256 {found[:16]}... but the manifest says "
                f"{file.sha256[:16]}...; bring the right file back, or make it again with 'imglish build'"
            )
        return data


def _schema(data: bytes, file: FileRef, what: str) -> pa.Schema:
    try:
        return pq.read_schema(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{what} ({file.path}) is not a Parquet file: {error}") from None


def _parse(data: bytes, file: FileRef, what: str, columns: Sequence[str]) -> pa.Table:
    missing = sorted(set(columns) - set(_schema(data, file, what).names))
    if missing:
        raise ManifestError(
            f"{what} ({file.path}) has no column {missing[0]!r}: another release wrote it; make it again with "
            "'imglish build'"
        )
    return pq.read_table(pa.BufferReader(data), columns=list(columns))
