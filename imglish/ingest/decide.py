"""Decide: one verdict per occurrence, from annotations alone.

Two groupings through the engine's shuffle:

- `resolve` judges annotations by the recipe's rules while loading them, brings the occurrences of a record together,
  picks the survivor and the split;
- `decide` brings the verdicts back to their landing files, so that decisions lie row by row beside landing.

Between them the clusters of near duplicates are found, if the recipe asks for them (`imglish.ingest.match.join`): one
unit over the edges and the survivors of the records that they name. Leaks of evaluation sets drop like rules do.

The survivor of a record minimises (source priority, source name, row) among the occurrences that no rule
dropped; the other passing ones are merged into it. A pair's captions therefore survive even when the image
was seen first elsewhere. Images of an image source merge into a pair of the same bytes unless the recipe
says `captioned_images = "both"`. The split follows the content: validation if H(seed, record id) < share.

How much of what is kept then goes for the sake of balance is the last step (`imglish.ingest.balance`).

Everything is done on columns; Python sees single rows only where a rule has something to say about them. Small files
are loaded and written many at a time (`PIECE_ROWS`), so that the number of cells that the shuffle moves follows from
the number of rows, not from the square of the number of files. The driver holds names of files, never a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves, table_digest
from imglish.ingest.balance import balance
from imglish.ingest.judge import JUDGED, evidence_rows, judge, measured_rows
from imglish.ingest.match.clusters import apply_clusters
from imglish.ingest.match.join import NOTHING, Matched, find_clusters, leak_bit, near_bit
from imglish.ingest.match.leaks import drop_leaks
from imglish.ingest.placeholders import RULE as PLACEHOLDER
from imglish.ingest.placeholders import drop_placeholders
from imglish.ingest.rules import EXACT_DUPLICATE, active_rules
from imglish.recipe import Recipe, content_fields
from imglish.records import DECISIONS, KINDS
from imglish.seeds import stream, uniform
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipt, run_group, spans_of
from imglish.storage import LOOKUP_ROWS, Output, Store

VERSION = 5
FOLDER = "tables"
PIECE_ROWS = 150_000
"""Rows loaded at once, and rows of the landing files that are written together; about 25 MB."""
BUCKET_ROWS = 150_000
"""Rows of a bucket of records, when the recipe does not give their number; about 25 MB.

Dask puts buckets into partitions by a hash, so that one of several hundred gets six of them."""


class Decided(NamedTuple):
    """Decisions of every landing file, in their order, and the evidence of each of the spans [first, end) of them."""

    decisions: list[Output]
    evidence: list[Output]
    spans: list[tuple[int, int]]


def decide(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    annotations: Sequence[Output],
    progress: Progress | None = None,
    measures: Sequence[Sequence[Output]] = (),
    matched: Matched = NOTHING,
) -> Decided:
    """One decisions file for each annotations file, row by row the same occurrences; `measures` lie beside them.

    `matched` is what match found.
    """
    priorities = {source.name: source.priority for source in recipe.source}
    params: dict[str, Any] = {
        "decide": content_fields(recipe.decide),
        "rules": [*(rule.facts() for rule in active_rules(recipe)), PLACEHOLDER],
        "priorities": priorities,
        "seed": recipe.seed,
    }
    rows = [output.rows for output in annotations]
    buckets = recipe.decide.buckets or max(1, -(-sum(rows) // BUCKET_ROWS))
    spans = spans_of(rows, PIECE_ROWS)
    measures = measures or [()] * len(annotations)
    files = [[rows, *more] for rows, more in zip(annotations, measures, strict=True)]
    paths: dict[str, list[Any]] = {
        "paths": [[output.path for output in outputs] for outputs in files],
        "leaks": [output.path for output in matched.leaks],
    }
    pieces = [{"first": first, **{name: of[first:end] for name, of in paths.items()}} for first, end in spans]
    params |= {"leak": content_fields(recipe.match.leak) if matched.leaks else None}
    inputs = [output.sha256 for outputs in (*files, matched.leaks) for output in outputs]
    resolve_unit = Unit("resolve", VERSION, params, inputs)
    judging, resolving = _Judge(store, recipe, buckets), _Resolve(store, recipe)
    resolved = run_group(store, FOLDER, engine, resolve_unit, judging, pieces, range(buckets), resolving, progress)
    clustered = find_clusters(store, engine, recipe, resolved, matched, progress)
    near = {} if clustered is None else {name: output.path for name, output in clustered.outputs.items()}
    decide_unit = Unit("decide", VERSION, {}, [resolve_unit.id, *([] if clustered is None else [clustered.unit])])
    pieces = [{"path": output.path, "clusters": near.get(name)} for name, output in resolved.outputs.items()]
    load, reduce = _ByLandingFile(store, recipe, spans), _Align(store, spans)
    decided = run_group(store, FOLDER, engine, decide_unit, load, pieces, range(len(spans)), reduce, progress).outputs
    decisions = [decided[f"{n:06d}/{file:08d}"] for n, span in enumerate(spans) for file in range(*span)]
    evidence = [decided[f"{n:06d}/evidence"] for n in range(len(spans))]
    return Decided(*balance(store, engine, recipe, decisions, evidence, annotations, measures, spans, progress), spans)


@dataclass(frozen=True)
class _Judge:
    """Loads annotations files with every rule's verdict; bucket = record id mod buckets."""

    store: Store
    recipe: Recipe
    buckets: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        numbered = enumerate(piece["paths"], piece["first"])
        judged = [
            judge(measured_rows(self.store, paths, self.recipe), self.recipe, unit, self.buckets)
            for unit, paths in numbered
        ]
        bit = leak_bit(active_rules(self.recipe))
        for number, path in enumerate(piece["leaks"]):
            leaks = self.store.read_table(path)
            judged[number] = drop_leaks(judged[number], leaks, self.recipe.match.leak, bit)
        return pa.concat_tables(judged)


@dataclass(frozen=True)
class _Resolve:
    """Picks survivors in one bucket of records."""

    store: Store
    recipe: Recipe
    stage: str = "resolve"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = _ordered(rows.drop_columns(["bucket"]), ["record_id", "priority", "source", "row"])
        unit = Unit("resolve-bucket", VERSION, _resolve_params(self.recipe), [table_digest(rows)])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None and found.notes["bucket"] == bucket:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        output = self.store.put_table(f"{FOLDER}/resolve", _resolve(rows, self.recipe))
        return commit({"rows": output}, notes={"bucket": bucket})


def _resolve_params(recipe: Recipe) -> dict[str, Any]:
    decide = recipe.decide
    params = {"seed": recipe.seed, "share": decide.validation_share, "captioned_images": decide.captioned_images}
    return params | {"placeholder_urls": decide.placeholder_urls}


def _ordered(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[(key, "ascending") for key in keys])
    return rows.take(order).combine_chunks()


def resolve(rows: pa.Table, recipe: Recipe) -> pa.Table:
    """Judged rows with survivors, merges, sample kinds and splits filled in; sorted by record."""
    return _resolve(_ordered(rows, ["record_id", "priority", "source", "row"]), recipe)


def _resolve(rows: pa.Table, recipe: Recipe) -> pa.Table:
    group = _groups(rows.column("record_id"))
    rows = drop_placeholders(rows, group, recipe.decide.placeholder_urls, bit=len(active_rules(recipe)))
    passing = _mask(pc.equal(rows.column("verdict"), "keep"))
    kinds = {kind: passing & _mask(pc.equal(rows.column("kind"), kind)) for kind in KINDS}
    survivor = np.full(rows.num_rows, -1, dtype=np.int64)
    for mine in kinds.values():
        survivor[mine] = _first_of_group(group, mine)[group[mine]]
    if recipe.decide.captioned_images == "pair":
        pair_of = _first_of_group(group, kinds["pair"])[group] if rows.num_rows else survivor
        captioned = kinds["image"] & (pair_of >= 0)
        survivor[captioned] = pair_of[captioned]
    return _fill(rows, survivor, recipe)


def _mask(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _groups(record_ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """A running number per record of sorted ids; nulls are records of their own (no rule lets them pass)."""
    ids = record_ids.combine_chunks()
    if len(ids) == 0:
        return np.zeros(0, dtype=np.int64)
    same = pc.fill_null(pc.equal(ids[1:], ids[:-1]), False).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(~same)]).astype(np.int64)


def _first_of_group(group: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every group the first row where `mask` holds, -1 where none does."""
    first = np.full(int(group[-1]) + 1 if len(group) else 0, -1, dtype=np.int64)
    where = np.flatnonzero(mask)[::-1]
    first[group[where]] = where
    return first


def _fill(rows: pa.Table, survivor: NDArray[np.int64], recipe: Recipe) -> pa.Table:
    place = np.arange(rows.num_rows)
    merged = (survivor >= 0) & (survivor != place)
    kept = survivor >= 0
    other = pa.array(survivor, mask=~merged)
    none = pa.nulls(rows.num_rows, pa.string())
    columns = {
        "verdict": pc.if_else(pa.array(merged), "merge", rows.column("verdict")),
        "rule": pc.if_else(pa.array(merged), EXACT_DUPLICATE, rows.column("rule")),
        "other_source": rows.column("source").take(other),
        "other_row": rows.column("row").take(other),
        "sample_kind": rows.column("kind").take(pa.array(survivor, mask=~kept)),
        "sample_id": rows.column("record_id").take(pa.array(place, mask=~kept)),
        "split": pc.if_else(pa.array(kept), _splits(rows.column("record_id"), recipe), none),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), JUDGED.field(name), values)
    return rows


def _splits(record_ids: pa.ChunkedArray, recipe: Recipe) -> pa.Array:
    """The split of every record: its own hash against the share, so a corpus that grows keeps its split."""
    low = record_halves(record_ids)[1].byteswap()  # the last 8 bytes, little-endian
    chance = uniform(stream(recipe.seed, "split").keys(low))
    return pc.if_else(pa.array(chance < recipe.decide.validation_share), "validation", "train")


@dataclass(frozen=True)
class _ByLandingFile:
    """Loads resolved rows; bucket = number of the span that the landing file is in."""

    store: Store
    recipe: Recipe
    spans: Sequence[tuple[int, int]]

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = self.store.read_table(piece["path"])
        if piece["clusters"] is not None:
            found = self.store.read_table(piece["clusters"])
            splits = _splits(found.column("root"), self.recipe)
            rows = apply_clusters(rows, found, splits, self.recipe.match, near_bit(active_rules(self.recipe)))
        starts = np.array([first for first, _ in self.spans])
        bucket = np.searchsorted(starts, rows.column("unit").to_numpy(), side="right") - 1
        return rows.append_column(JUDGED.field("bucket"), pa.array(bucket, pa.int32()))


@dataclass(frozen=True)
class _Align:
    """Writes the decisions of a span of landing files, each in landing's row order, and their evidence."""

    store: Store
    spans: Sequence[tuple[int, int]]
    stage: str = "decide"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        span = self.spans[bucket]
        rows = _ordered(rows.drop_columns(["bucket"]), ["unit", "place"])
        unit = Unit("decide-files", VERSION, {"files": list(span), "bucket": bucket}, [table_digest(rows)])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        edges = np.searchsorted(rows.column("unit").to_numpy(), np.arange(span[0], span[1] + 1))
        decisions = rows.select(DECISIONS.names).cast(DECISIONS)
        outputs = {
            f"{file:08d}": self.store.put_table(
                f"{FOLDER}/decide", decisions.slice(start, end - start), group_rows=LOOKUP_ROWS
            )
            for file, (start, end) in enumerate(pairwise(edges.tolist()), span[0])
        }
        said = evidence_rows(rows)
        outputs["evidence"] = self.store.put_table(f"{FOLDER}/evidence", said, group_rows=LOOKUP_ROWS)
        return commit(outputs, notes={"bucket": bucket})
