"""Claims of the audit room at scale, on metadata tables without tars: a report over 5 M samples, pages over 35 M.

    make proof CLAIMS="audit-report look-pages"

The corpora are made here: keys, sizes, captions of 6 to 13 words out of 20,000, histograms of codes and ids as dense as
those of real shards of 12,000 samples. For the pages 100 different tables stand there 29 times each under their own
names, since what a query costs does not depend on whether two shards differ; the index of words is over all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imglish.records import DECISIONS
from imglish.shards.manifest import seal
from imglish.shards.metadata import METADATA
from imglish.storage import Store

ROWS = 12_000
"""Samples of a shard (DESIGN: 35 M in 3,000)."""
SOURCES, LANGUAGES = ("laion", "coyo", "cc12m", "wit"), ("en", "de")
CODES, VOCABULARY = 8_192, 64_010
WORDS = 20_000
PAIRS, IMAGES = 7_200, 4_800
"""Of a shard; documents are added to both."""
DOCUMENTS = 1_000

Numbers = dict[str, Any]


def audit_report(work: Path) -> Numbers:
    """The report over 5 M samples, metadata only, in under 60 seconds and 4 GB on 2 cores."""
    folder = work / "audit-5m"
    manifest = make_corpus(folder, shards=417, different=139, decisions=34)
    script = "import sys; from imglish.audit.report import report; report(sys.argv[1], sys.argv[2])"
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", script, str(manifest), str(folder / "report.html")])
    _, status, usage = os.wait4(child.pid, 0)
    seconds, peak = time.perf_counter() - began, usage.ru_maxrss * 1024
    assert status == 0, status
    values = json.loads((folder / "audit.json").read_bytes())
    samples = values["pairs"]["samples"] + values["images"]["samples"]
    size = (folder / "report.html").stat().st_size
    found = {"seconds": round(seconds, 1), "peak_gb": round(peak / 1e9, 2), "samples": samples, "report_mb": size / 1e6}
    found |= {"metadata_gb": round(_size(folder, "shards") / 1e9, 2), "decisions": values["funnel"]["occurrences"]}
    shutil.rmtree(folder)
    assert samples >= 5_000_000 and seconds < 60 and peak < 4e9 and size < 15e6, found
    return found


def look_pages(work: Path) -> Numbers:
    """Pages over 35 M rows: filters and leafing within a second, words within one with the index and 15 without."""
    folder = work / "look-35m"
    manifest = make_corpus(folder, shards=2_917, different=100, decisions=1)
    found = _measure(manifest, index=False)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "imglish", "audit", str(manifest), "--index"], check=True)
    built = {"index_seconds": round(time.perf_counter() - began, 1)}
    built["index_gb"] = round(_size(folder, "look") / 1e9, 2)
    found = {"without_index": found, "with_index": _measure(manifest, index=True), **built}
    shutil.rmtree(folder)
    for name, seconds in found["with_index"].items():
        assert seconds < 1, (name, found)
    assert all(seconds < (15 if "words" in name else 1) for name, seconds in found["without_index"].items()), found
    return found


def _measure(manifest: Path, index: bool) -> Numbers:
    """The slowest of three of every sort of question, each of another value, in a process of its own."""
    script = f"from benchmarks.proof_audit import ask; ask({str(manifest)!r}, {index})"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def ask(manifest: str, index: bool) -> None:
    """Print how long questions take."""
    from imglish.audit.search import Query, Search

    search = Search(manifest)
    assert (search.index is not None) == index
    last = len(search.files) - 1
    search.samples(Query(), 24)  # opens the files once
    words = {
        "words, frequent": ["w00003", "w00007", "w00011"],
        "words, one in 4,000 captions": ["w09000", "w09500", "w11000"],
        "words, none": ["absent", "missing", "nowhere"],
        "words, two frequent": ["w00003 w00012", "w00005 w00017", "w00002 w00013"],
        "words, two rare together": ["w09000 w11000", "w09500 w12000", "w10000 w13000"],
    }
    queries: dict[str, list[tuple[Query, tuple[int, int]]]] = {
        "first page": [(Query(), (0, -1))] * 3,
        "page in the middle": [(Query(), (last // k, 170_000)) for k in (2, 3, 4)],
        "kind": [(Query(kind=kind), (0, -1)) for kind in ("pair", "image", "text")],
        "source and language": [(Query(source=s, language="de"), (last // 2, 0)) for s in SOURCES[:3]],
        "a language that nothing has": [(Query(language=name), (0, -1)) for name in ("fr", "es", "xx")],
        "key": [(Query(key=_some_key(search, n)), (0, -1)) for n in (1, last // 2, last)],
        **{name: [(Query(words=text), (0, -1)) for text in texts] for name, texts in words.items()},
    }
    found = {}
    for name, asked in queries.items():
        taken = []
        for query, after in asked:
            began = time.perf_counter()
            search.samples(query, 24, after)
            taken.append(time.perf_counter() - began)
        found[name] = round(max(taken), 3)
    sys.stdout.write(json.dumps(found) + "\n")


def _some_key(search: Any, ordinal: int) -> str:
    return str(pq.read_table(search.files[ordinal], columns=["key"]).column("key")[-1].as_py())


def make_corpus(folder: Path, shards: int, different: int, decisions: int) -> Path:
    """A manifest with its metadata and decisions tables; tars are named and not there."""
    shutil.rmtree(folder, ignore_errors=True)
    store = Store(folder)
    made: list[dict[str, Any]] = []
    for number in range(different):
        output = store.put_table("shards", metadata(number))
        facts = {"path": output.path, "sha256": output.sha256, "bytes": output.bytes}
        made.append({**facts, "digest": output.sha256})  # the logical digest, which an audit does not need
    for number in range(different, shards):
        path = f"shards/link-{number:06d}.parquet"
        os.link(folder / made[number % different]["path"], folder / path)
        made.append({**made[number % different], "path": path})
    entries = [_entry(number, reference) for number, reference in enumerate(made)]
    files = [_decisions(store, number) for number in range(decisions)]
    store.put_as("manifest.json", seal({**_facts(files), "shards": entries}).to_json())
    return folder / "manifest.json"


def _entry(number: int, reference: dict[str, Any]) -> dict[str, Any]:
    counts = {"pair": PAIRS, "image": IMAGES, "text": DOCUMENTS, "captions": PAIRS}
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    tar = {"path": f"shards/{digest[:32]}.tar", "sha256": digest, "bytes": 250_000_000}
    section = dict.fromkeys(("offset", "bytes", "index_offset", "index_bytes", "index_crc32c"), 0)
    sections = dict.fromkeys(("pair", "image", "text"), section)
    facts = {"split": "train", "counts": counts, "distinct": counts, "sections": sections, "metadata": reference}
    return {**tar, **facts}


def metadata(seed: int) -> pa.Table:
    """The metadata of one shard, in the order of `KEYS`."""
    rng = np.random.default_rng(seed)
    kinds = [("image", IMAGES), ("pair", PAIRS), ("text", DOCUMENTS)]
    return pa.concat_tables([_histograms(rng), *(_occurrences(rng, kind, count, seed) for kind, count in kinds)])


def _occurrences(rng: np.random.Generator, kind: str, count: int, seed: int) -> pa.Table:
    keys = sorted(f"{seed:04x}{rng.bytes(14).hex()}" for _ in range(count))  # a shard is a range of keys
    source = rng.integers(0, len(SOURCES), count)
    row = rng.integers(0, 1 << 40, count)
    pictured = kind != "text"
    columns: dict[str, Any] = {
        "table": ["occurrence"] * count,
        "kind": [kind] * count,
        "key": keys,
        "source": pa.array(SOURCES).take(pa.array(source)),
        "row": pa.array(row).cast(pa.string()),
        "merged": np.zeros(count, bool),
        "priority": np.zeros(count, np.int32),
        "url": _urls(rng.zipf(1.4, count) % 50_000, row),
        "licence": pa.array(["CC-BY-4.0", None]).take(pa.array(rng.integers(0, 2, count))),
    }
    if kind != "image":
        columns["language"] = pa.array(LANGUAGES).take(pa.array((rng.random(count) < 0.2).astype(np.int64)))
    if pictured:
        columns |= {name: rng.integers(low, high, count) for name, low, high in _FACTS}
    if kind == "pair":
        columns |= {"captions": np.ones(count, np.int32), "text": _captions(rng, count)}
    if kind == "text":
        columns |= {"start": np.arange(count) * 2_000, "length": np.full(count, 500)}
    return _table(columns, count)


_FACTS = (
    ("width", 200, 2_000),
    ("height", 200, 2_000),
    ("bytes", 5_000, 40_000),
    ("brightness", 0, 256),
    ("sharpness", 0, 5_000),
)


def _urls(hosts: Any, rows: Any) -> pa.Array:
    parts = ["https://host", pa.array(hosts).cast(pa.string()), ".example/", pa.array(rows).cast(pa.string())]
    return pc.binary_join_element_wise(*parts, "")


def _captions(rng: np.random.Generator, count: int) -> pa.Array:
    """Captions whose words are as unequal as those of a language (Zipf)."""
    lengths = rng.integers(6, 14, count)
    ranks = np.minimum((WORDS ** rng.random(lengths.sum())).astype(np.int64), WORDS - 1)
    words = _VOCABULARY.take(pa.array(ranks))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, words), " ")


_VOCABULARY = pa.array([f"w{number:05d}" for number in range(WORDS)])


def _histograms(rng: np.random.Generator) -> pa.Table:
    """Codes of pictures and ids of captions and documents by source and language."""
    parts = []
    for name, kind, size, languages in (
        ("captions", "pair", 2, LANGUAGES), ("caption_ids", "pair", 40, LANGUAGES), ("codes", "image", CODES, (None,)),
        ("codes", "pair", CODES, LANGUAGES), ("document_ids", "text", 501, LANGUAGES),
        ("ids", "pair", 2_500, LANGUAGES), ("ids", "text", 7_000, LANGUAGES),
    ):  # fmt: skip
        for source in SOURCES:
            for language in languages:
                values = np.arange(size) if name != "document_ids" else np.array([500])
                same = {"table": "histogram", "kind": kind, "source": source, "name": name, "language": language}
                columns = {key: pa.repeat(pa.scalar(one, pa.string()), len(values)) for key, one in same.items()}
                counts = rng.integers(1, 500, len(values))
                parts.append(_table({**columns, "value": values, "count": counts}, len(values)))
    return pa.concat_tables(parts)


def _table(columns: dict[str, Any], count: int, schema: pa.Schema = METADATA) -> pa.Table:
    """Columns of any sort as a table; those that are not given are null."""
    made = [
        _array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.table(made, schema=schema)


def _array(values: Any) -> Any:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)


def _decisions(store: Store, number: int) -> dict[str, Any]:
    """A decisions table of 160,000 occurrences: seven in eight kept, some merged, some dropped."""
    count, rng = 160_000, np.random.default_rng(10_000 + number)
    kind = rng.choice(["keep", "drop", "merge"], count, p=[0.85, 0.1, 0.05])
    rule = np.where(kind == "drop", "image_size@1", np.where(kind == "merge", "exact_duplicate@1", None))
    rows = pa.array(np.arange(count) + number * count).cast(pa.string())
    merged = pa.array(kind == "merge")
    none = pa.scalar(None, pa.string())
    columns: dict[str, Any] = {
        "source": [SOURCES[number % 4]] * count,
        "row": rows,
        "kind": ["pair"] * count,
        "verdict": kind.tolist(),
        "rule": rule.tolist(),
        "fired": np.where(kind == "drop", 2 | rng.integers(0, 2, count) * 4, 0),
        "score": rng.random(count),
        "threshold": np.full(count, 200.0),
        "detail": pc.if_else(pa.array(kind == "drop"), "8 x 8", none),
        "other_source": pc.if_else(merged, SOURCES[0], none),
        "other_row": pc.if_else(merged, pa.array(rng.integers(0, count, count)).cast(pa.string()), none),
        "priority": np.zeros(count, np.int32),
    }
    output = store.put_table("tables", _table(columns, count, DECISIONS))
    return {"path": output.path, "sha256": output.sha256, "bytes": output.bytes}


def _facts(files: list[dict[str, Any]]) -> dict[str, Any]:
    text = {"digest": "1" * 64, "vocabulary": VOCABULARY, "mask_id": VOCABULARY - 1, "path": None}
    visual = {"digest": "2" * 64, "type": "codebook", "codes": CODES, "size": 224, "patch": 16, "grid": [14, 14]}
    rules = [{"rule": name, "thresholds": {}} for name in ("payload@1", "image_size@1", "image_aspect@1")]
    return {
        "format": "imglish", "format_version": 1, "name": "synthetic", "version": "1", "slabs": [], "tombstones": [],
        "tokenizers": {"text": text, "visual": {**visual, "path": None}}, "views": {"count": 4},
        "images": {"encoder": "none", "decoder": "none", "stored": {"short_side": 256}},
        "sources": {name: {"kind": "pair"} for name in SOURCES}, "drops": {},
        "decisions": {"digest": "3" * 64, "files": files, "rules": rules}, "recipe": {}, "libraries": {},
    }  # fmt: skip


def _size(folder: Path, name: str) -> int:
    return sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())


if __name__ == "__main__":
    claims = {"audit-report": audit_report, "look-pages": look_pages}
    print(json.dumps({name: claims[name](Path(sys.argv[1])) for name in sys.argv[2:]}, indent=1))
