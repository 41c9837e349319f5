"""A list of 21 million URLs, planned, brought together by host and split into fetch units.

    python -m benchmarks.scale_urls FOLDER        # prints its numbers; kept by `make proof`

18 M rows lie in Parquet files of a million rows, 3 M in one TSV (LAION's and CC3M's forms). Hosts follow Zipf's law
with exponent 1 over 400,000 names, so that the first one has 5 % of all rows. The real `land` runs on a Dask cluster of
two workers until it would send the first request: the stages `list` and `hosts` with the engine's shuffle, whose units
are what is fetched. Seconds are those of a process that does this alone, cluster included; memory is the highest of
each of its processes, the driver's (planning) and the workers'. Making the lists is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from imglish.engines.dask import DaskEngine
from imglish.ingest.land import land
from imglish.recipe import Recipe, make_recipe
from imglish.seeds import draw, stream, uniform
from imglish.stages import Engine, Receipt, Unit
from imglish.storage import Store
from imglish.walk import NoEngine, PendingError

PARQUET_FILES, FILE_ROWS = 18, 1_000_000
TSV_ROWS = 3_000_000
HOSTS = 400_000
WORKERS = 2
SECONDS, MEGABYTES = 120.0, 1000.0
SMALL = 60
"""MB of Python's helper processes, which hold nothing."""


class UpToFetch(NoEngine):
    """An engine that lists and splits, and stops before anything is asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def map(self, task: Any, units: Sequence[Unit]) -> Iterator[Receipt]:
        if units[0].stage != "list":
            raise PendingError(units[0].stage, len(units))
        yield from self.engine.map(task, units)
        self._passed("list")

    def group(self, load: Any, pieces: Any, buckets: Any, reduce: Any) -> Iterator[Receipt]:
        yield from self.engine.group(load, pieces, buckets, reduce)
        self._passed("hosts")

    def _passed(self, stage: str) -> None:
        self.seconds[stage] = round(time.perf_counter() - self.began - sum(self.seconds.values()), 2)


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
        options = pc_csv.WriteOptions(delimiter="\t", quoting_style="none", include_header=False)  # it would be quoted
        with (folder / "web.tsv").open("wb") as file:
            file.write(b"url\tcaption\n")
            pc_csv.write_csv(url_rows(PARQUET_FILES * rows, int(TSV_ROWS * scale)), file, options)


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
    """Plan and split the list in this process and its workers, from nothing."""
    chosen = recipe(folder)
    shutil.rmtree(chosen.work, ignore_errors=True)
    began, store = time.perf_counter(), Store(chosen.work)
    with DaskEngine(workers=WORKERS, memory="2GB", scratch=f"{chosen.work}/scratch") as dask:
        engine = UpToFetch(dask)
        try:
            land(store, engine, chosen)
        except PendingError as pending:
            seconds, peaks = time.perf_counter() - began, _peaks()
            return {
                "seconds": round(seconds, 2),
                "seconds_of_stages": engine.seconds,
                "peak_megabytes": peaks,
                "stage": pending.stage,
                **_units(store),
            }
    raise AssertionError("nothing was left to fetch")


def _units(store: Store) -> dict[str, int]:
    """Fetch units and their rows, from the tables that `hosts` left."""
    tables = [store.read_table(path, ["rows"]).column("rows") for path in store.files("landing/units")]
    return {"units": sum(map(len, tables)), "rows_in_units": sum(pc.sum(rows).as_py() for rows in tables)}


def _peaks() -> dict[str, int]:
    """MB that this process and those below it have held at most; VmHWM starts anew with a program."""
    children = psutil.Process().children(recursive=True)
    workers = [peak for peak in map(_peak, [child.pid for child in children]) if peak > SMALL]
    return {"driver": _peak(os.getpid()), **{f"worker_{n}": peak for n, peak in enumerate(sorted(workers))}}


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    line = next((line for line in lines if line.startswith("VmHWM")), "VmHWM 0")
    return round(int(line.split()[1]) * 1024 / 1e6)


def scale_urls(folder: Path) -> dict[str, Any]:
    """A list of 21 M URLs (Parquet and TSV, hosts by Zipf's law) planned and split into units in < 2 min and < 1 GB."""
    write_lists(folder)
    command = [sys.executable, "-m", "benchmarks.scale_urls", str(folder), "--split"]
    numbers = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    numbers["list_megabytes"] = round(sum(path.stat().st_size for path in folder.glob("web*")) / 1e6)
    urls = PARQUET_FILES * FILE_ROWS + TSV_ROWS
    assert numbers["rows_in_units"] == urls, numbers
    assert numbers["seconds"] < SECONDS and max(numbers["peak_megabytes"].values()) < MEGABYTES, numbers
    return {"urls": urls, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", action="store_true", help="split the lists that are there")
    chosen = parser.parse_args()
    print(json.dumps(split(chosen.folder) if chosen.split else scale_urls(chosen.folder)))


if __name__ == "__main__":
    main()
