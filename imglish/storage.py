"""Where a build keeps its files, and the only two ways to put one there.

`Store(root)` names files by paths relative to one root, a local folder or any fsspec URL.

- `put(folder, suffix, write)` writes a file whose name is its own content: `folder/<sha256[:32]><suffix>`.
  Two attempts at one unit write the same name and bytes, so a rerun never overwrites good data with worse.
- `put_as(path, data)` replaces a small named file (receipt, lock, manifest) in one step.

On a local disk both write beside the target under a temporary name, sync, and rename. Object stores have no rename
but show an upload only when it is complete: the file is made in a local temporary folder and uploaded, in parts when it
is large (parts of an upload that fails are taken back), or not at all when one of this name and size is there. Other
remote file systems (HDFS, SFTP) get the upload under a temporary name, and a rename. A failed write leaves nothing.

Where a store is and how to log in is fsspec's business: `FSSPEC_S3_ENDPOINT_URL`, `AWS_ENDPOINT_URL`, `AWS_PROFILE`
and so on in the environment of the command and of its workers (docs/clusters.md).
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imglish.errors import StorageError

PARQUET_ROW_GROUP_BYTES = 32 << 20
"""Largest uncompressed row group that we write (DESIGN section 4)."""
GROUP_ROWS = 1 << 20
LOOKUP_ROWS = 1 << 14
"""Rows of a group in tables in which single rows are looked up: statistics of a landing file's 262,144 rows take about
50 kB, one group of one column 0.3 MB."""
_WHOLE = frozenset("s3 s3a gs gcs az abfs abfss adl oci oss tos memory".split())  # noqa: SIM905
"""Protocols whose uploads appear in one step."""


SCRATCH = "scratch"


@dataclass(frozen=True)
class Output:
    """A committed file: path relative to the store, its SHA-256, size in bytes and rows (or samples)."""

    path: str
    sha256: str
    bytes: int
    rows: int

    def to_json(self) -> dict[str, str | int]:
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


class Listed(NamedTuple):
    """A file in a listing; `stamp` changes when the file is written again."""

    size: int
    stamp: str


class Store:
    """Files under one root; picklable, so that tasks carry it to workers."""

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        self.local = not is_url(text)
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
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Size in bytes, or None when the file is missing."""
        try:
            with self._reaching(path):
                return int(self._fs().info(self.url(path))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> bytes:
        """A whole file; StorageError when missing."""
        try:
            with self._reaching(path):
                return bytes(self._fs().cat_file(self.url(path)))
        except FileNotFoundError:
            raise StorageError(f"{self.url(path)} is missing; run 'imglish build' to make it again") from None

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Whole files by path, those that exist; an object store is asked for many at once."""
        if self.local:
            found = {}
            for path in paths:
                with suppress(FileNotFoundError):
                    found[path] = Path(self.url(path)).read_bytes()
            return found
        urls = {self._fs()._strip_protocol(self.url(path)): path for path in paths}
        with self._reaching(paths[0] if paths else ""):
            got = self._fs().cat(list(urls), on_error="omit") if urls else {}
        return {urls[url]: bytes(data) for url, data in got.items()}

    def mark_read(self, paths: Iterable[str]) -> None:
        """Told of files whose content was used without `read`; for stores that keep account."""

    def listing(self, folder: str) -> dict[str, Listed]:
        """Size and stamp of every file directly in a folder, by name; nothing when the folder is missing."""
        if self.local:
            return _scan(self.url(folder))
        fs = self._fs()
        fs.invalidate_cache(self.url(folder))
        try:
            with self._reaching(folder):
                found = fs.ls(self.url(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(info["name"]).rpartition("/")[2]: Listed(int(info["size"] or 0), _stamp(info))
            for info in found
            if info["type"] == "file"
        }

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
        strip = len(fs._strip_protocol(self.root).rstrip("/")) + 1
        with suppress(FileNotFoundError), self._reaching(folder):
            for found in sorted(fs.find(self.url(folder))):
                yield found[strip:]

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError), self._reaching(path):
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
            if self.local or self.size(target) != size:
                self._publish(temporary, target)
        return Output(target, sha256, size, rows)

    def put_table(
        self,
        folder: str,
        table: pa.Table,
        suffix: str = ".parquet",
        bulky: Sequence[str] = (),
        packed: bool = True,
        order: pa.Array | None = None,
        group_rows: int = GROUP_ROWS,
    ) -> Output:
        """Commit a table as zstd Parquet with row groups of at most 32 MB uncompressed; see `write_parquet`."""

        def write(file: BinaryIO) -> int:
            write_parquet(table, file, bulky, packed, order, group_rows)
            return int(table.num_rows)

        return self.put(folder, suffix, write)

    def put_as(self, path: str, data: bytes) -> None:
        """Replace one small named file in a single step."""
        self.put_all({path: data})

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Replace small named files, each in a single step and none before all of them are on the disk."""
        with ExitStack() as held:
            made = {path: held.enter_context(self._temporary(path.rpartition("/")[0])) for path in files}
            for path, data in files.items():
                with open(made[path], "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for path, temporary in made.items():
                self._publish(temporary, path)

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one; whether it was written. One of several that try at once succeeds.

        On stores that know conditional writes (local disks, S3, Google Cloud Storage); elsewhere all may succeed.
        """
        try:
            if self.local:
                target = Path(self.url(path))
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.write(data)
            else:
                with self._reaching(path):
                    self._fs().pipe_file(self.url(path), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise self._unwritten(path, error) from error
        return True

    def _fs(self) -> fsspec.AbstractFileSystem:
        """The file system; it asks anew what is there each time, because other processes write too."""
        if self.local:
            return fsspec.filesystem("file")
        return fsspec.filesystem(self._protocol, use_listings_cache=False)

    @contextmanager
    def _reaching(self, path: str) -> Iterator[None]:
        """Failures of a remote store as a StorageError; that a file is or is not there stays what it is."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, NotADirectoryError, StorageError):
            raise
        except Exception as error:
            if self.local:
                raise
            what = str(error) or type(error).__name__
            raise StorageError(
                f"{self.url(path)}: {what}; see that address and credentials are set for every worker "
                "(docs/clusters.md) and run the same command again, finished units are kept"
            ) from error

    @property
    def _protocol(self) -> str:
        return self.root.partition("://")[0]

    @contextmanager
    def _temporary(self, folder: str) -> Iterator[str]:
        directory = self.url(folder) if self.local else tempfile.gettempdir()
        name = f"{directory}/.tmp-{uuid.uuid4().hex}"
        try:
            if self.local:
                os.makedirs(directory, exist_ok=True)
            yield name
        except OSError as error:
            raise self._unwritten(folder, error) from error
        finally:
            with suppress(OSError):  # never made, or out of reach; the error above says why
                os.unlink(name)

    def _unwritten(self, path: str, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write under {self.url(path)}: {error.strerror or error}; "
            "free space or fix permissions and run the same command again, finished units are kept"
        )

    def _publish(self, temporary: str, target: str) -> None:
        if self.local:
            os.replace(temporary, self.url(target))
            return
        with self._reaching(target):
            if self._protocol in _WHOLE:
                self._fs().put_file(temporary, self.url(target))
            else:
                self._upload_and_rename(temporary, target)

    def _upload_and_rename(self, temporary: str, target: str) -> None:
        fs, folder = self._fs(), target.rpartition("/")[0]
        beside = self.url(f"{folder}/.tmp-{uuid.uuid4().hex}" if folder else f".tmp-{uuid.uuid4().hex}")
        try:
            fs.makedirs(self.url(folder), exist_ok=True)
            fs.put_file(temporary, beside)
            with suppress(FileNotFoundError):
                fs.rm_file(self.url(target))  # a rename of HDFS and SFTP replaces nothing
            fs.mv(beside, self.url(target))
        except BaseException:
            with suppress(OSError):
                fs.rm_file(beside)
            raise


def is_url(root: str) -> bool:
    """Whether files lie behind an fsspec URL rather than on a local disk."""
    return "://" in root and not root.startswith("file://")


def default_scratch(root: str) -> str:
    """Where engines spill: in the build's folder, or in one of the system's temporary folders when that is remote."""
    if not is_url(root):
        return str(Path(Store(root).root, SCRATCH))
    return str(Path(tempfile.gettempdir(), f"imglish-{hashlib.sha256(root.encode()).hexdigest()[:16]}"))


def write_parquet(
    table: pa.Table,
    file: BinaryIO,
    bulky: Sequence[str] = (),
    packed: bool = True,
    order: pa.Array | None = None,
    group_rows: int = GROUP_ROWS,
) -> None:
    """Write a table as zstd Parquet, row groups sized by the table's mean row and of at most `group_rows`.

    Columns in `bulky` hold payloads, which differ: they get no dictionary and no statistics, and no compression
    unless `packed` (pictures are compressed already). `order` holds the rows' numbers as they shall stand; they are
    brought there a row group at a time.
    """
    row_bytes = max(1, table.nbytes // max(1, table.num_rows))
    rows = max(1, min(group_rows, PARQUET_ROW_GROUP_BYTES // row_bytes))
    others: bool | list[str] = [name for name in table.column_names if name not in bulky] if bulky else True
    packing = [name for name in table.column_names if packed or name not in bulky]
    options = {
        "compression": {name: "zstd" if name in packing else "none" for name in table.column_names},
        "compression_level": dict.fromkeys(packing, 1 if bulky else 3),
        "use_dictionary": others,
        "write_statistics": others,
    }
    with pq.ParquetWriter(file, table.schema, **options) as writer:
        for start in range(0, max(1, table.num_rows), rows):
            group = table.slice(start, rows) if order is None else table.take(order.slice(start, rows))
            writer.write_table(group, row_group_size=rows)


def read_rows(store: Store, path: str, wanted: NDArray[np.int64], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of a Parquet file by number, ascending, each once; a table for each row group that holds some of them."""
    if not len(wanted):
        return
    with store.open(path) as file:
        parquet = pq.ParquetFile(file)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        edges = np.concatenate([[0], np.cumsum(sizes)])
        cuts = np.searchsorted(wanted, edges)
        for group, (first, last) in enumerate(pairwise(cuts.tolist())):
            if first < last:
                rows = parquet.read_row_group(group, columns=list(columns))
                whole = last - first == rows.num_rows  # the usual case; taking copies every payload
                yield rows if whole else rows.take(pa.array(wanted[first:last] - edges[group]))


def _scan(folder: str) -> dict[str, Listed]:
    """`Store.listing` on a local disk."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    facts = entry.stat()
                    found[entry.name] = Listed(facts.st_size, f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ino}")
    except FileNotFoundError:
        return {}
    return found


def _stamp(info: Mapping[str, Any]) -> str:
    """Size with the etag or time that a file system reports."""
    keys = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    return f"{info['size']} {next((info[key] for key in keys if info.get(key) is not None), '')}"
