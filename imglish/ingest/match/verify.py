"""Verify: candidate pairs become edges with a true score; only candidates' payloads are read.

Three steps, of which the second and third move what they compare through the engine's shuffle:

- `match-sketch` brings the candidates of a landing file to it, reads those rows once, and writes what a comparison
  needs: the sorted run hashes of a text, the pixel digest and thumbnail of a picture, for each bucket that asks;
- `match-verify` brings the two sketches of every pair together and writes edges of at least the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves, table_digest
from imglish.ingest.match.fingerprints import RUN_WORDS
from imglish.ingest.match.looks import alike, equal_pixels, sketch
from imglish.ingest.match.propose import EDGES, first_rows
from imglish.ingest.match.shingles import as_set, overlap, shingles
from imglish.seeds import mix
from imglish.shards.images import probe_with
from imglish.stages import Commit, Receipt, Unit, find_receipt
from imglish.storage import Store, read_rows

VERSION = 2
FOLDER = "tables"

WANTED = pa.schema(
    [
        pa.field("bucket", pa.int32()),  # number of the landing file
        pa.field("place", pa.int32()),
        pa.field("target", pa.int32()),  # bucket of `match-verify` that asks
        pa.field("record_id", pa.binary()),
        pa.field("image", pa.bool_()),
    ]
)
COMPARED = pa.schema(
    [
        pa.field("bucket", pa.int32()),
        pa.field("a", pa.binary()),  # of a pair, or the record of a sketch
        pa.field("b", pa.binary()),  # null for a sketch
        pa.field("image", pa.bool_()),
        pa.field("sketch", pa.large_binary()),
    ]
)


def targets(candidates: pa.Table, buckets: int) -> NDArray[np.int32]:
    """The bucket of `match-verify` that compares each pair: by both ids, as one record may stand in a million pairs."""
    a, b = (record_halves(candidates.column(name))[1] for name in ("a", "b"))
    return np.asarray(mix(a ^ mix(b)) % np.uint64(buckets) if len(a) else a).astype(np.int32)


@dataclass(frozen=True)
class LoadWanted:
    """Loads files of CANDIDATES as the rows of landing files that they need."""

    store: Store
    buckets: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        pairs = _tables(self.store, piece["paths"])
        target = pa.array(targets(pairs, self.buckets), pa.int32())
        sides = [
            [pairs.column(f"unit_{side}"), pairs.column(f"place_{side}"), target, pairs.column(side), pairs["image"]]
            for side in ("a", "b")
        ]
        return pa.concat_tables([pa.table(columns, schema=WANTED) for columns in sides])


@dataclass(frozen=True)
class Sketch:
    """Reads the wanted rows of one landing file; `listing` is a table of their paths, which are too many for a task."""

    store: Store
    listing: str
    max_pixels: int
    stage: str = "match-sketch"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.take(pc.sort_indices(rows, sort_keys=[("place", "ascending"), ("target", "ascending")]))
        rows = first_rows(rows, ["place", "target"])
        landing = _landing(self.store.root, self.listing)[bucket]
        params = {"bucket": bucket, "landing": landing}
        unit = Unit("match-sketch-file", VERSION, params, [table_digest(rows)])
        known = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if known is not None:
            return known
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        sketched, read = self._sketches(rows, landing)
        output = self.store.put_table(f"{FOLDER}/match", sketched)
        return commit({"sketches": output}, {"payloads": len(read), "payload_bytes": sum(read)}, {"bucket": bucket})

    def _sketches(self, rows: pa.Table, landing: str) -> tuple[pa.Table, list[int]]:
        places = np.asarray(rows.column("place").to_numpy(), np.int64)
        wanted = np.unique(places)
        image = dict(zip(places.tolist(), rows.column("image").to_pylist(), strict=True))
        made: dict[int, bytes] = {}
        read: list[int] = []
        for place, payload in _payloads(self.store, landing, wanted):
            made[place] = self._sketch(payload, image[place])
            read.append(len(payload))
        columns = [
            rows.column("target"),
            rows.column("record_id"),
            pa.nulls(rows.num_rows, pa.binary()),
            rows.column("image"),
            pa.array([made[place] for place in places.tolist()], pa.large_binary()),
        ]
        return pa.table(columns, schema=COMPARED), read

    def _sketch(self, payload: bytes, image: bool) -> bytes:
        if not image:
            return text_sketch(payload.decode("utf-8"))
        return probe_with(payload, self.max_pixels, sketch)[1]


def _payloads(store: Store, landing: str, places: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    done = 0
    for rows in read_rows(store, landing, places, ["payload"]):
        yield from zip(places[done : done + rows.num_rows].tolist(), rows.column("payload").to_pylist(), strict=True)
        done += rows.num_rows


def text_sketch(text: str) -> bytes:
    """The distinct hashes of a text's five-word runs in ascending order, u64 little-endian."""
    return as_set(shingles([text], RUN_WORDS).hashes).astype("<u8").tobytes()


@dataclass(frozen=True)
class LoadCompared:
    """Loads files of CANDIDATES or of sketches for the buckets that compare them."""

    store: Store
    buckets: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = _tables(self.store, piece["paths"])
        if piece["what"] == "sketches":
            return rows
        none = pa.nulls(rows.num_rows, pa.large_binary())
        columns = [pa.array(targets(rows, self.buckets), pa.int32()), *rows.select(["a", "b", "image"]).columns, none]
        return pa.table(columns, schema=COMPARED)


@lru_cache(maxsize=2)
def _landing(root: str, listing: str) -> list[str]:
    """Paths of landing files, of the store at `root`; read once by a worker."""
    return list(Store(root).read_table(listing).column("path").to_pylist())


def _tables(store: Store, paths: Sequence[str]) -> pa.Table:
    return pa.concat_tables([store.read_table(path) for path in paths])


@dataclass(frozen=True)
class Verify:
    """Compares the pairs of one bucket; floors are the least scores that are written."""

    store: Store
    text_floor: float
    image_floor: float
    stage: str = "match-verify"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        keys = [("image", "ascending"), ("a", "ascending"), ("b", "ascending")]
        rows = first_rows(rows.take(pc.sort_indices(rows, sort_keys=keys)), ["image", "a", "b"])
        params = {"bucket": bucket, "floors": [self.text_floor, self.image_floor]}
        unit = Unit("match-verify-bucket", VERSION, params, [table_digest(rows)])
        known = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if known is not None:
            return known
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        edges = self.edges(rows)
        output = self.store.put_table(f"{FOLDER}/match", edges)
        compared = rows.num_rows - rows.column("b").null_count
        return commit({"edges": output}, {"compared": compared, "edges": edges.num_rows}, {"bucket": bucket})

    def edges(self, rows: pa.Table) -> pa.Table:
        """EDGES of COMPARED rows, in order of (a, b) for texts and then pictures."""
        pairs = rows.filter(pc.is_valid(rows.column("b")))
        sketches = rows.filter(pc.is_null(rows.column("b")))
        held = dict(zip(sketches.column("a").to_pylist(), map(_buffer, sketches.column("sketch")), strict=True))
        found = []
        for a, b, image in zip(*(pairs.column(name).to_pylist() for name in ("a", "b", "image")), strict=True):
            edge = self._picture(held[a], held[b]) if image else self._text(held[a], held[b])
            if edge is not None:
                found.append((a, b, *edge))
        columns = list(zip(*found, strict=True)) or [()] * len(EDGES)
        return pa.table([pa.array(values, field.type) for values, field in zip(columns, EDGES, strict=True)], EDGES)

    def _text(self, left: memoryview, right: memoryview) -> tuple[str, float, float] | None:
        one, two = np.frombuffer(left, "<u8"), np.frombuffer(right, "<u8")
        common = overlap(one, two)
        score = common / max(1, len(one) + len(two) - common)
        inside = common / max(1, min(len(one), len(two)))
        return ("near_text", score, inside) if max(score, inside) >= self.text_floor else None

    def _picture(self, left: memoryview, right: memoryview) -> tuple[str, float, None] | None:
        if equal_pixels(left, right):
            return "pixels", 1.0, None
        score = alike(left, right)
        return ("near_image", score, None) if score >= self.image_floor else None


def _buffer(value: Any) -> memoryview:
    return memoryview(value.as_buffer())
