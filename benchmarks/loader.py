"""How fast batches come, against the bare limit of the machine and against the loaders that others use.

    python -m benchmarks.loader --quick                      # a minute, for a look; writes nothing without --output
    python -m benchmarks.loader --output benchmarks/results  # at most 8 minutes on 2 cores; a dated note and its JSON

Everybody reads the same samples in one run: 256-pixel JPEGs cut from photographs (those that scikit-image ships, or
--photographs FOLDER), random resized crops to 224, 196 codes, caption ids, batches of 128, two workers. The limit is
two threads that decode and crop the same bytes, already in memory, into a preallocated uint8 batch. The peers live in
an environment of their own, made at --peers-env when it is missing: as documented (Pillow, float32), and given our
decoder and uint8. Rounds take turns, each in a process of its own; medians count. Then: writing tars against
webdataset's TarWriter, and `verify` against SHA-256 of the same files.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imglish.recipe import ViewConfig
from imglish.seeds import below, stream, uniform
from imglish.shards.images import CODEC
from imglish.shards.loader import Loader
from imglish.shards.manifest import build_manifest
from imglish.shards.metadata import METADATA, metadata_digest
from imglish.shards.reader import open_corpus
from imglish.shards.samples import PairSample
from imglish.shards.verify import verify
from imglish.shards.views import draw_views, render
from imglish.shards.writer import ShardFacts, write_shard
from imglish.stages import Receipt
from imglish.storage import Store

ROOT = Path(__file__).resolve().parent
PEERS = ROOT / "peers.py"
REQUIREMENTS = (
    "webdataset==1.0.2",
    "mosaicml-streaming==0.13.0",
    "litdata==0.2.76",
    "torch",
    "torchvision",
    f"simplejpeg=={simplejpeg.__version__}",
    "opencv-python-headless>=4.10,<5",
    "scikit-image>=0.25",  # for its photographs
)
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
BATCH, WORKERS, SIZE, SHORT_SIDE, CODES = 128, 2, 224, 256, (14, 14)
QUALITY = 90
WARM_BATCHES = 8
"""Batches that are not timed, as with the peers."""


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    samples: int
    shards: int
    seconds: float
    """Of each reader in each round."""
    rounds: int
    verified: int
    """Shards of 240 MB, as large as those of 750 GB in 3,000 shards, for `verify`."""


FULL = Plan(samples=8192, shards=8, seconds=6.0, rounds=3, verified=8)
QUICK = Plan(samples=4096, shards=4, seconds=1.5, rounds=1, verified=2)
VERIFIED_PAIRS = 8192


# ---------------------------------------------------------------------------------------------------------------------
# Samples
# ---------------------------------------------------------------------------------------------------------------------


def make_samples(photographs: Sequence[Path], count: int) -> list[PairSample]:
    """Pairs in key order: crops of photographs, 256 pixels on the short side, each another one."""
    pictures = [picture for path in photographs if (picture := _photograph(path)) is not None]
    if not pictures:
        raise SystemExit(f"none of {len(photographs)} files is a photograph of at least {SHORT_SIDE} pixels")
    keys = sorted(hashlib.blake2b(f"{i}".encode(), digest_size=16).hexdigest() for i in range(count))
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda i: _sample(i, keys[i], pictures[i % len(pictures)]), range(count)))


def _photograph(path: Path) -> NDArray[np.uint8] | None:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    return picture if picture is not None and min(picture.shape[:2]) >= SHORT_SIDE else None  # type: ignore[return-value]


def _sample(number: int, key: str, picture: NDArray[np.uint8]) -> PairSample:
    draws = stream(0, "benchmark", number)
    bits = draws.bits(CODES[0] * CODES[1] * 4 + 40)
    jpeg = _crop(picture, bits[:4])
    height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    views = draw_views([bytes.fromhex(key)], [(width, height)], ViewConfig(), 0)[0]
    codes = below(bits[40:], 8192).astype(np.uint16).reshape(4, -1)
    ids = np.array([0, *(4 + below(bits[4 : 12 + number % 24], 60_000)), 2], dtype=np.uint16)
    return PairSample(
        key, jpeg, [f"a caption of about sixty characters, as captions are: {number:6d}"], [ids], views, codes
    )


def _crop(picture: NDArray[np.uint8], bits: NDArray[np.uint64]) -> bytes:
    """A crop of 256 pixels to all of the short side, up to 4/3 as long as wide, as a stored JPEG."""
    height, width = picture.shape[:2]
    side = SHORT_SIDE + int(below(bits[:1], min(height, width) - SHORT_SIDE + 1)[0])
    long = min(max(height, width), int(side * (1 + uniform(bits[1:2])[0] / 3)))
    h, w = (side, long) if height <= width else (long, side)
    top, left = (int(below(bits[2 + i : 3 + i], n + 1)[0]) for i, n in enumerate((height - h, width - w)))
    scale = SHORT_SIDE / side
    size = max(SHORT_SIDE, round(w * scale)), max(SHORT_SIDE, round(h * scale))
    small = cv2.resize(picture[top : top + h, left : left + w], size, interpolation=cv2.INTER_AREA)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(small), QUALITY, "RGB", "420", fastdct=False))


def write_corpus(samples: Sequence[PairSample], root: Path, shards: int) -> Path:
    """A corpus of these pairs; its manifest."""
    store, nothing = Store(root), METADATA.empty_table()
    receipts = []
    for number in range(shards):
        made: list[ShardFacts] = []
        part = samples[number * len(samples) // shards : (number + 1) * len(samples) // shards]
        tar = store.put("shards", ".tar", lambda file, made=made, part=part: _write(file, part, made))  # type: ignore[misc]
        notes: dict[str, Any] = {"split": "train", "distinct": made[0].distinct, "sections": made[0].sections}
        outputs = {"shard": tar, "metadata": store.put_table("shards", nothing)}
        notes["metadata_digest"] = metadata_digest(nothing)
        receipts.append(Receipt("", "pack", outputs, made[0].counts, notes))
    text = {"digest": "1" * 64, "vocabulary": 64_010, "mask_id": 64_009, "path": "none"}
    visual = {"digest": "2" * 64, "type": "codebook", "codes": 8192, "size": SIZE, "patch": 16, "grid": list(CODES)}
    facts: dict[str, Any] = {name: {} for name in ("sources", "drops", "recipe", "libraries")}
    facts |= {"tokenizers": {"text": text, "visual": {**visual, "path": "none"}}, "views": {"count": 4}}
    facts |= {"images": {**CODEC, "stored": {}}, "decisions": {"digest": "3" * 64, "files": []}}
    store.put_as("manifest.json", build_manifest(receipts, name="benchmark", version="1", **facts).to_json())
    return root / "manifest.json"


def _write(file: Any, pairs: Sequence[PairSample], made: list[ShardFacts]) -> int:
    made.append(write_shard(file, pairs, [], []))
    return len(pairs)


def save_for_peers(samples: Sequence[PairSample], folder: Path) -> None:
    """The same samples in a form that `peers.py` reads without Imglish; the codes of the first view."""
    np.savez(
        folder / "samples.npz",
        keys=np.array([sample.key for sample in samples]),
        jpg=np.frombuffer(b"".join(sample.jpeg for sample in samples), np.uint8),
        jpg_ends=np.cumsum([len(sample.jpeg) for sample in samples]),
        codes=np.stack([sample.codes[0] for sample in samples]),
        ids=np.concatenate([sample.ids[0] for sample in samples]),
        id_ends=np.cumsum([len(sample.ids[0]) for sample in samples]),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is measured; each `read_...` runs in a process of its own
# ---------------------------------------------------------------------------------------------------------------------


def read_limit(manifest: Path, seconds: float) -> dict[str, Any]:
    """Two threads that decode and crop bytes in memory, each into a uint8 batch of its own, and do nothing else."""
    corpus = open_corpus(str(manifest))
    samples = [(sample.jpeg, sample.views) for sample in corpus["pair"]]
    views = below(stream(0, "limit").bits(len(samples)), 4)
    stop = threading.Event()
    done = [0] * WORKERS

    def work(worker: int) -> None:
        batch = np.empty((BATCH, SIZE, SIZE, 3), dtype=np.uint8)
        while not stop.is_set():
            place = (WORKERS * done[worker] + worker) % len(samples)
            jpeg, boxes = samples[place]
            batch[done[worker] % BATCH] = render(jpeg, boxes[views[place]], SIZE)
            done[worker] += 1

    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(work, worker) for worker in range(WORKERS)]
        time.sleep(min(1.0, seconds))
        before, began = sum(done), time.perf_counter()
        time.sleep(seconds)
        after, ended = sum(done), time.perf_counter()
        stop.set()
        for one in running:
            one.result()
    return {"samples_per_second": (after - before) / (ended - began), "batch": f"uint8 {[BATCH, SIZE, SIZE, 3]}"}


def read_ours(manifest: Path, seconds: float, processes: bool) -> dict[str, Any]:
    """Our loader: order, ranges, checksums, decode, crop, codes, caption ids, masks."""
    options: dict[str, Any] = {"processes": True} if processes else {}
    with Loader(open_corpus(str(manifest)), batch={"pair": BATCH}, workers=WORKERS, **options) as loader:
        for _ in range(WARM_BATCHES + 1):
            images = next(loader)["pair"].images
        began = last = time.perf_counter()
        batches = 0
        while last - began < seconds or batches % WORKERS:  # workers end together: only whole rounds are fair
            next(loader)
            batches, last = batches + 1, time.perf_counter()
    assert images is not None
    facts = f"{images.dtype} {list(images.shape)}"
    return {"samples_per_second": batches * BATCH / (last - began), "batch": facts}


def write_rates(manifest: Path, samples: Sequence[PairSample], folder: Path, repeats: int) -> dict[str, float]:
    """Our writer on the same samples, one file, checksums and index included."""
    rates = []
    for _ in range(repeats):
        target = folder / "writer.tar"
        began = time.perf_counter()
        with target.open("wb") as file:
            write_shard(file, samples, [], [])
        rates.append(len(samples) / (time.perf_counter() - began))
        size = target.stat().st_size
        target.unlink()
    rate = statistics.median(rates)
    return {"samples_per_second": rate, "megabytes_per_second": rate * size / len(samples) / 1e6}


def under_other_keys(samples: Sequence[PairSample], count: int) -> list[PairSample]:
    """So many samples, in key order: the same again and again."""
    keys = sorted(hashlib.blake2b(f"{i}".encode(), digest_size=16).hexdigest() for i in range(count))
    return [replace(samples[i % len(samples)], key=key) for i, key in enumerate(keys)]


def verify_rates(manifest: Path, repeats: int) -> dict[str, float]:
    """Megabytes per second of `verify` and of bare SHA-256 over the same files, two threads each, taking turns.

    Bare is `hashlib.file_digest`, which reads into a small buffer: twice as fast as hashing what `read_bytes` returns.
    """
    if faults := verify(str(manifest), workers=WORKERS):
        raise SystemExit(f"the benchmark's corpus is damaged: {faults[0]}")
    shards = sorted(manifest.parent.glob("shards/*.tar"))
    size = sum(path.stat().st_size for path in shards) / 1e6
    checks: dict[str, Callable[[], Any]] = {
        "sha256": lambda: _sha256(shards),
        "verify": lambda: verify(str(manifest), workers=WORKERS),
    }
    spent: dict[str, list[float]] = {name: [] for name in checks}
    for _ in range(repeats):
        for name, check in checks.items():
            began = time.perf_counter()
            check()
            spent[name].append(time.perf_counter() - began)
    rates = {f"{name}_megabytes_per_second": size / statistics.median(found) for name, found in spent.items()}
    return {"megabytes": size, "shards": len(shards), **rates}


def _sha256(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(_file_sha256, paths))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------


def make_environment(folder: Path) -> Path:
    """The peers' Python, its environment made if it is missing; SystemExit when pip cannot."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making an environment for the peers in {folder} (some minutes, once)", file=sys.stderr)
        venv.create(folder, with_pip=True)
        ran = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS])
        if ran.returncode:
            shutil.rmtree(folder)
            raise SystemExit("the peers cannot be installed; see pip's message above, or leave --peers-env out")
    return python


def shipped_photographs(python: Path) -> list[Path]:
    """Photographs inside the scikit-image of the peers' environment."""
    script = "import skimage.data, pathlib; print(pathlib.Path(skimage.data.__file__).parent)"
    found = subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    return [Path(found) / name for name in PHOTOGRAPHS]


def readers(manifest: Path, folder: Path, python: Path, seconds: float) -> dict[str, list[str]]:
    """The command of every reader, by the name in the table."""
    mine = [sys.executable, "-m", "benchmarks.loader", "--read"]
    found = {
        "limit": [*mine, "limit", str(manifest), str(seconds)],
        "imglish, threads": [*mine, "threads", str(manifest), str(seconds)],
        "imglish, processes": [*mine, "processes", str(manifest), str(seconds)],
    }
    for renderer in ("ours", "documented"):
        for peer in ("webdataset", "mosaicml-streaming", "litdata"):
            name = f"{peer}, {'our decoder, uint8' if renderer == 'ours' else 'as documented'}"
            found[name] = [str(python), str(PEERS), "read", str(folder), peer, renderer, str(seconds)]
    return found


def run_rounds(commands: dict[str, list[str]], rounds: int) -> dict[str, dict[str, Any]]:
    """Results by reader: all samples per second, their median, or the error of one that does not run."""
    found: dict[str, dict[str, Any]] = {name: {"runs": []} for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            result = _json_of(command)
            print(f"round {number + 1}: {name}: {result}", file=sys.stderr)
            if "error" in result:
                found[name]["error"] = result["error"]
            else:
                found[name]["runs"].append(round(result["samples_per_second"], 1))
                found[name]["batch"] = result["batch"]
    for result in found.values():
        if result["runs"]:
            result["samples_per_second"] = statistics.median(result["runs"])
    return found


def _json_of(command: Sequence[str]) -> dict[str, Any]:
    """The JSON on the last line of a command's output; {"error": its last words} when it fails."""
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "DISABLE_VERSION_CHECK": "1", "TQDM_DISABLE": "1"}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, env=quiet, timeout=300)
    except subprocess.TimeoutExpired:
        return {"error": "no result in 300 s"}
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        said = [line for line in ran.stderr.strip().splitlines() if line.strip()]
        return {"error": said[-1] if said else f"ended with status {ran.returncode}"}
    value: dict[str, Any] = json.loads(lines[-1])
    return value


def measure(plan: Plan, python: Path, photographs: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of one run."""
    samples = make_samples(photographs, plan.samples)
    manifest = write_corpus(samples, folder / "corpus", plan.shards)
    save_for_peers(samples, folder)
    written = _json_of([str(python), str(PEERS), "write", str(folder), str(plan.shards)])
    readings = run_rounds(readers(manifest, folder, python, plan.seconds), plan.rounds)
    rounds = plan.rounds + 2
    many = under_other_keys(samples, plan.verified * VERIFIED_PAIRS)
    verified = write_corpus(many, folder / "verified", plan.verified)
    tars = _json_of([str(python), str(PEERS), "write-tars", str(folder), str(rounds)])
    writing = {"imglish": write_rates(manifest, samples, folder, rounds), "webdataset": tars}
    sizes = [len(sample.jpeg) for sample in samples]
    return {
        "readers": readings,
        "writers": writing,
        "verify": verify_rates(verified, rounds),
        "peers_seconds_to_write": written,
        "samples": {"count": len(samples), "mean_jpeg_bytes": round(statistics.fmean(sizes)), "shards": plan.shards},
        "versions": {**_json_of([str(python), str(PEERS), "versions"]), "decoder": CODEC["decoder"]},
    }


def ratios(numbers: dict[str, Any]) -> dict[str, float]:
    """What is promised: against the limit, the best of the peers either way, the other writer, and SHA-256."""
    rates = {name: found.get("samples_per_second", 0.0) for name, found in numbers["readers"].items()}
    best = max(rate for name, rate in rates.items() if name.startswith("imglish"))
    found = {"of_the_limit": best / rates["limit"]}
    for label, ending in (
        ("times_best_peer_with_our_decoder", "uint8"),
        ("times_best_peer_as_documented", "documented"),
    ):
        peer = max(rate for name, rate in rates.items() if name.endswith(ending))
        found |= {label: best / peer} if peer else {}
    other = numbers["writers"]["webdataset"].get("samples_per_second")
    found |= {"times_webdatasets_writer": numbers["writers"]["imglish"]["samples_per_second"] / other} if other else {}
    found["verify_of_sha256"] = (
        numbers["verify"]["verify_megabytes_per_second"] / numbers["verify"]["sha256_megabytes_per_second"]
    )
    return {name: round(value, 3) for name, value in found.items()}


def table(numbers: dict[str, Any]) -> str:
    """For people, in Markdown."""
    limit = numbers["readers"]["limit"]["samples_per_second"]
    lines = ["| reader | samples/s | of the limit | batch |", "|---|---|---|---|"]
    for name, found in numbers["readers"].items():
        if "samples_per_second" in found:
            rate = found["samples_per_second"]
            lines.append(f"| {name} | {rate:,.0f} | {rate / limit:.2f} | {found['batch']} |")
        else:
            lines.append(f"| {name} | does not run | | {found['error'].replace('|', '/')[:200]} |")
    lines += ["", "| ratio | value |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in ratios(numbers).items()]
    return "\n".join(lines)


def write_note(numbers: dict[str, Any], folder: Path, quick: bool) -> Path:
    """`loader-<date>.md` and `.json`; the Markdown file's path."""
    facts: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.loader{' --quick' if quick else ''}",
        "machine": {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()},
        "load_average_after": os.getloadavg()[0],
    }
    name = f"loader-{facts['date']}{'-quick' if quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    result = json.dumps({**facts, "ratios": ratios(numbers), **numbers}, indent=2)
    (folder / f"{name}.json").write_text(result + "\n")
    samples, versions = numbers["samples"], ", ".join(f"{k} {v}" for k, v in numbers["versions"].items())
    text = [
        f"# Loader, {facts['date']}",
        "",
        f"`{facts['command']}` on {facts['machine']['cores']} cores ({facts['machine']['cpu']}), Python "
        f"{facts['machine']['python']}.",
        f"{samples['count']} pairs in {samples['shards']} shards, {samples['mean_jpeg_bytes']} bytes a JPEG; batches "
        f"of {BATCH}, {WORKERS} workers. {versions}.",
        f"Raw numbers: `{name}.json`.",
        "",
        table(numbers),
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(text))
    return folder / f"{name}.md"


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _read(name: str, manifest: Path, seconds: float) -> dict[str, Any]:
    if name == "limit":
        return read_limit(manifest, seconds)
    return read_ours(manifest, seconds, processes=name == "processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute instead of eight")
    parser.add_argument("--photographs", type=Path, help="folder of JPEG or PNG files to cut samples from")
    parser.add_argument("--peers-env", type=Path, default=Path.home() / ".cache" / "imglish-peers")
    parser.add_argument("--output", type=Path, help="folder for the dated note; none is written when left out")
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        name, manifest, seconds = options.read
        print(json.dumps(_read(name, Path(manifest), float(seconds))))
        return
    python = make_environment(options.peers_env)
    given = options.photographs
    photographs = sorted(given.rglob("*.[jp][pn]g")) if given else shipped_photographs(python)
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(QUICK if options.quick else FULL, python, photographs, Path(folder))
    print(table(numbers))
    if options.output:
        print(write_note(numbers, options.output, options.quick))


if __name__ == "__main__":
    main()
