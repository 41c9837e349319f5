"""Clusters: connected components over verified edges, and who survives in each.

    edges = deciding_edges(edges, config)       # those at or above the recipe's thresholds
    table = clusters(edges, rows, recipe)       # schema CLUSTERS: what becomes of each record of a cluster, by kind
    rows = apply_clusters(resolved, table, ...) # resolved rows with near duplicates merged or dropped

Edges count between records of which some occurrence passes the rules, from the recipe's threshold on. The survivor of a
cluster minimises (source priority, record id, source name, row); among pictures a pair goes before an image when the
recipe says `captioned_images = "pair"`. A cluster's records share one split, drawn by its smallest record id, so near
duplicates never straddle train and validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imglish.recipe import Recipe
from imglish.recipe_match import MatchConfig

VERSION = 1
_KINDS = ("pair", "image", "text")
METHODS = ("pixels", "normal_text", "near_text", "near_image")
"""Names of the rules, version 1 each."""

CLUSTERS = pa.schema(
    [
        pa.field("record_id", pa.binary(), nullable=False),
        pa.field("sample_kind", pa.string(), nullable=False),
        pa.field("root", pa.binary(), nullable=False),  # smallest record id of the cluster
        pa.field("size", pa.int32(), nullable=False),  # records
        pa.field("survivor", pa.binary(), nullable=False),
        pa.field("survivor_kind", pa.string(), nullable=False),
        pa.field("survivor_source", pa.string(), nullable=False),
        pa.field("survivor_row", pa.string(), nullable=False),
        pa.field("near", pa.binary(), nullable=False),  # the survivor when it is linked, else the nearest record
        pa.field("method", pa.string(), nullable=False),  # of the edge to it
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
    ]
)
KEPT = ("record_id", "sample_kind", "priority", "source", "row")
"""Columns of resolved rows that `clusters` reads, of rows whose verdict is keep."""


def thresholds(config: MatchConfig) -> dict[str, float]:
    """Least score by method, of the methods that decide."""
    found: dict[str, float] = {}
    if config.exact or config.image.threshold is not None:
        found["pixels"] = 1.0
    if config.exact or config.text.threshold is not None:
        found["normal_text"] = 1.0
    if config.text.threshold is not None:
        found["near_text"] = config.text.threshold
    if config.image.threshold is not None:
        found["near_image"] = config.image.threshold
    return found


def deciding_edges(edges: pa.Table, config: MatchConfig) -> pa.Table:
    """EDGES at or above their thresholds, with `threshold`; `score` is what the recipe measures."""
    least = thresholds(config)
    method = edges.column("method")
    limits = pa.array([least.get(name, 2.0) for name in METHODS])
    limit = limits.take(pc.index_in(method, value_set=pa.array(METHODS)))
    score = edges.column("score")
    if config.text.measure == "containment":
        score = pc.if_else(pc.equal(method, "near_text"), edges.column("containment"), score)
    table = pa.table({"a": edges["a"], "b": edges["b"], "method": method, "score": score, "threshold": limit})
    return table.filter(pc.greater_equal(score, limit)).combine_chunks()


def clusters(edges: pa.Table, kept: pa.Table, recipe: Recipe) -> pa.Table:
    """CLUSTERS in order of (record id, kind), from all `deciding_edges` and the KEPT rows of the records they name."""
    ids = pa.chunked_array([pc.unique(kept.column("record_id"))]).combine_chunks()
    ids = ids.take(pc.sort_indices(ids))
    ends = [pc.index_in(edges.column(side), value_set=ids) for side in ("a", "b")]
    edges = edges.filter(pc.and_(pc.is_valid(ends[0]), pc.is_valid(ends[1])))
    left, right = (np.asarray(end.drop_null().to_numpy(), np.int64) for end in _both(ends))
    if not len(left):
        return CLUSTERS.empty_table()
    ones = np.ones(len(left), dtype=np.int8)
    _, label = connected_components(coo_array((ones, (left, right)), shape=(len(ids), len(ids))), directed=False)
    return _table(ids, label.astype(np.int64), kept, _Links(edges, left, right), recipe)


def _both(ends: Sequence[Any]) -> list[Any]:
    valid = pc.and_(pc.is_valid(ends[0]), pc.is_valid(ends[1]))
    return [end.filter(valid) for end in ends]


class _Links:
    """Edges from both ends, best first: by record, then score from the highest, method, other record."""

    def __init__(self, edges: pa.Table, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        score = edges.column("score").to_numpy()
        method = pc.index_in(edges.column("method"), value_set=pa.array(METHODS)).to_numpy()
        self.record, self.other = np.concatenate([left, right]), np.concatenate([right, left])
        edge = np.tile(np.arange(len(left)), 2)
        order = np.lexsort((self.other, method[edge], -score[edge], self.record))
        self.record, self.other, self.edge = self.record[order], self.other[order], edge[order]
        self.edges = edges

    def best(self, records: NDArray[np.int64], survivors: NDArray[np.int64]) -> tuple[NDArray[np.int64], pa.Table]:
        """For each record the edge to its survivor, else its best one: the record at the other end, and the edge."""
        chosen = np.searchsorted(self.record, records)
        width = np.int64(max(self.other.max(), survivors.max()) + 1)
        links = self.record * width + self.other
        order = np.argsort(links, kind="stable")
        asked = records * width + survivors
        place = np.minimum(np.searchsorted(links[order], asked), len(order) - 1)
        direct = links[order[place]] == asked
        chosen[direct] = order[place[direct]]
        return self.other[chosen], self.edges.take(pa.array(self.edge[chosen]))


def _table(ids: pa.Array, label: NDArray[np.int64], kept: pa.Table, links: _Links, recipe: Recipe) -> pa.Table:
    sizes = np.bincount(label)
    number = pc.index_in(kept.column("record_id"), value_set=ids).to_numpy()
    chosen = sizes[label[number]] > 1
    kept, number = kept.filter(pa.array(chosen)), number[chosen]
    survivor = _survivors(kept, label[number], recipe)
    root = np.full(len(sizes), len(ids), dtype=np.int64)
    np.minimum.at(root, label, np.arange(len(ids)))
    near, edge = links.best(number, number[survivor])
    taken = kept.take(pa.array(survivor))
    columns = {
        "record_id": kept.column("record_id"),
        "sample_kind": kept.column("sample_kind"),
        "root": ids.take(pa.array(root[label[number]])),
        "size": pa.array(sizes[label[number]], pa.int32()),
        "survivor": taken.column("record_id"),
        "survivor_kind": taken.column("sample_kind"),
        "survivor_source": taken.column("source"),
        "survivor_row": taken.column("row"),
        "near": ids.take(pa.array(near)),
        **{name: edge.column(name) for name in ("method", "score", "threshold")},
    }
    return pa.table([columns[field.name] for field in CLUSTERS], schema=CLUSTERS)


def _survivors(kept: pa.Table, label: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    """For every row the number of the row that survives in its cluster and kind."""
    rank = np.empty(kept.num_rows, dtype=np.int64)
    keys = [(name, "ascending") for name in ("priority", "record_id", "source", "row")]
    rank[pc.sort_indices(kept, sort_keys=keys).to_numpy()] = np.arange(kept.num_rows)
    kind = pc.index_in(kept.column("sample_kind"), value_set=pa.array(_KINDS)).to_numpy()
    first = [_first(rank, label, kind == number)[label] for number in range(len(_KINDS))]
    found = np.choose(kind, first)
    if recipe.decide.captioned_images == "pair":
        pair = first[_KINDS.index("pair")]
        found = np.where((kind == _KINDS.index("image")) & (pair < kept.num_rows), pair, found)
    return np.asarray(np.argsort(rank)[found], dtype=np.int64)


def _first(rank: NDArray[np.int64], label: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The smallest rank of each cluster among the rows of a mask; the number of rows where there is none."""
    best = np.full(int(label.max(initial=-1)) + 1, len(rank), dtype=np.int64)
    np.minimum.at(best, label[mask], rank[mask])
    return np.minimum(best, len(rank))


def apply_clusters(rows: pa.Table, found: pa.Table, splits: pa.Array, config: MatchConfig, bit: int) -> pa.Table:
    """Resolved rows whose record is in a cluster: merged into its survivor or dropped, in its split.

    `splits` are those of the roots of `found`, `bit` is the one that a dropped row gets in `fired`.
    """
    place = _places(rows, found)
    hit = np.flatnonzero(place >= 0)
    if not len(hit):
        return rows
    mine = found.take(pa.array(place[hit]))
    parts = rows.take(pa.array(hit))
    changed = _changed(parts, mine, splits.take(pa.array(place[hit])), config, bit)
    rest = rows.take(pa.array(np.flatnonzero(place < 0)))
    order = np.argsort(np.concatenate([np.flatnonzero(place < 0), hit]), kind="stable")
    return pa.concat_tables([rest, changed]).take(pa.array(order))


def _places(rows: pa.Table, found: pa.Table) -> NDArray[np.int64]:
    """The row of `found` about each row's record and kind of sample, -1 when there is none."""
    keys = [
        pc.binary_join_element_wise(
            pc.fill_null(table["record_id"], b""), pc.fill_null(table["sample_kind"], "").cast(pa.binary()), b"/"
        )
        for table in (rows, found)
    ]
    value_set = pa.chunked_array(keys[1].chunks, pa.binary()).combine_chunks()
    return np.asarray(pc.fill_null(pc.index_in(keys[0], value_set=value_set), -1).to_numpy(), np.int64)


def _changed(rows: pa.Table, mine: pa.Table, splits: pa.Array, config: MatchConfig, bit: int) -> pa.Table:
    """Rows with what became of them, `mine` and `splits` row by row."""
    goes = pc.or_(
        pc.not_equal(mine["record_id"], mine["survivor"]), pc.not_equal(mine["sample_kind"], mine["survivor_kind"])
    )
    pairs = pc.and_(pc.equal(mine["sample_kind"], "pair"), pc.equal(mine["survivor_kind"], "pair"))
    joined = pc.and_(goes, pc.and_(pairs, config.near_pairs == "merge"))
    dropped = pc.and_(goes, pc.invert(joined))
    details = [_detail(*row) for row in zip(*(mine[n].to_pylist() for n in ("near", "size", "method")), strict=True)]
    values = {
        "verdict": (goes, pc.if_else(joined, "merge", "drop")),
        "rule": (goes, pc.binary_join_element_wise(mine["method"], "1", "@")),
        "score": (goes, mine["score"]),
        "threshold": (goes, mine["threshold"]),
        "detail": (goes, pa.array(details)),
        "other_source": (goes, mine["survivor_source"]),
        "other_row": (goes, mine["survivor_row"]),
        "sample_id": (goes, pc.if_else(joined, mine["survivor"], pa.scalar(None, pa.binary()))),
        "sample_kind": (dropped, pa.nulls(rows.num_rows, pa.string())),
        "edits": (dropped, pa.nulls(rows.num_rows, pa.binary())),
        "fired": (dropped, pc.bit_wise_or(rows["fired"], 1 << bit)),
        "split": (pa.array(np.ones(rows.num_rows, bool)), pc.if_else(dropped, pa.scalar(None, pa.string()), splits)),
    }
    for name, (where, value) in values.items():
        column = pc.if_else(where, value, rows.column(name))
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    return rows


def _detail(near: bytes, size: int, method: str) -> str:
    said = {"pixels": "the pixels", "normal_text": "the words", "near_text": "nearly the text"}
    return f"{said.get(method, 'nearly the picture')} of record {near.hex()}; a cluster of {size} records"
