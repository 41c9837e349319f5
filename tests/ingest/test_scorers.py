"""Scorers are fitted on what the recipe names, held by the lock, and tell apart what they were shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imglish.digests import record_id
from imglish.errors import LockError, ModelError, RecipeError
from imglish.ingest.fitting import choose, scorer_unit
from imglish.ingest.measures import alignment
from imglish.ingest.measures.alignment import BATCH, Alignment, Encoders, Head, encode, fit_head
from imglish.ingest.measures.quality import QualityModel, auc, fit_quality, vectors
from imglish.ingest.measures.registry import check_measures, make_measure
from imglish.ingest.rules import active_rules
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, load_recipe, make_recipe
from imglish.records import LANDING, pack_json, table
from imglish.sample import InlineEngine
from imglish.seeds import stream
from imglish.storage import Store

GOOD = "the river runs along an old town where people walk under trees and speak about the weather".split()  # noqa: SIM905
BAD = "buy cheap watches now click here best price free offer limited deal casino bonus win".split()  # noqa: SIM905


def texts(words: list[str], count: int, name: str) -> list[str]:
    picks = stream(0, name).bits(count * 40).reshape(count, 40)
    return [" ".join(words[int(x) % len(words)] for x in row) for row in picks]


def write_texts(root: Path) -> None:
    for folder, words in (("good", GOOD), ("bad", BAD)):
        (root / folder).mkdir(parents=True)
        for number, text in enumerate(texts(words, 60, folder)):
            (root / folder / f"{number:03d}.txt").write_text(text)
    (root / "prose").mkdir()
    (root / "prose" / "a.txt").write_text(texts(GOOD, 1, "a")[0])
    (root / "prose" / "b.txt").write_text(texts(BAD, 1, "b")[0])


def recipe(root: Path, measure: dict[str, Any], kind: str = "text", rules: tuple[str, ...] = ("quality",)) -> Recipe:
    source = {"name": "prose", "format": "folder" if kind == "pair" else "text", "kind": kind, "path": "prose"}
    decide = {"rules": rules, "measure": measure}
    return make_recipe(
        {"name": "x", "root": str(root), "work": str(root / "work"), "source": [source], "decide": decide}
    )


def test_a_classifier_tells_texts_apart_by_words_and_is_the_same_every_time() -> None:
    good, bad = texts(GOOD, 40, "g"), texts(BAD, 40, "b")
    model = fit_quality(good[:30], bad[:30])
    assert auc(model.scores(good[30:]), model.scores(bad[30:])) == 1.0
    assert model.to_bytes() == fit_quality(good[:30], bad[:30]).to_bytes()
    alone = [model.scores([text])[0] for text in good[30:]]
    assert model.scores([*bad, *good[30:], ""]).tolist()[40:-1] == alone, "a score does not depend on its neighbours"
    again = QualityModel.from_bytes(model.to_bytes())
    assert again.scores(good).tolist() == model.scores(good).tolist()
    lengths = np.sqrt((vectors([*good, "", "one"]).power(2)).sum(axis=1))
    assert np.allclose(lengths, [1] * len(good) + [0, 1])


def test_the_classifier_is_that_of_a_library() -> None:
    """scikit-learn's logistic regression on the same vectors: C = 1 / (penalty x documents), no penalty on the bias."""
    from sklearn.linear_model import LogisticRegression

    from imglish.ingest.measures.quality import PENALTY

    mixed = [
        f"{a[: 8 * (n % 9)]} {b}"
        for n, (a, b) in enumerate(zip(texts(BAD, 50, "x"), texts(GOOD, 50, "y"), strict=True))
    ]
    good, bad = mixed[:30], texts(BAD, 30, "z")
    ours = fit_quality(good, bad)
    sign = [1] * 30 + [0] * 30
    theirs = LogisticRegression(C=1 / (PENALTY * 60), max_iter=2000, tol=1e-8).fit(vectors([*good, *bad]), sign)
    expected = theirs.predict_proba(vectors(mixed[30:]))[:, 1]
    assert np.abs(ours.scores(mixed[30:]) - expected).max() < 2e-2


def test_auc_counts_ties_by_half() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 0.0])) == 1.0
    assert auc(np.array([1.0]), np.array([1.0, 0.0])) == 0.75


def test_a_file_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(ModelError, match="not a quality classifier"):
        QualityModel.from_bytes(b"\x80\x04pickle")
    head = Head("e", *(np.zeros((2, 2), np.float32) for _ in range(4)))
    with pytest.raises(ModelError, match="not a quality classifier: KeyError"):
        QualityModel.from_bytes(head.to_bytes())
    with pytest.raises(ModelError, match="not an alignment head"):
        Head.from_bytes(b"")


def test_a_build_fits_the_classifier_before_it_measures_and_the_lock_holds_it(tmp_path: Path) -> None:
    write_texts(tmp_path)
    chosen = recipe(tmp_path, {"quality": {"good": ("good",), "bad": ("bad",)}})
    pipeline = Pipeline(chosen, InlineEngine())
    files = pipeline._decided()
    rows = {row["row"]: row for file in files for row in pipeline.store.read_table(file.decisions.path).to_pylist()}
    assert rows["a.txt"]["verdict"] == "keep"
    assert (rows["b.txt"]["rule"], rows["b.txt"]["threshold"]) == ("quality@1", 0.5) and rows["b.txt"]["score"] < 0.5
    (entry,) = json.loads(pipeline.store.read("lock.json")).values()
    assert entry["auc"] == 1.0 and entry["held_out"][0] > 1
    assert make_measure("quality", chosen).params["weights"] == entry["digest"]
    again = InlineEngine()
    Pipeline(chosen, again)._decided()
    assert not again.receipts, "nothing is fitted, measured or decided twice"
    (tmp_path / "good" / "new.txt").write_text("a text that was not there")
    Pipeline(chosen, InlineEngine())._decided()
    assert json.loads(pipeline.store.read("lock.json"))[f"quality-{_suffix(pipeline)}"] == entry, "only `fit` refits"
    refitted = Pipeline(chosen, InlineEngine()).fit(["quality"])["quality"]
    assert refitted["digest"] != entry["digest"]


def _suffix(pipeline: Pipeline) -> str:
    (key,) = json.loads(pipeline.store.read("lock.json"))
    return str(key).partition("-")[2]


def test_weights_whose_digest_changed_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path)
    chosen = recipe(tmp_path, {"quality": {"good": ("good",), "bad": ("bad",)}})
    model = Pipeline(chosen, InlineEngine()).fit(["quality"])["quality"]
    path = tmp_path / "work" / model["path"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    with pytest.raises(LockError, match="the weights of scorer quality changed since they were fitted"):
        Pipeline(chosen, InlineEngine())._decided()
    path.unlink()
    with pytest.raises(LockError, match="the scorer quality is not fitted; run 'imglish fit quality'"):
        make_measure("quality", chosen)
    given = recipe(tmp_path, {"quality": {"model": "mine.safetensors", "sha256": "0" * 64}})
    (tmp_path / "mine.safetensors").write_bytes(fit_quality(GOOD, BAD).to_bytes())
    with pytest.raises(RecipeError, match=r"decide\.measure\.quality\.sha256 is 0000"):
        make_measure("quality", given)


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ({}, "decide.measure.quality: name sources or folders in `good` and in `bad`"),
        ({"good": ("good",)}, "name sources or folders in `good` and in `bad`"),
        ({"good": ("godo",), "bad": ("bad",)}, "decide.measure.quality.good: 'godo' is neither a source"),
        ({"good": ("empty",), "bad": ("bad",)}, "empty holds no .txt file"),
        ({"good": ("few",), "bad": ("bad",)}, "decide.measure.quality.good: 1 records are too few"),
        ({"model": "none.safetensors"}, "decide.measure.quality.model: no file at"),
    ],
)
def test_what_a_classifier_cannot_be_fitted_on_is_named(tmp_path: Path, measure: dict[str, Any], said: str) -> None:
    write_texts(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.txt").write_text("one text")
    with pytest.raises(RecipeError, match=said):
        Pipeline(recipe(tmp_path, {"quality": measure}), InlineEngine())._decided()


def test_a_source_of_another_kind_and_a_picture_without_captions_are_named(tmp_path: Path) -> None:
    write_texts(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(1))
    chosen = recipe(tmp_path, {"alignment": {"pairs": ("prose",)}}, rules=("alignment",))
    with pytest.raises(RecipeError, match="source 'prose' gives text; a source of pair is needed"):
        scorer_unit("alignment", chosen, {"prose": []})
    chosen = recipe(tmp_path, {"alignment": {"pairs": ("pictures",)}}, rules=("alignment",))
    with pytest.raises(RecipeError, match=r"a.png has no a.txt with its captions beside it"):
        scorer_unit("alignment", chosen, {"prose": []})
    with pytest.raises(RecipeError, match='type "clip" needs `clip`'):
        check_measures(recipe(tmp_path, {"alignment": {"type": "clip"}}, rules=("alignment",)))
    with pytest.raises(RecipeError, match=r"no CLIPModel in the layout of|needs the package transformers"):
        make_measure(
            "alignment", recipe(tmp_path, {"alignment": {"type": "clip", "clip": "pictures"}}, rules=("alignment",))
        )


@pytest.mark.parametrize("at_once", [1, 1 << 18])
def test_records_to_learn_from_do_not_depend_on_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("imglish.ingest.fitting._AT_ONCE", at_once)
    store = Store(tmp_path / "store")
    rows = []
    for text in texts(GOOD, 50, "t"):
        data = text.encode()
        about = {"source": "s", "row": text[:9], "kind": "text", "status": "ok"}
        rows.append(about | {"payload": data, "bytes": len(data), "record_id": record_id("text", data)})
    one = [store.put_table("landing", table(rows, LANDING)).path]
    two = [store.put_table("landing", table(part, LANDING)).path for part in (rows[30:], rows[:35])]
    (tmp_path / "folder").mkdir()
    files = []
    for number, row in enumerate(rows[:20]):
        file = tmp_path / "folder" / f"{number}.txt"
        file.write_bytes(row["payload"])
        files.append(str(file))
    rest = [store.put_table("landing", table(rows[20:], LANDING)).path]
    found = [choose(store, {"landing": landing, "files": more}, "text", 0, 3000, by_bytes=True)
             for landing, more in ((one, []), (two, []), (rest, files), (one, files))]  # fmt: skip
    assert found[0] == found[1] == found[2] == found[3]
    assert 0 < len(found[0]) < 50 and sum(len(x.payload) for x in found[0]) <= 3000
    assert [x.id for x in found[0]] == sorted(x.id for x in found[0])


@pytest.mark.parametrize("at_once", [1, 1 << 18])
def test_of_a_picture_with_two_captions_the_same_one_is_learnt_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("imglish.ingest.fitting._AT_ONCE", at_once)
    store = Store(tmp_path)
    data = picture(1)
    identity = record_id("image", data)
    about = {"source": "s", "kind": "pair", "status": "ok", "payload": data, "bytes": len(data), "record_id": identity}
    rows = [about | {"row": str(n), "captions": pack_json([text])} for n, text in enumerate(("second", "first"))]
    orders = [[rows], [rows[::-1]], [rows[:1], rows[1:]], [rows[1:], rows[:1]]]
    for order in orders:
        landing = [store.put_table("landing", table(part, LANDING)).path for part in order]
        (one,) = choose(store, {"landing": landing, "files": []}, "pair", 0, 10, by_bytes=False)
        assert list(one.captions) == ["first"]


def test_an_alignment_head_is_fitted_again_when_its_encoders_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "0.png").write_bytes(picture(0))
    (tmp_path / "pairs" / "0.txt").write_text("a caption")
    chosen = recipe(tmp_path, {"alignment": {"pairs": ("pairs",)}}, "pair", ("alignment",))
    made = small_stand_in()
    units = []
    for weights in ("stand-in", "others"):
        found = replace(made, weights=weights)
        monkeypatch.setattr("imglish.ingest.fitting.encoders_of", lambda settings, recipe, found=found: found)
        units.append(scorer_unit("alignment", chosen, {}))
    assert units[0].inputs != units[1].inputs and units[0].id != units[1].id


# --------------------------------------------------------------------------------------------------------------------
# Alignment: the real head, scorer and fit; the encoders are small ones made here, CLIP's in transformers' own layout.


def picture(number: int, size: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), COLOURS[number % len(COLOURS)][1]).save(out, "PNG")
    return out.getvalue()


COLOURS = [
    (f"{word} square", word) for word in ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")
]


def small_stand_in() -> Encoders:
    """Mean colours, and a bag of letters: what a head needs to learn the names of colours."""

    def see(pictures: Any) -> Any:
        return np.stack([np.asarray(p, np.float32).mean((0, 1)) / 255 for p in pictures])

    def read(captions: Any) -> Any:
        return np.stack([np.bincount([ord(c) % 32 for c in text], minlength=32) for text in captions]).astype(
            np.float32
        )

    return Encoders("stand-in", 8, see, read)


def test_a_head_learns_which_caption_belongs_to_which_picture() -> None:
    encoders = small_stand_in()
    payloads = [picture(n, 40 + n) for n in range(64)]
    names = [COLOURS[n % 8][0] for n in range(64)]
    images = np.stack(
        [np.array(Image.open(io.BytesIO(p)).convert("RGB"), np.float32).mean((0, 1)) / 255 for p in payloads]
    )
    head = fit_head("stand-in", images, encode(encoders.texts, names), seed=0)
    scorer = Alignment(encoders, head, 10**6)
    true = scorer([(picture(n), COLOURS[n][0]) for n in range(8)])
    wrong = scorer([(picture(n), COLOURS[(n + 3) % 8][0]) for n in range(8)])
    assert auc(np.array(true, float), np.array(wrong, float)) > 0.95
    assert head.to_bytes() == fit_head("stand-in", images, encode(encoders.texts, names), seed=0).to_bytes()
    assert Head.from_bytes(head.to_bytes()).to_bytes() == head.to_bytes()
    mixed = scorer([(b"no image", "red square"), (picture(1), COLOURS[1][0])])
    assert mixed == [None, true[1]]
    with pytest.raises(ModelError, match="the alignment head was fitted to encoders stand-in, those here are other"):
        Alignment(Encoders("other", 8, encoders.images, encoders.texts), head, 10**6)


def test_a_build_fits_the_head_and_removes_captions_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "small_encoders", lambda images, texts: small_stand_in())
    for folder, count in (("pairs", 120), ("prose", 8)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.png").write_bytes(picture(number, 33 + number))
            wrong = f"\n{COLOURS[(number + 3) % 8][0]}" if folder == "prose" else ""
            (tmp_path / folder / f"{number}.txt").write_text(COLOURS[number % 8][0] + wrong)
    chosen = recipe(tmp_path, {"alignment": {"pairs": ("pairs",)}}, "pair", ("alignment",))
    chosen = chosen.model_copy(
        update={"decide": chosen.decide.model_copy(update={"rule": {"alignment": {"min_score": 0.5}}})}
    )
    files = Pipeline(chosen, InlineEngine())._decided()
    store = Store(chosen.work)
    rows = [row for file in files for row in store.read_table(file.decisions.path).to_pylist()]
    removed = [[edit[0] for edit in json.loads(row["edits"] or "[]")] for row in rows]
    assert sum(mine == [1] for mine in removed) >= 6, removed
    (entry,) = json.loads(store.read("lock.json")).values()
    assert entry["auc"] > 0.9


def test_a_pair_goes_when_no_caption_fits() -> None:
    (made,) = active_rules(recipe(Path(), {}, "pair", ("alignment@laion400m",)))
    import pyarrow as pa

    about = pack_json([{"bytes": 5}, {"bytes": 7}])
    scores = [[0.31, 0.1], [0.29, 0.2], [None, None]]
    rows = pa.table({"captions": pa.array([about] * 3, pa.binary()),
                     "alignment_scores": pa.array([pack_json(s) for s in scores], pa.binary())})  # fmt: skip
    found = made.judge(rows, made.limits)
    assert found.fired.tolist() == [False, True, False] and found.score[1] == 0.29 and found.threshold == 0.30
    assert found.edits == {0: [(1, 0, 7, "")], 1: [(0, 0, 5, ""), (1, 0, 7, "")]}


def write_clip(folder: Path) -> Any:
    """A tiny CLIP with random weights, as transformers saves one."""
    import transformers

    letters = [chr(33 + n) for n in range(94)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": 1,
                     "bos_token_id": 0, "projection_dim": 8},
        vision_config={**shared, "image_size": 32, "patch_size": 16, "projection_dim": 8}, projection_dim=8,
    )  # fmt: skip
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return model


def test_clip_from_a_local_folder_scores_as_transformers_own_model(tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip")
    (tmp_path / "prose").mkdir()
    chosen = recipe(tmp_path, {"alignment": {"type": "clip", "clip": "clip"}}, "pair", ("alignment@datacomp",))
    measure = make_measure("alignment", chosen)
    rows = [
        {"payload": picture(n, 32), "captions": pack_json([name, "another text"])}
        for n, (name, _) in enumerate(COLOURS)
    ]
    found = [json.loads(cell) for cell in measure.call(rows).column("alignment_scores").to_pylist()]
    assert len(found) == 8 and len(measure.params["weights"]) == 64
    from transformers import AutoTokenizer

    pieces = AutoTokenizer.from_pretrained(tmp_path / "clip")(
        [COLOURS[0][0]], return_tensors="pt", padding="max_length", max_length=12
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture(0, 32))), np.float32) / 255
    pixels = (pixels - np.float32([0.48145466, 0.4578275, 0.40821073])) / np.float32(
        [0.26862954, 0.26130258, 0.27577711]
    )
    with torch.no_grad():
        out = model(pixel_values=torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), **pieces)
    expected = float((out.image_embeds * out.text_embeds).sum())
    assert found[0][0] == pytest.approx(expected, abs=2e-4)
    alone = json.loads(measure.call(rows[5:6]).column("alignment_scores")[0].as_py())
    assert np.allclose(alone, found[5], atol=1e-4) and len(rows) * 2 == BATCH


def test_the_command_says_how_well_a_scorer_tells_apart_and_a_plan_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from typer.testing import CliRunner

    from imglish.cli.options import app
    from imglish.plan import Terms, plan

    write_texts(tmp_path)
    lines = ['name = "x"', "[[source]]", 'name = "prose"', 'format = "text"', 'kind = "text"', 'path = "prose"']
    lines += [
        "[decide]",
        'rules = ["payload", "quality"]',
        "[decide.measure.quality]",
        'good = ["good"]',
        'bad = ["bad"]',
    ]
    file = tmp_path / "recipe.toml"
    file.write_text("\n".join(lines))
    assert plan(load_recipe(file), Terms(workers=1)).stages
    monkeypatch.setattr("imglish.cli.building.open_engine", lambda recipe: nullcontext(InlineEngine()))
    result = CliRunner().invoke(app, ["fit", "quality", str(file)])
    assert result.exit_code == 0, result.output
    assert "ROC AUC 1.000" in result.output and "drops 5 % of the good ones" in result.output
    refused = CliRunner().invoke(app, ["fit", "alignment", str(file)])
    assert isinstance(refused.exception, RecipeError) and "name sources or folders in `pairs`" in str(refused.exception)


def test_a_document_larger_than_the_budget_does_not_end_the_sample(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = []
    for data in (b"x" * 5000, *(text.encode() for text in texts(GOOD, 20, "t"))):
        about = {"source": "s", "row": str(len(rows)), "kind": "text", "status": "ok"}
        rows.append(about | {"payload": data, "bytes": len(data), "record_id": record_id("text", data)})
    landing = [store.put_table("landing", table(rows, LANDING)).path]
    for seed in range(40):  # in some of them it has the smallest draw
        assert choose(store, {"landing": landing, "files": []}, "text", seed, 1000, by_bytes=True)
