"""The same shards through webdataset, for programs that already stream with it.

for sample in as_webdataset("corpus/manifest.json", split="train"):
    sample["__key__"], sample["jpg"], sample["txt"], sample["codes"]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imglish.errors import ManifestError
from imglish.records import Split
from imglish.shards import format as fmt
from imglish.shards.images import decode_jpeg
from imglish.shards.manifest import load_manifest
from imglish.shards.ranges import join, parent


def as_webdataset(manifest: str, split: Split = "train") -> Any:
    """A `webdataset.WebDataset` over a split, its fields decoded.

    `jpg` uint8 [H, W, 3], `txt` list of captions, `ids` of a pair: list of u16 arrays, `codes` u16 [K, N], `views` u16
    [K, 5]; a text member is one sample whose `ids` are u16 [blocks, 512]. In manifest order, no shuffling; removed
    samples are left out. Codes are those in the tar. Needs the extra `webdataset`.
    """
    import webdataset

    path = str(manifest)
    shards = load_manifest(path).shards
    urls = [join(parent(path), shard.path) for shard in shards if shard.split == split]
    if not urls:
        raise ManifestError(f"{path}: no shard of split {split}")
    return webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).select(_has_content).map(_decode)


def _has_content(sample: dict[str, Any]) -> bool:
    """Whether a sample is none whose members were emptied."""
    return sample.get("jpg") != b""


def _decode(sample: dict[str, Any]) -> dict[str, Any]:
    decoded = dict(sample)
    if "jpg" in sample:
        decoded["jpg"] = decode_jpeg(sample["jpg"])
    if "txt" in sample:
        decoded["txt"] = fmt.decode_captions(sample["txt"])
    if "views" in sample:
        decoded["views"] = fmt.decode_u16(sample["views"]).reshape(-1, fmt.VIEW_FIELDS)
        decoded["codes"] = fmt.decode_u16(sample["codes"]).reshape(len(decoded["views"]), -1)
    if "ids" in sample:
        ids = np.asarray(fmt.decode_u16(sample["ids"]))
        decoded["ids"] = fmt.split_captions(ids) if "txt" in sample else ids.reshape(-1, fmt.BLOCK_IDS)
    return decoded
