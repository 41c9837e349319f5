"""Propose: records that share a key are brought together by the engine's shuffle and become candidate pairs.

    rows = key_rows(fingerprints, unit=3, config=recipe.match, buckets=8)     # one row for each key of each record
    found = propose(rows, config)                                             # candidates, exact edges, caption counts

A key is a band of a MinHash signature, two blocks of a perceptual hash, a pixel key, the digest of a text's normal form
or a caption's. Rows of one key are taken in order of record ids, each record once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves, table_digest
from imglish.ingest.match.minhash import HASHES, band_keys
from imglish.ingest.match.pairs import Pairs, block_keys, capped_pairs, near_pairs
from imglish.recipe_match import MatchConfig
from imglish.seeds import mix
from imglish.stages import Commit, Receipt, Unit, find_receipt
from imglish.storage import Store

VERSION = 1
FOLDER = "tables"
BAND, BLOCK, PIXELS, NORMAL, CAPTION = range(5)
"""Kinds of keys."""

KEY_ROWS = pa.schema(
    [
        pa.field("bucket", pa.int32()),
        pa.field("method", pa.int8()),
        pa.field("key", pa.uint64()),
        pa.field("record_id", pa.binary()),
        pa.field("mark", pa.uint64()),  # the perceptual hash, or the second half of a digest
        pa.field("unit", pa.int32()),  # number of a landing file that holds the record
        pa.field("place", pa.int32()),  # row in it
    ]
)
CANDIDATES = pa.schema(
    [
        pa.field("image", pa.bool_()),
        *(
            field
            for side in ("a", "b")  # record ids, a < b
            for field in (
                pa.field(side, pa.binary()),
                pa.field(f"unit_{side}", pa.int32()),
                pa.field(f"place_{side}", pa.int32()),
            )
        ),
    ]
)
EDGES = pa.schema(
    [
        pa.field("a", pa.binary(), nullable=False),  # record ids, a < b
        pa.field("b", pa.binary(), nullable=False),
        pa.field("method", pa.string(), nullable=False),  # pixels, normal_text, near_text, near_image
        pa.field("score", pa.float64(), nullable=False),  # Jaccard of texts, similarity of pictures
        pa.field("containment", pa.float64()),  # of texts
    ]
)
"""Verified matches, sorted by (a, b, method)."""
CAPTIONS = pa.schema([pa.field("caption", pa.uint64(), nullable=False), pa.field("count", pa.int64(), nullable=False)])
"""How many occurrences have a caption, by the first 8 bytes (little-endian) of `normal_digest`; only repeated ones."""


class Proposed(NamedTuple):
    """What one bucket of keys gives, and how many keys were capped."""

    candidates: pa.Table
    edges: pa.Table
    captions: pa.Table
    capped: int


def key_rows(prints: pa.Table, unit: int, config: MatchConfig, buckets: int) -> pa.Table:
    """KEY_ROWS of the fingerprints of landing file `unit`."""
    parts = [_rows(*found, prints, unit) for found in _keys(prints, config)]
    rows = pa.concat_tables([KEY_ROWS.empty_table(), *parts])
    if not rows.num_rows:
        return rows
    bucket = mix(rows.column("key").to_numpy() + np.uint64(1)) % np.uint64(buckets)
    return rows.set_column(0, KEY_ROWS.field("bucket"), pa.array(bucket, pa.int32()))


def _keys(prints: pa.Table, config: MatchConfig) -> list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """(kind, keys [rows, n], marks [rows], places) of every kind of key that the recipe asks for."""
    found = []
    if config.text.threshold is not None:
        places, data = _fixed(prints, "signature", HASHES * 4)
        signatures = data.view("<u4").reshape(-1, HASHES).astype(np.uint32)
        keys = band_keys(signatures, config.text.bands, config.text.rows)
        found.append((BAND, keys, np.zeros(len(keys), np.uint64), places))
    if config.image.threshold is not None:
        places, hashes = _hashes(prints)
        found.append((BLOCK, block_keys(hashes, config.image.radius), hashes, places))
    if config.exact or config.image.threshold is not None:
        places, data = _fixed(prints, "pixels", 8)
        found.append((PIXELS, data.view("<u8").reshape(-1, 1), np.zeros(len(places), np.uint64), places))
    if config.exact or config.text.threshold is not None:
        places, data = _fixed(prints, "normal", 16)
        halves = data.view("<u8").reshape(-1, 2)
        found.append((NORMAL, halves[:, :1], halves[:, 1], places))
    if config.captions:
        found.append(_caption_keys(prints))
    return found


def _hashes(prints: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    column = prints.column("hash")
    places = np.flatnonzero(column.is_valid().to_numpy())
    return places, np.asarray(column.drop_null().to_numpy(), np.uint64)


def _fixed(prints: pa.Table, name: str, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Places of the rows that have a value of `size` bytes, and the values."""
    column = prints.column(name)
    places = np.flatnonzero(column.is_valid().to_numpy())
    data = b"".join(column.drop_null().to_pylist())
    return places, np.frombuffer(data, np.uint8).reshape(-1, size)


def _caption_keys(prints: pa.Table) -> tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]:
    column = prints.column("captions")
    valid = np.flatnonzero(column.is_valid().to_numpy())
    packed = column.drop_null().to_pylist()
    places = np.repeat(valid, [len(said) // 8 for said in packed])
    keys = np.frombuffer(b"".join(packed), "<u8")
    return CAPTION, keys.reshape(-1, 1), np.zeros(len(keys), np.uint64), places


def _rows(
    method: int, keys: NDArray[Any], marks: NDArray[Any], places: NDArray[Any], prints: pa.Table, unit: int
) -> pa.Table:
    width = keys.shape[1]
    place = np.repeat(places, width)
    columns = {
        "bucket": np.zeros(len(place), np.int32),
        "method": np.full(len(place), method, np.int8),
        "key": keys.ravel(),
        "record_id": prints.column("record_id").combine_chunks().take(pa.array(place)),
        "mark": np.repeat(marks, width),
        "unit": np.full(len(place), unit, np.int32),
        "place": place,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in KEY_ROWS], schema=KEY_ROWS)


@dataclass(frozen=True)
class LoadKeys:
    """Loads the fingerprints of consecutive landing files, the first of which has the number `unit`."""

    store: Store
    config: MatchConfig
    buckets: int

    def __call__(self, piece: Any) -> pa.Table:
        numbered = enumerate(piece["paths"], piece["unit"])
        keys = [key_rows(self.store.read_table(path), unit, self.config, self.buckets) for unit, path in numbered]
        return pa.concat_tables([KEY_ROWS.empty_table(), *keys])


@dataclass(frozen=True)
class Propose:
    """Commits what one bucket of keys proposes."""

    store: Store
    config: MatchConfig
    stage: str = "match-propose"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        found = propose(rows, self.config)
        names = {"candidates": found.candidates, "edges": found.edges, "captions": found.captions}
        digests = [table_digest(table) for table in names.values()]
        unit = Unit("match-propose-bucket", VERSION, {"bucket": bucket}, digests)
        known = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if known is not None:
            return known
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        outputs = {name: self.store.put_table(f"{FOLDER}/match", table) for name, table in names.items()}
        counts = {"keys": rows.num_rows, "capped": found.capped, "candidates": found.candidates.num_rows}
        return commit(outputs, counts, {"bucket": bucket})


def propose(rows: pa.Table, config: MatchConfig) -> Proposed:
    """Candidates, exact edges and counts of captions of one bucket of KEY_ROWS, in any order."""
    high, low = record_halves(rows.column("record_id"))
    numbers = {name: rows.column(name).to_numpy() for name in ("method", "key", "mark", "unit", "place")}
    order = np.lexsort((numbers["place"], numbers["unit"], low, high, numbers["key"], numbers["method"]))
    numbers = {name: values[order] for name, values in numbers.items()}
    rows, high, low = rows.take(pa.array(order)), high[order], low[order]
    captions = _count(numbers["key"][numbers["method"] == CAPTION])
    alike = _same(numbers["method"], numbers["key"]) & _same(high, low)
    kept = np.flatnonzero(~alike & (numbers["method"] != CAPTION))
    rows, numbers = rows.take(pa.array(kept)), {name: values[kept] for name, values in numbers.items()}
    group = np.cumsum(~_same(numbers["method"], numbers["key"]))
    sizes = np.bincount(group)[1:] if len(group) else np.zeros(0, np.int64)
    return _proposed(rows, numbers, sizes, config, captions)


def _proposed(rows: pa.Table, numbers: Any, sizes: NDArray[Any], config: MatchConfig, captions: pa.Table) -> Proposed:
    starts = np.cumsum(sizes) - sizes
    method = numbers["method"][starts] if len(sizes) else np.zeros(0, np.int8)
    parts = {kind: _part(rows, numbers, sizes, method == kind, config, kind) for kind in (BAND, BLOCK, PIXELS)}
    candidates = _unique(pa.concat_tables([table for table, _ in parts.values()]))
    edges = _normal_edges(rows, numbers, sizes, method == NORMAL)
    return Proposed(candidates, edges, captions, sum(capped for _, capped in parts.values()))


def _part(
    rows: pa.Table, numbers: Any, sizes: NDArray[Any], chosen: NDArray[np.bool_], config: MatchConfig, kind: int
) -> tuple[pa.Table, int]:
    """CANDIDATES of the chosen groups."""
    inside = np.flatnonzero(np.repeat(chosen, sizes))
    wanted = sizes[chosen].astype(np.int64)
    found = numbers["mark"][inside]
    pairs = near_pairs(found, wanted, config.image.radius) if kind == BLOCK else capped_pairs(wanted)
    return _candidates(rows, inside, pairs, kind != BAND), pairs.capped


def _candidates(rows: pa.Table, inside: NDArray[np.int64], pairs: Pairs, image: bool) -> pa.Table:
    columns: dict[str, Any] = {"image": np.full(len(pairs.left), image)}
    for side, places in (("a", inside[pairs.left]), ("b", inside[pairs.right])):
        taken = rows.select(["record_id", "unit", "place"]).take(pa.array(places))
        columns |= dict(zip((side, f"unit_{side}", f"place_{side}"), taken.columns, strict=True))
    return pa.table([columns[field.name] for field in CANDIDATES], schema=CANDIDATES)


def _unique(candidates: pa.Table) -> pa.Table:
    """Sorted by pair, each pair once: records within a group are unique, so a pair differs in its groups only."""
    keys = ["image", "a", "b", "unit_a", "place_a", "unit_b", "place_b"]
    rows = candidates.take(pc.sort_indices(candidates, sort_keys=[(key, "ascending") for key in keys]))
    return first_rows(rows, ["image", "a", "b"])


def first_rows(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Of sorted rows the first of each run of equal keys; a null is an empty value."""
    rows = rows.combine_chunks()
    if rows.num_rows < 2:
        return rows
    same = np.ones(rows.num_rows - 1, dtype=bool)
    for key in keys:
        column = rows.column(key).chunk(0)
        column = pc.fill_null(column, b"") if pa.types.is_binary(column.type) else column
        same &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return rows.filter(pa.array(np.concatenate([[True], ~same])))


def _normal_edges(rows: pa.Table, numbers: Any, sizes: NDArray[Any], chosen: NDArray[np.bool_]) -> pa.Table:
    """Each record of a digest with the smallest one; the second half of the digest is compared too."""
    inside = np.flatnonzero(np.repeat(chosen, sizes))
    first = np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
    mark = numbers["mark"][inside]
    other = np.flatnonzero((first != np.arange(len(first))) & (mark == mark[first])) if len(first) else inside
    ids = rows.column("record_id")
    ends = [ids.take(pa.array(inside[first[other]])), ids.take(pa.array(inside[other]))]
    ones = pa.array(np.ones(len(other)))
    columns = [*ends, pa.array(["normal_text"] * len(other), pa.string()), ones, ones]
    return pa.table(columns, schema=EDGES)


def _count(keys: NDArray[np.uint64]) -> pa.Table:
    found, counts = np.unique(keys, return_counts=True)
    return pa.table([pa.array(found[counts > 1]), pa.array(counts[counts > 1], pa.int64())], schema=CAPTIONS)


def _same(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a row equals the one before in all columns."""
    same = np.zeros(len(columns[0]), dtype=bool)
    if len(same):
        same[1:] = np.all([column[1:] == column[:-1] for column in columns], axis=0)
    return same
