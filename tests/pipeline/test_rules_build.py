"""A build with rules over measures and of the user's own: what raises drops a record and is shouted about."""

from __future__ import annotations

import json
from pathlib import Path

from imglish.ingest.decide import decide
from imglish.ingest.rules import ERROR
from imglish.pipeline import Pipeline
from imglish.plan import Terms, plan
from imglish.recipe import Recipe
from imglish.sample import InlineEngine
from imglish.storage import Store
from tests.pipeline.corpora import small_recipe, write_sources

MINE = """
from imglish import rule

@rule(reads=("words", "row"))
def not_the_third(row, limits):
    if row["row"] == "0003.txt":
        raise KeyError("the third")
    return False
"""
RULES = ("preset:basic", "gopher_repetition@dolma", "c4@fineweb", "pii@redact", "image_detail", "mine.py:not_the_third")


def sources(tmp_path: Path) -> Recipe:
    root = tmp_path / "sources"
    write_sources(root, pairs=6, images=3, texts=8)
    (root / "mine.py").write_text(MINE)
    good = "This is a sentence of some words about a coral trout. " * 2
    text = "\n".join(f"{n} {good}" for n in range(8))
    (root / "texts" / "mail.txt").write_text(f"{text}\nWrite a letter to ann@example.org about it now.\nNo mark here\n")
    decide = {
        "rules": RULES,
        "validation_share": 0.0,
        "rule": {
            "language": {"min_score": 0.1},
            "gopher_repetition": {"duplicate": (1.0,) * 6, "top": (1.0,) * 3, "lines": 1.0, "line_characters": None},
            "c4": {"min_words_per_line": 4},
            "pii": {"placeholder": "class"},
        },
    }
    return small_recipe(root, tmp_path / "work", decide=decide)


def test_a_plan_counts_what_rules_have_measured(tmp_path: Path) -> None:
    made = plan(sources(tmp_path), Terms(workers=1))
    (measure,) = [one.stage for one in made.stages if one.stage.name == "measure"]
    assert measure.units == 5 and measure.seconds > 0  # of pairs and texts pii, of pairs and images picture, and text


class Counted(Store):
    """A store that counts the tables read."""

    def read_table(self, path: str, columns: list[str] | None = None):  # type: ignore[no-untyped-def]
        self.read_paths = [*getattr(self, "read_paths", []), path]
        return super().read_table(path, columns)


def test_a_build_with_measures_edits_texts_and_goes_on_past_a_rule_that_raises(tmp_path: Path) -> None:
    recipe = sources(tmp_path)
    engine = InlineEngine()
    result = Pipeline(recipe, engine).build()
    (shout,) = [line for line in result.warnings if "RAISED" in line]
    assert shout.startswith("not_the_third@1 RAISED on 1 occurrences")
    store = Store(recipe.work)
    decisions = [row for file in result.manifest.decisions.files for row in store.read_table(file.path).to_pylist()]
    (bad,) = [row for row in decisions if (row["detail"] or "").startswith(ERROR)]
    assert (bad["row"], bad["verdict"], bad["rule"]) == ("0003.txt", "drop", "not_the_third@1")
    (mail,) = [row for row in decisions if row["row"] == "mail.txt"]
    assert mail["verdict"] == "keep" and [edit[3] for edit in json.loads(mail["edits"])] == ["<email>", ""]
    facts = result.manifest.decisions
    assert [rule["rule"] for rule in facts.rules][-2:] == ["image_detail@1", "not_the_third@1"]
    assert "source_sha256" in facts.rules[-1] and facts.rules[7]["thresholds"]["min_words_per_line"] == 4
    assert [measure["measure"] for measure in facts.measures] == ["text", "pii", "picture"]
    _another_threshold_reads_no_payload(recipe, engine)


def _another_threshold_reads_no_payload(recipe: Recipe, engine: InlineEngine) -> None:
    annotated = [receipt.outputs["rows"] for receipt in engine.receipts["annotate"]]
    measured = [receipt.outputs["rows"] for receipt in engine.receipts["measure"]]
    of_texts = [output for output in measured if output.rows == annotated[-1].rows]
    rules = {**recipe.decide.rule, "c4": {"min_sentences": 500}}
    accepted = {"rule": rules, "alarm_accept": {"c4": ("texts",)}}
    strict = recipe.model_copy(update={"decide": recipe.decide.model_copy(update=accepted)})
    store = Counted(recipe.work)
    found = decide(store, InlineEngine(), strict, annotated[-1:], None, [of_texts])
    rows = store.read_table(found.decisions[0].path).to_pylist()
    assert {row["rule"] for row in rows if row["row"] == "mail.txt"} == {"c4@fineweb.1"}
    assert not [path for path in store.read_paths if path.startswith("landing")]
    again = InlineEngine()
    Pipeline(strict, again).build()
    assert not again.receipts["measure"] and not again.receipts["annotate"]
