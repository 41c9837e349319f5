"""The manifest: one JSON file that is the corpus.

    manifest = build_manifest(receipts, name="demo", version="1", tokenizers=..., ...)
    store.put_as("manifest.json", manifest.to_json())
    manifest = load_manifest("corpus/manifest.json")        # checked: format, fields, sums, both digests

Two digests (DESIGN section 8). `data_digest` covers what a model can see: format, shards in order, tokenizers, views,
decoder. `digest` covers that and where it came from: name and version, metadata and decisions (logical digests, never
Parquet bytes), sources, drops, content fields of the recipe, libraries. Paths, hosts and times are in neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec
from pydantic import ValidationError

from imglish.digests import json_digest
from imglish.errors import ManifestError
from imglish.records import KINDS, SPLITS
from imglish.shards.format import FORMAT_VERSION
from imglish.shards.manifest_check import structural_fault
from imglish.shards.manifest_model import FileRef, Manifest, Section, Shard, Slab, Tombstone, VisualTokenizer
from imglish.stages import Receipt
from imglish.storage import Output

__all__ = [
    "FileRef",
    "Manifest",
    "Section",
    "Shard",
    "Slab",
    "Tombstone",
    "VisualTokenizer",
    "build_manifest",
    "load_manifest",
    "parse_manifest",
    "reissue",
    "seal",
    "shard_entry",
]


def build_manifest(receipts: Sequence[Receipt], *, name: str, version: str, **facts: Any) -> Manifest:
    """The manifest of pack's receipts, which are in the order of the shards.

    `facts` are the fields `tokenizers`, `views`, `images`, `sources`, `drops`, `decisions`, `recipe` and `libraries` of
    Manifest as plain dicts. Raises ManifestError when one is missing, unknown or of the wrong form.
    """
    shards = [_packed(receipt) for receipt in receipts]
    values: dict[str, Any] = {"format": "imglish", "format_version": FORMAT_VERSION, "name": name, "version": version}
    return seal({**values, "slabs": [], "tombstones": [], **facts, "shards": shards})


def reissue(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with other fields (plain values): see `seal`."""
    return seal({**manifest.model_dump(mode="json"), **changes})


def seal(values: Mapping[str, Any]) -> Manifest:
    """The manifest of these fields; counts and digests are made from them. ManifestError when they do not fit."""
    blank = {"data_digest": "0" * 64, "digest": "0" * 64, "counts": _sum_counts(values["shards"])}
    plain = _validate({**values, **blank}, "manifest").model_dump(mode="json")
    plain["data_digest"] = json_digest(_data_part(plain))
    plain["digest"] = json_digest(_whole_part(plain))
    manifest = _validate(plain, "manifest")
    fault = structural_fault(manifest)
    if fault is not None:
        raise ManifestError(f"manifest: {fault}")
    return manifest


def load_manifest(path: str) -> Manifest:
    """Read and check a manifest, local or any fsspec URL; ManifestError names what is wrong."""
    try:
        with fsspec.open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ManifestError(f"no manifest at {path}; make one with 'imglish build'") from None
    return parse_manifest(data, path)


def parse_manifest(data: bytes, origin: str) -> Manifest:
    """Check the bytes of a manifest; `origin` stands in messages.

    Raises ManifestError when it is no manifest, newer than this release, incomplete, or when its counts or
    digests do not follow from its fields.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{origin}: not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("format") != "imglish":
        raise ManifestError(f"{origin}: not a manifest: its 'format' is not \"imglish\"")
    found = values.get("format_version")
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise ManifestError(
            f"{origin}: format_version {found} is newer than {FORMAT_VERSION}, the newest that this release reads; "
            "update imglish"
        )
    manifest = _validate(values, origin)
    _check(manifest, origin)
    return manifest


def _check(manifest: Manifest, origin: str) -> None:
    plain = manifest.model_dump(mode="json")
    for split, counts in _sum_counts(plain["shards"]).items():
        for kind, count in counts.items():
            said = plain["counts"].get(split, {}).get(kind)
            if said != count:
                raise ManifestError(f"{origin}: counts.{split}.{kind} is {said} but the shards hold {count}")
    fault = structural_fault(manifest)
    if fault is not None:
        raise ManifestError(f"{origin}: {fault}")
    for field, part in (("data_digest", _data_part), ("digest", _whole_part)):
        digest = json_digest(part(plain))
        if plain[field] != digest:
            covers = ", ".join(sorted(part(plain)))
            raise ManifestError(
                f"{origin}: {field} is {plain[field][:16]}... but its fields give {digest[:16]}...; one of {covers} "
                "was changed by hand; build the manifest again with 'imglish build'"
            )


def shard_entry(
    tar: Output, table: Output, split: str, facts: Mapping[str, Any], metadata_digest: str
) -> dict[str, Any]:
    """A shard as the manifest has it; `facts` are counts, distinct and sections."""
    metadata = {"path": table.path, "sha256": table.sha256, "bytes": table.bytes, "digest": metadata_digest}
    return {
        "path": tar.path,
        "sha256": tar.sha256,
        "bytes": tar.bytes,
        "split": split,
        "counts": {kind: facts["counts"][kind] for kind in (*KINDS, "captions")},
        "distinct": facts["distinct"],
        "sections": facts["sections"],
        "metadata": metadata,
    }


def _packed(receipt: Receipt) -> dict[str, Any]:
    notes = receipt.notes
    facts = {"counts": receipt.counts, "distinct": notes["distinct"], "sections": notes["sections"]}
    return shard_entry(
        receipt.outputs["shard"], receipt.outputs["metadata"], notes["split"], facts, notes["metadata_digest"]
    )


def _sum_counts(shards: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    total = {split: dict.fromkeys((*KINDS, "captions"), 0) for split in SPLITS}
    for shard in shards:
        for kind in total[shard["split"]]:
            total[shard["split"]][kind] += shard["counts"].get(kind, 0)
    return {split: dict(counts) for split, counts in total.items()}


def _data_part(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `data_digest` covers."""
    fields = ("sha256", "bytes", "split", "counts", "distinct", "sections")
    return {
        "format": plain["format"],
        "format_version": plain["format_version"],
        "shards": [{field: shard[field] for field in fields} for shard in plain["shards"]],
        "slabs": [_without_path(slab) for slab in plain["slabs"] if slab["active"]],
        "tombstones": plain["tombstones"],
        "tokenizers": {name: _without_path(plain["tokenizers"][name]) for name in ("text", "visual")},
        "views": plain["views"],
        "decoder": plain["images"]["decoder"],
    }


def _whole_part(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `digest` covers; what few corpora have enters only where it is not empty."""
    fields = ("data_digest", "name", "version", "sources", "drops", "recipe", "libraries", "images")
    seldom = {
        "slabs": [_without_path(slab) for slab in plain["slabs"]],
        "tokenizers": [_without_path(tokenizer) for tokenizer in plain["tokenizers"]["others"]],
        "tars": {str(n): name for n, shard in enumerate(plain["shards"]) if (name := shard["tokenizer"])},
        "rules": plain["decisions"]["rules"],
        "measures": plain["decisions"]["measures"],
        "parent": plain["parent"],
        "parts": [_without_path(part) for part in plain["parts"]],
        "duplicates": plain["duplicates"],
    }
    return {
        **{field: plain[field] for field in fields},
        "metadata": [shard["metadata"]["digest"] for shard in plain["shards"]],
        "decisions": plain["decisions"]["digest"],
        **{field: value for field, value in seldom.items() if value},
    }


def _without_path(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "path"}


def _validate(values: Mapping[str, Any], origin: str) -> Manifest:
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestError(f"{origin}: field {field}: {first['msg'].lower()}{more}") from None
