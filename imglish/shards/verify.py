"""Verify: read every byte of a corpus and name what is wrong, as far down as possible.

    for fault in verify("corpus/manifest.json"):
        print(fault)          # shards/ab.tar: p/00ff...: jpg: crc32c does not match the index

Every file's SHA-256 finds any flipped byte; what follows only says where it lies. When a shard's index rows are sound
(their CRC-32C is in the manifest) they say what every header, payload and padding has to be. When they are not, the tar
is walked by its headers, the rows are made again and compared with those found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import ShardError
from imglish.shards.manifest import FileRef, Manifest, Shard, load_manifest
from imglish.shards.metadata import METADATA, metadata_digest
from imglish.shards.ranges import is_local, join, local_path, parent, read_range
from imglish.shards.verify_shard import check_shard
from imglish.stages import Progress


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: shard (path), sample (member without its ending, or block key) and field, if known."""

    shard: str
    sample: str | None
    field: str | None
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.sample, self.field, self.problem) if part)


def verify(manifest_path: str, workers: int = 2, progress: Progress | None = None) -> list[Fault]:
    """All faults of a corpus, in manifest order; none when it is whole.

    Raises ManifestError when the manifest itself is damaged. Shards are read one per worker thread.
    """
    path = str(manifest_path)
    manifest, base = load_manifest(path), parent(path)
    checks: list[Callable[[], list[Fault]]] = []
    for ordinal, shard in enumerate(manifest.shards):
        checks.append(partial(_shard_faults, base, ordinal, shard, manifest))
        checks.append(partial(_metadata_faults, base, shard))
    checks += [partial(_file_faults, base, file) for file in manifest.decisions.files]
    faults: list[Fault] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, found in enumerate(pool.map(lambda check: check(), checks), 1):
            faults += found
            if progress is not None:
                progress("verify", done, len(checks))
    return faults + list(_extra(manifest, base))


def _shard_faults(base: str, ordinal: int, shard: Shard, manifest: Manifest) -> list[Fault]:
    data, faults = _read(base, shard)
    if data is None:
        return faults
    visual = manifest.tokenizers.visual
    grid = visual.grid[0] * visual.grid[1]
    return [Fault(shard.path, *place) for place in check_shard(data, ordinal, shard, grid)] or faults


def _metadata_faults(base: str, shard: Shard) -> list[Fault]:
    data, faults = _read(base, shard.metadata)
    if data is None or faults:
        return faults
    try:
        table = pq.read_table(pa.BufferReader(data), schema=METADATA)
    except (pa.ArrowException, OSError) as error:
        return [Fault(shard.metadata.path, None, None, f"not a metadata table: {error}")]
    if metadata_digest(table) != shard.metadata.digest:
        return [Fault(shard.metadata.path, None, None, "its rows do not give the digest in the manifest")]
    return []


def _file_faults(base: str, file: FileRef) -> list[Fault]:
    return _read(base, file)[1]


def _read(base: str, file: FileRef) -> tuple[bytes | None, list[Fault]]:
    """A whole file and what its SHA-256 says; None when it cannot be read at its full length."""
    try:
        data = read_range(join(base, file.path), 0, file.bytes)
    except ShardError as error:
        return None, [Fault(file.path, None, None, str(error))]
    found = hashlib.sha256(data).hexdigest()
    if found == file.sha256:
        return data, []
    return data, [Fault(file.path, None, None, f"sha256 {found[:16]}... but the manifest says {file.sha256[:16]}...")]


def _extra(manifest: Manifest, base: str) -> Iterator[Fault]:
    """Tars that the manifest does not name and bytes behind its shards, on a local disk."""
    if not is_local(base):
        return
    shards = {local_path(join(base, shard.path)).resolve(): shard for shard in manifest.shards}
    for folder in sorted({path.parent for path in shards}):
        for path in sorted(folder.glob("*.tar")):
            if path.resolve() not in shards:
                yield Fault(path.name, None, None, "not in the manifest; remove what no build needs with 'imglish gc'")
    for path, shard in shards.items():
        longer = path.stat().st_size - shard.bytes if path.exists() else 0
        if longer > 0:
            yield Fault(shard.path, None, None, f"{longer} bytes follow its end")
