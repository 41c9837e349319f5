"""Verify: read every byte of a corpus and name what is wrong, as far down as possible.

    for fault in verify("corpus/manifest.json"):
        print(fault)          # shards/ab.tar: p/00ff...: jpg: crc32c does not match the index

Every file's SHA-256 finds any flipped byte; what follows only says where it lies. When a shard's index rows are sound
(their CRC-32C is in the manifest) they say what every header, payload and padding has to be. When they are not, the tar
is walked by its headers, the rows are made again and compared with those found.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import ManifestError, ShardError, StorageError
from imglish.records import Kind
from imglish.shards import format as fmt
from imglish.shards.manifest import FileRef, Manifest, Shard, Slab, load_manifest
from imglish.shards.manifest_check import tokenizers_by_digest
from imglish.shards.manifest_model import PartRef
from imglish.shards.metadata import METADATA, metadata_digest
from imglish.shards.ranges import is_local, join, local_path, parent, piece_bytes, read_pieces, read_range
from imglish.shards.slabs import bad_rows
from imglish.shards.verify_pass import FileBytes, Passed, pass_over
from imglish.shards.verify_shard import check_shard
from imglish.stages import Progress
from imglish.storage import Store

_UNNAMED = "not in the manifest; remove what no build needs with 'imglish gc'"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: shard (path), sample (member without its ending, or block key) and field, if known."""

    shard: str
    sample: str | None
    field: str | None
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.sample, self.field, self.problem) if part)


class Files(threading.local):
    """Reads files into memory that each thread uses again: fresh pages cost as much as hashing what is read."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._room = np.empty(0, dtype=np.uint8)

    def whole(self, file: FileRef) -> tuple[memoryview | None, list[Fault]]:
        """A file and what its SHA-256 says; None when it has not its full length. Valid until the next read."""
        data, sha256 = self._memory(file.bytes), hashlib.sha256()
        try:
            for piece in read_pieces(join(self.base, file.path), file.bytes, data):
                sha256.update(piece)
        except ShardError as error:
            return None, [Fault(file.path, None, None, str(error))]
        return data, _digest_faults(file, sha256.hexdigest())

    def shard(self, shard: Shard) -> tuple[FileBytes, Passed]:
        """A shard's bytes, not read yet, and what one pass over them found. ShardError when they cannot be read."""
        url = join(self.base, shard.path)
        data = FileBytes(url, shard.bytes)
        return data, pass_over(read_pieces(url, shard.bytes, self._memory(piece_bytes(url))), data, shard)

    def _memory(self, size: int) -> memoryview:
        if size > len(self._room):
            self._room = np.empty(size, dtype=np.uint8)
        return memoryview(self._room.data)[:size]


def _digest_faults(file: FileRef, found: str) -> list[Fault]:
    wrong = f"sha256 {found[:16]}... but the manifest says {file.sha256[:16]}..."
    return [] if found == file.sha256 else [Fault(file.path, None, None, wrong)]


def verify(manifest_path: str, workers: int = 2, progress: Progress | None = None) -> list[Fault]:
    """All faults of a corpus, in manifest order; none when it is whole.

    Raises ManifestError when the manifest itself is damaged. Shards are read one per worker thread.
    """
    path = str(manifest_path)
    manifest, base = load_manifest(path), parent(path)
    files = Files(base)
    checks: list[Callable[[], list[Fault]]] = []
    for ordinal, shard in enumerate(manifest.shards):
        checks.append(partial(shard_faults, files, ordinal, shard, manifest))
        checks.append(partial(_metadata_faults, files, shard))
    checks += [partial(slab_faults, files, slab, manifest) for slab in manifest.slabs]
    checks += [partial(_part_faults, base, part) for part in manifest.parts]
    checks += [partial(_file_faults, files, file) for file in manifest.decisions.files]
    faults: list[Fault] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, found in enumerate(pool.map(lambda check: check(), checks), 1):
            faults += found
            if progress is not None:
                progress("verify", done, len(checks))
    return faults + list(_extra(manifest, base))


def shard_faults(files: Files, ordinal: int, shard: Shard, manifest: Manifest) -> list[Fault]:
    """What is wrong in shard number `ordinal`, as far down as possible."""
    tokenizer = tokenizers_by_digest(manifest)[shard.tokenizer or manifest.tokenizers.visual.digest]
    codes = tokenizer.grid[0] * tokenizer.grid[1]
    tombstones = [(stone["kind"], stone["row"]) for stone in manifest.tombstones if stone["shard"] == ordinal]
    try:
        data, passed = files.shard(shard)
        places = list(check_shard(data, ordinal, shard, codes, tombstones, passed))
    except ShardError as error:
        return [Fault(shard.path, None, None, str(error))]
    return [Fault(shard.path, *place) for place in places] or _digest_faults(shard, passed.sha256)


def slab_faults(files: Files, slab: Slab, manifest: Manifest) -> list[Fault]:
    """Rows whose checksum does not match, and codes of removed samples that are still there."""
    data, faults = files.whole(FileRef(path=slab["path"], sha256=slab["sha256"], bytes=slab["bytes"]))
    if data is None:
        return faults
    shard, kind = manifest.shards[slab["shard"]], slab["kind"]
    found = [(row, "crc32c does not match") for row in bad_rows(data, slab)]
    width = 2 * slab["views"] * slab["codes_per_view"]
    removed = {
        stone["row"] for stone in manifest.tombstones if (stone["shard"], stone["kind"]) == (slab["shard"], kind)
    }
    left = (row for row in sorted(removed) if data[row * width : (row + 1) * width] != bytes(width))
    found += [(row, "the sample is removed but its codes are still there") for row in left]
    return [Fault(slab["path"], _named(files.base, shard, kind, row), "codes", why) for row, why in found] or faults


def _named(base: str, shard: Shard, kind: Kind, row: int) -> str:
    """A sample by its index row, or the number of the row when the index cannot be read."""
    section = shard.sections[kind]
    try:
        data = read_range(join(base, shard.path), section.index_offset, section.index_bytes)
    except ShardError:
        return f"{kind} row {row}"
    if fmt.checksum(data) != section.index_crc32c:
        return f"{kind} row {row}"
    return fmt.PREFIX[kind] + bytes(fmt.decode_rows(kind, data)[row]["key"]).hex()


def _part_faults(base: str, part: PartRef) -> list[Fault]:
    """The part's own manifest is what it was when the parts were merged."""
    try:
        found = load_manifest(join(base, part.path)).digest
    except ManifestError as error:
        return [Fault(part.path, None, None, str(error))]
    if found == part.digest:
        return []
    return [Fault(part.path, None, None, f"digest {found[:16]}... but it was merged as {part.digest[:16]}...")]


def _metadata_faults(files: Files, shard: Shard) -> list[Fault]:
    data, faults = files.whole(shard.metadata)
    if data is None or faults:
        return faults
    try:
        table = pq.read_table(pa.BufferReader(data), schema=METADATA, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        return [Fault(shard.metadata.path, None, None, f"not a metadata table: {error}")]
    missing = sorted(set(METADATA.names) - set(pq.read_schema(pa.BufferReader(data)).names))
    if missing:
        return [Fault(shard.metadata.path, None, None, f"has no column {missing[0]!r}: another release wrote it")]
    if metadata_digest(table) != shard.metadata.digest:
        return [Fault(shard.metadata.path, None, None, "its rows do not give the digest in the manifest")]
    return []


def _file_faults(files: Files, file: FileRef) -> list[Fault]:
    return files.whole(file)[1]


def _extra(manifest: Manifest, base: str) -> Iterator[Fault]:
    """Tars and slabs that the manifest does not name, and bytes behind the ends of those it does (local disks)."""
    sizes = {shard.path: shard.bytes for shard in manifest.shards} | {s["path"]: s["bytes"] for s in manifest.slabs}
    if not is_local(base):
        yield from _extra_remote(sizes, base)
        return
    known = {local_path(join(base, path)).resolve(): path for path in sizes}
    for folder in sorted({path.parent for path in known}):
        for path in sorted((*folder.glob("*.tar"), *folder.glob("*.codes"))):
            if path.resolve() not in known:
                yield Fault(path.name, None, None, _UNNAMED)
    for file, named in known.items():
        longer = file.stat().st_size - sizes[named] if file.exists() else 0
        if longer > 0:
            yield Fault(named, None, None, f"{longer} bytes follow its end")


def _extra_remote(sizes: Mapping[str, int], base: str) -> Iterator[Fault]:
    """The same as far as the store can list; a web server cannot."""
    store = Store(base)
    for folder in sorted({path.rpartition("/")[0] for path in sizes}):
        with suppress(StorageError):
            for path in store.files(folder):
                if path.endswith((".tar", ".codes")) and path not in sizes:
                    yield Fault(PurePosixPath(path).name, None, None, _UNNAMED)
