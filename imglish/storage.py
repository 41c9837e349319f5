"""Where a build keeps its files, and the only two ways to put one there.

`Store(root)` names files by paths relative to one root, a local folder or any fsspec URL.

- `put(folder, suffix, write)` writes a file whose name is its own content: `folder/<sha256[:32]><suffix>`.
  Two attempts at one unit write the same name and bytes, so a rerun never overwrites good data with worse.
- `put_as(path, data)` replaces a small named file (receipt, lock, manifest) in one step.

Both write beside the target under a temporary name, sync, and rename (local) or upload in one request
(object stores, where an upload is visible only when complete). A failed write leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import StorageError

PARQUET_ROW_GROUP_BYTES = 32 << 20
"""Largest uncompressed row group that we write (DESIGN section 4)."""


@dataclass(frozen=True)
class Output:
    """A committed file: path relative to the store, its SHA-256, size in bytes and rows (or samples)."""

    path: str
    sha256: str
    bytes: int
    rows: int

    def to_json(self) -> dict[str, str | int]:
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


class Store:
    """Files under one root; picklable, so that tasks carry it to workers."""

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        self.local = "://" not in text or text.startswith("file://")
        self.root = str(Path(text.removeprefix("file://")).resolve()) if self.local else text.rstrip("/")

    def url(self, path: str) -> str:
        """The full path or URL of a file."""
        return f"{self.root}/{path}" if path else self.root

    def path(self, path: str = "") -> Path:
        """The local path of a file; a StorageError for a remote store."""
        if not self.local:
            raise StorageError(f"{self.url(path)} is not on a local disk; give a local folder here")
        return Path(self.url(path))

    def exists(self, path: str) -> bool:
        return bool(self._fs().exists(self.url(path)))

    def size(self, path: str) -> int | None:
        """Size in bytes, or None when the file is missing."""
        try:
            return int(self._fs().info(self.url(path))["size"])
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """A whole file; StorageError when missing."""
        try:
            return bytes(self._fs().cat_file(self.url(path)))
        except FileNotFoundError:
            raise StorageError(f"{self.url(path)} is missing; run 'imglish build' to make it again") from None

    def open(self, path: str) -> BinaryIO:
        """A file opened for reading at any offset."""
        return self._fs().open(self.url(path), "rb")  # type: ignore[no-any-return]

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, whole or some columns of it."""
        with self.open(path) as file:
            return pq.read_table(file, columns=columns)

    def read_batches(self, path: str, rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """A Parquet file in batches of at most `rows` rows, so that payloads do not fill memory."""
        with self.open(path) as file:
            yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns)

    def files(self, folder: str = "") -> Iterator[str]:
        """Every file below a folder, relative paths in byte order; none when the folder is missing."""
        fs = self._fs()
        base = self.url(folder)
        if not fs.exists(base):
            return
        strip = len(fs._strip_protocol(self.root).rstrip("/")) + 1
        for found in sorted(fs.find(base)):
            yield found[strip:]

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs().rm_file(self.url(path))

    def put(self, folder: str, suffix: str, write: Callable[[BinaryIO], int]) -> Output:
        """Commit what `write` puts into a file; `write` returns its number of rows."""
        with self._temporary(folder) as temporary:
            with open(temporary, "w+b") as file:
                rows = write(file)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.seek(0, io.SEEK_END)
            target = f"{folder}/{sha256[:32]}{suffix}"
            self._publish(temporary, target)
        return Output(target, sha256, size, rows)

    def put_table(self, folder: str, table: pa.Table, suffix: str = ".parquet", bulky: Sequence[str] = ()) -> Output:
        """Commit a table as zstd Parquet with row groups of at most 32 MB uncompressed; see `write_parquet`."""

        def write(file: BinaryIO) -> int:
            write_parquet(table, file, bulky)
            return int(table.num_rows)

        return self.put(folder, suffix, write)

    def put_as(self, path: str, data: bytes) -> None:
        """Replace one small named file in a single step."""
        folder = path.rpartition("/")[0]
        with self._temporary(folder) as temporary:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._publish(temporary, path)

    def _fs(self) -> fsspec.AbstractFileSystem:
        protocol = "file" if self.local else self.root.partition("://")[0]
        return fsspec.filesystem(protocol)

    @contextmanager
    def _temporary(self, folder: str) -> Iterator[str]:
        directory = self.url(folder) if self.local else tempfile.gettempdir()
        name = f"{directory}/.tmp-{uuid.uuid4().hex}"
        try:
            if self.local:
                os.makedirs(directory, exist_ok=True)
            yield name
        except OSError as error:
            raise StorageError(
                f"cannot write under {self.url(folder)}: {error.strerror or error}; "
                "free space or fix permissions and run the same command again, finished units are kept"
            ) from error
        finally:
            with suppress(OSError):  # never made, or out of reach; the error above says why
                os.unlink(name)

    def _publish(self, temporary: str, target: str) -> None:
        if self.local:
            os.replace(temporary, self.url(target))
        else:
            self._fs().put_file(temporary, self.url(target))


def write_parquet(table: pa.Table, file: BinaryIO, bulky: Sequence[str] = ()) -> None:
    """Write a table as zstd Parquet, row groups sized by the table's mean row.

    Columns in `bulky` hold payloads, which differ: they get no dictionary and no statistics.
    """
    row_bytes = max(1, table.nbytes // max(1, table.num_rows))
    rows = max(1, min(1 << 20, PARQUET_ROW_GROUP_BYTES // row_bytes))
    others: bool | list[str] = [name for name in table.column_names if name not in bulky] if bulky else True
    pq.write_table(
        table,
        file,
        row_group_size=rows,
        compression="zstd",
        compression_level=1 if bulky else 3,
        use_dictionary=others,
        write_statistics=others,
    )
