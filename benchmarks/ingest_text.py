"""Landing a `.jsonl.zst` against decompressing and parsing the same file by the fastest libraries.

    python -m benchmarks.ingest_text                                   # 200 MB, three rounds, prints a table
    python -m benchmarks.ingest_text --output benchmarks/results       # and writes a dated note

One process each, taking turns; medians count. `floor` is zstandard's stream reader, a line at a time into
orjson.loads, nothing kept. `rows` is the reader of format "text": Row objects with UTF-8 payloads. `land` is a whole
unit: rows, checks, record ids (BLAKE2b), sorting, Parquet with zstd, SHA-256 of the files, fsync, receipt; its writing
overlaps in a second thread. So `floor` and `rows` take one core, `land` up to two; the ratios of CPU seconds are those
on equal cores. The documents are word soup from the standard library's own documentation, log-normal in
length, 2.4 KB in the mean; zstd level 3.
"""

from __future__ import annotations

import argparse
import datetime
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

import orjson
import pyarrow
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


def floor(path: Path) -> None:
    with path.open("rb") as file:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file), 1 << 20):  # type: ignore[arg-type]
            orjson.loads(line)


def rows(recipe: Recipe, unit: Unit) -> None:
    for _ in reader(recipe.source[0]).rows(recipe.source[0], unit.spec["part"]):
        pass


def land(recipe: Recipe, unit: Unit, folder: Path, number: int) -> None:
    LandTask(str(folder / f"work{number}"))(unit)


def measure(size: int, rounds: int) -> dict[str, float]:
    """MB/s of JSON lines for each of the three, and their ratios by the clock and by CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = make_file(folder / "a.jsonl.zst", size)
        source = {"name": "s", "format": "text", "kind": "text", "path": "a.jsonl.zst"}
        recipe = make_recipe({"name": "b", "root": name, "work": name, "source": [source]})
        (unit,) = land_units(recipe, recipe.source[0])
        numbers = iter(range(rounds))
        jobs: dict[str, Callable[[], None]] = {
            "floor": lambda: floor(folder / "a.jsonl.zst"),
            "rows": lambda: rows(recipe, unit),
            "land": lambda: land(recipe, unit, folder, next(numbers)),
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
        "rows / floor, equal cores": work["floor"] / work["rows"],
        "land / floor, equal cores": work["floor"] / work["land"],
        "rows / floor": speeds["rows"] / speeds["floor"],
        "land / floor": speeds["land"] / speeds["floor"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = measure(given.megabytes * 1_000_000, given.rounds)
    lines = [f"| {name} | {value:,.2f} |" for name, value in found.items()]
    print("\n".join(lines))
    if given.output is not None:
        today = datetime.date.today().isoformat()
        versions = f"zstandard {zstandard.__version__}, orjson {orjson.__version__}, pyarrow {pyarrow.__version__}"
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
