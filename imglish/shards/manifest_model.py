"""The fields of a manifest, as pydantic models; `docs/manifest.schema.json` is made from them.

`imglish.shards.manifest` builds, loads and checks what is described here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from imglish.digests import canonical_json
from imglish.records import Kind, Split


def _inside(path: str) -> str:
    if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or ":" in path:
        raise ValueError("a path must be relative and stay inside the corpus folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0)]


_FORBID = ConfigDict(extra="forbid")


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
    """Index rows of each kind, repeats and tombstones included, and captions of those rows."""
    distinct: Mapping[str, Natural]
    """Different samples of each kind that have content, and their captions."""
    sections: Mapping[Kind, Section]
    metadata: Metadata
    tokenizer: Digest | None = None
    """Visual tokenizer of the codes inside the tar; null when it is `tokenizers.visual`."""


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
    """The active one: its codes are what readers return."""
    others: tuple[VisualTokenizer, ...] = ()
    """Those of inactive slabs, and of codes in tars that slabs stand in for; in order of digest."""


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
    rules: tuple[Mapping[str, Any], ...] = ()
    """In the order of their bits in `fired`: `rule`, `thresholds`, and of a user's own `source_sha256`."""
    measures: tuple[Mapping[str, Any], ...] = ()
    """What was measured for them: `measure`, `version`, `params` with the digests of scorers' weights."""


@with_config(_FORBID)
class Slab(TypedDict):
    """Codes of one section by another tokenizer than the tar's; see docs/format.md."""

    path: RelativePath
    sha256: Digest
    bytes: Natural
    shard: Natural
    kind: Literal["pair", "image"]
    rows: Natural
    views: Natural
    codes_per_view: Natural
    tokenizer: Digest
    active: bool


@with_config(_FORBID)
class Tombstone(TypedDict):
    """An index row whose content was removed."""

    shard: Natural
    kind: Kind
    row: Natural


class Parent(_Part):
    """The manifest that this one stands in for, after a removal."""

    data_digest: Digest
    tombstones: Natural = 0
    """How many of `tombstones`, from the first, the parent had too."""


class PartRef(_Part):
    """One corpus of a merged manifest."""

    path: RelativePath
    """Its own manifest."""
    name: str
    version: str
    digest: Digest
    data_digest: Digest
    first: Natural
    """Ordinal here of its first shard."""
    shards: Natural


class Duplicates(_Part):
    """Records that stand in more than one part; nothing removes them."""

    records: Natural
    split_conflicts: Natural
    """Those that are in the train split of one part and in the validation split of another."""


class Manifest(_Part):
    """A corpus; see docs/format.md and docs/manifest.schema.json."""

    format: Literal["imglish"] = "imglish"
    format_version: Literal[1] = 1
    name: str
    version: str
    data_digest: Digest
    digest: Digest
    shards: tuple[Shard, ...]
    slabs: tuple[Slab, ...]
    """Sidecar codes, in order of shard, kind and tokenizer."""
    tombstones: tuple[Tombstone, ...]
    """Removed samples: the parent's first, then the new ones by shard, kind and row."""
    parent: Parent | None = None
    """Null unless samples were removed."""
    parts: tuple[PartRef, ...] = ()
    """The corpora of a merged manifest, which is not deduplicated as a whole; empty for one built from a recipe."""
    duplicates: Duplicates | None = None
    """Null unless merged."""
    counts: Mapping[Split, Mapping[str, Natural]]
    """Sums over the shards of each split."""
    tokenizers: Tokenizers
    views: Mapping[str, Any]
    """Fields of the recipe's `tokenize.views`."""
    images: Images
    sources: Mapping[str, Any]
    """By name: digests of the landing files and totals. Merged: by folder of the part and name, as are drops."""
    drops: Mapping[str, Any]
    """Occurrences dropped, by rule."""
    decisions: Decisions
    recipe: Mapping[str, Any]
    """Content fields of the recipe. Merged: those of every part, by folder."""
    libraries: Mapping[str, str]
    """Versions of the libraries that produce bytes."""

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json"))
