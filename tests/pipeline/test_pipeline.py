"""The pipeline from sources to manifest: same bytes, resume, faults with reasons, nothing orphaned."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imglish.engines.dask import DaskEngine
from imglish.errors import LockError, SourceError, StageError, StorageError
from imglish.gc import collect
from imglish.lock import LOCK, exclusive
from imglish.pipeline import Pipeline
from imglish.plan import Terms, plan
from imglish.recipe import Recipe
from imglish.shards.reader import open_corpus
from imglish.shards.verify import verify
from imglish.stages import Engine, Receipt
from imglish.storage import Store
from imglish.walk import NoEngine, PendingError
from tests.pipeline.corpora import drawing, plant_faults, small_recipe, write_sources


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with DaskEngine(workers=2, memory="2GB", scratch=str(tmp_path_factory.mktemp("scratch"))) as dask:
        yield dask


@pytest.fixture(scope="module")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, dict[str, str]]:
    """A finished build with planted faults, not to be changed: the recipe and what the faults must say."""
    root = tmp_path_factory.mktemp("small")
    write_sources(root / "sources")
    expected = plant_faults(root / "sources")
    recipe = small_recipe(root / "sources", root / "work")
    Pipeline(recipe, engine).build()
    return recipe, expected


@pytest.fixture
def copied(built: tuple[Recipe, dict[str, str]], tmp_path: Path) -> Recipe:
    """The same build in a folder of one's own."""
    recipe, _ = built
    shutil.copytree(recipe.root, tmp_path / "sources", copy_function=shutil.copy2)
    shutil.copytree(recipe.work, tmp_path / "work")
    return recipe.model_copy(update={"root": str(tmp_path / "sources"), "work": str(tmp_path / "work")})


def manifest_of(recipe: Recipe) -> bytes:
    return Path(recipe.work, "manifest.json").read_bytes()


def files_of(recipe: Recipe, folder: str = "") -> set[str]:
    """Committed files; what a killed process left half-written is the collector's."""
    return {path for path in Store(recipe.work).files(folder) if "/.tmp-" not in path}


def test_every_planted_fault_has_a_decision_with_its_reason(built: tuple[Recipe, dict[str, str]]) -> None:
    recipe, expected = built
    store = Store(recipe.work)
    facts = json.loads(manifest_of(recipe))["decisions"]["files"]
    rows = [row for file in facts for row in store.read_table(file["path"]).to_pylist()]
    for name, said in expected.items():
        (row,) = [row for row in rows if row["row"] == name]
        rule, _, detail = said.partition("|")
        assert (row["verdict"], row["rule"]) == ("drop", rule), (name, row)
        assert (row["detail"] or "").startswith(detail), (name, row["detail"])


def test_an_image_that_stands_in_two_sources_is_merged_into_the_pair(built: tuple[Recipe, dict[str, str]]) -> None:
    recipe, _ = built
    store = Store(recipe.work)
    files = json.loads(manifest_of(recipe))["decisions"]["files"]
    rows = [row for file in files for row in store.read_table(file["path"]).to_pylist()]
    merged = [row for row in rows if row["verdict"] == "merge"]
    assert len(merged) == 5
    for row in merged:
        assert (row["source"], row["other_source"], row["sample_kind"]) == ("images", "pairs", "pair")
        assert row["rule"] == "exact_duplicate@1"


def test_the_corpus_holds_what_was_kept_and_verifies(built: tuple[Recipe, dict[str, str]]) -> None:
    recipe, _ = built
    path = str(Path(recipe.work, "manifest.json"))
    assert verify(path) == []
    train, validation = open_corpus(path), open_corpus(path, split="validation")
    assert train.counts["pair"] + validation.counts["pair"] == 40
    assert train.counts["image"] + validation.counts["image"] == 15
    assert validation.counts["pair"] > 0
    sample = train["pair"][0]
    assert len(sample.captions) == 2 and len(sample.ids) == 2
    assert sample.codes.shape == (2, 16)


def test_a_second_build_does_nothing(built: tuple[Recipe, dict[str, str]]) -> None:
    recipe, _ = built
    before = manifest_of(recipe), files_of(recipe)
    Pipeline(recipe, NoEngine()).build()
    assert (manifest_of(recipe), files_of(recipe)) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rebuild_from_landing_and_lock_gives_the_same_bytes(copied: Recipe, workers: int) -> None:
    before, shards = manifest_of(copied), files_of(copied, "shards")
    for name in ("tables", "models", "shards"):
        shutil.rmtree(Path(copied.work, name))
    shutil.rmtree(copied.root)
    Path(copied.work, "manifest.json").unlink()
    with DaskEngine(workers=workers, memory="2GB") as engine:
        Pipeline(copied, engine).build()
    assert manifest_of(copied) == before
    assert files_of(copied, "shards") == shards


def test_a_build_killed_three_times_ends_with_the_same_digests(copied: Recipe, tmp_path: Path) -> None:
    before, shards = manifest_of(copied), files_of(copied, "shards")
    shutil.rmtree(copied.work)
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(copied.model_dump_json())
    rng = random.Random(7)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-m", "tests.pipeline.build_once", str(recipe_file)])
        try:
            child.wait(timeout=2.0 + 4.0 * rng.random())
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    subprocess.run([sys.executable, "-m", "tests.pipeline.build_once", str(recipe_file)], check=True)
    assert manifest_of(copied) == before
    assert files_of(copied, "shards") == shards
    collect(copied)
    assert not [path for path in files_of(copied) if ".tmp-" in path or path.startswith("scratch/")]
    assert collect(copied) == ({}, None)
    assert verify(str(Path(copied.work, "manifest.json"))) == []


def test_gc_removes_what_an_old_recipe_made_and_nothing_else(copied: Recipe, engine: Engine) -> None:
    Path(copied.work, "shards", ".tmp-left").write_bytes(b"half a shard")
    rules = {"rule": copied.decide.rule | {"image_size": {"min_side": 121}}}
    narrower = copied.decide.model_copy(update={**rules, "alarm_accept": {"image_size": ("images",)}})
    changed = copied.model_copy(update={"decide": narrower})
    with pytest.raises(PendingError, match="resolve"):
        Pipeline(changed, NoEngine()).build()
    sizes, pending = collect(changed)
    assert set(sizes) == {"shards/.tmp-left"} and pending is not None
    before = files_of(copied, "shards")
    Pipeline(changed, engine).build()
    sizes, pending = collect(changed, dry_run=True)
    assert pending is None and set(sizes) >= before
    collect(changed)
    assert not files_of(changed, "shards") & before
    assert verify(str(Path(changed.work, "manifest.json"))) == []
    assert collect(changed) == ({}, None)


def test_gc_removes_what_only_knows_of_removed_files(copied: Recipe) -> None:
    collect(copied)
    index = Path(copied.work, "index")
    alive = sorted(index.rglob("*.json"))[0]
    entry = json.loads(alive.read_bytes())[0]
    gone = {**entry, "path": "tables/documents/gone.parquet"}
    (index / "reuse" / "gone.json").write_text(json.dumps([gone]))
    (index / "reuse" / "half.json").write_text(json.dumps([gone, entry]))
    (index / "reuse" / "torn.json").write_text("[{")
    stamp, receipt = pa.array(["1 2 3"]), pa.array([b"{}"])
    units = {"gone": "0" * 32, "annotate": next(Path(copied.work, "tables/receipts/annotate").iterdir()).stem}
    for stage, unit in units.items():
        rows = pa.table({"unit": [unit], "stamp": stamp, "receipt": receipt})
        pq.write_table(rows, index / f"tables-{stage}.parquet")
    (index / "tables-torn.parquet").write_bytes(b"PAR1")
    sizes, _ = collect(copied)
    names = ("reuse/gone.json", "reuse/torn.json", "tables-gone.parquet", "tables-torn.parquet")
    assert set(sizes) == {f"index/{name}" for name in names}
    assert alive.exists() and collect(copied) == ({}, None)


def test_a_new_file_lands_and_rewrites_only_the_shards_it_touches(copied: Recipe, engine: Engine) -> None:
    before = files_of(copied, "shards")
    Path(copied.root, "images", "9999.jpg").write_bytes(drawing(9999))
    Pipeline(copied, engine).build()
    after = {shard["path"] for shard in json.loads(manifest_of(copied))["shards"]}
    assert len(after - before) == 1


def test_a_locked_model_that_is_gone_is_fitted_again_or_refused(copied: Recipe, engine: Engine) -> None:
    lock = json.loads(Path(copied.work, LOCK).read_text())
    (name,) = [key for key in lock if key.startswith("text-")]
    Path(copied.work, lock[name]["path"]).unlink()
    Pipeline(copied, engine).build()
    assert Path(copied.work, lock[name]["path"]).exists()
    lock[name]["digest"] = "0" * 64
    Path(copied.work, LOCK).write_text(json.dumps(lock))
    Path(copied.work, lock[name]["path"]).unlink()
    with pytest.raises(LockError, match="text tokenizer 000000000000 is locked"):
        Pipeline(copied, engine).build()


def test_fit_accepts_a_new_tokenizer_after_the_corpus_changed(copied: Recipe, engine: Engine) -> None:
    before = Path(copied.work, LOCK).read_text()
    for number in range(8):
        text = " ".join(["entirely different vocabulary about astronomy and telescopes"] * 20)
        Path(copied.root, "texts", f"new{number}.txt").write_text(f"{number} {text}")
    Pipeline(copied, engine).build()
    assert Path(copied.work, LOCK).read_text() == before
    Pipeline(copied, engine).fit(["text"])
    assert Path(copied.work, LOCK).read_text() != before


def test_codes_of_two_kinds_of_machines_are_not_mixed_unless_told(copied: Recipe) -> None:
    receipts = sorted(Path(copied.work, "tables", "receipts", "tokenize-visual").glob("*.json"))
    facts = json.loads(receipts[0].read_text())
    facts["run"]["platform"] = "another machine"
    receipts[0].write_text(json.dumps(facts))
    with pytest.raises(StageError, match=r"another machine; .*run\.mixed_platforms=true"):
        Pipeline(copied, NoEngine()).build()
    told = copied.model_copy(update={"run": copied.run.model_copy(update={"mixed_platforms": True})})
    Pipeline(told, NoEngine()).build()


def test_a_folder_in_use_is_refused(copied: Recipe) -> None:
    with exclusive(Store(copied.work)), pytest.raises(StorageError, match="in use by another imglish command"):
        Pipeline(copied, NoEngine()).build()


def test_sources_without_a_single_row_are_an_error(tmp_path: Path, engine: Engine) -> None:
    for name in ("pairs", "images", "texts"):
        (tmp_path / "sources" / name).mkdir(parents=True)
    with pytest.raises(SourceError):
        Pipeline(small_recipe(tmp_path / "sources", tmp_path / "work"), engine).build()


def receipts_of(recipe: Recipe, stage: str) -> set[str]:
    return files_of(recipe, f"tables/receipts/{stage}")


def test_a_threshold_encodes_only_files_whose_kept_rows_change(copied: Recipe, engine: Engine) -> None:
    stages = ("annotate", "select", "tokenize-text", "tokenize-visual")
    before = {stage: receipts_of(copied, stage) for stage in stages}
    rules = {"rule": copied.decide.rule | {"text_length": {"min_words": 241}}}
    longer = copied.decide.model_copy(update={**rules, "alarm_accept": {"text_length": ("texts",)}})
    Pipeline(copied.model_copy(update={"decide": longer}), engine).build()
    added = {stage: len(receipts_of(copied, stage) - before[stage]) for stage in stages}
    assert added == {"annotate": 0, "select": 1, "tokenize-text": 1, "tokenize-visual": 0}
    wider = copied.decide.model_copy(update={"rule": copied.decide.rule | {"caption_length": {"max_words": 200}}})
    after = {stage: receipts_of(copied, stage) for stage in stages}
    Pipeline(copied.model_copy(update={"decide": wider}), engine).build()
    added = {stage: len(receipts_of(copied, stage) - after[stage]) for stage in stages}
    assert added["tokenize-text"] == added["tokenize-visual"] == 0  # thresholds that changed nothing


def test_the_driver_reads_no_table_to_find_that_all_is_done(
    built: tuple[Recipe, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = Store.read_table

    def counted(self: Store, path: str, columns: list[str] | None = None) -> object:
        read.append(path)
        return plain(self, path, columns)

    monkeypatch.setattr(Store, "read_table", counted)
    Pipeline(built[0], NoEngine()).build()
    assert [path for path in read if not path.startswith("tables/pack-units/")] == []


def test_plan_says_what_is_done_and_what_is_next(copied: Recipe) -> None:
    assert "nothing to do; the manifest is up to date" in list(plan(copied).lines())
    assert all(one.done == one.stage.units and one.left_hours == 0 for one in plan(copied).stages)
    shutil.rmtree(Path(copied.work, "shards"))
    made = plan(copied)
    assert made.state.startswith("next: pack: 4 units to do")
    assert {one.stage.name: one.done for one in made.stages}["pack"] == 0
    assert any(line.startswith("proposed: pack.train_shards = 1") for line in made.lines())
    assert all(amount.origin == "landed" for amount in made.amounts)


TOLERANCE = {"land": 0.1, "annotate": 0.3, "decide": 0.3, "tokenize-text": 0.3, "tokenize-visual": 0.25, "pack": 0.25}
"""Of bytes; the corpus is so small that what every file costs counts for as much as its rows."""


def test_plan_foretells_units_and_bytes_of_a_build(built: tuple[Recipe, dict[str, str]], tmp_path: Path) -> None:
    recipe, _ = built
    made = plan(recipe.model_copy(update={"work": str(tmp_path)}), Terms(workers=2))
    assert list(tmp_path.iterdir()) == []
    assert {amount.origin for amount in made.amounts} == {"sample"}
    assert made.state == "next: land: 3 units to do"
    store = Store(recipe.work)
    for one in made.stages:
        folder = "landing" if one.stage.name == "land" else "tables"
        texts = store.read_many(list(store.files(f"{folder}/receipts/{one.stage.name}")))
        receipts = [Receipt.from_json(text) for text in texts.values()]
        if one.stage.name not in ("resolve", "decide"):
            assert one.stage.units == len(receipts), one.stage
        if one.stage.name in TOLERANCE:
            size = sum(output.bytes for receipt in receipts for output in receipt.outputs.values())
            assert abs(one.stage.kept / size - 1) < TOLERANCE[one.stage.name], (one.stage, size)


def test_plan_counts_what_is_declared_while_nothing_is_here(tmp_path: Path) -> None:
    sources = [
        {"name": "urls", "format": "url-list", "kind": "pair", "path": "urls.parquet", "expected_rows": 3_000_000},
        {
            "name": "books",
            "format": "jsonl",
            "kind": "text",
            "path": "books",
            "expected_rows": 10_000_000,
            "expected_bytes": 40_000_000_000,
        },
        {"name": "lost", "format": "folder", "kind": "image", "path": "lost"},
    ]
    recipe = small_recipe(tmp_path / "none", tmp_path / "work", source=sources)
    one, many = plan(recipe, Terms(workers=1, price=2.0)), plan(recipe, Terms(workers=10, price=2.0, download=1.0))
    assert [amount.origin for amount in one.amounts] == ["assumed", "declared", "unknown"]
    assert [amount.units for amount in one.amounts] == [3000, 299, 0]
    land = one.stages[0]
    assert land.stage.requests == 3_300_000 and land.done == 0
    assert land.left_cost == pytest.approx(land.left_hours * 2.0)
    assert many.stages[0].hours == pytest.approx(land.stage.bytes_in / 1e6 / 3600)  # the line is what takes long
    assert many.stages[1].hours == pytest.approx(one.stages[1].hours / 10)
    views = one.views
    assert views[16] - views[8] == pytest.approx(2 * (views[8] - views[4]), rel=0.01)
    assert any("lost" in line and "set expected_rows and expected_bytes" in line for line in one.lines())
    assert json.loads(json.dumps(one.to_json()))["together"]["requests"] == 3_300_000
