"""A list of 21 million URLs, planned and split into units.

    python -m benchmarks.scale_urls FOLDER        # prints its numbers; kept by `make proof`

18 M rows lie in Parquet files of a million rows, 3 M in one TSV (LAION's and CC3M's forms). Hosts follow Zipf's law
with exponent 1 over 400,000 names, so that the first one has 5 % of all rows. The real `land` runs until it would
fetch: what it asks an engine for are the units. Seconds and peak memory are those of a process that does this alone;
making the lists is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from imglish.ingest.land import land
from imglish.pipeline import NoEngine, PendingError
from imglish.recipe import Recipe, make_recipe
from imglish.seeds import draw, stream, uniform
from imglish.stages import Receipt, Unit
from imglish.storage import Store

PARQUET_FILES, FILE_ROWS = 18, 1_000_000
TSV_ROWS = 3_000_000
HOSTS = 400_000
SECONDS, MEGABYTES = 120.0, 1000.0


class UpToFetch(NoEngine):
    """An engine that keeps the units that it was asked for, and stops."""

    def __init__(self) -> None:
        self.units: Sequence[Unit] = ()

    def map(self, task: Any, units: Sequence[Unit]) -> Iterator[Receipt]:
        self.units = units
        raise PendingError(units[0].stage, len(units))


def recipe(folder: Path) -> Recipe:
    options = {"url": "url", "captions": ["caption"]}
    sources = [
        {"name": name, "format": "url-list", "kind": "pair", "path": path, "options": options}
        for name, path in (("parquet", "web-*.parquet"), ("tsv", "web.tsv"))
    ]
    return make_recipe({"name": "urls", "root": str(folder), "work": str(folder / "work"), "source": sources})


def write_lists(folder: Path, scale: float = 1.0) -> None:
    """The lists, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = int(FILE_ROWS * scale)
    for number in range(PARQUET_FILES):
        path = folder / f"web-{number:03d}.parquet"
        if not path.exists():
            pq.write_table(url_rows(number * rows, rows), path, compression="zstd", row_group_size=100_000)
    if not (folder / "web.tsv").exists():
        options = pc_csv.WriteOptions(delimiter="\t", quoting_style="none")
        pc_csv.write_csv(url_rows(PARQUET_FILES * rows, int(TSV_ROWS * scale)), folder / "web.tsv", options)


def url_rows(start: int, count: int) -> pa.Table:
    """(url, caption) of rows [start, start + count)."""
    number = np.arange(start, start + count)
    keys = stream(0, "urls").keys(number)
    host = np.floor(HOSTS ** uniform(draw(keys, 0))).astype(np.int64)  # P(host <= h) = log h / log HOSTS
    text = [pa.array(values).cast(pa.string()) for values in (host, number)]
    url = pc.binary_join_element_wise("https://img", text[0], ".example.org/photos/", text[1], ".jpg", "")
    caption = pc.binary_join_element_wise("photograph number", text[1], "of the old bridge over the river", " ")
    return pa.table({"url": url, "caption": caption})


def split(folder: Path) -> dict[str, Any]:
    """Plan the list in this process."""
    before, began = _peak(), time.perf_counter()
    chosen, engine = recipe(folder), UpToFetch()
    try:
        land(Store(chosen.work), engine, chosen)
    except PendingError as pending:
        ids = {unit.id for unit in engine.units}
        seconds = round(time.perf_counter() - began, 2)
        peak = {"peak_memory_megabytes": round(_peak()), "of_which_imports": round(before)}
        return {"seconds": seconds, **peak, "units": len(ids), "stage": pending.stage}
    raise AssertionError("nothing was left to fetch")


def _peak() -> float:
    """MB; VmHWM starts anew with a program, while getrusage goes on with what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def scale_urls(folder: Path) -> dict[str, Any]:
    """A list of 21 M URLs (Parquet and TSV, hosts by Zipf's law) planned and split into units in < 2 min and < 1 GB."""
    write_lists(folder)
    command = [sys.executable, "-m", "benchmarks.scale_urls", str(folder), "--split"]
    numbers = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    numbers["list_megabytes"] = round(sum(path.stat().st_size for path in folder.glob("web*")) / 1e6)
    assert numbers["seconds"] < SECONDS and numbers["peak_memory_megabytes"] < MEGABYTES, numbers
    return {"urls": PARQUET_FILES * FILE_ROWS + TSV_ROWS, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", action="store_true", help="only plan, in this process")
    chosen = parser.parse_args()
    print(json.dumps(split(chosen.folder) if chosen.split else scale_urls(chosen.folder)))


if __name__ == "__main__":
    main()
