"""The stage `balance`: after decide, three steps that read decisions, annotations and measures, never payloads.

- `balance-samples` (a grouping by sample) writes SAMPLES, OCCURRENCES and COUNTS of every bucket;
- `balance-limits` (one unit) sums the counts and cuts the groups of caps;
- `balance` (a grouping by landing file) brings what goes back to its file, and writes decisions and evidence anew.

All occurrences of a sample go together. What goes crosses the second shuffle, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import table_digest
from imglish.ingest.balance.checks import concept_file
from imglish.ingest.balance.draws import Fallen, Limit, balance_bit, by_caps, by_concepts
from imglish.ingest.balance.limits import LIMITS, find_limits, sum_counts
from imglish.ingest.balance.samples import COUNTS, ROWS, gather, occurrence_rows
from imglish.ingest.rules import active_rules
from imglish.recipe import Recipe, content_fields
from imglish.records import DECISIONS, EVIDENCE
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipt, run_group, run_map
from imglish.storage import LOOKUP_ROWS, Output, Store

VERSION = 1
FOLDER = "tables"
BUCKET_ROWS = 150_000
"""Occurrences of a bucket, as in decide; about 25 MB."""

FALLEN = pa.schema(
    [
        pa.field("bucket", pa.int32()),  # number of the span of landing files
        pa.field("unit", pa.int32()),
        pa.field("place", pa.int32()),
        *(DECISIONS.field(name) for name in ("rule", "score", "threshold", "detail")),
    ]
)
"""Occurrences that go, across the seam."""


def balance(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    decisions: Sequence[Output],
    evidence: Sequence[Output],
    annotations: Sequence[Output],
    measures: Sequence[Sequence[Output]],
    spans: Sequence[tuple[int, int]],
    progress: Progress | None = None,
) -> tuple[list[Output], list[Output]]:
    """Decisions and evidence with what balance drops; the same ones when the recipe asks for none.

    `spans` are the landing files [first, end) that each file of evidence is about.
    """
    if not recipe.balance.active():
        return list(decisions), list(evidence)
    files = [[one, about, *more] for one, about, more in zip(decisions, annotations, measures, strict=True)]
    gathered = _gathered(store, engine, recipe, files, spans, progress)
    limits = _limits(store, engine, recipe, gathered, progress)
    inputs = [gathered.unit, limits.unit, *(output.sha256 for output in evidence)]
    unit = Unit("balance", VERSION, {"bit": balance_bit(active_rules(recipe))}, inputs)
    spec = {name: output.path for name, output in limits.outputs.items()}
    pieces = [
        {"samples": output.path, "occurrences": gathered.outputs[name.replace("samples", "occurrences")].path, **spec}
        for name, output in gathered.outputs.items()
        if name.endswith("/samples")
    ]
    write = _Write(store, recipe, spans, decisions, evidence)
    load = _Fall(store, recipe, spans)
    found = run_group(store, FOLDER, engine, unit, load, pieces, range(len(spans)), write, progress).outputs
    files_of = [found[f"{n:06d}/{file:08d}"] for n, span in enumerate(spans) for file in range(*span)]
    return files_of, [found[f"{n:06d}/evidence"] for n in range(len(spans))]


def _gathered(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    files: Sequence[Sequence[Output]],
    spans: Sequence[tuple[int, int]],
    progress: Progress | None,
) -> Receipt:
    rows = sum(one[0].rows for one in files)
    buckets = recipe.decide.buckets or max(1, -(-rows // BUCKET_ROWS))
    pieces = [{"first": first, "paths": [[o.path for o in one] for one in files[first:end]]} for first, end in spans]
    inputs = [output.sha256 for one in files for output in one]
    unit = Unit("balance-samples", VERSION, {"buckets": buckets}, inputs)
    load = _Occurrences(store, buckets)
    return run_group(store, FOLDER, engine, unit, load, pieces, range(buckets), _Gather(store), progress)


@dataclass(frozen=True)
class _Occurrences:
    """Loads the kept and merged occurrences of consecutive landing files; bucket = sample id mod buckets."""

    store: Store
    buckets: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        numbered = enumerate(piece["paths"], piece["first"])
        found = [occurrence_rows(self.store, paths, unit, self.buckets) for unit, paths in numbered]
        return pa.concat_tables([ROWS.empty_table(), *found])


@dataclass(frozen=True)
class _Gather:
    """Writes the samples of one bucket."""

    store: Store
    stage: str = "balance-samples"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.drop_columns(["bucket"])
        unit = Unit("balance-bucket", VERSION, {}, [table_digest(rows, ["unit", "place"])])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None and found.notes["bucket"] == bucket:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        tables = gather(rows)._asdict()
        outputs = {name: self.store.put_table(f"{FOLDER}/balance", table) for name, table in tables.items()}
        return commit(outputs, {"samples": tables["samples"].num_rows}, {"bucket": bucket})


def _limits(store: Store, engine: Engine, recipe: Recipe, gathered: Receipt, progress: Progress | None) -> Receipt:
    outputs = {
        name: [output for key, output in gathered.outputs.items() if key.endswith(f"/{name}")]
        for name in ("samples", "counts")
    }
    file = concept_file(recipe)
    params = {"balance": content_fields(recipe.balance), "seed": recipe.seed, **({} if file is None else file.facts())}
    spec = {name: [output.path for output in mine] for name, mine in outputs.items()}
    inputs = [output.sha256 for mine in outputs.values() for output in mine]
    unit = Unit("balance-limits", VERSION, params, inputs, spec)
    return run_map(store, FOLDER, engine, LimitTask(store, recipe), [unit], progress)[0]


@dataclass(frozen=True)
class LimitTask:
    """Sums captions by concept and finds where groups are cut: outputs `captions` (COUNTS) and `limits` (LIMITS)."""

    store: Store
    recipe: Recipe

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        file = concept_file(self.recipe)
        counts = (self.store.read_table(path) for path in unit.spec["counts"])
        captions = sum_counts(counts, 0 if file is None else len(file.list))
        limits = find_limits(self.store, unit.spec["samples"], self.recipe, captions)
        rows = [{"cap": cap, "group": group, **limit._asdict()} for (cap, group), limit in limits.items()]
        columns = [pa.array([row[field.name] for row in rows], field.type) for field in LIMITS]
        tables = {
            "captions": pa.table([np.arange(len(captions)), captions], schema=COUNTS),
            "limits": pa.table(columns, schema=LIMITS),
        }
        config = self.recipe.balance.concepts
        found = {
            "concepts_found": int(np.count_nonzero(captions)),
            "concepts_capped": 0 if config is None else int(np.count_nonzero(captions > config.cap)),
            "groups_capped": len(limits),
        }
        outputs = {name: self.store.put_table(f"{FOLDER}/balance", table) for name, table in tables.items()}
        return commit(outputs, found)


@dataclass(frozen=True)
class _Fall:
    """Loads what goes of one bucket of samples; bucket = number of the span that its landing file is in."""

    store: Store
    recipe: Recipe
    spans: Sequence[tuple[int, int]]

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        samples, occurrences = (self.store.read_table(piece[name]) for name in ("samples", "occurrences"))
        captions = np.asarray(self.store.read_table(piece["captions"]).column("captions").to_numpy(), np.int64)
        limits = {
            (row["cap"], row["group"]): Limit(row["last"], row["members"], row["amount"])
            for row in self.store.read_table(piece["limits"]).to_pylist()
        }
        fallen = by_concepts(samples, self.recipe, captions)
        fallen |= by_caps(samples, self.recipe, limits, fallen)
        return _fallen_rows(occurrences, fallen, self.spans)


def _fallen_rows(occurrences: pa.Table, fallen: Mapping[int, Fallen], spans: Sequence[tuple[int, int]]) -> pa.Table:
    owners = occurrences.column("sample").to_numpy()
    gone = np.isin(owners, np.fromiter(fallen, np.int64, len(fallen)))
    said = [fallen[owner] for owner in owners[gone].tolist()]
    unit, place = (occurrences.column(name).to_numpy()[gone] for name in ("unit", "place"))
    bucket = np.searchsorted([first for first, _ in spans], unit, side="right") - 1
    columns = [bucket, unit, place, *([getattr(one, name) for one in said] for name in Fallen._fields)]
    typed = [pa.array(values, field.type) for values, field in zip(columns, FALLEN, strict=True)]
    return pa.table(typed, schema=FALLEN)


@dataclass(frozen=True)
class _Write:
    """Writes the decisions and evidence of a span of landing files anew."""

    store: Store
    recipe: Recipe
    spans: Sequence[tuple[int, int]]
    decisions: Sequence[Output]
    evidence: Sequence[Output]
    stage: str = "balance"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        files = range(*self.spans[bucket])
        rows, bit = rows.drop_columns(["bucket"]), balance_bit(active_rules(self.recipe))
        before = [*(self.decisions[file].sha256 for file in files), self.evidence[bucket].sha256]
        params = {"files": [files.start, files.stop], "bit": bit}
        unit = Unit("balance-files", VERSION, params, [*before, table_digest(rows, ["unit", "place"])])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        rows = rows.take(pc.sort_indices(rows, sort_keys=[("unit", "ascending"), ("place", "ascending")]))
        edges = np.searchsorted(rows.column("unit").to_numpy(), np.arange(files.start, files.stop + 1)).tolist()
        outputs, changed = {}, []
        for file, (start, end) in zip(files, pairwise(edges), strict=True):
            table = self.store.read_table(self.decisions[file].path)
            table = apply_fallen(table, rows.slice(start, end - start), bit)
            outputs[f"{file:08d}"] = self.store.put_table(f"{FOLDER}/decide", table, group_rows=LOOKUP_ROWS)
            changed.append(table.select(["source", "row"]))
        said = add_evidence(self.store.read_table(self.evidence[bucket].path), changed, rows, files.start)
        outputs["evidence"] = self.store.put_table(f"{FOLDER}/evidence", said, group_rows=LOOKUP_ROWS)
        return commit(outputs, notes={"bucket": bucket})


def apply_fallen(decisions: pa.Table, fallen: pa.Table, bit: int) -> pa.Table:
    """DECISIONS of one landing file with FALLEN rows of it dropped; `bit` is theirs in `fired`."""
    place = np.full(decisions.num_rows, -1, np.int64)
    place[fallen.column("place").to_numpy()] = np.arange(fallen.num_rows)
    goes, taken = pa.array(place >= 0), pa.array(place, mask=place < 0)
    values: dict[str, Any] = {name: fallen.column(name).take(taken) for name in Fallen._fields}
    values |= {"verdict": "drop", "fired": pc.bit_wise_or(decisions.column("fired"), 1 << bit)}
    gone = ("other_source", "other_row", "edits", "sample_kind", "sample_id", "split")
    values |= {name: pa.scalar(None, DECISIONS.field(name).type) for name in gone}
    columns = [
        pc.if_else(goes, values[field.name], decisions.column(field.name)) if field.name in values
        else decisions.column(field.name)
        for field in DECISIONS
    ]  # fmt: skip
    return pa.table([column.cast(field.type) for column, field in zip(columns, DECISIONS, strict=True)], DECISIONS)


def add_evidence(evidence: pa.Table, files: Sequence[pa.Table], fallen: pa.Table, first: int) -> pa.Table:
    """EVIDENCE of consecutive landing files, from number `first`, with a row for each FALLEN one, in their order."""
    starts = np.concatenate([[0], np.cumsum([table.num_rows for table in files])])
    occurrences = pa.concat_tables(files)
    numbers = starts[fallen.column("unit").to_numpy() - first] + fallen.column("place").to_numpy()
    who = occurrences.take(pa.array(numbers))
    given = {**{name: fallen.column(name) for name in Fallen._fields}, "source": who["source"], "row": who["row"]}
    columns = [given.get(field.name, pa.nulls(fallen.num_rows, field.type)) for field in EVIDENCE]
    new = pa.table([column.cast(field.type) for column, field in zip(columns, EVIDENCE, strict=True)], EVIDENCE)
    order = np.argsort(np.concatenate([_places(evidence, occurrences), numbers]), kind="stable")
    return pa.concat_tables([evidence.cast(EVIDENCE), new]).take(pa.array(order))


def _places(evidence: pa.Table, occurrences: pa.Table) -> NDArray[np.int64]:
    """The number of each evidence row's occurrence."""
    keys = [pc.binary_join_element_wise(table["source"], table["row"], "\0") for table in (evidence, occurrences)]
    found = pc.index_in(keys[0], value_set=pa.chunked_array(keys[1].chunks, pa.string()).combine_chunks())
    return np.asarray(found.to_numpy(), np.int64)
