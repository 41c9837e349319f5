"""Slabs: codes of another tokenizer for the images of a corpus, beside its tars and without touching them.

    slab = write_slab(store, ordinal, shard, "pair", tokenizer, codes)      # codes: one u16 [K, N] an index row
    manifest = use_codes(store, manifest, tokenizer, slabs)                 # the slabs' codes are active now
    manifest = use_codes(store, manifest, "41aa...")                        # back to codes that are there already

A slab is u16 [rows, K, N], then one CRC-32C (u32) a row, rows in the order of the index and repeats included; rows of
removed samples are zero. The tokenizer in `tokenizers.visual` is the active one: its codes come from the active slab of
a section, else from the tar. The histograms of codes in the metadata tables follow the active codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np

from imglish.errors import ManifestError, ShardError
from imglish.records import KINDS
from imglish.shards import format as fmt
from imglish.shards.checksums import Data, wrong_pieces
from imglish.shards.manifest import Manifest, Shard, Slab, VisualTokenizer, reissue
from imglish.shards.manifest_check import slab_bytes, tokenizers_by_digest
from imglish.shards.metadata import METADATA, Metadata, members_of, metadata_digest, replace_codes, survivor
from imglish.shards.samples import U16
from imglish.shards.whole import WholeShard
from imglish.storage import Store

Pictured = Literal["pair", "image"]
PICTURED: tuple[Pictured, ...] = ("pair", "image")


def write_slab(
    store: Store, ordinal: int, shard: Shard, kind: Pictured, tokenizer: VisualTokenizer, codes: Iterable[U16]
) -> Slab:
    """Commit the slab of one section beside its shard; `codes` yields u16 [K, N] for every index row in order.

    The slab is inactive. ManifestError when there are more or fewer rows than index rows, their shapes differ or do not
    fit the tokenizer's grid, or a code is not below its `codes`.
    """
    shapes: set[tuple[int, ...]] = set()
    grid = tokenizer.grid[0] * tokenizer.grid[1]
    where = f"slab of shard {ordinal}, {kind}"

    def write(file: BinaryIO) -> int:
        checksums: list[int] = []
        for row in codes:
            shapes.add(row.shape)
            if len(shapes) > 1 or row.ndim != 2 or row.shape[1] != grid:
                raise ManifestError(f"{where}: row {len(checksums)} is {row.shape}; all must be [K, {grid}], one K")
            if row.size and int(row.max()) >= tokenizer.codes:
                raise ManifestError(f"{where}: row {len(checksums)} has code {row.max()} of {tokenizer.codes}")
            data = fmt.encode_u16(row)
            file.write(data)
            checksums.append(fmt.checksum(data))
        file.write(np.array(checksums, dtype="<u4").tobytes())
        if len(checksums) != shard.counts[kind]:
            raise ManifestError(f"{where}: {len(checksums)} rows of codes for {shard.counts[kind]} index rows")
        return len(checksums)

    output = store.put(_folder(shard), ".codes", write)
    views = shapes.pop()[0] if shapes else 0
    return Slab(
        path=output.path,
        sha256=output.sha256,
        bytes=output.bytes,
        shard=ordinal,
        kind=kind,
        rows=output.rows,
        views=views,
        codes_per_view=grid,
        tokenizer=tokenizer.digest,
        active=False,
    )


def read_slab(store: Store, slab: Slab) -> U16:
    """All codes of a slab, u16 [rows, K, N]; ShardError names the first row that is damaged."""
    data = store.read(slab["path"])
    if len(data) != slab["bytes"] or slab["bytes"] != slab_bytes(slab):
        raise ShardError(f"{slab['path']}: {len(data)} bytes but the manifest says {slab['bytes']}; bring it back")
    bad = bad_rows(data, slab)
    if bad:
        raise ShardError(f"{slab['path']}: row {bad[0]}: crc32c does not match; bring it back or code the corpus again")
    codes = data[: len(data) - 4 * slab["rows"]]
    return fmt.decode_u16(codes).reshape(slab["rows"], slab["views"], slab["codes_per_view"])


def bad_rows(data: Data, slab: Slab) -> list[int]:
    """Rows of a slab of the right length whose checksum does not match."""
    width, rows = 2 * slab["views"] * slab["codes_per_view"], slab["rows"]
    said = np.frombuffer(data, "<u4", rows, width * rows)
    return [int(row) for row in wrong_pieces(data, np.arange(rows) * width, np.full(rows, width), said)]


def use_codes(
    store: Store, manifest: Manifest, tokenizer: VisualTokenizer | str, slabs: Sequence[Slab] = ()
) -> Manifest:
    """The manifest with a visual tokenizer active, and `slabs` (of any tokenizer listed or given) added.

    A tokenizer that the manifest lists may be given by its digest. Metadata tables are written again, with the active
    codes in their histograms. The result is not written. ManifestError when a section has no codes of that tokenizer.
    """
    known = tokenizers_by_digest(manifest)
    if isinstance(tokenizer, str):
        if tokenizer not in known:
            listed = ", ".join(name[:16] for name in sorted(known))
            raise ManifestError(f"visual tokenizer {tokenizer[:16]}... has no codes here; there are those of {listed}")
        tokenizer = known[tokenizer]
    before = manifest.tokenizers.visual.digest
    others = {**known, tokenizer.digest: tokenizer}
    del others[tokenizer.digest]
    found = {
        _place(slab): {**slab, "active": slab["tokenizer"] == tokenizer.digest} for slab in (*manifest.slabs, *slabs)
    }
    shards = [
        {**shard.model_dump(mode="json"), "tokenizer": (shard.tokenizer or before) if others else None}
        for shard in manifest.shards
    ]
    plain = manifest.tokenizers.model_dump(mode="json")
    plain["visual"] = tokenizer.model_dump(mode="json")
    plain["others"] = [others[digest].model_dump(mode="json") for digest in sorted(others)]
    changed = reissue(manifest, shards=shards, tokenizers=plain, slabs=[found[place] for place in sorted(found)])
    if before == tokenizer.digest:
        return changed
    return reissue(changed, shards=[_counted(store, changed, ordinal) for ordinal in range(len(changed.shards))])


def _counted(store: Store, manifest: Manifest, ordinal: int) -> dict[str, Any]:
    """The shard's entry with a metadata table that counts the active codes."""
    shard = manifest.shards[ordinal]
    table = store.read_table(shard.metadata.path, METADATA.names)
    whole = WholeShard.read(store.root, shard)
    codes = Metadata()
    for kind in PICTURED:
        owners = members_of(table, kind)
        for key, rows in active_codes(store, manifest, ordinal, kind, whole).items():
            codes.add_values("codes", kind, survivor(owners[key]), rows)
    counted = replace_codes(table, codes)
    output = store.put_table(_folder(shard), counted)
    reference = {"path": output.path, "sha256": output.sha256, "bytes": output.bytes}
    return {**shard.model_dump(mode="json"), "metadata": {**reference, "digest": metadata_digest(counted)}}


def active_codes(store: Store, manifest: Manifest, ordinal: int, kind: Pictured, whole: WholeShard) -> dict[str, U16]:
    """Codes u16 [K, N] by key of every sample of a section that has content."""
    rows = whole.rows[kind]
    slab = next((s for s in manifest.slabs if s["active"] and (s["shard"], s["kind"]) == (ordinal, kind)), None)
    if slab is None:
        place = fmt.FIELDS[kind].index("codes")
        stored = (sample for sample in whole.stored(kind) if not sample.removed)
        return {sample.key: fmt.decode_u16(sample.payloads[place]) for sample in stored}
    made = read_slab(store, slab)
    firsts = fmt.first_rows(kind, rows)
    return {bytes(rows[row]["key"]).hex(): made[row] for row in firsts if not rows[row]["flags"] & fmt.TOMBSTONE}


def without_rows(store: Store, slab: Slab, shard: Shard, rows: Iterable[int]) -> Slab:
    """The slab with the codes of removed index rows set to zero, committed beside the shard."""
    codes = read_slab(store, slab).copy()
    codes[list(rows)] = 0
    data = codes.astype("<u2").tobytes()
    width = 2 * slab["views"] * slab["codes_per_view"]
    checksums = [fmt.checksum(data[at : at + width]) for at in range(0, len(data), max(1, width))]

    def write(file: BinaryIO) -> int:
        file.write(data + np.array(checksums, dtype="<u4").tobytes())
        return len(codes)

    output = store.put(_folder(shard), ".codes", write)
    return Slab(**{**slab, "path": output.path, "sha256": output.sha256, "bytes": output.bytes})


def _place(slab: Mapping[str, Any]) -> tuple[int, int, str]:
    return slab["shard"], KINDS.index(slab["kind"]), slab["tokenizer"]


def _folder(shard: Shard) -> str:
    return str(PurePosixPath(shard.path).parent)
