"""Tokenizing beside its physical limits: bare SentencePiece, a bare ViT-B forward, a bare JPEG decode.

    python -m benchmarks.tokenizing prepare WORK --texts "docs/*/help" --photographs photos    once
    python -m benchmarks.tokenizing run WORK --output numbers.json                              the numbers, in minutes
    python -m benchmarks.tokenizing run WORK --only text                                        one of the three

Each contender does the same work on the same inputs, in turns, after one warm-up; ratios are of the medians.
- text: documents of landing -> ids -> blocks in shards by the pipeline on two workers, against two processes that hold
  the same strings in memory and do nothing but call SentencePiece;
- visual: stored JPEGs -> decode, render, encode by the task's encoder, against the eager forward of the same ViT-B
  (random weights, batches of 8, two threads) over pixels that are ready; fp32, and bf16 as a tokenizer of its own;
- k-means: codes of rendered views on one thread, in the stage's batches, against decoding their JPEGs on one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from threadpoolctl import threadpool_limits

from imglish.engines.dask import DaskEngine
from imglish.lock import read_lock
from imglish.model import normalise
from imglish.pipeline import Pipeline
from imglish.recipe import CodebookConfig, Recipe, StoredConfig, TokenizeConfig, ViewConfig, make_recipe
from imglish.shards.images import decode_jpeg, store_image
from imglish.shards.pack import pack
from imglish.shards.views import render
from imglish.stages import numeric_platform
from imglish.storage import Store, read_rows
from imglish.tokenize.codebook import Codebook, CodebookFit
from imglish.tokenize.encode_views import ViewEncoder
from imglish.tokenize.fit import put_visual
from imglish.tokenize.rows import LandingFile, edited_document, kept_rows, places
from imglish.tokenize.text import nfc
from imglish.tokenize.vqkd import Vqkd
from imglish.tokenize.vqkd_network import VqkdNetwork, VqkdShape

BATCH, IMAGES, SIZE = 8, 24, 224
BASE = VqkdShape(patch=16, width=768, depth=12, codes=8192, dimension=32, grid=14)


def prepare(work: Path, texts: Sequence[str], photographs: Path, vocabulary: int) -> None:
    """Land and decide the texts, fit SentencePiece and k-means, store the photographs.

    Pages land in files of a megabyte or less; their texts are landed again from two JSON lines files, as large ones.
    """
    pages = _recipe(work / "pages", _html(texts), {"vocabulary": vocabulary, "sample_bytes": 6_000_000})
    with DaskEngine(workers=2, scratch=str(work / "scratch")) as engine:
        pipeline = Pipeline(pages, engine)
        pipeline.fit(["text"])
        strings = [text for file, _ in pipeline._selected(pipeline._decided()) for text in _strings(pipeline, file)]
        (work / "model.spm").write_bytes(pipeline.store.read(_text_model(pipeline)["path"]))
        for number, half in enumerate(_balanced(strings)):
            lines = [json.dumps({"text": text}, ensure_ascii=False) for text in half]
            (work / f"texts-{number}.jsonl").write_text("\n".join(lines) + "\n")
        recipe = _corpus(work)
        Pipeline(recipe, engine).fit(["text"])
    stored = work / "photographs"
    stored.mkdir(exist_ok=True)
    files = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, path in enumerate(files[:400]):
        (stored / f"{number:04d}.jpg").write_bytes(store_image(path.read_bytes(), StoredConfig()).jpeg)
    fit = CodebookFit(CodebookConfig(iterations=8), 0)
    for jpeg in _jpegs(work)[:200]:
        fit.add(render(jpeg, _whole(jpeg), SIZE)[None])
    (work / "codebook.safetensors").write_bytes(fit.finish())
    put_visual(Store(recipe.work), (work / "codebook.safetensors").read_bytes(), "codebook")


def run(work: Path, rounds: int, parts: Sequence[str]) -> dict[str, Any]:
    """The numbers of some of PARTS."""
    found = {part: PARTS[part](work, rounds) for part in parts}
    versions = {"torch": torch.__version__, "sentencepiece": sentencepiece.__version__, "numpy": np.__version__}
    facts = {"platform": numeric_platform(), "flags": _flags(), "python": platform.python_version()}
    return facts | {"versions": versions, **found}


def _flags() -> list[str]:
    """The processor's flags that matrix products can use (Linux)."""
    line = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return sorted(flag for flag in line.split() if flag.startswith(("amx", "avx")))


def _html(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": f"texts-{n}", "format": "html-text", "kind": "text", "path": path} for n, path in enumerate(texts)]


def _corpus(work: Path) -> Recipe:
    """The recipe of the timed corpus."""
    source = {"name": "texts", "format": "jsonl", "kind": "text", "path": str(work / "texts-*.jsonl")}
    return _recipe(work / "corpus", [source], {"model": str(work / "model.spm")})


def _recipe(work: Path, sources: Sequence[dict[str, Any]], text: dict[str, Any]) -> Recipe:
    """Two shards for two cores: a real shard is larger than what all the texts here make."""
    values = {"name": "bench", "root": "/", "work": str(work), "source": list(sources)}
    pack = {"train_shards": 2, "validation_shards": 1}
    return make_recipe(values | {"tokenize": {"text": text}, "pack": pack})


def _text_model(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for key, entry in read_lock(pipeline.store).items() if key.startswith("text-"))
    return found


def _text(work: Path, rounds: int) -> dict[str, Any]:
    recipe = _corpus(work)
    with DaskEngine(workers=2, scratch=str(work / "scratch")) as engine:
        pipeline = Pipeline(recipe, engine)
        selected = pipeline._selected(pipeline._decided())
        model = _text_model(pipeline)
        models = {"text": model, "visual": {"digest": _codebook(work).digest}}
        strings = [text for file, _ in selected for text in _strings(pipeline, file)]
        halves = _balanced(strings)
        data = pipeline.store.read(model["path"])
        with get_context("spawn").Pool(2, _load, (data, halves)) as pool:
            pool.map(_bare, [0, 1])
            bare, ours, tokenized = [], [], []
            for _ in range(rounds + 1):
                bare.append(_seconds(lambda: pool.map(_bare, [0, 1], chunksize=1)))
                _forget(pipeline)
                began = time.perf_counter()
                inputs = pipeline._tokenized(selected, models)
                tokenized.append(time.perf_counter() - began)
                pack(pipeline.store, engine, recipe, inputs, {name: one["digest"] for name, one in models.items()})
                ours.append(time.perf_counter() - began)
    size = sum(len(text.encode()) for text in strings)
    base, whole, part = (statistics.median(times[1:]) for times in (bare, ours, tokenized))
    return {
        "bytes": size,
        "documents": len(strings),
        "bare_megabytes_per_second": size / base / 1e6,
        "tokenize_of_bare": base / part,
        "tokenize_and_pack_of_bare": base / whole,
        "seconds": {"bare": bare, "tokenize": tokenized, "tokenize_and_pack": ours},
    }


def _forget(pipeline: Pipeline) -> None:
    """Drop what the timed stages left, so that they work again."""
    stages = ("tokenize-text", "tokenize-visual", "pack-rows", "pack-units", "pack")
    for folder in ("index", *(f"tables/receipts/{stage}" for stage in stages)):
        shutil.rmtree(pipeline.store.path(folder), ignore_errors=True)


def _strings(pipeline: Pipeline, file: LandingFile) -> list[str]:
    paths = file.paths()
    rows = kept_rows(pipeline.store, paths, [])
    return [
        nfc(edited_document(payload, None))
        for received in read_rows(pipeline.store, paths["landing"], places(rows), ["payload"])
        for payload in received.column("payload").to_pylist()
    ]


def _balanced(strings: Sequence[str]) -> list[list[str]]:
    halves: list[list[str]] = [[], []]
    sizes = [0, 0]
    for text in strings:
        smaller = sizes.index(min(sizes))
        halves[smaller].append(text)
        sizes[smaller] += len(text)
    return halves


_held: dict[str, Any] = {}


def _load(model: bytes, halves: list[list[str]]) -> None:
    _held.update(processor=sentencepiece.SentencePieceProcessor(model_proto=model), halves=halves)


def _bare(half: int) -> int:
    found = _held["processor"].encode(_held["halves"][half], return_type="numpy", num_threads=1)
    return sum(map(len, found))


def _visual(work: Path, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(2)
    tensors = _random_base()
    tokenizers = {name: Vqkd(tensors, BASE, SIZE, name).run_on("cpu", 2) for name in ("fp32", "bf16")}
    jpegs = _jpegs(work)[:IMAGES]
    batches = [
        [
            {"record_id": n.to_bytes(16, "big"), "image": n, "payload": jpegs[n], "sample_kind": "image", "split": ""}
            for n in range(first, first + BATCH)
        ]
        for first in range(0, IMAGES, BATCH)
    ]
    encoders = {
        name: ViewEncoder(one, StoredConfig(), ViewConfig(count=1), 0, BATCH) for name, one in tokenizers.items()
    }
    rendered = [encoders["fp32"]._rendered(rows).pixels[0] for rows in batches]
    ready = [normalise(torch.from_numpy(pixels)) for pixels in rendered]

    def forward(name: str) -> None:
        network = tokenizers[name].network
        with torch.inference_mode():
            for pixels in ready:
                network.encoder(pixels.to(network.encoder.cls_token.dtype))

    def ours(name: str) -> Callable[[], None]:
        return lambda: [None for rows in encoders[name].run(batches)] and None

    contenders = {
        "bare_fp32": lambda: forward("fp32"), "ours_fp32": ours("fp32"),
        "bare_bf16": lambda: forward("bf16"), "ours_bf16": ours("bf16"),
    }  # fmt: skip
    times = _turns(contenders, rounds)
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "views": IMAGES,
        "ours_fp32_views_per_second": IMAGES / middle["ours_fp32"],
        "ours_bf16_views_per_second": IMAGES / middle["ours_bf16"],
        "fp32_of_bare_forward": middle["bare_fp32"] / middle["ours_fp32"],
        "bf16_of_fp32": middle["ours_fp32"] / middle["ours_bf16"],
        "equal_codes_bf16_random_codebook": _equal(tokenizers, rendered),
        "equal_codes_bf16_codebook_of_features": _equal_fitted(tokenizers, rendered),
        "seconds": times,
    }


def _random_base() -> dict[str, Any]:
    torch.manual_seed(0)
    network = VqkdNetwork(BASE)
    for name, value in network.named_parameters():
        if value.ndim > 1:
            torch.nn.init.trunc_normal_(value.data, std=0.3 if name.endswith("pos_embed") else 0.04)
    codebook = torch.nn.functional.normalize(torch.randn(BASE.codes, BASE.dimension), dim=1)
    state = network.state_dict() | {"quantize.embedding.weight": codebook}
    return {key: value.numpy() for key, value in state.items()}


def _equal(tokenizers: dict[str, Vqkd], rendered: Sequence[Any]) -> float:
    pairs = [(tokenizers["fp32"].encode(pixels), tokenizers["bf16"].encode(pixels)) for pixels in rendered]
    return float(np.mean([np.mean(one == other) for one, other in pairs]))


def _equal_fitted(tokenizers: dict[str, Vqkd], rendered: Sequence[Any]) -> float:
    """The same with a codebook drawn from the network's own vectors, where neighbours are close."""
    with torch.inference_mode():
        vectors = torch.cat(
            [tokenizers["fp32"].network.vectors(normalise(torch.from_numpy(p))).flatten(0, 1) for p in rendered[::2]]
        )
    picks = np.random.default_rng(0).permutation(len(vectors))[: BASE.codes]
    book = vectors[torch.from_numpy(np.resize(picks, BASE.codes))]
    for tokenizer in tokenizers.values():
        tokenizer.network.codebook.data.copy_(book)
    return _equal(tokenizers, rendered[1::2])


def _kmeans(work: Path, rounds: int) -> dict[str, Any]:
    with threadpool_limits(1):  # as engines' workers have it
        return _kmeans_on_one_thread(work, rounds)


def _kmeans_on_one_thread(work: Path, rounds: int) -> dict[str, Any]:
    jpegs = _jpegs(work)[:128]
    book = _codebook(work)
    boxes = [_whole(jpeg) for jpeg in jpegs]
    pixels = np.stack([render(jpeg, box, SIZE) for jpeg, box in zip(jpegs, boxes, strict=True)])
    batch = TokenizeConfig().batch
    batches = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]

    def each(do: Callable[[Any], Any], things: Sequence[Any]) -> Callable[[], None]:
        return lambda: [do(thing) for thing in things] and None

    numbers = range(len(jpegs))
    times = _turns(
        {
            "decode": each(decode_jpeg, jpegs),
            "decode_and_render": each(lambda n: render(jpegs[n], boxes[n], SIZE), numbers),
            "encode": each(book.encode, batches),
            "encode_one_by_one": each(lambda n: book.encode(pixels[n : n + 1]), numbers),
        },
        rounds,
    )
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "codes": book.codes,
        "images": len(jpegs),
        "batch": batch,
        "decode_images_per_second": len(jpegs) / middle["decode"],
        "encode_images_per_second": len(jpegs) / middle["encode"],
        "encode_of_decode": middle["decode"] / middle["encode"],
        "encode_of_decode_and_render": middle["decode_and_render"] / middle["encode"],
        "encode_one_by_one_of_decode": middle["decode"] / middle["encode_one_by_one"],
        "seconds": times,
    }


def _turns(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender, in turns; a first turn is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, do in contenders.items():
            seconds = _seconds(do)
            if turn:
                times[name].append(seconds)
    return times


def _seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _codebook(work: Path) -> Codebook:
    return Codebook.read((work / "codebook.safetensors").read_bytes(), "codebook")


def _jpegs(work: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((work / "photographs").glob("*.jpg"))]


def _whole(jpeg: bytes) -> tuple[int, int, int, int, int]:
    height, width = decode_jpeg(jpeg).shape[:2]
    return 0, 0, width, height, 0


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"text": _text, "visual": _visual, "kmeans": _kmeans}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["prepare", "run"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--texts", nargs="*", default=[], help="globs of folders with HTML pages, absolute")
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.verb == "prepare":
        given.work.mkdir(parents=True, exist_ok=True)
        prepare(given.work, given.texts, given.photographs, given.vocabulary)
        return
    numbers = run(given.work, given.rounds, [given.only] if given.only else list(PARTS))
    print(json.dumps(numbers, indent=1))
    if given.output is not None:
        given.output.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
