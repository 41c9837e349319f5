"""Builds with VQ-KD and plug-in tokenizers: trained, given, refused; incremental codes equal a clean build's."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imglish.engines.dask import DaskEngine
from imglish.errors import TokenizerError
from imglish.lock import read_lock
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe
from imglish.sample import InlineEngine
from imglish.shards.images import decode_jpeg
from imglish.shards.loader import Loader
from imglish.shards.manifest import Manifest
from imglish.shards.reader import open_corpus
from imglish.shards.views import render
from imglish.stages import counts_of
from imglish.storage import Store
from imglish.tokenize.visual import load_visual
from imglish.tokenize.vqkd import Vqkd
from imglish.walk import NoEngine, PendingError
from tests.pipeline.corpora import drawing, small_recipe, write_sources
from tests.tokenize.plain_vqkd import published, write_published
from tests.trainer.test_trainer_vqkd import dino_state


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    write_sources(root, pairs=24, images=20, texts=12)
    state = {key: value for key, value in published(codes=64).items() if "decode" not in key}
    write_published(root / "vqkd.pth", state)
    torch.save(dino_state(), root / "teacher.pth")
    return root


def vqkd_recipe(sources: Path, work: Path, size: int = 224, **changes: Any) -> Recipe:
    """A corpus whose codes come from the file of `sources`."""
    visual = {"type": "vqkd", "weights": "vqkd.pth", "size": size}
    tokenize = {"text": {"vocabulary": 400}, "visual": visual, "stored": {"short_side": 96}, "views": {"count": 2}}
    return small_recipe(sources, work, tokenize={**tokenize, "batch": 8}, **changes)


def build(recipe: Recipe) -> tuple[Manifest, dict[str, int]]:
    """The manifest, and the counts of both tokenize stages."""
    engine = InlineEngine()
    manifest = Pipeline(recipe, engine).build().manifest
    return manifest, counts_of([*engine.receipts["tokenize-text"], *engine.receipts["tokenize-visual"]])


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = vqkd_recipe(sources, tmp_path_factory.mktemp("built") / "work")
    build(recipe)
    return recipe


def test_a_given_file_makes_the_corpus_and_the_manifest_names_it(built: Recipe) -> None:
    corpus = open_corpus(str(Path(built.work, "manifest.json")))
    visual = corpus.manifest.tokenizers.visual
    assert (visual.type, visual.codes, visual.grid, visual.patch) == ("vqkd", 64, (14, 14), 16)
    sample = corpus["image"][0]
    tokenizer = load_visual(Path(built.work, str(visual.path)), visual.digest)
    again = np.zeros((8, 224, 224, 3), np.uint8)
    again[0] = render(sample.jpeg, sample.views[0], 224)
    assert (tokenizer.encode(again)[0] == sample.codes[0]).mean() > 0.95, "at another slot near-ties may differ"


def test_after_a_threshold_change_only_what_is_new_is_encoded_and_bytes_equal_a_clean_build(
    built: Recipe, sources: Path, tmp_path: Path
) -> None:
    shutil.copytree(built.work, tmp_path / "work")
    loose = {"rule": {"language": {"min_score": 0.1}}, "validation_share": 0.3}
    first, kept = build(vqkd_recipe(sources, tmp_path / "work", decide=loose))
    assert kept["images_reused"] == kept["images"] > 0, "another split changes no code"
    assert kept["documents_reused"] == kept["documents"] > 0
    lend_models(tmp_path / "work", tmp_path / "clean")
    clean, fresh = build(vqkd_recipe(sources, tmp_path / "clean", decide=loose))
    assert fresh["images_reused"] == fresh["documents_reused"] == 0
    assert first.data_digest == clean.data_digest


def test_rows_that_come_back_after_a_change_are_the_only_ones_encoded(sources: Path, tmp_path: Path) -> None:
    rules = {"language": {"min_score": 0.1}, "caption_length": {"max_words": 8}}
    few = {"rule": rules, "validation_share": 0.2}
    some = small_sources(sources, tmp_path / "sources")
    one, before = build(
        vqkd_recipe(some, tmp_path / "work", decide={**few, "rule": {**rules, "image_size": {"min_side": 110}}})
    )
    more, after = build(vqkd_recipe(some, tmp_path / "work", decide=few))
    pairs = 24  # in a landing file of their own, whose unit is as it was
    assert 0 < after["images_reused"] == before["images"] - pairs < after["images"]
    lend_models(tmp_path / "work", tmp_path / "clean")
    clean, _ = build(vqkd_recipe(some, tmp_path / "clean", decide=few))
    assert one.data_digest != more.data_digest == clean.data_digest


def lend_models(source: Path, target: Path) -> None:
    """The lock and its models: a build that has them does not fit on its own train split."""
    shutil.copytree(source / "models", target / "models")
    shutil.copy(source / "lock.json", target / "lock.json")


def small_sources(sources: Path, target: Path) -> Path:
    """The same sources, half of the images smaller."""
    shutil.copytree(sources, target)
    for number in range(0, 20, 2):
        (target / "images" / f"{number:04d}.jpg").write_bytes(drawing(500 + number, (130, 100)))
    return target


def test_codes_are_the_same_for_any_worker_count_and_resume_point(built: Recipe, sources: Path, tmp_path: Path) -> None:
    expected = Path(built.work, "manifest.json").read_bytes()
    recipe = vqkd_recipe(sources, tmp_path / "work")
    with DaskEngine(workers=2, memory="2GB", scratch=str(tmp_path / "scratch")) as engine:
        assert Pipeline(recipe, engine).build().manifest.to_json() == expected
    receipts = sorted(Path(recipe.work, "tables", "receipts", "tokenize-visual").glob("*.json"))
    receipts[0].unlink()
    shutil.rmtree(Path(recipe.work, "index"))
    assert build(recipe)[0].to_json() == expected


def test_a_build_asks_for_the_training_of_a_tokenizer_and_uses_it_afterwards(sources: Path, tmp_path: Path) -> None:
    train = {
        "teacher": "dino", "teacher_weights": "teacher.pth", "patch": 8, "width": 64, "depth": 1, "decoder_depth": 1,
        "dimension": 4, "codes": 16, "batch": 8, "epochs": 1, "threads": 1,
    }  # fmt: skip
    visual = {"type": "vqkd", "size": 32, "train": train}
    tokenize = {"text": {"vocabulary": 400}, "visual": visual, "stored": {"short_side": 48}, "views": {"count": 1}}
    recipe = small_recipe(sources, tmp_path / "work", tokenize={**tokenize, "batch": 8})
    with pytest.raises(TokenizerError, match=r"not trained yet.*run 'imglish fit visual'"):
        build(recipe)
    _, pending = Pipeline(recipe, NoEngine()).walk()
    assert isinstance(pending, PendingError)
    assert pending.stage == "fit-visual"
    lines: list[str] = []
    entry = Pipeline(recipe, InlineEngine(), note=lines.append).fit(["visual"])["visual"]
    assert entry["scores"]["cosine"] > -1
    assert entry in read_lock(Store(recipe.work)).values()
    manifest, _ = build(recipe)
    assert manifest.tokenizers.visual.digest == entry["digest"]
    assert manifest.tokenizers.visual.grid == (4, 4)
    assert any("held out: cosine" in line for line in lines)


class Stripes:
    """Somebody's tokenizer: the brightness of each quarter of a view."""

    grid, codes, patch = (2, 2), 16, 16

    def __init__(self, size: int) -> None:
        self.size = size
        self.digest = hashlib.sha256(f"stripes {size}".encode()).hexdigest()

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        quarters = images.reshape(len(images), 2, self.size // 2, 2, self.size // 2, 3)
        return (quarters.mean(axis=(2, 4, 5)) // 16).astype(np.uint16).reshape(len(images), 4)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("somebodys_stripes")
    module.Stripes = Stripes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_stripes", module)
    entries = metadata.EntryPoints(
        [metadata.EntryPoint("stripes", "somebodys_stripes:Stripes", "imglish.visual_tokenizers")]
    )

    def found(**selection: str) -> metadata.EntryPoints:
        return entries.select(**selection)

    monkeypatch.setattr("imglish.tokenize.visual.entry_points", found)
    yield


def test_a_packages_own_tokenizer_is_used_by_the_name_of_its_entry_point(
    plugin: None, sources: Path, tmp_path: Path
) -> None:
    def recipe(visual: Mapping[str, Any]) -> Recipe:
        tokenize = {"text": {"vocabulary": 400}, "visual": visual, "stored": {"short_side": 96}}
        return small_recipe(sources, tmp_path / "work", tokenize=tokenize)

    manifest, _ = build(recipe({"type": "plugin", "plugin": "stripes", "options": {"size": 32}}))
    assert (manifest.tokenizers.visual.type, manifest.tokenizers.visual.grid) == ("plugin", (2, 2))
    assert manifest.tokenizers.visual.digest == Stripes(32).digest
    with pytest.raises(TokenizerError, match=r"plugin = 'strips': no such entry point .*\(stripes\)"):
        build(recipe({"type": "plugin", "plugin": "strips"}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda codes: codes[:, :3], r"uint16 \[16, 3\] for 16 views; its grid of 2 x 2 makes uint16 \[16, 4\]"),
        (lambda codes: codes.astype(np.int64), r"gave int64 \[16, 4\]"),
        (lambda codes: codes + np.uint16(100), r"gave code \d+, but has 16"),
    ],
)
def test_codes_of_another_grid_or_range_are_refused(
    plugin: None, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, said: str
) -> None:
    honest = Stripes.encode
    monkeypatch.setattr(Stripes, "encode", lambda self, images: wrong(honest(self, images)))
    visual = {"type": "plugin", "plugin": "stripes", "options": {"size": 32}}
    tokenize = {"text": {"vocabulary": 400}, "visual": visual, "stored": {"short_side": 96}, "batch": 16}
    with pytest.raises(TokenizerError, match=said):
        build(small_recipe(sources, tmp_path / "work", tokenize=tokenize))


@pytest.mark.parametrize("size", [224, 256])
def test_the_loader_yields_the_very_pixels_that_the_tokenizer_saw(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Every sample and view of a corpus; at 256 pixels for the tokenizer and 224 for the model, box and flip agree."""
    seen: dict[bytes, int] = {}
    honest = Vqkd.encode

    def watching(self: Vqkd, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        for image in images:
            key = hashlib.sha256(image.tobytes()).digest()
            seen[key] = seen.get(key, 0) + 1
        return honest(self, images)

    monkeypatch.setattr(Vqkd, "encode", watching)
    recipe = vqkd_recipe(sources, tmp_path / "work", size=size)
    build(recipe)
    views = 0
    for split in ("train", "validation"):
        corpus = open_corpus(str(Path(recipe.work, "manifest.json")), split=split)
        for kind in ("pair", "image"):
            for number in range(corpus.counts[kind]):
                sample = corpus[kind][number]
                for view in sample.views:
                    views += 1
                    assert hashlib.sha256(render(sample.jpeg, view, size).tobytes()).digest() in seen
    assert views == 2 * (24 + 20 - 5), "two views of each distinct picture"
    corpus = open_corpus(str(Path(recipe.work, "manifest.json")))
    samples = {sample.key: sample for kind in ("pair", "image") for sample in corpus[kind]}
    loader = Loader(corpus, batch={"pair": 2, "image": 2, "text": 0}, seed=0, workers=0, image_size=224)
    for _ in range(4):
        batch = next(loader)
        for kind in ("pair", "image"):
            for key, pixels in zip(batch.keys[kind], batch[kind].images, strict=True):
                wanted = [render(decode_jpeg(samples[key].jpeg), view, 224) for view in samples[key].views]
                assert any((pixels == one).all() for one in wanted)
                if size == 224:
                    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest() in seen
    loader.close()
