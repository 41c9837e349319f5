"""A user's measure is stored and read like any other; one that raises drops that record, and the build says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from imglish.errors import RecipeError
from imglish.ingest.measures.captions import character_repetition
from imglish.ingest.measures.registry import make_measure, needed_names
from imglish.ingest.rules import ERROR, active_rules
from imglish.pipeline import Pipeline
from imglish.plan import Terms, plan
from imglish.recipe import Recipe, make_recipe
from imglish.records import pack_json
from imglish.sample import InlineEngine
from imglish.storage import Store
from tests.pipeline.corpora import small_recipe, write_sources

MINE = '''
from imglish import measure, rule

@measure(kinds=("text", "pair"), columns={"capitals": "int", "first": "str"}, version=3)
def loudness(row):
    """Capitals of a text, or of all captions."""
    text = row["payload"].decode() if row["kind"] == "text" else " ".join(row["captions"])
    if "0003" in text:
        raise ValueError("the third")
    return {"capitals": sum(c.isupper() for c in text), "first": text[:1]}

@rule(reads=("capitals",), most=3)
def too_loud(row, limits):
    return row["capitals"] is not None and row["capitals"] > limits["most"]

@measure(kinds=("text",), columns={"words": "int"})
def taken(row): ...

@measure(kinds=("text",), columns={"x": "complex"})
def strange(row): ...

@measure(kinds=("sound",), columns={"x": "int"})
def deaf(row): ...

@measure(kinds=("text",), columns={"x": "int"})
def pii(row): ...

@measure(kinds=("text",), columns={"x": "int"})
def unlike(row):
    return {"x": "no number"} if row["payload"] == b"a" else {"y": 1}
'''


def recipe(root: Path, **decide: Any) -> Recipe:
    (root / "mine.py").write_text(MINE)
    source = {"name": "prose", "format": "text", "kind": "text", "path": "x"}
    values = {"name": "x", "root": str(root), "work": str(root / "work"), "source": [source]}
    return make_recipe(values | {"decide": {"rules": ("payload",)} | decide})


def test_a_build_goes_on_past_a_measure_that_raises_and_shouts(tmp_path: Path) -> None:
    root = tmp_path / "sources"
    write_sources(root, pairs=5, images=2, texts=6)
    (root / "mine.py").write_text(MINE)
    for name, text in (("loud", "LOUD and louder"), ("quiet", "quiet"), ("bad", "number 0003")):
        (root / "texts" / f"{name}.txt").write_text(text)
    decide = {"rules": ("payload", "mine.py:too_loud"), "measures": ("mine.py:loudness",), "validation_share": 0.0}
    chosen = small_recipe(root, tmp_path / "work", decide=decide)
    assert plan(chosen, Terms(workers=1)).stages
    result = Pipeline(chosen, InlineEngine()).build()
    (shout,) = [line for line in result.warnings if "RAISED" in line]
    assert shout.startswith("loudness@3 RAISED on 1 occurrences and dropped them")
    store = Store(chosen.work)
    rows = {
        row["row"]: row for file in result.manifest.decisions.files for row in store.read_table(file.path).to_pylist()
    }
    assert (rows["bad.txt"]["rule"], rows["bad.txt"]["verdict"]) == ("loudness@3", "drop")
    assert rows["bad.txt"]["detail"] == f"{ERROR}ValueError: the third"
    assert (rows["loud.txt"]["rule"], rows["quiet.txt"]["verdict"]) == ("too_loud@1", "keep")
    (facts,) = result.manifest.decisions.measures
    assert facts["measure"] == "loudness" and len(facts["params"]["source_sha256"]) == 64
    assert [one["rule"] for one in result.manifest.decisions.rules] == ["payload@1", "too_loud@1", "loudness@3"]
    (root / "mine.py").write_text(MINE + "# changed\n")
    again = InlineEngine()
    Pipeline(chosen, again).build()
    assert len(again.receipts["measure"]) == 2, "another digest of the file measures pairs and texts anew"


def test_what_a_measure_returns_is_checked(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, measures=("mine.py:unlike",))
    assert needed_names(chosen) == ["unlike"]
    rows = [{"kind": "text", "payload": text, "captions": None} for text in (b"a", b"b")]
    found = make_measure("unlike", chosen).call(rows).to_pylist()
    assert [row["x"] for row in found] == [None, None]
    assert found[0]["unlike_error"].startswith(f"{ERROR}ArrowInvalid")
    assert found[1]["unlike_error"] == f"{ERROR}KeyError: 'y is no column of it'"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("loudness", "'loudness' is not file.py:function"),
        ("mine.py:absent", "decide.measures: cannot take 'absent' from"),
        ("mine.py:too_loud", "is no measure; put @imglish.measure"),
        ("mine.py:taken", "taken has a column 'words', which there is already"),
        ("mine.py:strange", "strange needs columns of the types float, int, bool, str"),
        ("mine.py:deaf", "deaf has kinds .*sound"),
        ("mine.py:pii", "'pii' is the name of a measure that there is already"),
    ],
)
def test_a_wrong_measure_is_named(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        needed_names(recipe(tmp_path, measures=(entry,)))


def test_measures_of_ones_own_have_bits_like_rules(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, measures=("mine.py:loudness", "mine.py:unlike"))
    assert [str(rule) for rule in active_rules(chosen)] == ["payload@1", "loudness@3", "unlike@1"]
    (tmp_path / "many.py").write_text(
        "from imglish import rule\n" + "\n".join(f"@rule(reads=())\ndef r{n}(row, limits): ..." for n in range(58))
    )
    entries = tuple(f"many.py:r{n}" for n in range(58))
    assert len(active_rules(recipe(tmp_path, rules=entries, measures=("mine.py:loudness",)))) == 59
    with pytest.raises(RecipeError, match="60 rules; at most 59"):
        active_rules(recipe(tmp_path, rules=entries, measures=("mine.py:loudness", "mine.py:unlike")))


def test_bad_words_drop_texts_and_remove_captions(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps(["darn", "son of a gun"]))
    settings = {"bad_words": {"path": "words.json"}}
    chosen = recipe(tmp_path, rules=("bad_words",), measure=settings)
    measure = make_measure("bad_words", chosen)
    texts = ["Darn it, you son of a Gun!", "darning is fine", "A darn, a darn."]
    rows = [{"kind": "text", "payload": text.encode(), "captions": None} for text in texts]
    captions = [["darn it", "a cat"], ["darn", "darn again"]]
    rows += [{"kind": "pair", "payload": b"", "captions": pack_json(mine)} for mine in captions]
    (made,) = active_rules(chosen)
    sizes = [None] * 3 + [pack_json([{"bytes": len(text)} for text in mine]) for mine in captions]
    found = made.judge(measure.call(rows).append_column("captions", pa.array(sizes, pa.binary())), made.limits)
    assert found.fired.tolist() == [True, False, True, False, True]
    assert found.score[:3].tolist() == [2, 0, 1] and found.detail[0] == "2 phrases of the list"
    assert found.edits == {3: [(0, 0, 7, "")], 4: [(0, 0, 4, ""), (1, 0, 10, "")]}
    assert measure.params["phrases"] == 2
    milder = recipe(tmp_path, rules=("bad_words",), measure=settings, rule={"bad_words": {"max_phrases": 1}})
    (made,) = active_rules(milder)
    assert made.judge(measure.call(rows[:3]).append_column("captions", pa.nulls(3)), made.limits).fired.tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "rule bad_words needs a list: set decide.measure.bad_words.path"),
        ({"path": "none.txt"}, "decide.measure.bad_words.path: no list at"),
        ({"path": "words.txt", "sha256": "0" * 64}, "decide.measure.bad_words.sha256 is 0000"),
    ],
)
def test_a_list_that_is_not_there_or_another_one_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    (tmp_path / "words.txt").write_text("darn\n")
    with pytest.raises(RecipeError, match=said):
        make_measure("bad_words", recipe(tmp_path, rules=("bad_words",), measure={"bad_words": settings}))


def data_juicer(text: str) -> float:
    """data-juicer's character_repetition_filter, as it is written there."""
    runs = [text[i : i + 10] for i in range(len(text) - 10 + 1)]
    counts: dict[str, int] = {}
    for run in runs:
        counts[run] = counts.get(run, 0) + 1
    if not counts:
        return 0.0
    ordered = sorted(counts.values(), reverse=True)
    top = min(int(len(ordered) ** 0.5), len([count for count in ordered if count > 1]))
    return sum(ordered[:top]) / sum(ordered)


@pytest.mark.parametrize(
    "text",
    ["ha " * 20, "aaaaaaaaaaaaaaaaaaaaaaa", "a coral trout on a reef", "short", "", "abcabc" * 9 + "a coral trout"],
)
def test_repetition_of_characters_is_data_juicers(text: str) -> None:
    assert character_repetition(text) == pytest.approx(data_juicer(text), abs=1e-6)


def test_captions_that_repeat_characters_are_removed(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, rules=("caption_character_repetition",))
    captions = ["a" * 60, "a coral trout on a reef"]
    found = make_measure("caption", chosen).call([{"captions": pack_json(captions)}])
    sizes = pack_json([{"bytes": len(text)} for text in captions])
    (made,) = active_rules(chosen)
    finding = made.judge(found.append_column("captions", pa.array([sizes], pa.binary())), made.limits)
    assert finding.edits == {0: [(0, 0, 60, "")]} and not finding.fired[0]
