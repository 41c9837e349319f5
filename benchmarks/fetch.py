"""How fast URL lists become stored images, beside img2dataset alone on the same server.

    python -m benchmarks.fetch --photographs FOLDER --count 2000                         # a look
    python -m benchmarks.fetch --photographs FOLDER --output benchmarks/results          # a dated note and its JSON

nginx serves photographs from the loopback under 256 addresses, each a host to us (a web list has a few URLs of each
host; with far fewer hosts the polite delay between requests is what is measured). Both sides get the same list, two
processes, 32 threads a process and shards or units of 500, and end with JPEG files of short side 256, quality 90:

- *img2dataset*: `download(resize_mode="keep_ratio", resize_only_if_bigger=True, output_format="webdataset")`;
- *ours*: `land` with everything on (guard, robots.txt, turns by host, receipts, payloads as received in landing, on an
  embedded Dask cluster), then every landed payload through `store_image` into Parquet, as tokenize and pack do it;
- *ours, fetch alone*: the first half of that.

Each run is a process of its own, timed from start to end, imports and clusters included; rounds take turns, medians
count. `nginx` must be installed (Debian: nginx-light).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq

from imglish.errors import ImageError
from imglish.recipe import Recipe, StoredConfig, make_recipe
from imglish.shards.images import store_image
from imglish.stages import Commit, Receipt, Unit, counts_of, run_map
from imglish.storage import Store

HOSTS, PORT, WORKERS, THREADS, SHORT_SIDE, QUALITY = 256, 8931, 2, 32, 256, 90
SHARD = 500
"""Images of one shard of theirs, URLs of one unit of ours at most: both divide the list evenly over two processes."""
SIDES = ("img2dataset", "ours", "fetch alone")
NGINX = """
{user} worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; types {{ image/jpeg jpg; }}
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen {port} backlog=1024; root {root}; open_file_cache max=10000; }}
}}
"""


@contextmanager
def server(root: Path) -> Iterator[None]:
    """nginx on HOSTS loopback addresses."""
    with tempfile.TemporaryDirectory() as folder:
        user = "user root;" if os.geteuid() == 0 else ""
        Path(folder, "nginx.conf").write_text(NGINX.format(folder=folder, port=PORT, root=root, user=user))
        command = [
            shutil.which("nginx") or "/usr/sbin/nginx",
            "-c",
            f"{folder}/nginx.conf",
            "-e",
            f"{folder}/error.log",
        ]
        process = subprocess.Popen(command)
        try:
            for _ in range(100):
                time.sleep(0.1)
                if Path(folder, "nginx.pid").exists():
                    break
            yield
        finally:
            process.terminate()
            process.wait()


def address(number: int) -> str:
    """One of the loopback's 16 million addresses."""
    return f"127.0.{number // 250 + 1}.{number % 250 + 1}"


def write_list(photographs: Sequence[Path], root: Path, count: int) -> Path:
    """Photographs in the server's folder and a table of `count` URLs that go round them and the hosts."""
    for number, path in enumerate(photographs):
        (root / f"{number}.jpg").symlink_to(path.resolve())
    urls = [f"http://{address(n % HOSTS)}:{PORT}/{n % len(photographs)}.jpg?n={n}" for n in range(count)]
    table = pa.table({"url": urls, "caption": [f"photograph {n}" for n in range(count)]})
    pq.write_table(table, root / "list.parquet")
    return root / "list.parquet"


def download_theirs(table: Path, work: Path) -> dict[str, Any]:
    from img2dataset import download

    download(
        url_list=str(table),
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        output_folder=str(work),
        output_format="webdataset",
        processes_count=WORKERS,
        thread_count=THREADS,
        number_sample_per_shard=SHARD,
        image_size=SHORT_SIDE,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=QUALITY,
        extract_exif=False,
        enable_wandb=False,
    )
    stats = [json.loads(path.read_text()) for path in sorted(work.glob("*_stats.json"))]
    size = sum(path.stat().st_size for path in work.glob("*.tar"))
    return {"images": sum(found["successes"] for found in stats), "stored_bytes": size}


def recipe(table: Path, work: Path) -> Recipe:
    hosts = [f"{address(n)}:{PORT}" for n in range(HOSTS)]
    source = {"name": "list", "format": "url-list", "kind": "pair", "path": str(table)}
    values = {"name": "fetch", "root": str(table.parent), "work": str(work), "source": [source]}
    return make_recipe(values | {"fetch": {"allow_private": hosts, "threads": THREADS, "unit_rows": SHARD}})


def download_ours(table: Path, work: Path, store_images: bool) -> dict[str, Any]:
    from imglish.engines.dask import DaskEngine
    from imglish.ingest.land import land, landing_files

    made = recipe(table, work)
    store = Store(made.work)
    began = time.perf_counter()
    with DaskEngine(workers=WORKERS, memory="4GB", scratch=str(work / "scratch")) as engine:
        receipts = land(store, engine, made)["list"]
        landed = time.perf_counter() - began
        numbers: dict[str, Any] = {"images": counts_of(receipts)["status/ok"], "land_seconds": landed}
        if store_images:
            units = [Unit("store", 1, {"file": file.path}, [file.sha256]) for file in landing_files(receipts)]
            task = StoreTask(store, made.tokenize.stored)
            stored = counts_of(run_map(store, "tables", engine, task, units))
            numbers |= {"stored": stored["images"], "stored_bytes": stored["bytes"]}
    return numbers


@dataclass(frozen=True)
class StoreTask:
    """Stored images of one landing file."""

    store: Store
    config: StoredConfig

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, "tables", unit.stage, unit.id)
        images: list[bytes] = []
        for batch in self.store.read_batches(unit.params["file"], 64, ["payload"]):
            for payload in batch.column("payload").to_pylist():
                try:
                    images.append(store_image(payload, self.config).jpeg)
                except ImageError:
                    continue
        output = self.store.put_table("stored", pa.table({"jpeg": images}), bulky=["jpeg"], packed=False)
        return commit({"rows": output}, {"images": len(images), "bytes": sum(map(len, images))})


def run(side: str, table: Path) -> dict[str, Any]:
    """One run in a process of its own; its numbers and its seconds."""
    with tempfile.TemporaryDirectory() as work:
        command = [
            sys.executable,
            "-m",
            "benchmarks.fetch",
            "--side",
            side,
            "--list",
            str(table),
            "--work",
            f"{work}/out",
        ]
        began, cpu = time.perf_counter(), _cpu_of_children()
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds, cpu = time.perf_counter() - began, _cpu_of_children() - cpu
    numbers = json.loads(ran.stdout.splitlines()[-1])
    rates = {"images_per_second": numbers["images"] / seconds, "cpu_milliseconds": 1000 * cpu / numbers["images"]}
    return numbers | {"seconds": seconds, **rates}


def _cpu_of_children() -> float:
    """User and system seconds of all processes that have ended below this one."""
    times = os.times()
    return times.children_user + times.children_system


def measure(photographs: Sequence[Path], count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        table = write_list(photographs, Path(folder), count)
        with server(Path(folder)):
            with urlopen(f"http://{address(0)}:{PORT}/0.jpg") as answer:
                assert answer.status == 200
            runs = [{side: run(side, table) for side in SIDES} for _ in range(rounds)]
    rates = {side: statistics.median(one[side]["images_per_second"] for one in runs) for side in SIDES}
    cpu = {side: statistics.median(one[side]["cpu_milliseconds"] for one in runs) for side in SIDES}
    return {
        "cpu_milliseconds_per_image": cpu,
        "count": count,
        "photographs": len(photographs),
        "mean_bytes": sum(path.stat().st_size for path in photographs) // len(photographs),
        "runs": runs,
        "images_per_second": rates,
        "ratio": statistics.median(
            one["ours"]["images_per_second"] / one["img2dataset"]["images_per_second"] for one in runs
        ),
    }


def write_note(numbers: dict[str, Any], folder: Path) -> None:
    """The dated note and its JSON."""
    name = f"fetch-{datetime.date.today().isoformat()}"
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=2) + "\n")
    speed, work = numbers["images_per_second"], numbers["cpu_milliseconds_per_image"]
    rows = [f"| {side} | {speed[side]:.0f} | {work[side]:.1f} |" for side in SIDES]
    spread = ", ".join(
        f"{one['ours']['images_per_second'] / one['img2dataset']['images_per_second']:.2f}" for one in numbers["runs"]
    )
    (folder / f"{name}.md").write_text(
        f"# URL lists to stored images, {datetime.date.today().isoformat()}\n\n"
        f"`python -m benchmarks.fetch --output benchmarks/results` on {os.cpu_count()} cores ({numbers['cpu']}), "
        f"Python {platform.python_version()}, img2dataset {importlib.metadata.version('img2dataset')}, "
        f"{numbers['nginx']}; {numbers['count']} URLs of {numbers['photographs']} photographs of "
        f"{numbers['mean_bytes']} bytes on average, {HOSTS} hosts, {WORKERS} processes of {THREADS} threads, "
        f"{len(numbers['runs'])} rounds in turns, whole processes, medians.\n\n"
        "| | images/s | CPU ms an image, of all processes |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"Ours / img2dataset: **{numbers['ratio']:.2f}** (rounds: {spread}); wanted are 0.9, aimed at 1.2.\n"
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="Folder of JPEG files, searched below.")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Folder for the note.")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side == "img2dataset":
        print(json.dumps(download_theirs(chosen.list, chosen.work)))
        return
    if chosen.side:
        print(json.dumps(download_ours(chosen.list, chosen.work, chosen.side == "ours")))
        return
    if chosen.photographs is None:
        parser.error("--photographs FOLDER is needed")
    found = sorted(path for path in chosen.photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    numbers = measure(found, chosen.count, chosen.rounds)
    version = subprocess.run([shutil.which("nginx") or "/usr/sbin/nginx", "-v"], capture_output=True, text=True)
    numbers |= {"cpu": _cpu(), "nginx": version.stderr.strip().removeprefix("nginx version: ")}
    print(json.dumps({name: value for name, value in numbers.items() if name != "runs"}, indent=2))
    if chosen.output:
        write_note(numbers, chosen.output)


if __name__ == "__main__":
    main()
