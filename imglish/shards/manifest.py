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
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import fsspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from imglish.digests import canonical_json, json_digest
from imglish.errors import ManifestError
from imglish.records import KINDS, SPLITS, Kind, Split
from imglish.shards.format import FORMAT_VERSION
from imglish.stages import Receipt


def _inside(path: str) -> str:
    if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or ":" in path:
        raise ValueError("a path must be relative and stay inside the corpus folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FileRef(_Part):
    """A file of the corpus."""

    path: RelativePath
    sha256: Digest
    bytes: Natural


class Section(_Part):
    """Byte ranges of one kind in a shard."""

    offset: Natural
    """First header of the section's members."""
    bytes: Natural
    index_offset: Natural
    """First index row of this kind."""
    index_bytes: Natural
    index_crc32c: Natural
    """CRC-32C of the index rows of this kind."""


class Metadata(FileRef):
    """A shard's metadata table."""

    digest: Digest
    """Logical digest of its rows; `sha256` is that of the Parquet file."""


class Shard(FileRef):
    """One tar; its place in the list is its ordinal."""

    split: Split
    counts: Mapping[str, Natural]
    """Index rows of each kind, and captions."""
    distinct: Mapping[str, Natural]
    """Different samples of each kind."""
    sections: Mapping[Kind, Section]
    metadata: Metadata


class TextTokenizer(_Part):
    """What made the ids."""

    digest: Digest
    vocabulary: Natural
    """Rows of an embedding, special ids included."""
    mask_id: Natural
    path: RelativePath | None


class VisualTokenizer(_Part):
    """What made the codes."""

    digest: Digest
    type: str
    codes: Natural
    """Codebook size."""
    size: Natural
    """Side of a rendered view, pixels."""
    patch: Natural
    grid: tuple[Natural, Natural]
    """Rows and columns of codes; N is their product."""
    path: RelativePath | None


class Tokenizers(_Part):
    """Both tokenizers."""

    text: TextTokenizer
    visual: VisualTokenizer


class Images(_Part):
    """How stored images were made and are to be decoded."""

    encoder: str
    decoder: str
    stored: Mapping[str, Any]
    """Fields of the recipe's `tokenize.stored`."""


class Decisions(_Part):
    """The decisions tables."""

    digest: Digest
    """Logical digest over all rows."""
    files: tuple[FileRef, ...]


class Manifest(_Part):
    """A corpus; see docs/format.md and docs/manifest.schema.json."""

    format: Literal["imglish"] = "imglish"
    format_version: Literal[1] = 1
    name: str
    version: str
    data_digest: Digest
    digest: Digest
    shards: tuple[Shard, ...]
    slabs: tuple[Mapping[str, Any], ...]
    """Sidecar codes; reserved, empty in files of this release."""
    tombstones: tuple[Mapping[str, Any], ...]
    """Removed samples; reserved, empty in files of this release."""
    counts: Mapping[Split, Mapping[str, Natural]]
    """Sums over the shards of each split."""
    tokenizers: Tokenizers
    views: Mapping[str, Any]
    """Fields of the recipe's `tokenize.views`."""
    images: Images
    sources: Mapping[str, Any]
    """By name: digests of the landing files and totals."""
    drops: Mapping[str, Any]
    """Occurrences dropped, by rule."""
    decisions: Decisions
    recipe: Mapping[str, Any]
    """Content fields of the recipe."""
    libraries: Mapping[str, str]
    """Versions of the libraries that produce bytes."""

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json"))


def build_manifest(receipts: Sequence[Receipt], *, name: str, version: str, **facts: Any) -> Manifest:
    """The manifest of pack's receipts, which are in the order of the shards.

    `facts` are the fields `tokenizers`, `views`, `images`, `sources`, `drops`, `decisions`, `recipe` and `libraries` of
    Manifest as plain dicts. Raises ManifestError when one is missing, unknown or of the wrong form.
    """
    shards = [_shard(receipt) for receipt in receipts]
    values: dict[str, Any] = {"format": "imglish", "format_version": FORMAT_VERSION, "name": name, "version": version}
    values |= {"slabs": [], "tombstones": [], **facts, "shards": shards, "counts": _sum_counts(shards)}
    blank = "0" * 64
    plain = _validate({**values, "data_digest": blank, "digest": blank}, "manifest").model_dump(mode="json")
    plain["data_digest"] = json_digest(_data_part(plain))
    plain["digest"] = json_digest(_whole_part(plain))
    return _validate(plain, "manifest")


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
    for field, part in (("data_digest", _data_part), ("digest", _whole_part)):
        digest = json_digest(part(plain))
        if plain[field] != digest:
            covers = ", ".join(sorted(part(plain)))
            raise ManifestError(
                f"{origin}: {field} is {plain[field][:16]}... but its fields give {digest[:16]}...; one of {covers} "
                "was changed by hand; build the manifest again with 'imglish build'"
            )


def _shard(receipt: Receipt) -> dict[str, Any]:
    tar, table, notes = receipt.outputs["shard"], receipt.outputs["metadata"], receipt.notes
    metadata = {"path": table.path, "sha256": table.sha256, "bytes": table.bytes, "digest": notes["metadata_digest"]}
    return {
        "path": tar.path,
        "sha256": tar.sha256,
        "bytes": tar.bytes,
        "split": notes["split"],
        "counts": {kind: receipt.counts[kind] for kind in (*KINDS, "captions")},
        "distinct": notes["distinct"],
        "sections": notes["sections"],
        "metadata": metadata,
    }


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
        "slabs": plain["slabs"],
        "tombstones": plain["tombstones"],
        "tokenizers": {name: _without_path(tokenizer) for name, tokenizer in plain["tokenizers"].items()},
        "views": plain["views"],
        "decoder": plain["images"]["decoder"],
    }


def _whole_part(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `digest` covers."""
    fields = ("data_digest", "name", "version", "sources", "drops", "recipe", "libraries")
    return {
        **{field: plain[field] for field in fields},
        "images": plain["images"],
        "metadata": [shard["metadata"]["digest"] for shard in plain["shards"]],
        "decisions": plain["decisions"]["digest"],
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
