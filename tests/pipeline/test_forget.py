"""Forgetting samples for good: tombstones now, no trace in landing, and no build that brings them back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imglish.digests import record_id
from imglish.engines.dask import DaskEngine
from imglish.errors import ManifestError, RecipeError
from imglish.forget import forget
from imglish.gc import collect
from imglish.ingest.forgotten import PATH as FORGOTTEN
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe
from imglish.records import KINDS
from imglish.shards.reader import open_corpus
from imglish.shards.verify import verify
from imglish.stages import Engine
from imglish.storage import Store
from tests.ingest.web_helpers import Web, body
from tests.pipeline.corpora import drawing, sentence, small_recipe, write_sources

FETCHED = 12


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Web({f"/{n}.jpg": body(drawing(n)) for n in range(FETCHED)}) as server:
        yield server


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with DaskEngine(workers=1, memory="2GB", scratch=str(tmp_path_factory.mktemp("scratch"))) as dask:
        yield dask


@pytest.fixture(scope="module")
def built(web: Web, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A corpus whose pairs are fetched, some of whose pictures stand in a folder of images too."""
    root = tmp_path_factory.mktemp("forget")
    write_sources(root / "sources", pairs=FETCHED, images=10)
    urls = "".join(f"{web.url(f'/{n}.jpg')},{sentence(n)}\n" for n in range(FETCHED))
    (root / "sources" / "pairs.csv").write_text("url,caption\n" + urls)
    recipe = small_recipe(root / "sources", root / "work")
    lists = recipe.source[0].model_copy(update={"format": "url-list", "path": "pairs.csv"})
    fetch = recipe.fetch.model_copy(update={"allow_private": (web.host,), "host_delay": 0.0})
    made = recipe.model_copy(update={"source": (lists, *recipe.source[1:]), "fetch": fetch})
    Pipeline(made, engine).build()
    return made


@pytest.fixture
def copied(built: Recipe, tmp_path: Path) -> Recipe:
    shutil.copytree(built.root, tmp_path / "sources", copy_function=shutil.copy2)
    shutil.copytree(built.work, tmp_path / "work")
    return built.model_copy(update={"root": str(tmp_path / "sources"), "work": str(tmp_path / "work")})


def manifest(recipe: Recipe) -> str:
    return str(Path(recipe.work, "manifest.json"))


def pictures(recipe: Recipe) -> set[str]:
    """Keys of all samples that have a picture, tombstones left out."""
    found: set[str] = set()
    for split in ("train", "validation"):
        corpus = open_corpus(manifest(recipe), split=split)
        for kind in ("pair", "image"):
            found |= {sample.key for sample in (corpus[kind][n] for n in range(corpus.counts[kind])) if sample.jpeg}
    return found


def rows(recipe: Recipe) -> list[dict[str, Any]]:
    store = Store(recipe.work)
    index = json.loads(store.read("landing/index.json"))
    receipts = [f"landing/receipts/land/{unit}.json" for entry in index.values() for unit in entry["units"]]
    outputs = [output for path in receipts for output in json.loads(store.read(path))["outputs"].values()]
    files = [output["path"] for output in outputs]
    return [row for path in files for row in store.read_table(path).to_pylist()]


def test_a_picture_forgotten_by_url_goes_everywhere_and_stays_away(copied: Recipe, engine: Engine, web: Web) -> None:
    gone = drawing(FETCHED - 1)  # stands in the list and in the folder of images
    key = record_id("image", gone).hex()
    before, asked = pictures(copied), web.requests.copy()
    counts = {kind: open_corpus(manifest(copied)).counts[kind] for kind in KINDS}
    assert key in before
    pattern = web.url(f"/{FETCHED - 1}.jp*")
    found = forget(manifest(copied), urls=[pattern], dry_run=True)
    assert (found.keys, found.occurrences, found.removal) == (frozenset({key}), 2, None)
    assert pictures(copied) == before
    found = forget(manifest(copied), urls=[pattern])
    assert found.removal is not None
    assert sum(found.removal.removed.values()) == 1
    assert pictures(copied) == before - {key}
    assert {kind: open_corpus(manifest(copied)).counts[kind] for kind in KINDS} == counts  # nothing is renumbered
    assert all("gc" in fault.problem for fault in verify(manifest(copied)))  # the replaced shard
    assert not any(gone in path.read_bytes() for path in Path(copied.work, "landing").glob("*.parquet"))
    emptied = [row for row in rows(copied) if row["status"] == "forgotten"]
    assert len(emptied) == 2
    assert all(row[name] is None for row in emptied for name in ("url", "payload", "record_id", "captions", "receipt"))
    Pipeline(copied, engine).build()
    assert pictures(copied) == before - {key}
    Path(copied.root, "images", "0000.jpg").touch()  # the folder is read again, and the list retried
    Pipeline(copied, engine).retry(["all"])
    Pipeline(copied, engine).build()
    assert pictures(copied) == before - {key}
    assert web.requests == asked
    collect(copied)
    assert Store(copied.work).exists(FORGOTTEN)  # or the next build would bring everything back
    assert not any(gone in path.read_bytes() for path in Path(copied.work).rglob("*") if path.is_file())


def test_a_record_forgotten_by_key_is_not_asked_for_again(copied: Recipe, engine: Engine, web: Web) -> None:
    key = record_id("image", drawing(3)).hex()
    before, asked = pictures(copied), web.requests.copy()
    found = forget(manifest(copied), keys=[key.upper()])
    assert (found.keys, found.occurrences) == (frozenset({key}), 1)
    shutil.rmtree(Path(copied.work, "landing", "receipts", "land"))  # everything lands anew
    Pipeline(copied, engine).build()
    assert pictures(copied) == before - {key}
    assert web.requests["/3.jpg"] == asked["/3.jpg"]
    assert web.requests["/4.jpg"] == asked["/4.jpg"] + 1


def test_what_is_no_key_and_nothing_at_all_are_refused(copied: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"--key 'abc' is no record id"):
        forget(manifest(copied), keys=["abc"])
    with pytest.raises(RecipeError, match="nothing to forget"):
        forget(manifest(copied))
    assert forget(manifest(copied), urls=["http://nobody.example/*"]).occurrences == 0


def test_a_wrong_manifest_costs_nothing(copied: Recipe) -> None:
    before = {path: path.read_bytes() for path in Path(copied.work, "landing").rglob("*") if path.is_file()}
    with pytest.raises(ManifestError, match=r"manifst\.json"):
        forget(manifest(copied).replace("manifest.json", "manifst.json"), urls=["*"])
    assert before == {path: path.read_bytes() for path in Path(copied.work, "landing").rglob("*") if path.is_file()}
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        forget(str(Path(copied.work, "nowhere", "manifest.json")), urls=["*"])
    assert not Path(copied.work, "nowhere").exists()
