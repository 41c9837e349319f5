"""Promise 1 in miniature: one landing, either engine, any number of workers, a disk or an S3 API: one digest.

`make proof CLAIMS=same-bytes` is the whole matrix, with clusters and with workers and drivers killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imglish.engines import on_engine, open_engine
from imglish.errors import StorageError
from imglish.gc import collect
from imglish.pipeline import MANIFEST, NoEngine, Pipeline, exclusive
from imglish.recipe import Recipe
from imglish.shards.manifest import parse_manifest
from imglish.shards.reader import open_corpus
from imglish.shards.verify import verify
from imglish.storage import Store
from tests.pipeline.corpora import plant_faults, small_recipe, write_sources
from tests.s3 import serve_s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Built under Dask with two workers on a local disk; its sources are gone afterwards."""
    root = tmp_path_factory.mktemp("first")
    write_sources(root / "sources")
    plant_faults(root / "sources")
    recipe = on_engine(small_recipe(root / "sources", root / "work"), workers=2, memory="2GB")
    with open_engine(recipe) as engine:
        Pipeline(recipe, engine).build()
    (root / "sources").rename(root / "gone")
    return recipe


def landing_only(first: Recipe, work: str) -> Recipe:
    """A recipe whose build starts from the first one's landing, and fits its own tokenizers."""
    here, there = Store(first.work), Store(work)
    for path in here.files("landing"):
        there.put_as(path, here.read(path))
    return first.model_copy(update={"work": work})


@pytest.mark.parametrize(
    ("engine", "workers", "rounds", "remote"),
    [("dask", 1, 2, True), ("spark", 2, 1, False), ("spark", 1, 3, True)],
)
def test_engine_workers_rounds_and_store_change_no_digest(
    first: Recipe, bucket: str, tmp_path: Path, engine: str, workers: int, rounds: int, remote: bool
) -> None:
    work = f"{bucket}/{engine}-{workers}" if remote else str(tmp_path / "work")
    recipe = on_engine(landing_only(first, work), engine, workers=workers)
    run = {"pack": recipe.pack.model_copy(update={"rounds": rounds})}
    with open_engine(recipe.model_copy(update=run)) as opened:
        Pipeline(recipe.model_copy(update=run), opened).build()
    store = Store(work)
    assert store.read(MANIFEST) == Store(first.work).read(MANIFEST)
    named = parse_manifest(store.read(MANIFEST), work).shards
    assert [store.read(shard.path) for shard in named] == [Store(first.work).read(shard.path) for shard in named]
    assert not any(".tmp-" in path for path in store.files())


def test_a_remote_corpus_is_built_once_collected_verified_and_read(first: Recipe, bucket: str) -> None:
    recipe = on_engine(landing_only(first, f"{bucket}/whole"), workers=2)
    with open_engine(recipe) as engine:
        Pipeline(recipe, engine).build()
    store = Store(recipe.work)
    before = set(store.files())
    Pipeline(recipe, NoEngine()).build()
    store.put_as("shards/.tmp-left", b"half a shard")
    store.put_as("shards/ffff.tar", b"nothing names it")
    assert [fault.shard for fault in verify(store.url(MANIFEST))] == ["ffff.tar"]
    assert set(collect(recipe)[0]) == {"shards/.tmp-left", "shards/ffff.tar"}
    assert {path for path in before if "held" not in path} <= set(store.files())
    assert verify(store.url(MANIFEST)) == []
    local = open_corpus(f"{first.work}/{MANIFEST}")
    corpus = open_corpus(store.url(MANIFEST))
    assert corpus.counts == local.counts and corpus["pair"][3].jpeg == local["pair"][3].jpeg
    with exclusive(store), pytest.raises(StorageError, match="in use by another imglish command"):
        Pipeline(recipe, NoEngine()).build()
