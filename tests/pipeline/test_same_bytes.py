"""Promise 1 in miniature: one landing, either engine, any number of workers, a disk or an S3 API: one digest.

`make proof CLAIMS=same-bytes` is the whole matrix, with clusters and with workers and drivers killed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imglish.engines import on_engine, open_engine
from imglish.errors import StorageError
from imglish.gc import collect
from imglish.lock import exclusive
from imglish.pipeline import MANIFEST, Pipeline
from imglish.recipe import Recipe
from imglish.shards.manifest import parse_manifest
from imglish.shards.reader import open_corpus
from imglish.shards.verify import verify
from imglish.storage import Store
from imglish.walk import NoEngine
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
    (root / "concepts.txt").write_text("bridge\nold bridge\nboats\n")
    balance = {"concepts": {"path": str(root / "concepts.txt"), "cap": 4}, "cap": [{"kind": "*", "samples": 32}]}
    recipe = small_recipe(root / "sources", root / "work", balance=balance)
    recipe = on_engine(recipe, workers=2, memory="2GB")
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


@pytest.fixture(scope="module")
def remote(first: Recipe, bucket: str) -> Recipe:
    """Built on S3 under Dask with one worker in two rounds."""
    return build(landing_only(first, f"{bucket}/dask"), "dask", workers=1, rounds=2)


def build(recipe: Recipe, engine: str, workers: int, rounds: int) -> Recipe:
    pack = recipe.pack.model_copy(update={"rounds": rounds})
    recipe = on_engine(recipe.model_copy(update={"pack": pack}), engine, workers=workers, memory="2GB")
    with open_engine(recipe) as opened:
        Pipeline(recipe, opened).build()
    return recipe


def assert_same(one: Recipe, other: Recipe) -> None:
    here, there = Store(one.work), Store(other.work)
    assert here.read(MANIFEST) == there.read(MANIFEST)
    for shard in parse_manifest(here.read(MANIFEST), one.work).shards:
        assert here.read(shard.path) == there.read(shard.path)


def test_dask_with_one_worker_in_rounds_on_s3_gives_the_same_bytes(first: Recipe, remote: Recipe) -> None:
    assert_same(remote, first)


@pytest.mark.parametrize(("workers", "rounds", "store"), [(2, 1, "disk"), (1, 3, "s3")])
def test_spark_gives_the_same_bytes(
    first: Recipe, bucket: str, tmp_path: Path, workers: int, rounds: int, store: str
) -> None:
    if store == "s3":
        recipe = landing_only(first, f"{bucket}/spark")
    else:  # from the sources, so that Spark lands them too
        sources = Path(first.root).with_name("gone")
        recipe = first.model_copy(update={"root": str(sources), "work": str(tmp_path / "work")})
    assert_same(build(recipe, "spark", workers, rounds), first)


def test_a_remote_corpus_is_built_once_collected_verified_and_read(first: Recipe, remote: Recipe) -> None:
    store = Store(remote.work)
    before = {path for path in store.files() if not path.startswith(".held/")}
    assert not any(".tmp-" in path for path in before)
    Pipeline(remote, NoEngine()).build()
    store.put_as("shards/.tmp-left", b"half a shard")
    store.put_as("shards/ffff.tar", b"nothing names it")
    assert [fault.shard for fault in verify(store.url(MANIFEST))] == ["ffff.tar"]
    assert set(collect(remote)[0]) == {"shards/.tmp-left", "shards/ffff.tar"}
    assert {path for path in store.files() if not path.startswith(".held/")} == before
    assert verify(store.url(MANIFEST)) == []
    local, corpus = open_corpus(f"{first.work}/{MANIFEST}"), open_corpus(store.url(MANIFEST))
    assert corpus.counts == local.counts and corpus["pair"][3].jpeg == local["pair"][3].jpeg
    with exclusive(store), pytest.raises(StorageError, match="in use by another imglish command"):
        Pipeline(remote, NoEngine()).build()


def test_the_command_line_takes_urls(remote: Recipe, tmp_path: Path) -> None:
    """In a process of its own, which finds the store by its variables."""
    manifest = Store(remote.work).url(MANIFEST)
    sheet = Store(remote.work).url("look.png")
    for arguments in (["verify", manifest], ["look", manifest, "-o", sheet], ["diff", manifest, manifest]):
        subprocess.run([sys.executable, "-m", "imglish", *arguments], check=True, stdout=subprocess.DEVNULL)
    assert Store(remote.work).read("look.png").startswith(b"\x89PNG")
