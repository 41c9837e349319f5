"""The loader's arithmetic at full size: a manifest of 50 million samples in 3,100 shards.

    python -m benchmarks.scale          # prints its numbers; `make proof CLAIMS=scale-manifest` keeps them

The shards are sparse files that hold nothing but the index rows of the step that is asked for, so keys are looked up
as in a real corpus. Every number is taken in a process of its own, five times, and the median counts; `replay` is the
whole command, start of Python included. Memory is the peak of a loader that goes through the rows of 200 batches,
less what the process held when everything was imported; samples and index rows in memory come on top.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imglish.records import Kind
from imglish.seeds import below, stream
from imglish.shards import format as fmt
from imglish.shards.loader import corpus_order
from imglish.shards.manifest import build_manifest
from imglish.shards.reader import open_corpus
from imglish.shards.replay import parse_counts
from imglish.stages import Receipt
from imglish.storage import Output

TRAIN, VALIDATION = 3_072, 28
"""Shards."""
SAMPLES = {"pair": 21_000_000, "image": 14_000_000, "text": 15_000_000}
"""Rows of the train split; DESIGN's scale with text cut to 50 million samples in all."""
MEMBER_BYTES = {"pair": 25_600, "image": 24_576, "text": 1_027}
"""Bytes of a sample's members in the tar: a JPEG of 20 KB, codes, views, captions; 256 blocks share a header."""
FIELD_BYTES = {"jpg": 20_000, "txt": 60, "ids": 40, "codes": 1568, "views": 40}
BATCH = "pair=2048,image=2048,text=2048"
STEP = 81_237
RUNS = 5
TARGETS = {"open_seconds": 1.0, "next_batch_seconds": 0.2, "memory_megabytes": 300.0, "replay_seconds": 1.0}

_OPEN = """
import time
from imglish.shards.reader import open_corpus
began = time.perf_counter()
open_corpus({manifest!r})
print(time.perf_counter() - began)
"""

_NEXT = """
import time
from imglish.shards.loader import corpus_order
from imglish.shards.order import batch_digest
from imglish.shards.reader import open_corpus
from imglish.shards.reads import sample_keys
from imglish.shards.replay import parse_counts
corpus = open_corpus({manifest!r})
began = time.perf_counter()
order = corpus_order(corpus, parse_counts({batch!r}), seed=0)
rows = order.rows({position})
keys = [key for kind in rows for key in sample_keys(corpus, kind, rows[kind])]
batch_digest(rows)
assert len(keys) == 6144 and None not in keys
print(time.perf_counter() - began)
"""

_MEMORY = """
import gc, os
from pathlib import Path
from imglish.shards.loader import Loader
from imglish.shards.reader import open_corpus
from imglish.shards.replay import parse_counts
page = os.sysconf("SC_PAGESIZE")
def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * page
before = resident()
corpus = open_corpus({manifest!r})
loader = Loader(corpus, parse_counts({batch!r}), workers=2)
for position in range({position}, {position} + 200):
    loader.order.rows(position)
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
loader.close()
print((peak - before) / 1e6)
"""


def write_manifest(folder: Path, counts: Mapping[str, Sequence[int]] | None = None, train: int = TRAIN) -> Path:
    """A manifest as pack would make it, its digests valid; the shards that it names do not exist.

    `counts` are the samples of every shard by kind, drawn when left out; the first `train` shards are the train split.
    """
    shards = len(next(iter(counts.values()))) if counts else TRAIN + VALIDATION
    rows = [{kind: int(of[n]) for kind, of in counts.items()} if counts else sample_rows(n) for n in range(shards)]
    receipts = [pack_receipt(n, "train" if n < train else "validation", rows[n]) for n in range(shards)]
    text = {"digest": "1" * 64, "vocabulary": 64_010, "mask_id": 64_009, "path": "models/text.model"}
    visual = {"digest": "2" * 64, "type": "codebook", "codes": 8192, "size": 224, "patch": 16, "grid": [14, 14]}
    facts: dict[str, Any] = {
        "tokenizers": {"text": text, "visual": {**visual, "path": "models/visual.safetensors"}},
        "views": {"count": 4},
        "images": {"encoder": "none", "decoder": "none", "stored": {"short_side": 256}},
        "sources": {},
        "drops": {},
        "decisions": {"digest": "3" * 64, "files": []},
        "recipe": {"seed": 0},
        "libraries": {},
    }
    manifest = build_manifest(receipts, name="synthetic", version="1", **facts)
    path = folder / "manifest.json"
    path.write_bytes(manifest.to_json())
    return path


def sample_rows(number: int) -> dict[str, int]:
    """Samples of a shard, within 2 % of the mean, as id ranges give them."""
    bits = stream(0, "scale", number).bits(len(SAMPLES))
    means = np.array(list(SAMPLES.values())) // TRAIN
    return dict(zip(SAMPLES, (means - means // 100 + below(bits, means // 50)).tolist(), strict=True))


def pack_receipt(number: int, split: str, some: Mapping[str, int]) -> Receipt:
    """Pack's receipt of one shard."""
    rows = {kind: some.get(kind, 0) for kind in SAMPLES}
    counts: dict[str, int] = {**rows, "captions": rows["pair"] * 3 // 2}
    sections, size = _sections(rows)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    outputs = {
        "shard": Output(f"shards/{digest[:32]}.tar", digest, size, sum(rows.values())),
        "metadata": Output(f"shards/{digest[32:]}.parquet", digest, 1_500_000, counts["captions"]),
    }
    notes = {"split": split, "distinct": rows, "sections": sections, "metadata_digest": digest}
    return Receipt("", "pack", outputs, counts, notes)


def _sections(rows: dict[str, int]) -> tuple[dict[str, dict[str, int]], int]:
    """Sections of a shard and its bytes."""
    sections: dict[str, dict[str, int]] = {}
    place = 0
    for kind, count in rows.items():
        sections[kind] = {"offset": place, "bytes": count * MEMBER_BYTES[kind]}
        place += count * MEMBER_BYTES[kind]
    place += fmt.RECORD + fmt.INDEX_HEADER.itemsize
    for kind, count in rows.items():
        size = count * fmt.INDEX_ROW[kind].itemsize  # type: ignore[index]
        sections[kind] |= {"index_offset": place, "index_bytes": size, "index_crc32c": count}
        place += size
    return sections, place + fmt.padding(place) + len(fmt.END)


def write_index_rows(manifest: Path) -> int:
    """Sparse shards of full size with the index rows of `STEP` alone; how many rows."""
    corpus = open_corpus(str(manifest))
    rows = corpus_order(corpus, parse_counts(BATCH)).rows(STEP - 1)
    written = 0
    for kind in ("pair", "image"):
        for ordinal, row in zip(rows[kind].ordinal.tolist(), rows[kind].row.tolist(), strict=True):
            shard = corpus.manifest.shards[ordinal]
            path = manifest.parent / shard.path
            path.parent.mkdir(exist_ok=True)
            entry = _index_row(kind, ordinal, row, shard.sections[kind].offset + row * MEMBER_BYTES[kind])
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(shard.bytes)
                file.seek(shard.sections[kind].index_offset + row * len(entry))
                file.write(entry)
            written += 1
    return written


def _index_row(kind: Kind, ordinal: int, row: int, place: int) -> bytes:
    """An index row whose members stand one after another from `place`."""
    ranges = []
    for field in fmt.FIELDS[kind]:
        ranges.append((place + fmt.RECORD, FIELD_BYTES[field], 0))
        place += fmt.RECORD + FIELD_BYTES[field] + fmt.padding(FIELD_BYTES[field])
    key = hashlib.blake2b(f"{kind} {ordinal} {row}".encode(), digest_size=16).digest()
    return np.array([(key, *ranges, 0)], dtype=fmt.INDEX_ROW[kind]).tobytes()


def measure(manifest: Path) -> dict[str, Any]:
    """Medians of `RUNS` processes each."""
    texts = {"manifest": str(manifest), "batch": BATCH, "position": STEP - 1}
    replay = [sys.executable, "-m", "imglish", "replay", str(manifest), "--step", str(STEP), "--batch", BATCH]
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    replays = _repeat(lambda: _timed(replay))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    samples = {
        "open_seconds": _repeat(lambda: _script(_OPEN, texts)),
        "next_batch_seconds": _repeat(lambda: _script(_NEXT, texts)),
        "memory_megabytes": _repeat(lambda: _script(_MEMORY, texts)),
        "replay_seconds": replays,
    }
    return {name: round(statistics.median(found), 4) for name, found in samples.items()} | {
        "replay_cpu_seconds": round(cpu / RUNS, 4),
        "runs": {name: [round(value, 4) for value in found] for name, found in samples.items()},
    }


def scale_manifest() -> dict[str, Any]:
    """50 M samples in 3,100 shards: open < 1 s; order, rows and keys of any next batch of 6,144 < 0.2 s; loader without
    samples < 300 MB; `imglish replay` with keys < 1 s."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder))
        numbers = {
            "shards": TRAIN + VALIDATION,
            "index_rows": write_index_rows(manifest),
            "manifest_megabytes": round(manifest.stat().st_size / 1e6, 2),
            **measure(manifest),
            "load_average": round(os.getloadavg()[0], 2),
        }
    missed = [f"{name} is {numbers[name]}, not below {target}" for name, target in TARGETS.items()
              if numbers[name] >= target]  # fmt: skip
    assert not missed, f"{'; '.join(missed)}: {json.dumps(numbers)}"
    return numbers


def _repeat(once: Callable[[], float]) -> list[float]:
    return sorted(once() for _ in range(RUNS))


def _script(text: str, values: dict[str, Any]) -> float:
    command = [sys.executable, "-c", text.format(**values)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert len(ran.stdout.splitlines()) == 2 + 3 + 2 + 6144 and "not there" not in ran.stdout, "keys are missing"
    return seconds


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    print(json.dumps(scale_manifest(), indent=2))


if __name__ == "__main__":
    main()
