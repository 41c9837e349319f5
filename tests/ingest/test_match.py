"""Copies are found with evidence, what only looks alike stays, and the split follows clusters."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imglish.digests import record_id
from imglish.engines.dask import DaskEngine
from imglish.engines.spark import SparkEngine
from imglish.errors import RecipeError, SourceError
from imglish.ingest.match.verify import targets
from imglish.pipeline import Pipeline
from imglish.plan import Terms, plan
from imglish.recipe import make_recipe
from imglish.shards.reader import open_corpus
from imglish.storage import Store
from tests.ingest.engine_helpers import Inline
from tests.ingest.match_helpers import (
    TRANSFORMS,
    Decisions,
    changed,
    decided,
    documents,
    jpeg,
    photographs,
    png,
    recipe,
)

QUOTED = 12
"""A document of which no other repeats the beginning."""
ON: dict[str, Any] = {"exact": True, "text": {"threshold": 0.8}, "image": {"threshold": 0.8}, "captions": True}


def corpus(root: Path) -> None:
    """Five pairs, ten images and twenty documents, all different."""
    for folder in ("pairs", "images", "texts"):
        (root / folder).mkdir(parents=True)
    for number, (name, image) in enumerate(photographs().items()):
        folder = root / ("pairs" if number < 5 else "images")
        (folder / f"{name}.jpg").write_bytes(jpeg(image))
        if number < 5:
            (folder / f"{name}.txt").write_text(f"A photograph of the {name}\nA picture\n")
    for number, text in enumerate(documents()[:20]):
        (root / "texts" / f"{number:02d}.txt").write_text(text)


def plant(root: Path) -> None:
    """Copies of six of them, and one document that is only half a copy."""
    photos = photographs()
    pairs = {"z-copy.jpg": TRANSFORMS["re-encoded"](photos["astronaut"])}
    images = {
        "z-half.jpg": TRANSFORMS["half"](photos["rocket"]),
        "z-pixels.png": png(photos["temple"]),
        "z-pixels-again.bmp": _bmp(png(photos["temple"])),
        "z-captioned.jpg": TRANSFORMS["cropped"](photos["coffee"]),
    }
    for name, payload in pairs.items():
        (root / "pairs" / name).write_bytes(payload)
        (root / "pairs" / name).with_suffix(".txt").write_text("Another caption\nA picture\n")
    for name, payload in images.items():
        (root / "images" / name).write_bytes(payload)
    text = documents()[3]
    (root / "texts" / "z-near.txt").write_text(changed(text, 60))
    (root / "texts" / "z-folded.txt").write_text(text.upper().replace("\n", "  \n"))
    (root / "texts" / "z-far.txt").write_text(changed(documents()[5], 6))


def _bmp(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "BMP")
    return out.getvalue()


def spoken(found: Decisions) -> dict[str, str]:
    """The deciding rules of rows that are not plain keeps; text rows are named by their file."""
    return {name: row["rule"] for name, row in found.rows.items() if row["rule"] is not None}


def losers(found: Decisions, name: str) -> set[str]:
    """A row and what it lost to."""
    row = found.rows[name]
    return {name, f"{row['other_source']}/{row['other_row']}"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Decisions]:
    root = tmp_path_factory.mktemp("planted")
    corpus(root)
    plant(root)
    return root, decided(recipe(root, **ON), Inline())


@pytest.fixture(scope="module")
def everything(planted: tuple[Path, Decisions]) -> tuple[Path, dict[str, Any], Decisions]:
    """All of matching, evaluation sets too."""
    root = planted[0]
    sets = ({"name": "cats", "path": evaluation(root, "folder")},)
    return root, ON | {"evaluation": sets}, decided(recipe(root, "work-all", **ON, evaluation=sets), Inline())


def by_pair(found: Decisions) -> dict[frozenset[str], str]:
    """The rule by the two occurrences, since which of two survives follows from their ids."""
    return {frozenset(_stem(one) for one in losers(found, name)): rule for name, rule in spoken(found).items()}


def _stem(name: str) -> str:
    return Path(name.partition("#")[0]).stem if "/" in name else name


def test_planted_copies_are_found_and_nothing_else_is(planted: tuple[Path, Decisions]) -> None:
    found = by_pair(planted[1])
    pictures = {pair: rule for pair, rule in found.items() if rule not in ("near_text@1", "normal_text@1")}
    assert pictures.pop(frozenset({"astronaut", "z-copy"})) == "near_image@1"
    assert pictures.pop(frozenset({"rocket", "z-half"})) == "near_image@1"
    assert pictures.pop(frozenset({"coffee", "z-captioned"})) == "near_image@1"
    temple = {frozenset(("temple", "z-pixels")), frozenset(("temple", "z-pixels-again"))}
    temple |= {frozenset(("z-pixels", "z-pixels-again"))}
    assert len(pictures) == 2 and set(pictures) <= temple
    assert set(pictures.values()) <= {"near_image@1", "pixels@1"} and "pixels@1" in pictures.values()
    texts = {pair: rule for pair, rule in found.items() if rule in ("near_text@1", "normal_text@1")}
    assert len(texts) == 2 and {one for pair in texts for one in pair} == {"03", "z-near", "z-folded"}


def test_evidence_names_rule_score_threshold_and_the_other_record(planted: tuple[Path, Decisions]) -> None:
    _, found = planted
    near = [row for row in found.evidence if row["rule"] in ("near_text@1", "near_image@1")]
    assert len(near) == sum(rule.startswith("near_") for rule in spoken(found).values()) >= 4
    ids = {row["record_id"].hex() for row in found.rows.values()}
    for row in near:
        assert 0.8 <= row["score"] <= 1 and row["threshold"] == 0.8
        assert f"{row['other_source']}/{row['other_row']}" in found.rows
        assert row["detail"].split("record ")[1].split(";")[0] in ids


def test_a_pair_that_repeats_a_picture_joins_its_captions_and_an_image_is_dropped(
    planted: tuple[Path, Decisions],
) -> None:
    _, found = planted
    copies = [found.rows["pairs/astronaut.jpg"], found.rows["pairs/z-copy.jpg"]]
    assert sorted(row["verdict"] for row in copies) == ["keep", "merge"]
    assert copies[0]["sample_id"] == copies[1]["sample_id"] and copies[0]["split"] == copies[1]["split"]
    image = found.rows["images/z-captioned.jpg"]
    assert (image["verdict"], image["other_source"], image["other_row"]) == ("drop", "pairs", "coffee.jpg")
    assert image["split"] is None and image["sample_id"] is None


def test_pairs_can_be_dropped_instead(planted: tuple[Path, Decisions]) -> None:
    found = decided(recipe(planted[0], **ON, near_pairs="drop"), Inline())
    verdicts = sorted(found.rows[f"pairs/{name}.jpg"]["verdict"] for name in ("astronaut", "z-copy"))
    assert verdicts == ["drop", "keep"]


def test_repeated_captions_are_counted(planted: tuple[Path, Decisions]) -> None:
    root, found = planted
    store = Store(str(root / "work"))
    counts = [row["count"] for file in found.matched.captions for row in store.read_table(file.path).to_pylist()]
    assert counts == [6]  # "A picture", under five pairs and the copy


def test_without_matching_nothing_runs_and_copies_stay(planted: tuple[Path, Decisions]) -> None:
    engine = Inline()
    found = decided(recipe(planted[0]), engine)
    assert spoken(found) == {} and not any(unit.stage.startswith("match") for unit in engine.units)


def stages(engine: Inline) -> set[str]:
    return {unit.stage for unit in engine.units}


def test_a_threshold_above_the_floor_reads_no_payload_and_one_below_it_says_so(
    planted: tuple[Path, Decisions], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = planted
    opened: list[str] = []
    whole = Store.open
    monkeypatch.setattr(Store, "open", lambda self, path: (opened.append(path), whole(self, path))[1])
    higher = ON | {"text": {"threshold": 0.99}, "image": {"threshold": 1.0}}
    above = decided(recipe(root, **higher), Inline())
    assert above.matched == before.matched and above.notes == []
    assert not [path for path in opened if path.startswith("landing/")]
    assert set(spoken(above).values()) == {"pixels@1", "normal_text@1"}
    below = decided(recipe(root, **(ON | {"text": {"threshold": 0.5}})), Inline())
    assert below.notes[0].startswith("match.text.threshold 0.5 is below the stored floor 0.7: candidates are matched")
    assert len(list((root / "work" / "tables" / "receipts" / "match-verify").glob("*.json"))) == 2


@pytest.mark.parametrize(("field", "value"), [("threshold", 1.5), ("rows", 99), ("measure", "cosine")])
def test_a_bad_setting_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=r"match\.text"):
        recipe(tmp_path, text={field: value})


@pytest.mark.parametrize(
    ("engine", "workers", "sources"),
    [
        (DaskEngine, 1, ("pairs", "images", "texts")),
        (DaskEngine, 2, ("texts", "images", "pairs")),
        (SparkEngine, 2, ("images", "texts", "pairs")),
    ],
)
def test_decisions_are_the_same_under_every_engine_and_in_any_order_of_files(
    everything: tuple[Path, dict[str, Any], Decisions], engine: Any, workers: int, sources: tuple[str, ...]
) -> None:
    root, on, expected = everything
    made = recipe(root, f"work-{engine.__name__}-{workers}", sources, **on, buckets=3)
    with engine(workers=workers, memory="2GB", scratch=str(root / "scratch")) as opened:
        assert decided(made, opened, shuffled=workers).digest == expected.digest
    rules = set(spoken(expected).values())
    assert rules >= {"contaminated@1", "near_image@1", "near_text@1", "pixels@1"}


def test_decisions_do_not_depend_on_how_many_files_are_loaded_at_once(
    everything: tuple[Path, dict[str, Any], Decisions], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, on, expected = everything
    for name in ("PIECE_KEYS", "PIECE_PAIRS", "PIECE_SKETCHES"):
        monkeypatch.setattr(f"imglish.ingest.match.stage.{name}", 1)
    made = recipe(root, "work-by-file", ("pairs", "images", "texts"), **on, buckets=3)
    assert decided(made, Inline()).digest == expected.digest


def test_near_duplicates_never_straddle_the_splits(tmp_path: Path) -> None:
    corpus(tmp_path)
    for name, image in photographs().items():
        (tmp_path / "images" / f"z-{name}.jpg").write_bytes(TRANSFORMS["re-encoded"](image))
    made = recipe(tmp_path, **ON, near_pairs="merge")
    made = made.model_copy(update={"decide": made.decide.model_copy(update={"validation_share": 0.5})})
    found = decided(made, Inline())
    kept = [row for row in found.rows.values() if row["verdict"] == "keep" and row["kind"] != "text"]
    assert len(kept) == len(photographs())
    assert {row["split"] for row in kept} == {"train", "validation"}


def test_a_merged_pair_gives_its_captions_to_the_surviving_sample(tmp_path: Path) -> None:
    corpus(tmp_path)
    plant(tmp_path)
    values = recipe(tmp_path, **ON).model_dump()
    small = {"text": {"vocabulary": 300, "byte_fallback": False}, "visual": {"size": 32, "codes": 8, "iterations": 2}}
    made = make_recipe(
        values | {"tokenize": small, "pack": {"train_shards": 1}, "train": {}, "decide": {"validation_share": 0.0}}
    )
    result = Pipeline(made, Inline()).build()
    pairs = list(open_corpus(result.path)["pair"])
    captions = {caption: pair.key for pair in pairs for caption in pair.captions}
    assert captions["A photograph of the astronaut"] == captions["Another caption"]
    assert len(pairs) == 5


def evaluation(root: Path, form: str) -> str:
    """An evaluation set with a resized photograph of the corpus, one of its captions and a part of a document."""
    photos, folder = photographs(), root / "evaluation"
    folder.mkdir()
    picture = TRANSFORMS["half"](photos["chelsea"])
    stranger = jpeg(photos["flower"].transpose(0))
    quoted = " ".join(documents()[QUOTED].split()[20:60])
    question = "How many parrots sit on the lowest branch of the tree?"
    texts = ["a photograph  of the Coffee", quoted, question]
    if form == "folder":
        (folder / "cat.jpg").write_bytes(picture)
        (folder / "stranger.jpg").write_bytes(stranger)
        (folder / "texts.txt").write_text("\n".join(texts))
        return "evaluation"
    rows = [{"image": picture, "captions": texts[:2]}, {"image": stranger, "question": question}]
    if form == "parquet":
        pq.write_table(
            pa.Table.from_pylist([{"captions": None, "question": None} | row for row in rows]), folder / "set.parquet"
        )
        return "evaluation/set.parquet"
    (folder / "cat.jpg").write_bytes(picture)
    (folder / "stranger.jpg").write_bytes(stranger)
    named = [rows[0] | {"image": "cat.jpg"}, rows[1] | {"image": "stranger.jpg"}]
    (folder / "set.jsonl").write_text("\n".join(json.dumps(row) for row in named))
    return "evaluation/set.jsonl"


def test_a_manifest_is_an_evaluation_set_of_its_pictures_and_captions(tmp_path: Path) -> None:
    (tmp_path / "held" / "pairs").mkdir(parents=True)
    photos = photographs()
    for name, image in (("cat", TRANSFORMS["half"](photos["chelsea"])), ("other", jpeg(photos["flower"].transpose(0)))):
        (tmp_path / "held" / "pairs" / f"{name}.jpg").write_bytes(image)
        (tmp_path / "held" / "pairs" / f"{name}.txt").write_text(f"One of the held-out pictures, the {name}")
    small = {"text": {"vocabulary": 300, "byte_fallback": False}, "visual": {"size": 32, "codes": 2, "iterations": 1}}
    values = recipe(tmp_path / "held", sources=("pairs",)).model_dump() | {"tokenize": small, "train": {}}
    Pipeline(make_recipe(values | {"pack": {"train_shards": 1, "validation_shards": 1}}), Inline()).build()
    corpus(tmp_path)
    (tmp_path / "pairs" / "coffee.txt").write_text("one of the held-out pictures,  the OTHER")
    found = decided(recipe(tmp_path, evaluation=({"name": "held", "path": "held/work/manifest.json"},)), Inline())
    leaks = {name: row["detail"] for name, row in found.rows.items() if row["rule"] is not None}
    assert set(leaks) == {"pairs/chelsea.jpg", "pairs/coffee.jpg"}
    assert leaks["pairs/chelsea.jpg"].startswith("its picture is pair/")
    assert leaks["pairs/coffee.jpg"].startswith("caption 0 holds pair/")


@pytest.mark.parametrize("form", ["folder", "jsonl", "parquet"])
def test_planted_leaks_are_found_with_what_they_match_and_nothing_else_is_flagged(tmp_path: Path, form: str) -> None:
    corpus(tmp_path)
    path = evaluation(tmp_path, form)
    found = decided(recipe(tmp_path, evaluation=({"name": "cats", "path": path},)), Inline())
    leaks = {name: row for name, row in found.rows.items() if row["rule"] is not None}
    assert len(leaks) == 3 and {row["rule"] for row in leaks.values()} == {"contaminated@1"}
    assert leaks["pairs/chelsea.jpg"]["detail"].startswith("its picture is ")
    assert "evaluation set cats" in leaks["pairs/coffee.jpg"]["detail"]
    assert leaks["pairs/coffee.jpg"]["detail"].startswith("caption 0 holds ")
    (document,) = (row for row in leaks.values() if row["kind"] == "text")
    assert document["score"] == 1.0 and document["threshold"] == 0.5 and f"{QUOTED:02d}" in document["row"]
    assert {(row["source"], row["row"]) for row in found.evidence} == {(r["source"], r["row"]) for r in leaks.values()}


def test_a_new_evaluation_set_is_matched_alone(tmp_path: Path) -> None:
    corpus(tmp_path)
    one = {"name": "cats", "path": evaluation(tmp_path, "folder")}
    decided(recipe(tmp_path, evaluation=(one,)), Inline())
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "questions.txt").write_text("What is behind the red door of the house?")
    engine = Inline()
    decided(recipe(tmp_path, evaluation=(one, {"name": "more", "path": "more"})), engine)
    assert {unit.params["set"] for unit in engine.units if unit.stage == "match-leaks"} == {"more"}
    assert stages(engine) & {"annotate", "land"} == set()


@pytest.mark.parametrize("content", [{}, {"readme.md": b"nothing"}, {"broken.jpg": b"\xff\xd8\xff\xe0 broken"}])
def test_an_empty_evaluation_set_is_a_clear_error(tmp_path: Path, content: dict[str, bytes]) -> None:
    corpus(tmp_path)
    (tmp_path / "nothing").mkdir()
    for name, data in content.items():
        (tmp_path / "nothing" / name).write_bytes(data)
    with pytest.raises(SourceError, match=r"evaluation set 'nothing': .* holds no picture"):
        decided(recipe(tmp_path, evaluation=({"name": "nothing", "path": "nothing"},)), Inline())


def test_an_evaluation_set_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    corpus(tmp_path)
    made = recipe(tmp_path, evaluation=({"name": "gone", "path": "gone"},))
    with pytest.raises(SourceError, match="is not there"):
        decided(made, Inline())
    engine = Inline()
    with pytest.raises(SourceError, match=r"evaluation set 'gone': .*gone is not there"):
        Pipeline(made.model_copy(update={"work": str(tmp_path / "fresh")}), engine).build()
    assert engine.units == []  # nothing was read before it was said
    assert plan(made, Terms(sample=False)).state.startswith("not to be built as it is: evaluation set 'gone'")


@pytest.mark.parametrize(
    ("match", "columns"),
    [
        ({}, set()),
        ({"captions": True}, {"normal", "signature", "captions"}),
        ({"image": {"threshold": 0.8}}, {"hash", "pixels"}),
        (ON, {"hash", "pixels", "normal", "signature", "captions"}),
    ],
)
def test_only_what_matching_reads_is_fingerprinted(tmp_path: Path, match: dict[str, Any], columns: set[str]) -> None:
    corpus(tmp_path)
    made = recipe(tmp_path, **match)
    decided(made, Inline())
    tables = list((tmp_path / "work" / "tables" / "fingerprints").glob("*.parquet"))
    assert bool(tables) == bool(columns)
    held = [pq.read_table(path) for path in tables]
    names = ("hash", "pixels", "normal", "signature", "captions")
    assert {name for table in held for name in names if table[name].null_count < len(table)} == columns


def test_a_plan_lists_the_stages_of_matching_and_what_of_them_is_done(tmp_path: Path) -> None:
    corpus(tmp_path)
    plant(tmp_path)
    path = evaluation(tmp_path, "folder")
    listed = {one.stage.name for one in plan(recipe(tmp_path), Terms(sample=False)).stages}
    assert not {name for name in listed if name.startswith(("match", "evaluation"))}
    made = recipe(tmp_path, **ON, evaluation=({"name": "cats", "path": path},))
    before = {one.stage.name: one for one in plan(made, Terms(sample=False)).stages}
    stages = ("evaluation", "match-leaks", "match-propose", "match-sketch", "match-verify", "match-cluster")
    assert [name for name in before if name.startswith(("match", "evaluation"))] == list(stages)
    assert all(before[name].done == 0 and before[name].stage.units >= 1 for name in stages)
    decided(made, Inline())
    after = {one.stage.name: one for one in plan(made, Terms(sample=False)).stages}
    assert {name: after[name].done - after[name].stage.units for name in stages} == dict.fromkeys(stages, 0)


def test_capped_keys_are_counted_and_their_records_still_cluster(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir(parents=True)
    for number in range(90):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(documents()[0] + f"\nRevision {number}")
    made = recipe(tmp_path, sources=("texts",), text={"threshold": 0.8})
    found = decided(made, Inline())
    assert sum(row["verdict"] == "keep" for row in found.rows.values()) == 1
    receipts = (tmp_path / "work" / "tables" / "receipts" / "match-propose").glob("*.json")
    counts = [json.loads(path.read_bytes())["counts"] for path in receipts]
    assert counts[0]["capped"] >= 14 * 0.8
    few, every = 16 * 15 // 2 + 16 * (90 - 16), 90 * 89 // 2
    assert few <= sum(edge.rows for edge in found.matched.edges) < every


def test_the_pairs_of_one_record_are_compared_in_many_buckets() -> None:
    ids = [record_id("text", str(n).encode()) for n in range(2001)]
    pairs = pa.table({"a": pa.array([ids[0]] * 2000, pa.binary()), "b": pa.array(ids[1:], pa.binary())})
    counts = np.bincount(targets(pairs, 10), minlength=10)
    assert counts.min() > 150 and counts.max() < 270
    assert len(targets(pairs.slice(0, 0), 10)) == 0
