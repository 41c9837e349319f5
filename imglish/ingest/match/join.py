"""Join: the edges that match found and the verdicts on records become clusters, one file for each bucket of records.

    receipt = find_clusters(store, engine, recipe, resolved, matched, progress)
    receipt.outputs["000003/rows"]              # CLUSTERS of the records of bucket 3 of `resolve`

Edges are few beside records, so one unit does it: it reads all edges, and of every resolved bucket only the rows whose
record an edge names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import record_halves
from imglish.ingest.match.clusters import KEPT, VERSION, clusters, deciding_edges, thresholds
from imglish.ingest.match.propose import EDGES
from imglish.recipe import Recipe
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, run_map
from imglish.storage import Output, Store

FOLDER = "tables"


@dataclass(frozen=True)
class Matched:
    """Files of EDGES and CAPTIONS; for each landing file one of LEAKS (none when there is no evaluation set)."""

    edges: tuple[Output, ...] = ()
    captions: tuple[Output, ...] = ()
    leaks: tuple[Output, ...] = ()


NOTHING = Matched()


def leak_bit(rules: Sequence[Any]) -> int:
    """Bit of `contaminated@1` in `fired`: after the rules and the placeholder's."""
    return len(rules) + 1


def near_bit(rules: Sequence[Any]) -> int:
    """Bit of the rules of `clusters.METHODS`, which share one."""
    return len(rules) + 2


def find_clusters(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    resolved: Receipt,
    matched: Matched,
    progress: Progress | None = None,
) -> Receipt | None:
    """One output of CLUSTERS for each resolved output, under its name; None when nothing is to be clustered."""
    if not matched.edges or not thresholds(recipe.match):
        return None
    params = {
        "thresholds": thresholds(recipe.match),
        "measure": recipe.match.text.measure,
        "near_pairs": recipe.match.near_pairs,
        "captioned_images": recipe.decide.captioned_images,
        "seed": recipe.seed,
        "share": recipe.decide.validation_share,
    }
    names = list(resolved.outputs)
    spec = {
        "edges": [output.path for output in matched.edges],
        "resolved": {name: resolved.outputs[name].path for name in names},
    }
    inputs = [resolved.unit, *sorted(output.sha256 for output in matched.edges)]
    unit = Unit("match-cluster", VERSION, params, inputs, spec)
    return run_map(store, FOLDER, engine, ClusterTask(store, recipe), [unit], progress)[0]


@dataclass(frozen=True)
class ClusterTask:
    """Finds all clusters of a corpus."""

    store: Store
    recipe: Recipe

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        nothing = deciding_edges(EDGES.empty_table(), self.recipe.match)
        read = [deciding_edges(self.store.read_table(path), self.recipe.match) for path in unit.spec["edges"]]
        edges = pa.concat_tables([nothing, *read]).combine_chunks()
        wanted = pc.unique(pa.concat_arrays([edges.column(side).combine_chunks() for side in ("a", "b")]))
        kept = {name: self._kept(path, wanted) for name, path in unit.spec["resolved"].items()}
        found = clusters(edges, pa.concat_tables(list(kept.values())), self.recipe)
        return commit(self._outputs(found, list(kept)), _counts(found))

    def _kept(self, path: str, wanted: pa.Array) -> pa.Table:
        rows = self.store.read_table(path, [*KEPT, "verdict"])
        named = pc.is_in(rows.column("record_id"), value_set=wanted)
        return rows.filter(pc.and_(named, pc.equal(rows.column("verdict"), "keep"))).select(list(KEPT))

    def _outputs(self, found: pa.Table, names: Sequence[str]) -> dict[str, Output]:
        """Buckets are those of `resolve`: record id modulo their number."""
        bucket = record_halves(found.column("record_id"))[0] % np.uint64(len(names))
        return {
            name: self.store.put_table(
                f"{FOLDER}/match", found.filter(pa.array(bucket == np.uint64(int(name.partition("/")[0]))))
            )
            for name in names
        }


def _counts(found: pa.Table) -> dict[str, int]:
    gone = pc.sum(pc.not_equal(found.column("record_id"), found.column("survivor"))).as_py() or 0
    return {"clusters": len(pc.unique(found.column("root"))), "clustered": found.num_rows, "near_duplicates": gone}
