"""The hostile web of the tests against plain img2dataset: who survives what.

    python -m benchmarks.hostile                                    # the table
    python -m benchmarks.hostile --output benchmarks/results        # a dated JSON; docs/fetch.md holds its words

Every case of tests/ingest/hostile_helpers.py goes to img2dataset's own `Downloader` and `Resizer` (keep_ratio to 256,
one retry, time-out 1.5 s, its default opt-outs) in a process of its own, with 3 GB of
address space and 60 seconds, imports included.
What we do with the same list is a test: tests/ingest/test_fetch_hostile.py.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.ingest.hostile_helpers import PUBLIC, REBOUND, Hostile

SECONDS, SPACE = 60, 3 << 30


def download(url: str) -> dict[str, Any]:
    """One URL through plain img2dataset; what it stored or said, seconds, peak memory in MB."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer

    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {"stored": None, "error": None}

    class Basket:
        def __init__(self, *_: Any) -> None:
            pass

        def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
            found.update(stored=None if image is None else len(image), error=meta["error_message"])
            found["size"] = [meta["width"], meta["height"]]

        def close(self) -> None:
            pass

    _false_dns()
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder, "urls.arrow")
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("url", pa.string())])) as writer:
            writer.write_table(pa.table({"url": [url]}))
        job = Downloader(
            sample_writer_class=Basket, resizer=Resizer(256, "keep_ratio", True), thread_count=1, save_caption=False,
            extract_exif=False, output_folder=folder, column_list=["url"], timeout=1.5, number_sample_per_shard=1,
            oom_shard_count=1, compute_hash=None, verify_hash_type=None, encode_format="jpg", retries=1,
            user_agent_token="imglish", disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
        )  # fmt: skip
        began = time.perf_counter()
        job((0, str(shard)))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return found | {"seconds": round(time.perf_counter() - began, 1), "megabytes": used // 1024}


def _false_dns() -> None:
    """REBOUND is public at the first look-up and private afterwards."""
    real, seen = socket.getaddrinfo, [0]

    def look_up(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        if host != REBOUND:
            return list(real(host, port, *more, **options))
        seen[0] += 1
        address = PUBLIC if seen[0] == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    socket.getaddrinfo = look_up  # type: ignore[assignment]


def attempt(url: str) -> dict[str, Any]:
    """The same in a process that may be killed."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.hostile", "--url", url]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"killed": f"after {SECONDS} s"}
    lines = ran.stdout.splitlines()
    if ran.returncode or not lines or not lines[-1].startswith("{"):
        return {"killed": f"status {ran.returncode}"}
    return dict(json.loads(lines[-1]))


def words(found: dict[str, Any], reached: int) -> str:
    """One cell of the table."""
    if reached:
        return "**reaches the private server**"
    if "killed" in found:
        return f"**hangs**, killed {found['killed']}"
    if found["error"] == "":
        return "**memory runs out**"
    if "Connection refused" in (found["error"] or ""):
        return "**connects to it** (nobody listens here)"
    much = f", {found['megabytes']:,} MB of memory" if found["megabytes"] > 500 else ""
    if found["stored"] is not None:
        return f"stored, {found['size'][0]} x {found['size'][1]}{much}"
    if found["error"] is None:
        return f"**no result**{much}"
    return f"fails: {' '.join(found['error'].split())[:60]}{much}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.url:
        print(json.dumps(download(chosen.url)))
        return
    rows: list[dict[str, Any]] = []
    with Hostile() as web:
        for case in web.cases:
            before = web.sentinel.connections
            found = attempt(case.url)
            reached = web.sentinel.connections - before
            rows.append({"case": case.name, "ours": case.status, "reached": reached, "plain": found})
            rows[-1]["words"] = words(found, reached)
            print(f"| {case.name} | `{case.status}` | {case.annotated or ''} | {case.attempts} | {rows[-1]['words']} |")
            sys.stdout.flush()
    if chosen.output:
        result = {"img2dataset": importlib.metadata.version("img2dataset"), "rows": rows}
        name = f"hostile-{datetime.date.today().isoformat()}.json"
        (chosen.output / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
