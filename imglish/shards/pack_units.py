"""What each shard will hold, as a number of rows and one digest, so that pack's driver reads no row.

    found = shard_rows(store, engine, placement, digested, progress)      # {ordinal: ShardRows(rows, digest)}

`digested` are the receipts of `pack-rows`, each with a table of (shard, row digest). The digest of a shard is SHA-256
over its row digests in ascending order. One unit makes those of a range of shards; ranges are cut so that about
`UNIT_ROWS` rows are held at once, and every unit reads all tables (20 bytes a row).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import record_halves
from imglish.shards.placement import Placement
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, run_map
from imglish.storage import Store

STAGE = "pack-units"
VERSION = 1
UNIT_ROWS = 16_000_000
"""Rows of one unit; a worker needs about 80 bytes for each."""

_SHARDS = pa.schema([pa.field("shard", pa.int32()), pa.field("rows", pa.int64()), pa.field("digest", pa.string())])


class ShardRows(NamedTuple):
    """What falls into a shard."""

    rows: int
    digest: str


def shard_rows(
    store: Store,
    folder: str,
    engine: Engine,
    placement: Placement,
    digested: Sequence[Receipt],
    progress: Progress | None = None,
) -> dict[int, ShardRows]:
    """Rows and digest of every shard of the placement, also of those that nothing falls into."""
    shards = len(placement)
    tables = [receipt.outputs["rows"] for receipt in digested]
    count = max(1, -(-sum(table.rows for table in tables) // UNIT_ROWS))
    edges = np.linspace(0, shards, min(count, shards) + 1).astype(int).tolist()
    paths = [table.path for table in tables]
    inputs = [table.sha256 for table in tables]
    units = [Unit(STAGE, VERSION, {"shards": [*span]}, inputs, {"paths": paths}) for span in pairwise(edges)]
    found = dict.fromkeys(range(shards), ShardRows(0, hashlib.sha256().hexdigest()))
    for receipt in run_map(store, folder, engine, DigestShards(store, folder), units, progress):
        for row in store.read_table(receipt.outputs["shards"].path).to_pylist():
            found[row["shard"]] = ShardRows(row["rows"], row["digest"])
    return found


@dataclass(frozen=True)
class DigestShards:
    """A task: rows and digests of the shards in a range that got some row."""

    store: Store
    folder: str

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, self.folder, STAGE, unit.id)
        first, end = unit.params["shards"]
        mine = (pc.field("shard") >= first) & (pc.field("shard") < end)
        parts = [self.store.read_table(path).filter(mine) for path in unit.spec["paths"]]
        rows = pa.concat_tables(parts)
        output = self.store.put_table(f"{self.folder}/{STAGE}", digest_shards(rows))
        return commit({"shards": output}, {"rows": rows.num_rows})


def digest_shards(rows: pa.Table) -> pa.Table:
    """(shard, rows, digest) of every shard in a table of (shard, row digest)."""
    shard = rows.column("shard").to_numpy()
    high, low = record_halves(rows.column("digest"))
    order = np.lexsort((low, high, shard))
    shard = shard[order]
    data = np.stack([high[order], low[order]], axis=1).astype(">u8")
    edges = np.flatnonzero(np.diff(shard, prepend=-1, append=-1)) if len(shard) else np.zeros(1, np.int64)
    starts, ends = edges[:-1], edges[1:]
    digests = [hashlib.sha256(data[start:end].tobytes()).hexdigest() for start, end in zip(starts, ends, strict=True)]
    return pa.table([shard[starts], ends - starts, digests], schema=_SHARDS)
