"""What must hold between the fields of a manifest, beyond its sums and digests."""

from __future__ import annotations

from itertools import pairwise

from imglish.records import KINDS
from imglish.shards.manifest_model import Manifest, Slab, VisualTokenizer


def structural_fault(manifest: Manifest) -> str | None:
    """The first contradiction, or None: slabs, tombstones and parts must fit the shards and the tokenizers."""
    checks = (_unknown_tokenizer, _slab_fault, _uncoded_section, _tombstone_fault, _part_fault)
    return next((fault for check in checks if (fault := check(manifest)) is not None), None)


def tokenizers_by_digest(manifest: Manifest) -> dict[str, VisualTokenizer]:
    """Every visual tokenizer that the manifest describes."""
    known = (manifest.tokenizers.visual, *manifest.tokenizers.others)
    return {tokenizer.digest: tokenizer for tokenizer in known}


def _unknown_tokenizer(manifest: Manifest) -> str | None:
    known = tokenizers_by_digest(manifest)
    for ordinal, shard in enumerate(manifest.shards):
        if shard.tokenizer is not None and shard.tokenizer not in known:
            return f"shard {ordinal} has codes of tokenizer {shard.tokenizer[:16]}..., which tokenizers does not list"
    for number, slab in enumerate(manifest.slabs):
        if slab["tokenizer"] not in known:
            return f"slab {number} has codes of tokenizer {slab['tokenizer'][:16]}..., which tokenizers does not list"
    return None


def _slab_fault(manifest: Manifest) -> str | None:
    known = tokenizers_by_digest(manifest)
    places = [(slab["shard"], KINDS.index(slab["kind"]), slab["tokenizer"]) for slab in manifest.slabs]
    if any(right <= left for left, right in pairwise(places)):
        return "slabs are not in ascending order of shard, kind and tokenizer"
    for number, slab in enumerate(manifest.slabs):
        if slab["shard"] >= len(manifest.shards):
            return f"slab {number} belongs to shard {slab['shard']} of {len(manifest.shards)}"
        rows = manifest.shards[slab["shard"]].counts[slab["kind"]]
        grid = known[slab["tokenizer"]].grid
        if slab["rows"] != rows or slab["codes_per_view"] != grid[0] * grid[1] or slab["bytes"] != slab_bytes(slab):
            return f"slab {number} has {_shape(slab)}, but shard {slab['shard']} has {rows} {slab['kind']} rows"
        if slab["active"] != (slab["tokenizer"] == manifest.tokenizers.visual.digest):
            return f"slab {number} is active={slab['active']}, which is not what tokenizers.visual says"
    return None


def slab_bytes(slab: Slab) -> int:
    """Length of a slab's file: u16 codes, then a u32 checksum a row."""
    return slab["rows"] * (2 * slab["views"] * slab["codes_per_view"] + 4)


def _shape(slab: Slab) -> str:
    return f"{slab['rows']} x {slab['views']} x {slab['codes_per_view']} codes in {slab['bytes']} bytes"


def _uncoded_section(manifest: Manifest) -> str | None:
    """Codes of the active tokenizer lie in the tar or in an active slab."""
    active = manifest.tokenizers.visual.digest
    covered = {(slab["shard"], slab["kind"]) for slab in manifest.slabs if slab["active"]}
    for ordinal, shard in enumerate(manifest.shards):
        if shard.tokenizer in (None, active):
            continue
        for kind in ("pair", "image"):
            if shard.counts[kind] and (ordinal, kind) not in covered:
                return f"shard {ordinal} has no {kind} codes of the active tokenizer, neither in the tar nor in a slab"
    return None


def _tombstone_fault(manifest: Manifest) -> str | None:
    places = [(stone["shard"], stone["kind"], stone["row"]) for stone in manifest.tombstones]
    for shard, kind, row in places:
        if shard >= len(manifest.shards) or row >= manifest.shards[shard].counts[kind]:
            return f"tombstone of shard {shard}, {kind} row {row}: there is no such row"
    if len(set(places)) != len(places):
        return "a row has two tombstones"
    if manifest.parent is not None and manifest.parent.tombstones > len(places):
        return f"the parent has {manifest.parent.tombstones} tombstones, more than the {len(places)} here"
    return None


def _part_fault(manifest: Manifest) -> str | None:
    place = 0
    for number, part in enumerate(manifest.parts):
        if part.first != place:
            return f"part {number} begins at shard {part.first}, but the parts before it hold {place}"
        place += part.shards
    if manifest.parts and place != len(manifest.shards):
        return f"the parts hold {place} shards, the manifest {len(manifest.shards)}"
    if bool(manifest.parts) != (manifest.duplicates is not None):
        return "parts and duplicates belong together"
    return None
