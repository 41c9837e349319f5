"""An engine of one, for tests: both verbs in this process, everything pickled as a cluster would."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.stages import Load, Receipt, Reduce, Task, Unit


class Inline:
    """Runs units in their order; `ran` names the parts that were read, `units` all that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.units: list[Unit] = []

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        for unit in units:
            if "part" in unit.params:
                self.ran.append(unit.params["part"])
            self.units.append(unit)
            run, one = pickle.loads(pickle.dumps((task, unit)))
            yield run(one)

    def group(
        self, load: Load, pieces: Sequence[Mapping[str, Any]], buckets: Sequence[int], reduce: Reduce
    ) -> Iterator[Receipt]:
        load, reduce = pickle.loads(pickle.dumps((load, reduce)))
        rows = pa.concat_tables([load(piece) for piece in pieces])
        for bucket in buckets:
            yield reduce(bucket, rows.filter(pc.equal(rows.column("bucket"), bucket)))

    def close(self) -> None:
        """Nothing to close."""
