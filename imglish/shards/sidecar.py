"""Codes from slabs: those of another visual tokenizer on the same pixels, beside the shard.

    sidecars = Sidecars(manifest, files)
    if sidecars.holds("pair", ordinal):
        codes = sidecars.codes("pair", ordinal, row)        # bytes of u16 [K, N]

A slab is u16 [rows, K, N], then a CRC-32C for every index row of its section (docs/format.md). The active ones are
those of the manifest's visual tokenizer; their check sums are fetched once, a row of codes is one range.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imglish.errors import SampleError
from imglish.records import Kind
from imglish.shards import format as fmt
from imglish.shards.files import File, Files
from imglish.shards.manifest import Manifest
from imglish.shards.manifest_model import Slab
from imglish.shards.recent import Recent

Place = tuple[Kind, int]

CHECK_BYTES = 16 << 20
"""Check sums held in memory: those of 600 slabs of 7,000 rows (DESIGN's scale)."""


class Sidecars:
    """The active slabs of a corpus, by kind and shard ordinal; shared by threads."""

    def __init__(self, manifest: Manifest, files: Files) -> None:
        self._files = files
        self._slabs: dict[Place, Slab] = {
            (slab["kind"], slab["shard"]): slab for slab in manifest.slabs if slab["active"]
        }
        self._checks: Recent[Place, NDArray[np.uint32]] = Recent(CHECK_BYTES)

    def holds(self, kind: Kind, ordinal: int) -> bool:
        """Whether the codes of a section come from here."""
        return (kind, ordinal) in self._slabs

    def codes(self, kind: Kind, ordinal: int, row: int) -> bytes:
        """Codes of an index row, u16 [K, N] as bytes, checked; SampleError when they are damaged."""
        file, width = self._file(kind, ordinal)
        checks = self._checks.get((kind, ordinal), lambda: self._fetch_checks(kind, ordinal), lambda one: one.nbytes)
        for fresh in (False, True):
            data = self._files.read(file, row * width, (row + 1) * width, fresh=fresh)
            if fmt.checksum(data) == checks[row]:
                return data
        message = (
            f"slab {self._files.url(file)} of shard {ordinal}: codes of {kind} row {row}: crc32c does not match, "
            f"twice{self._files.why(file)}; make or download the slab again"
        )
        raise SampleError(message, kind, ordinal, row)

    def spans(self, kind: Kind, ordinal: int, first: int, end: int) -> Iterator[tuple[File, int, int]]:
        """The range of a slab that holds the codes of index rows [first, end); none without a slab."""
        if self.holds(kind, ordinal):
            file, width = self._file(kind, ordinal)
            yield file, first * width, end * width

    def _file(self, kind: Kind, ordinal: int) -> tuple[File, int]:
        """The slab's file and its bytes per row."""
        slab = self._slabs[kind, ordinal]
        return File(slab["path"], slab["sha256"], slab["bytes"]), 2 * slab["views"] * slab["codes_per_view"]

    def _fetch_checks(self, kind: Kind, ordinal: int) -> NDArray[np.uint32]:
        file, width = self._file(kind, ordinal)
        start = self._slabs[kind, ordinal]["rows"] * width
        return np.frombuffer(self._files.read(file, start, file.bytes, keep=True), "<u4")
