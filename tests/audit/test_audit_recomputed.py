"""Every figure of audit.json is what a slow script finds in tars, landing, decisions and receipts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imglish.audit.report import report
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe
from tests.audit.slow_audit import audit, differences
from tests.ingest.engine_helpers import Inline
from tests.pipeline.corpora import drawing, plant_faults, sentence, small_recipe, write_sources


def recipe_with_everything(root: Path, work: Path) -> Recipe:
    """Pairs with URLs, repeats, personal data, near duplicates, a leaked evaluation picture, faults of every sort."""
    write_sources(root, pairs=24, images=12, texts=16)
    plant_faults(root)
    table = ["image\tcaption\turl\tlicence"]
    for number in range(12):
        host = f"host{number % 3}.example"
        words = "the same words again" if number < 4 else f"{sentence(number)} ask me@mail{number}.example now"
        table.append(f"pairs/{number % 30:04d}.jpg\t{words}\thttps://{host}/201{number % 3}/{number}.jpg\tCC-BY-4.0")
    table[5] = table[5].replace("pairs/0004.jpg", "pairs/none.jpg")
    (root / "table.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    (root / "evaluation").mkdir()
    (root / "evaluation" / "leaked.jpg").write_bytes(drawing(7))
    sources = [
        {"name": "pairs", "format": "folder", "kind": "pair", "path": "pairs", "licence": "CC0-1.0"},
        {"name": "images", "format": "folder", "kind": "image", "path": "images", "priority": 1},
        {"name": "table", "format": "tsv", "kind": "pair", "path": "table.tsv", "priority": 2, "options": _COLUMNS},
        {"name": "texts", "format": "text", "kind": "text", "path": "texts"},
    ]
    match = {"evaluation": [{"name": "held-out", "path": "evaluation"}], "image": {"threshold": 0.95}}
    rules = {"rules": ["preset:basic", "pii@redact"], "rule": {"language": {"min_score": 0.1}}, "validation_share": 0.2}
    return small_recipe(root, work, source=sources, match=match, decide=rules)


_COLUMNS = {"image": "image", "captions": ["caption"], "url": "url", "licence": "licence"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    Pipeline(recipe_with_everything(folder / "root", folder / "work"), Inline()).build()
    report(str(folder / "work" / "manifest.json"), str(folder / "work" / "report.html"))
    return folder / "work" / "manifest.json"


@pytest.fixture(scope="module")
def fast(built: Path) -> dict[str, Any]:
    return dict(json.loads((built.parent / "audit.json").read_bytes()))


def test_every_figure_is_what_the_slow_script_finds(built: Path, fast: dict[str, Any]) -> None:
    assert differences(audit(built), fast) == []


def test_the_slow_script_sees_a_figure_that_is_wrong(built: Path, fast: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(fast))
    changed["pairs"]["language"] = {}
    changed["codes"]["perplexity"] += 0.01
    changed["pictures"]["brightness"]["bins"][0]["count"] += 1
    changed["fetch"]["guessed"] = 1
    wrong = differences(audit(built), changed)
    assert {line.partition(":")[0] for line in wrong} >= {
        ".codes.perplexity",
        ".pictures.brightness.bins",
        ".fetch.guessed",
    }
    assert any(line.startswith(".pairs.language.") for line in wrong)


def test_the_corpus_has_something_of_everything(fast: dict[str, Any]) -> None:
    assert fast["contamination"]["set"]["held-out"] == {"pair": 2}
    assert fast["privacy"]["redacted"]["pieces"]["email"] > 3
    assert fast["captions"]["repeated"][0] == {"text": "the same words again", "count": 4}
    assert fast["duplicates"]["exact_duplicate@1"]["groups"] > 3
    assert fast["fetch"]["status"]["missing_file"] == 1
    assert fast["fetch"]["year"]["2010"]["asked"] == 4
    assert {check["what"]: check["state"] for check in fast["rebuild"]}["landing of pairs"] == "verified"


def test_the_plan_is_arithmetic(fast: dict[str, Any]) -> None:
    train, plan = fast["samples"]["train"], fast["plan"]["kind"]
    assert plan["image"]["epochs"] == round(2048 * 1_000_000 / train["image"], 6)
    assert plan["image"]["masked_patches"] == 2048 * 1_000_000 * 6  # 40 % of a 4 x 4 grid
    inner = fast["ids"]["captions"]["count"] - 2 * fast["captions"]["count"]
    assert plan["pair"]["masked_ids"] == pytest.approx(2048e6 * inner / fast["captions"]["count"] / 2, rel=1e-9)
