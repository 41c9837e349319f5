"""Several corpora as one, without touching a shard.

    merged = merge("all/manifest.json", ["all/a/manifest.json", "all/b/manifest.json"], name="all")
    merged.records, merged.split_conflicts, merged.examples

The result is an ordinary manifest: its shards are those of the parts in order, their paths begin with the part's
folder, and `parts` says which ordinals belong to which corpus. So the parts must lie below the new manifest's folder,
and they must have been made alike: same tokenizers, views and image codec. Every part was deduplicated; the whole is
not, and the manifest counts the records that stand in more than one part (16 bytes a record are held meanwhile).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import flatten, json_digest
from imglish.errors import ManifestError
from imglish.records import SPLITS
from imglish.shards.manifest import Manifest, load_manifest, seal
from imglish.shards.ranges import join
from imglish.storage import Store

EXAMPLES = 10
"""Duplicates that are named."""


@dataclass(frozen=True)
class Merged:
    """What `merge` made.

    `records` stand in more than one part, `split_conflicts` of them in the train split of one and the validation split
    of another; `examples` are the first few in order of id, with the folders of their parts.
    """

    manifest: Manifest
    records: int
    split_conflicts: int
    examples: Mapping[str, list[str]]


def merge(output_path: str, part_paths: Sequence[str], name: str, version: str = "1") -> Merged:
    """Write the manifest of several corpora; paths are local or URLs, all below the output's folder.

    Raises ManifestError when a part is damaged, lies elsewhere, stands in the list twice, or was made otherwise than
    the first one; the message lists the fields that differ.
    """
    base, _, file = str(output_path).rpartition("/")
    base = base or "."
    paths = [_inside(base, str(path)) for path in part_paths]
    if len(paths) < 2:
        raise ManifestError(f"{output_path}: a merged corpus has at least two parts, not {len(paths)}")
    manifests = [load_manifest(join(base, path)) for path in paths]
    _check_alike(paths, manifests)
    folders = [str(PurePosixPath(path).parent) for path in paths]
    _check_different(paths, folders, manifests)
    records, conflicts, examples = _duplicates(base, folders, manifests)
    whole = _merged(paths, folders, manifests)
    numbers = {"records": records, "split_conflicts": conflicts}
    manifest = seal({**whole, "name": name, "version": version, "duplicates": numbers})
    Store(base).put_as(file, manifest.to_json())
    return Merged(manifest, records, conflicts, examples)


def _inside(base: str, path: str) -> str:
    """The path relative to the folder of the merged manifest."""
    root, full = Store(base).root.rstrip("/") + "/", Store(path).root
    if not full.startswith(root) or full == root:
        raise ManifestError(
            f"{path} does not lie below {base}; a corpus holds only paths inside its own folder, so put the merged "
            "manifest into a folder above all parts"
        )
    return full.removeprefix(root)


def _made_by(manifest: Manifest) -> dict[str, Any]:
    """What parts must have in common, by dotted name."""
    plain = manifest.model_dump(mode="json")
    facts = {name: plain["tokenizers"][name] for name in ("text", "visual")}
    found = {"tokenizers": facts, "views": plain["views"], "images": plain["images"]}
    return {field: value for field, value in flatten(found).items() if not field.endswith(".path")}


def _check_alike(paths: Sequence[str], manifests: Sequence[Manifest]) -> None:
    first = _made_by(manifests[0])
    for path, manifest in zip(paths[1:], manifests[1:], strict=True):
        other = _made_by(manifest)
        differing = [
            f"{field} is {first.get(field)!r} in {paths[0]} and {other.get(field)!r} in {path}"
            for field in sorted(first.keys() | other.keys())
            if first.get(field) != other.get(field)
        ]
        if differing:
            raise ManifestError(
                f"these corpora cannot be one: {'; '.join(differing)}; build them with the same tokenizers, views and "
                "stored images, or code one of them anew"
            )


def _check_different(paths: Sequence[str], folders: Sequence[str], manifests: Sequence[Manifest]) -> None:
    digests = [manifest.data_digest for manifest in manifests]
    for number, (path, folder, digest) in enumerate(zip(paths, folders, digests, strict=True)):
        if digest in digests[:number]:
            raise ManifestError(f"{path} is the same corpus as {paths[digests.index(digest)]}; name each one once")
        if folder in folders[:number]:
            raise ManifestError(f"{path} and {paths[folders.index(folder)]} share a folder; give each corpus its own")


def _duplicates(
    base: str, folders: Sequence[str], manifests: Sequence[Manifest]
) -> tuple[int, int, dict[str, list[str]]]:
    """Records in more than one part: how many, how many with different splits, examples."""
    ids, places = [], []
    for number, (folder, manifest) in enumerate(zip(folders, manifests, strict=True)):
        for split_number, split in enumerate(SPLITS):
            found = _record_ids(join(base, folder), manifest, split)
            ids.append(found)
            places.append(np.full(len(found), number * len(SPLITS) + split_number))
    every, place = np.concatenate(ids), np.concatenate(places)
    order = np.lexsort((place, every["low"], every["high"]))
    every, place = every[order], place[order]
    starts = np.flatnonzero(np.append(True, every[1:] != every[:-1])[: len(every)])
    ends = np.append(starts[1:], len(every))[: len(starts)]
    part, split_of = place // len(SPLITS), place % len(SPLITS)
    repeated = np.flatnonzero(ends - starts > 1)
    across = [n for n in repeated if len(set(part[starts[n] : ends[n]].tolist())) > 1]
    conflicts = sum(len(set(split_of[starts[n] : ends[n]].tolist())) > 1 for n in across)
    examples = {
        "{:016x}{:016x}".format(*every[starts[n]].tolist()): sorted({folders[p] for p in part[starts[n] : ends[n]]})
        for n in across[:EXAMPLES]
    }
    return len(across), conflicts, examples


_ID = np.dtype([("high", np.uint64), ("low", np.uint64)])


def _record_ids(base: str, manifest: Manifest, split: str) -> NDArray[np.void]:
    """Ids of the records of a split, each once, unordered."""
    store = Store(base)
    arrays = []
    for shard in manifest.shards:
        if shard.split == split:
            rows = store.read_table(shard.metadata.path, ["table", "key"])
            keys = pc.unique(rows.filter(pc.equal(rows.column("table"), "occurrence")).column("key"))
            halves = np.frombuffer(bytes.fromhex("".join(keys.to_pylist())), ">u8").astype(np.uint64)
            arrays.append(halves.view(_ID))
    return np.concatenate([np.zeros(0, _ID), *arrays])


def _merged(paths: Sequence[str], folders: Sequence[str], manifests: Sequence[Manifest]) -> dict[str, Any]:
    """The fields of the merged manifest, but for its name, version and counts of duplicates."""
    plains = [manifest.model_dump(mode="json") for manifest in manifests]
    firsts = np.cumsum([0, *(len(plain["shards"]) for plain in plains)]).tolist()
    parts = [
        {**{field: plain[field] for field in ("name", "version", "digest", "data_digest")}, "path": path}
        | {"first": first, "shards": len(plain["shards"])}
        for path, plain, first in zip(paths, plains, firsts, strict=False)
    ]
    return {
        "shards": [_moved_shard(s, folder) for p, folder in zip(plains, folders, strict=True) for s in p["shards"]],
        "slabs": [
            _moved(slab, folder) | {"shard": slab["shard"] + first}
            for plain, folder, first in zip(plains, folders, firsts, strict=False)
            for slab in plain["slabs"]
        ],
        "tombstones": [
            stone | {"shard": stone["shard"] + first}
            for plain, first in zip(plains, firsts, strict=False)
            for stone in plain["tombstones"]
        ],
        "parts": parts,
        "tokenizers": _tokenizers(plains, folders),
        "views": plains[0]["views"],
        "images": plains[0]["images"],
        **{field: _by_folder(folders, plains, field) for field in ("sources", "drops", "recipe")},
        "decisions": {
            "digest": json_digest([plain["decisions"]["digest"] for plain in plains]),
            "files": [
                _moved(f, folder) for p, folder in zip(plains, folders, strict=True) for f in p["decisions"]["files"]
            ],
        },
        "libraries": _libraries(plains, folders),
    }


def _moved(entry: Mapping[str, Any], folder: str) -> dict[str, Any]:
    path = entry["path"]
    return {**entry, "path": path if path is None else f"{folder}/{path}"}


def _moved_shard(shard: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return _moved(shard, folder) | {"metadata": _moved(shard["metadata"], folder)}


def _tokenizers(plains: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> dict[str, Any]:
    first = plains[0]["tokenizers"]
    others = {
        other["digest"]: _moved(other, folder)
        for plain, folder in reversed(list(zip(plains, folders, strict=True)))
        for other in plain["tokenizers"]["others"]
    }
    return {
        "text": _moved(first["text"], folders[0]),
        "visual": _moved(first["visual"], folders[0]),
        "others": [others[digest] for digest in sorted(others)],
    }


def _by_folder(folders: Sequence[str], plains: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any]:
    """Sources, drops and recipes stand under the folder of their part."""
    if field == "recipe":
        return {folder: plain[field] for folder, plain in zip(folders, plains, strict=True)}
    return {
        f"{folder}/{name}": value
        for folder, plain in zip(folders, plains, strict=True)
        for name, value in plain[field].items()
    }


def _libraries(plains: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> dict[str, str]:
    """Versions that all parts share as they are, others by folder and name."""
    names = sorted({name for plain in plains for name in plain["libraries"]})
    found: dict[str, str] = {}
    for name in names:
        versions = {plain["libraries"].get(name) for plain in plains}
        if len(versions) == 1:
            found[name] = plains[0]["libraries"][name]
            continue
        mine = zip(folders, plains, strict=True)
        found |= {f"{folder}/{name}": p["libraries"][name] for folder, p in mine if name in p["libraries"]}
    return found
