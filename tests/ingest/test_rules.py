"""Rules are named in the recipe; what is wrong with them is said before anything is built, and their edits compose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import RecipeError
from imglish.ingest.edits import compose
from imglish.ingest.judge import judge
from imglish.ingest.rules import ERROR, MAX_RULES, Edit, active_rules
from imglish.recipe import Recipe, load_recipe, make_recipe
from imglish.records import ANNOTATIONS, table
from imglish.tokenize.rows import edited_document

MINE = '''
from imglish import Drop, rule

@rule(reads=("words", "characters"), version=2, max_mean=8.0)
def long_words(row, limits):
    """Drops texts whose words are long on average."""
    mean = row["characters"] / row["words"]
    return Drop(f"mean {mean:.1f}", mean, limits["max_mean"]) if mean > limits["max_mean"] else None

def helper(): ...
'''


def recipe(root: Path | str = ".", **decide: Any) -> Recipe:
    source = {"name": "prose", "format": "text", "kind": "text", "path": "x"}
    return make_recipe({"name": "x", "root": str(root), "source": [source], "decide": decide})


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        ({"rules": ("image_sice",)}, "decide.rules: unknown rule 'image_sice'; did you mean image_size?"),
        ({"rules": ("preset:basik",)}, "decide.rules: unknown preset 'preset:basik'; did you mean basic?"),
        ({"rules": ("payload", "payload")}, "decide.rules names 'payload' 2 times"),
        ({"rules": ("image_size@big",)}, "decide.rules: rule 'image_size' has no variant 'big'"),
        (
            {"rule": {"image_size": {"min_sidee": 3}}},
            "unknown key decide.rule.image_size.min_sidee; did you mean decide.rule.image_size.min_side?",
        ),
        (
            {"rule": {"image_size": {"min_side": 0}}},
            "decide.rule.image_size.min_side = 0: Input should be greater than or equal to 1",
        ),
        (
            {"rule": {"image_size": {"min_side": "big"}}},
            "decide.rule.image_size.min_side = 'big': Input should be a valid",
        ),
        (
            {"rule": {"caption_length": {"min_words": 9, "max_words": 3}}},
            "decide.rule.caption_length: min_words 9 is more than max_words 3",
        ),
        ({"rule": {"imag_size": {}}}, "unknown key decide.rule.imag_size; did you mean decide.rule.image_size?"),
        ({"rules": ("payload",), "rule": {"image_size": {}}}, "decide.rules does not name 'image_size'"),
        ({"rules": ("none.py:mine",)}, "cannot take 'mine' from"),
    ],
)
def test_a_wrong_rule_or_threshold_is_named(decide: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        active_rules(recipe(**decide))
    assert said in str(caught.value)


def test_a_dotted_override_reaches_a_threshold(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('name = "x"\n[[source]]\nname = "a"\nformat = "folder"\nkind = "pair"\npath = "x"\n')
    rules = {rule.name: rule for rule in active_rules(load_recipe(file, ["decide.rule.image_size.min_side=200"]))}
    assert rules["image_size"].limits.min_side == 200 and rules["image_aspect"].limits.max_aspect == 3.0
    assert rules["image_size"].facts() == {"rule": "image_size@1", "thresholds": {"min_side": 200}}


def test_more_rules_than_bits_are_refused(tmp_path: Path) -> None:
    names = [f"r{n}" for n in range(MAX_RULES + 1)]
    body = "\n".join(
        f"@rule(reads=('words',))\ndef {name}(row, limits): return row['words'] == {name[1:]}" for name in names
    )
    (tmp_path / "many.py").write_text(f"from imglish import rule\n{body}\n")
    entries = tuple(f"many.py:{name}" for name in names)
    with pytest.raises(RecipeError, match="names 60 rules; at most 59"):
        active_rules(recipe(tmp_path, rules=entries))
    chosen = recipe(tmp_path, rules=entries[:-1])
    found = judge(table([prose("0", words=58), prose("1", words=0)], ANNOTATIONS), chosen, 0, 1)
    assert found.column("fired").to_pylist() == [1 << 58, 1]
    assert found.column("rule").to_pylist() == ["r58@1", "r0@1"]


def prose(row: str, **measured: Any) -> dict[str, Any]:
    return {"source": "prose", "row": row, "kind": "text", "status": "ok"} | measured


def test_a_rule_of_the_users_own_gives_its_evidence_and_its_digest(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    chosen = recipe(tmp_path, rules=("mine.py:long_words",))
    rows = table([prose("0", words=10, characters=90), prose("1", words=10, characters=50)], ANNOTATIONS)
    found = judge(rows, chosen, 0, 1).to_pylist()
    assert [row["verdict"] for row in found] == ["drop", "keep"]
    assert [found[0][name] for name in ("rule", "score", "threshold", "detail")] == [
        "long_words@2",
        9.0,
        8.0,
        "mean 9.0",
    ]
    (before,) = active_rules(chosen)
    (tmp_path / "mine.py").write_text(MINE + "# another\n")
    (after,) = active_rules(chosen)
    assert before.facts()["source_sha256"] != after.facts()["source_sha256"]
    milder = recipe(tmp_path, rules=("mine.py:long_words",), rule={"long_words": {"max_mean": 9.5}})
    assert judge(rows, milder, 0, 1).column("verdict").to_pylist() == ["keep", "keep"]


def test_a_rule_that_raises_drops_that_record_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    rows = table([prose("0", words=0, characters=90), prose("1", words=10, characters=50)], ANNOTATIONS)
    found = judge(rows, recipe(tmp_path, rules=("mine.py:long_words",)), 0, 1).to_pylist()
    assert [row["verdict"] for row in found] == ["drop", "keep"]
    assert found[0]["detail"] == f"{ERROR}ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("entry", "rule", "said"),
    [
        ("mine.py:helper", {}, "'helper' in .* is no rule"),
        ("mine.py:absent", {}, "cannot take 'absent'"),
        ("broken.py:x", {}, "cannot take 'x' from .*SyntaxError"),
        ("mine.py:long_words", {"long_words": {"max_mean": "a"}}, "max_mean = 'a': Input should be a float"),
        (
            "mine.py:long_words",
            {"long_words": {"min": 1.0}},
            "unknown key decide.rule.long_words.min; known are max_mean",
        ),
    ],
)
def test_what_is_wrong_with_a_users_rule_is_said(tmp_path: Path, entry: str, rule: dict[str, Any], said: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(RecipeError, match=said):
        active_rules(recipe(tmp_path, rules=(entry,), rule=rule))


def test_edits_of_several_rules_become_one_pass_over_the_original() -> None:
    assert compose([(-1, 10, 20, ""), (-1, 12, 15, "<e>")]) == [(-1, 10, 20, "")]
    assert compose([(-1, 12, 15, "<e>"), (-1, 10, 20, "")]) == [(-1, 10, 20, "")]
    assert compose([(-1, 5, 9, "<a>"), (-1, 7, 12, "<b>")]) == [(-1, 5, 12, "<a><b>")]
    assert compose([(-1, 5, 9, "<a>"), (-1, 9, 12, "<b>")]) == [(-1, 5, 9, "<a>"), (-1, 9, 12, "<b>")]
    assert compose([(1, 0, 4, ""), (0, 2, 3, "x")]) == [(0, 2, 3, "x"), (1, 0, 4, "")]
    assert compose([(0, 1, 4, "first"), (0, 1, 4, "second")]) == [(0, 1, 4, "first")]


spans = st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["", "<x>"]))


@given(st.lists(spans.map(lambda s: (-1, min(s[:2]), max(s[:2]), s[2])), max_size=8))
def test_composed_edits_apply_and_remove_exactly_what_some_rule_named(edits: list[Edit]) -> None:
    text = "abcdefghijklmnopqrstuvwxyz0123"
    found = edited_document(text.encode(), compose(edits))
    named = {place for _, first, last, _ in edits for place in range(first, last)}
    assert found.replace("<x>", "") == "".join(letter for place, letter in enumerate(text) if place not in named)
