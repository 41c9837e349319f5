"""Resume at web scale: a finished build of 21 M + 14 M records, made of real receipts and hollow files.

    python -m benchmarks.scale_receipts FOLDER        # prints its numbers; kept by `make proof`

`Pretend` is an engine that does no work: for every unit and bucket that the real pipeline asks for it writes a receipt
in the real format, and sparse files of the sizes that the receipt names. So every unit id is the pipeline's own. Then
`imglish build` runs on that folder in a process of its own; it has to find that everything is done. Landing units
have the sizes of `benchmarks.scale_rows`: 5,250 units of 4,000 URLs, which one process fetches in a minute or two, and
11,476 units of 128 MB of pictures, as the readers cut them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.scale import pack_receipt, sample_rows
from benchmarks.scale_ingest import TRAIN, VALIDATION, recipe
from benchmarks.scale_rows import FILE_ROWS, plan_files
from imglish.digests import canonical_json, json_digest
from imglish.ingest.land import INDEX, source_content
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe
from imglish.stages import Receipt, Unit, run_facts
from imglish.storage import Output, Store
from imglish.walk import NoEngine

OUTPUTS = {
    "annotate": ["rows", "fingerprints"],
    "tally": [],
    "select": [],
    "tokenize-text": ["members", "documents"],
    "tokenize-visual": ["images"],
    "pack-rows": ["rows"],
}
BYTES_A_ROW = {"landing": 110_000, "annotate": 47, "decide": 50, "members": 200, "images": 1_700, "pack-rows": 22}
RUNS = 3
SECONDS = 10.0


class Pretend:
    """Writes the receipt of every unit without doing it."""

    def __init__(self, store: Store, rows: Sequence[int]) -> None:
        self.store, self.rows = store, rows

    def map(self, task: Any, units: Sequence[Unit]) -> Iterator[Receipt]:
        for number, unit in enumerate(units):
            yield self.receipt(unit.stage, unit.id, *self._result(unit, number))

    def group(self, load: Any, pieces: Any, buckets: Sequence[int], reduce: Any) -> Iterator[Receipt]:
        for bucket in buckets:
            if reduce.stage == "pack":
                yield self._shard(bucket, reduce.units[bucket].unit)
                continue
            names = {"rows": 500_000}
            if reduce.stage == "decide":
                files = range(*reduce.spans[bucket])
                names = {f"{file:08d}": self.rows[file] for file in files} | {"evidence": 10_000}
            outputs = {
                name: self.output("decide", f"{reduce.stage} {bucket} {name}", rows) for name, rows in names.items()
            }
            yield self.receipt(f"{reduce.stage}-bucket", f"{bucket:032x}", outputs, {}, {"bucket": bucket})

    def close(self) -> None:
        """Nothing is held."""

    def _result(self, unit: Unit, number: int) -> tuple[dict[str, Output], dict[str, int], dict[str, Any]]:
        """Outputs, counts and notes that the stage would give."""
        if unit.stage.startswith("fit-"):
            facts: dict[str, Any] = {"vocabulary": 64_010, "mask_id": 64_009}
            if unit.stage == "fit-visual":
                facts = {"type": "codebook", "codes": 8192, "size": 224, "patch": 16, "grid": [14, 14]}
            return {"model": self.output("models", unit.id, 8192)}, {}, {**facts, "digest": _hex(unit.id)}
        if unit.stage == "pack-units":
            shards = [*range(TRAIN + VALIDATION)]
            columns = [shards, [9_000] * len(shards), [_hex(str(shard)) for shard in shards]]
            table = pa.table(columns, names=["shard", "rows", "digest"])
            return {"shards": self.store.put_table("tables/pack-units", table)}, {}, {}
        rows = self.rows[number]
        outputs = {name: self.output(_folder(unit.stage, name), unit.id + name, rows) for name in OUTPUTS[unit.stage]}
        notes: dict[str, Any] = {}
        counts = {"occurrences": rows}
        if unit.stage == "tally":
            kind = "pair" if rows == FILE_ROWS["pair"] else "image"
            source = "web" if kind == "pair" else "pictures"
            counts = {f"{source}|{kind}|keep|": rows * 3 // 4, f"{source}|{kind}|drop|payload@1": rows - rows * 3 // 4}
            notes = {"source": source, "decisions": _hex(unit.id), "occurrences": _hex(unit.id + "o")}
        if unit.stage == "select":
            notes = {name: _hex(unit.id + name) for name in ("text", "visual", "fit-text", "fit-visual")}
        if unit.stage == "pack-rows":
            notes = {"shards": hashlib.shake_256(unit.id.encode()).hexdigest((TRAIN + VALIDATION + 7) // 8)}
        return outputs, counts, notes

    def _shard(self, ordinal: int, unit: str) -> Receipt:
        made = pack_receipt(ordinal, "train" if ordinal < TRAIN else "validation", sample_rows(ordinal))
        for output in made.outputs.values():
            self._hollow(output)
        return self.receipt("pack", unit, made.outputs, made.counts, {**made.notes, "bucket": ordinal})

    def output(self, folder: str, seed: str, rows: int) -> Output:
        """A sparse file of the size that such a table has."""
        digest = _hex(f"{folder} {seed}")
        size = 1_000 + rows * BYTES_A_ROW.get(folder, 20)
        place = folder if folder in ("landing", "models") else f"tables/{folder}"
        made = Output(f"{place}/{digest[:32]}.parquet", digest, size, rows)
        self._hollow(made)
        return made

    def _hollow(self, output: Output) -> None:
        path = self.store.path(output.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(output.bytes)

    def receipt(
        self,
        stage: str,
        unit: str,
        outputs: Mapping[str, Output],
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """What `Commit` would write, without waiting for the disk."""
        made = Receipt(unit, stage, outputs, counts or {}, notes or {}, {"seconds": 61.234, **run_facts()})
        folder = "landing" if stage == "land" else "tables"
        path = self.store.path(f"{folder}/receipts/{stage}/{unit}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.to_json())
        return made


def _folder(stage: str, name: str) -> str:
    return stage if name == "rows" else name


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_build(work: Path, scale: float) -> Recipe:
    """A folder in which everything is done; the sources' files are gone."""
    chosen, store = recipe(work), Store(work)
    files = plan_files(scale)
    pretend = Pretend(store, [file.rows for file in files])
    index: dict[str, Any] = {}
    for source in chosen.source:
        units = []
        for file in files:
            if file.kind == source.kind:
                unit = _hex(f"land {file.number}")[:32]
                rows = pretend.output("landing", unit, file.rows)
                pretend.receipt("land", unit, {"rows": rows}, {"occurrences": file.rows, "bytes": file.rows * 110_000})
                units.append(unit)
        index[source.name] = {"config": json_digest(source_content(chosen, source)), "units": units}
    store.put_as(INDEX, canonical_json(index))
    Pipeline(chosen, pretend).build()
    return chosen


def resume(work: Path) -> dict[str, Any]:
    """A build of a finished folder, in this process."""
    began = time.perf_counter()
    pipeline = Pipeline(recipe(work), NoEngine())
    pipeline.build()
    stages = {name: round(seconds, 2) for name, seconds in pipeline.seconds.items()}
    return {"seconds": round(time.perf_counter() - began, 2), "stages": stages}


def scale_receipts(work: Path, scale: float = 1.0) -> dict[str, Any]:
    """Receipts of 21 M + 14 M records: a second build of a finished corpus ends in under 10 seconds, start of Python
    included."""
    shutil.rmtree(work, ignore_errors=True)
    make_build(work, scale)
    receipts = sum(1 for _ in work.glob("*/receipts/*/*.json"))
    files = plan_files(scale)
    first, *later = [_command(work) for _ in range(1 + RUNS)]
    numbers = {
        "records": sum(file.rows for file in files),
        "landing_units": len(files),
        "receipts": receipts,
        "files": sum(1 for path in work.rglob("*") if path.is_file()),
        "seconds_without_index": first["command_seconds"],
        "seconds": statistics.median(run["command_seconds"] for run in later),
        "stages": later[-1]["stages"],
        "index_megabytes": round(sum(path.stat().st_size for path in (work / "index").iterdir()) / 1e6, 1),
    }
    assert numbers["seconds"] < SECONDS, numbers
    shutil.rmtree(work)
    return numbers


def _command(work: Path) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.scale_receipts", str(work), "--resume"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(ran.stdout), "command_seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the corpus")
    parser.add_argument("--resume", action="store_true", help="only build again what is there")
    chosen = parser.parse_args()
    print(json.dumps(resume(chosen.work) if chosen.resume else scale_receipts(chosen.work, chosen.scale), indent=2))


if __name__ == "__main__":
    main()
