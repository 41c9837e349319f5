"""Codes from slabs: those of another visual tokenizer on the same pixels, beside the shard.

    sidecars = Sidecars(manifest, files)
    sidecars.holds("pair", ordinal) and sidecars.codes("pair", ordinal, row, index)      # bytes of u16 [K, N]

A slab is u16 [n, K, N], then n x CRC-32C, one row for every different sample of a section (docs/format.md). It is read
when it is active and by the manifest's visual tokenizer; the check sums are fetched once, a row of codes is one range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ManifestError, SampleError
from imglish.records import Kind
from imglish.shards import format as fmt
from imglish.shards.files import File, Files
from imglish.shards.manifest import Manifest
from imglish.shards.recent import Recent

Place = tuple[Kind, int]
Checks = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""Row of the slab for every index row, CRC-32C of every row of the slab."""

CHECK_BYTES = 32 << 20
"""Check sums held in memory: those of 300 slabs of 7,000 rows (DESIGN's scale)."""


class Sidecars:
    """The active slabs of a corpus, by kind and shard ordinal; shared by threads."""

    def __init__(self, manifest: Manifest, files: Files) -> None:
        self._files = files
        self._slabs: dict[Place, Mapping[str, Any]] = {}
        wanted = manifest.tokenizers.visual.digest
        for slab in manifest.slabs:
            if slab["active"]:
                if slab["tokenizer"] != wanted:
                    raise ManifestError(
                        f"slab {slab['path']} is active but was made by tokenizer {slab['tokenizer'][:16]}..., not by "
                        f"the manifest's {wanted[:16]}...; activate the slabs of one tokenizer"
                    )
                self._slabs[slab["kind"], slab["shard"]] = slab
        self._checks: Recent[Place, Checks] = Recent(CHECK_BYTES)

    def holds(self, kind: Kind, ordinal: int) -> bool:
        """Whether the codes of a section come from here."""
        return (kind, ordinal) in self._slabs

    def codes(self, kind: Kind, ordinal: int, row: int, index: fmt.Rows) -> bytes:
        """Codes of an index row, u16 [K, N] as bytes, checked; SampleError when they are damaged."""
        slab = self._slabs[kind, ordinal]
        file = File(slab["path"], slab["sha256"], slab["bytes"])
        rows, checks = self._checks.get(
            (kind, ordinal),
            lambda: self._open(kind, ordinal, file, index),
            lambda found: sum(one.nbytes for one in found),
        )
        width = 2 * slab["views"] * slab["codes_per_view"]
        number = int(rows[row])
        for fresh in (False, True):
            data = self._files.read(file, number * width, (number + 1) * width, fresh=fresh)
            if fmt.checksum(data) == checks[number]:
                return data
        raise SampleError(
            f"slab {self._files.url(file)} of shard {ordinal}: codes of sample {fmt.PREFIX[kind]}"
            f"{bytes(index[row]['key']).hex()}: crc32c does not match, twice{self._files.why(file)}; "
            "make or download the slab again",
            kind,
            ordinal,
            row,
        )

    def _open(self, kind: Kind, ordinal: int, file: File, index: fmt.Rows) -> Checks:
        slab = self._slabs[kind, ordinal]
        rows = _slab_rows(index)
        width = 2 * slab["views"] * slab["codes_per_view"]
        count = int(slab["rows"])
        if (len(rows) and int(rows[-1]) + 1 != count) or file.bytes != count * (width + 4):
            raise ManifestError(
                f"slab {self._files.url(file)}: {count} rows and {file.bytes} bytes do not fit the {len(index)} {kind} "
                f"rows of shard {ordinal}; make the slab again"
            )
        tail = self._files.read(file, count * width, file.bytes, keep=True)
        return rows, np.frombuffer(tail, "<u4")


def _slab_rows(index: fmt.Rows) -> NDArray[np.int64]:
    """The different sample that each index row points to: a repeat has the key of the row before it."""
    keys = index["key"]
    return np.cumsum(np.append(True, keys[1:] != keys[:-1])[: len(keys)]) - 1
