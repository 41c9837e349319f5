"""Landing a `.jsonl.zst` against decompressing and parsing the same file by the fastest libraries.

    python -m benchmarks.ingest_text                                   # 1 GB, three rounds, prints a table
    python -m benchmarks.ingest_text --output benchmarks/results       # and writes a dated note

One process each, taking turns; medians count. `floor` is zstandard's stream reader, a line at a time into
fastsimdjson.loads, the fastest of six parsers on these lines, nothing kept; `orjson` is the same with orjson.loads.
`rows` is the reader of format "text": Row objects with UTF-8 payloads, unpacked ahead by a thread. `land` is a whole
unit: rows, checks, record ids (BLAKE2b), sorting, Parquet with zstd, SHA-256 of the files, fsync, receipt; `land
uncompressed` the same with run.landing = "none". Writing and unpacking overlap with the rest in threads.

So a floor takes one core, `rows` and `land` up to two: "one stream" sets them side by side as a user sees them on this
machine, "equal cores" compares CPU seconds. The documents are word soup from the standard library's own documentation,
log-normal in length, 2.4 KB in the mean; zstd level 3.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import io
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

import fastsimdjson
import orjson
import zstandard

from imglish.ingest.land import LandTask, land_units
from imglish.ingest.sources import reader
from imglish.recipe import Recipe, make_recipe
from imglish.stages import Unit


def make_file(path: Path, size: int) -> int:
    """Write documents until there are `size` bytes of JSON lines; their exact number."""
    words = " ".join(topics.topics.values()).split(" ")
    rng = random.Random(0)
    written = number = 0
    with path.open("wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as packed:
        while written < size:
            length = int(min(8000, max(30, rng.lognormvariate(5.9, 1.0))))
            at = rng.randrange(len(words) - length)
            text = words[at : at + length]
            for _ in range(length // 3):
                text[rng.randrange(length)] = words[rng.randrange(len(words))]
            facts = {"text": " ".join(text), "url": f"https://example.org/{number}/{rng.randrange(1 << 40)}"}
            line = orjson.dumps(facts) + b"\n"
            packed.write(line)
            written, number = written + len(line), number + 1
    return written


def floor(path: Path, loads: Callable[[bytes], object]) -> None:
    with path.open("rb") as file:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file), 1 << 18):  # type: ignore[arg-type]
            loads(line)


def rows(recipe: Recipe, unit: Unit) -> None:
    for _ in reader(recipe.source[0]).rows(recipe.source[0], unit.spec["part"]):
        pass


def land(unit: Unit, folder: Path, compressed: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        LandTask(work, compressed)(unit)


def measure(size: int, rounds: int) -> dict[str, float]:
    """MB/s of JSON lines for each, CPU seconds a GB, and ratios of both to the floors."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = make_file(folder / "a.jsonl.zst", size)
        source = {"name": "s", "format": "text", "kind": "text", "path": "a.jsonl.zst"}
        recipe = make_recipe({"name": "b", "root": name, "work": name, "source": [source]})
        (unit,) = land_units(recipe, recipe.source[0])
        jobs: dict[str, Callable[[], None]] = {
            "floor": lambda: floor(folder / "a.jsonl.zst", fastsimdjson.loads),
            "orjson": lambda: floor(folder / "a.jsonl.zst", orjson.loads),
            "rows": lambda: rows(recipe, unit),
            "land": lambda: land(unit, folder, compressed=True),
            "land uncompressed": lambda: land(unit, folder, compressed=False),
        }
        seconds: dict[str, list[float]] = {job: [] for job in jobs}
        cpu: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(rounds):
            for job, run in jobs.items():
                began, spent = time.perf_counter(), time.process_time()
                run()
                seconds[job].append(time.perf_counter() - began)
                cpu[job].append(time.process_time() - spent)
    speeds = {job: written / statistics.median(found) / 1e6 for job, found in seconds.items()}
    work = {job: statistics.median(found) for job, found in cpu.items()}
    return {
        **speeds,
        **{f"{job}, CPU seconds a GB": spent / written * 1e9 for job, spent in work.items()},
        **{
            f"{job} / {base}, {how}": ratio
            for job in ("rows", "land", "land uncompressed")
            for base in ("floor", "orjson")
            for how, ratio in (
                ("one stream", speeds[job] / speeds[base]),
                ("equal cores", work[base] / work[job]),
            )
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = measure(given.megabytes * 1_000_000, given.rounds)
    lines = [f"| {name} | {value:,.2f} |" for name, value in found.items()]
    print("\n".join(lines))
    if given.output is not None:
        today = datetime.date.today().isoformat()
        libraries = ("zstandard", "fastsimdjson", "orjson", "pyarrow")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
        text = [
            f"# Ingesting text, {today}",
            "",
            f"`python -m benchmarks.ingest_text --megabytes {given.megabytes} --rounds {given.rounds}` on "
            f"{os.cpu_count()} cores, "
            f"Python {platform.python_version()}, {versions}. MB/s of JSON lines.",
            "",
            "| what | value |",
            "|---|---|",
            *lines,
            "",
        ]
        (given.output / f"ingest-text-{today}.md").write_text("\n".join(text))
        (given.output / f"ingest-text-{today}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
