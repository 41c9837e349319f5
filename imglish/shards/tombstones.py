"""Taking samples out of a finished corpus without moving anything else.

    removal = tombstone("corpus/manifest.json", keys=["00ff..."])                     # record ids in hex
    removal = tombstone("corpus/manifest.json", where=pc.field("licence") == "NC")    # columns of `metadata.METADATA`
    removal.manifest.tombstones, removal.absent, removal.replaced

A removed pair or image keeps its members' names and its index rows, but every member is empty; the ids of a removed
document become `<pad>`. Rows that have nothing left are flagged. No row is renumbered, so an order over the corpus
stays what it was and only has to pass over the new tombstones. Shards that hold a removed sample are written anew under
a new digest, with their metadata tables and slabs, and the manifest, which names its parent, is replaced last: a
removal that is killed has done nothing. The old files stay until they are collected (`removal.replaced` names them).

What a removal knows is this corpus: landing still has the payload, and a later build from it brings the sample back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import record_key
from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.manifest import Manifest, Shard, Slab, Tombstone, parse_manifest, reissue, shard_entry
from imglish.shards.metadata import METADATA, Metadata, members_of, metadata_digest, subtract
from imglish.shards.samples import U16
from imglish.shards.slabs import PICTURED, active_codes, without_rows
from imglish.shards.whole import WholeShard
from imglish.shards.writer import ShardFacts, Stored, write_stored
from imglish.stages import Progress
from imglish.storage import Output, Store


@dataclass(frozen=True)
class Removal:
    """What `tombstone` did.

    `removed` counts different samples by kind (documents of text), `absent` are keys that no sample has (any more),
    `replaced` are files that the new manifest no longer names.
    """

    manifest: Manifest
    removed: Mapping[Kind, int]
    absent: list[str]
    replaced: list[str]


def tombstone(
    manifest_path: str,
    keys: Collection[str] = (),
    where: pc.Expression | None = None,
    output: str | None = None,
    progress: Progress | None = None,
) -> Removal:
    """Remove the pairs, images and documents of these record ids, and all with an occurrence that fits `where`.

    The manifest at `manifest_path` is replaced, or the new one written to `output`, a name in the same folder. When
    nothing is found, nothing is written and the manifest is the old one. Raises ManifestError and ShardError when the
    corpus is damaged, ValueError when a key is no record id, StorageError when the disk is full.
    """
    wanted = {record_key(key) for key in keys}
    path = str(manifest_path)
    store, name = Store(path.rpartition("/")[0] or "."), path.rpartition("/")[2]
    manifest = parse_manifest(store.read(name), path)
    shards, slabs = list(manifest.shards), list(manifest.slabs)
    entries: list[dict[str, Any]] = []
    stones: list[Tombstone] = []
    removed = dict.fromkeys(KINDS, 0)
    seen: set[str] = set()
    for ordinal, shard in enumerate(shards):
        found = _find(store, shard, wanted, where)
        seen |= {key for samples in found.values() for key in samples}
        entry = shard.model_dump(mode="json")
        if any(found.values()):
            rewrite = _Rewrite(store, manifest, ordinal, found)
            entry |= rewrite.entry()
            stones += rewrite.stones()
            slabs = [rewrite.slab(slab) if slab["shard"] == ordinal else slab for slab in slabs]
            removed = {kind: removed[kind] + len(found[kind]) for kind in KINDS}
        entries.append(entry)
        if progress is not None:
            progress("tombstone", ordinal + 1, len(shards))
    absent = sorted(wanted - seen)
    if not any(removed.values()):
        return Removal(manifest, removed, absent, [])
    parent = {"data_digest": manifest.data_digest, "tombstones": len(manifest.tombstones)}
    new = reissue(manifest, shards=entries, slabs=slabs, tombstones=[*manifest.tombstones, *stones], parent=parent)
    store.put_as(output or name, new.to_json())
    return Removal(new, removed, absent, sorted(_files(manifest) - _files(new)))


class _Rewrite:
    """One shard without some samples; everything is committed when this is made."""

    def __init__(self, store: Store, manifest: Manifest, ordinal: int, found: Mapping[Kind, Mapping[str, Any]]) -> None:
        self.store, self.ordinal, self.found = store, ordinal, found
        self.shard = manifest.shards[ordinal]
        self.folder = str(PurePosixPath(self.shard.path).parent)
        self.whole = WholeShard.read(store.root, self.shard)
        self.blocks = self.whole.blocks().copy()
        removed = self._metadata(manifest)
        self.empty = _blank(self.blocks, found["text"])
        self.tar, self.facts = self._write()
        self.table = subtract(store.read_table(self.shard.metadata.path, METADATA.names), removed)

    def entry(self) -> dict[str, Any]:
        table = self.store.put_table(self.folder, self.table)
        facts = {name: getattr(self.facts, name) for name in ("counts", "distinct", "sections")}
        return shard_entry(self.tar, table, self.shard.split, facts, metadata_digest(self.table))

    def stones(self) -> Iterator[Tombstone]:
        """New tombstones by kind and row."""
        for kind in KINDS:
            for row in self._rows(kind):
                yield Tombstone(shard=self.ordinal, kind=kind, row=int(row))

    def slab(self, slab: Slab) -> Slab:
        rows = self._rows(slab["kind"]).tolist()
        return without_rows(self.store, slab, self.shard, rows) if rows else slab

    def _rows(self, kind: Kind) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Index rows that have nothing left now."""
        if kind == "text":
            return np.flatnonzero(self.empty & (self.whole.rows["text"]["flags"] == 0))
        gone = np.array([bytes.fromhex(key) for key in self.found[kind]], dtype="V16")
        return np.flatnonzero(np.isin(self.whole.rows[kind]["key"], gone)) if len(gone) else np.zeros(0, np.int64)

    def _write(self) -> tuple[Output, ShardFacts]:
        made: list[ShardFacts] = []

        def write(file: BinaryIO) -> int:
            made.append(write_stored(file, self._emptied("pair"), self._emptied("image"), self.blocks))
            return sum(made[0].counts[kind] for kind in KINDS)

        tar = self.store.put(self.folder, ".tar", write)
        return tar, made[0]

    def _emptied(self, kind: Kind) -> Iterator[Stored]:
        for sample in self.whole.stored(kind):
            gone = sample.key in self.found[kind]
            yield Stored(sample.key, [b""] * len(sample.payloads), sample.rows) if gone else sample

    def _metadata(self, manifest: Manifest) -> Metadata:
        """What the shard's metadata says about the removed samples, made again from the shard."""
        metadata = Metadata()
        for kind in PICTURED:
            codes = active_codes(self.store, manifest, self.ordinal, kind, self.whole)
            for sample in self.whole.stored(kind):
                members = self.found[kind].get(sample.key)
                if members is not None and kind == "image":
                    metadata.add_image(sample.key, members, codes[sample.key])
                elif members is not None:
                    origins = np.repeat(np.arange(len(members)), [member["captions"] for member in members])
                    ids = fmt.split_captions(fmt.decode_u16(sample.payloads[fmt.FIELDS["pair"].index("ids")]))
                    metadata.add_pair(sample.key, members, origins.tolist(), ids, codes[sample.key])
        for key, members in self.found["text"].items():
            start, length = members[0]["start"], members[0]["length"]
            metadata.add_document(key, members, start, self.blocks.reshape(-1)[start : start + length].copy())
        return metadata


def _find(
    store: Store, shard: Shard, wanted: Collection[str], where: pc.Expression | None
) -> dict[Kind, dict[str, list[dict[str, Any]]]]:
    """Occurrence rows by kind and key of the samples to remove from one shard."""
    table = store.read_table(shard.metadata.path, METADATA.names)
    rows = table.filter(pc.field("table") == "occurrence")
    hits = pc.field("key").isin(pa.array(sorted(wanted), pa.string()))
    chosen = rows.filter(hits if where is None else hits | where)
    keys = {kind: set(chosen.filter(pc.field("kind") == kind).column("key").to_pylist()) for kind in KINDS}
    return {kind: members_of(rows, kind, keys[kind]) if keys[kind] else {} for kind in KINDS}


def _blank(blocks: U16, documents: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Put `<pad>` over the documents' spans, in place; which blocks then hold nothing else, bool [n]."""
    flat = blocks.reshape(-1)
    for members in documents.values():
        start = members[0]["start"]
        flat[start : start + members[0]["length"]] = fmt.PAD
    return np.asarray(np.all(blocks == fmt.PAD, axis=1), dtype=np.bool_)


def _files(manifest: Manifest) -> set[str]:
    shards: Iterable[Shard] = manifest.shards
    found = {path for shard in shards for path in (shard.path, shard.metadata.path)}
    return found | {slab["path"] for slab in manifest.slabs}
