"""Deciding anew: the same as a build decides, no payload read, only what changed made again; a dry run; the alarm."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proof_redecide import counted, newly_kept, opened_files, touched_shards
from imglish.audit.why import tell
from imglish.errors import AlarmError, RecipeError, StageError
from imglish.gc import collect
from imglish.ingest.changes import Changes, changes
from imglish.ingest.trail import open_trail
from imglish.pipeline import Pipeline
from imglish.plan import Terms, plan
from imglish.recipe import Recipe
from imglish.rehearse import Overlay, decide_here, rehearse, tried
from imglish.sample import InlineEngine
from imglish.storage import Store
from tests.pipeline.decided import decided_recipe


def other(made: Recipe, *overrides: str, work: Path | None = None) -> Recipe:
    """The recipe with other values, in another copy of its folder when one is given."""
    (host,) = made.fetch.allow_private
    values = [f"work={made.work}" if work is None else f"work={work}"]
    return decided_recipe(Path(made.root) / "recipe.toml", host, *values, *overrides)


@pytest.fixture
def work(decided: Recipe, tmp_path: Path) -> Path:
    return shutil.copytree(decided.work, tmp_path / "work")


def files(folder: str | Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def said(found: Changes) -> dict[tuple[str, str, str | None], int]:
    return {(row.source, row.change, row.rule): row.count for row in found.rows}


def test_another_threshold_reads_no_payload_encodes_the_newly_kept_and_rewrites_shards_that_change(
    decided: Recipe, work: Path
) -> None:
    made = other(decided, "decide.rule.image_aspect.max_aspect=8", work=work)
    before = open_trail(f"{work}/manifest.json")
    pipeline, store, engine = counted(made)
    with opened_files([work / "landing", work / "tables" / "annotate"]) as opened:
        result = pipeline.decide()
    assert opened["landing"] == 0 and opened["annotate"] > 0
    read = {kind: size for sizes in store.bytes.values() for kind, size in sizes.items()}
    assert "payloads" not in read and read["tables/annotate"] > 0
    assert not {"land", "annotate", "measure", "match-verify", "tokenize-text", "pack"} & set(engine.receipts)
    assert open_trail(result.path).trail == result.trail and result.alarm is None
    assert said(changes(store, before.trail, result.trail)) == {("pairs", "dropped -> kept", "image_aspect@1"): 1}

    pipeline, store, engine = counted(made)
    built = pipeline.build()
    after = open_trail(f"{work}/manifest.json")
    assert before.manifest is not None and after.trail == result.trail
    encoded = sum(r.counts["images"] - r.counts["images_reused"] for r in engine.receipts["tokenize-visual"])
    assert newly_kept(store, before.trail, after.trail) == {"documents": 0, "images": encoded} and encoded == 1
    old, new = before.manifest.shards, built.manifest.shards
    rewritten = {n for n, pair in enumerate(zip(old, new, strict=True)) if pair[0].sha256 != pair[1].sha256}
    assert rewritten == touched_shards(store, made, before.trail, after.trail) and len(rewritten) == 1 < len(new)
    assert len(engine.receipts["pack"]) == 1


def test_a_dry_run_says_what_decide_then_does_and_changes_nothing(decided: Recipe, work: Path) -> None:
    made = other(decided, work=work)
    values = [tried(text, made) for text in ("text_length.min_words=200", "rule.image_aspect.max_aspect=8")]
    assert values == ["decide.rule.text_length.min_words=200", "decide.rule.image_aspect.max_aspect=8"]
    changed = other(decided, *values, "decide.alarm_share=1", work=work)
    before = files(work)
    dry = rehearse(made, changed)
    assert files(work) == before
    real = Pipeline(changed, InlineEngine()).decide()
    store = Store(str(work))
    old = open_trail(f"{work}/manifest.json").trail
    assert dry.changes == changes(store, old, real.trail) and dry.result.trail.decisions == real.trail.decisions
    found = said(dry.changes)
    assert found["pairs", "dropped -> kept", "image_aspect@1"] == 1
    assert found["lines", "kept -> dropped", "text_length@1"] == 1  # the page; its near copy is dropped by another rule
    for row in dry.changes.rows:
        assert row.examples and all(key.startswith(f"{row.source}/") for key in row.examples)


def test_a_small_corpus_is_decided_in_this_process_when_nothing_else_is_left(
    decided: Recipe, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = other(decided, "decide.rule.image_aspect.max_aspect=8", work=work)
    found = decide_here(changed, print)
    assert found is not None
    assert found.trail == Pipeline(changed, InlineEngine()).decide().trail
    assert decide_here(other(decided, 'decide.rules=["preset:basic","pii","image_detail"]', work=work), print) is None
    assert decide_here(other(decided, work=tmp_path / "empty"), print) is None
    monkeypatch.setattr("imglish.rehearse.HERE_ROWS", 5)
    assert decide_here(changed, print) is None


def test_a_dry_run_tells_every_sort_of_change(decided: Recipe) -> None:
    dry = rehearse(decided, other(decided, 'decide.rule.pii.placeholder="hash"', "match.text.threshold=0.95"))
    assert said(dry.changes) == {
        ("lines", "edits changed", None): 1,
        ("lines", "dropped -> kept", "near_text@1"): 1,
    }
    split = rehearse(decided, other(decided, "decide.validation_share=0.9"))
    assert {row.change for row in split.changes.rows} == {"split"}
    nothing = rehearse(decided, decided)
    assert nothing.changes.rows == () and nothing.changes.compared > 0


def test_a_dry_run_refuses_what_needs_payloads(decided: Recipe) -> None:
    with pytest.raises(
        StageError, match=r"match must be run again.*0\.5 is below the stored floor 0\.7.*imglish decide"
    ):
        rehearse(decided, other(decided, "match.text.threshold=0.5"))
    with pytest.raises(StageError, match="a rule reads what was not measured yet"):
        rehearse(decided, other(decided, 'decide.rules=["preset:basic","pii","image_detail"]'))
    fitted = other(decided, 'decide.rules=["preset:basic","pii","quality"]', 'decide.measure.quality.good=["texts"]',
                   'decide.measure.quality.bad=["lines"]')  # fmt: skip
    with pytest.raises(StageError, match=r"a rule reads what was not measured yet \(fit-quality.*which read payloads"):
        rehearse(fitted, fitted)
    overlay = Overlay(decided.work, "/nowhere")
    with pytest.raises(StageError, match="a dry run reads no landing"):
        overlay.open(open_trail(f"{decided.work}/manifest.json").trail.files[0].landing)


def test_a_dry_run_before_anything_was_built_says_so(decided: Recipe, tmp_path: Path) -> None:
    empty = other(decided, work=tmp_path / "empty")
    with pytest.raises(StageError, match="there is nothing to decide from yet"):
        rehearse(empty, empty)
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text_lenght.min_words=1", "did you mean text_length.min_words=1"),
        ("ruel.text_length.min_words=1", "did you mean rule.text_length"),
        ("tokenize.batch=4", "no rule and no key of decide or match"),
        ("text_length", "is not key=value, for example text_length.min_words=100"),
    ],
)
def test_a_wrong_set_is_refused(decided: Recipe, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        tried(text, decided)


def test_a_rule_that_takes_a_source_stops_the_build_until_it_is_accepted(decided: Recipe, work: Path) -> None:
    strict = ["decide.rule.text_length.min_words=1000"]
    made, engine = other(decided, *strict, work=work), InlineEngine()
    before = (work / "manifest.json").read_bytes()
    with pytest.raises(AlarmError) as raised:
        Pipeline(made, engine).build()
    message = str(raised.value)
    assert "text_length@1 drops 11 of 12 occurrences of source texts (91.7%), more than" in message
    assert "decide.alarm_share = 90% allows" in message and "stopped before tokenizing" in message
    assert """'decide.alarm_accept.text_length=["lines", "texts"]'""" in message
    assert not {"select", "tokenize-text", "pack"} & set(engine.receipts)
    assert (work / "manifest.json").read_bytes() == before
    trail, key = _why(message)
    story = tell(open_trail(trail), key)
    assert story["occurrences"][0]["rule"] == "text_length@1" and story["samples"] is None
    assert "not to be built as it is: text_length@1 drops" in plan(made, Terms(workers=1)).state
    dead, pending = collect(made, dry_run=True)
    assert dead == {} and isinstance(pending, AlarmError)
    dry = rehearse(made, made).result.alarm or ""
    assert "text_length@1 drops 11 of 12" in dry and "imglish why" not in dry and "stopped" not in dry
    accepted = other(decided, *strict, 'decide.alarm_accept.text_length=["lines", "texts"]', work=work)
    built = Pipeline(accepted, InlineEngine()).build().manifest
    assert built.counts["train"]["text"] == 0 and built.counts["train"]["pair"] > 0


def _why(message: str) -> tuple[str, str]:
    """Path and key of the first command in a message."""
    command = message[message.index("`imglish why ") :].split("`")[1]
    _, _, trail, key = shlex.split(command)
    return trail, key


def test_gc_keeps_the_trail_of_the_manifest_whatever_was_decided_since(decided: Recipe, work: Path) -> None:
    changed = other(decided, "decide.rule.image_aspect.max_aspect=8", work=work)
    Pipeline(changed, InlineEngine()).decide()
    collect(changed)
    story: dict[str, Any] = tell(open_trail(f"{work}/manifest.json"), "lines/lines.jsonl#0")
    assert story["occurrences"][0]["verdict"] == "keep" and story["matches"]
    Pipeline(changed, InlineEngine()).build()
    removed, _ = collect(changed)
    assert any(path.startswith("tables/trails/") for path in removed)
    assert tell(open_trail(f"{work}/manifest.json"), "lines/lines.jsonl#0")["matches"]
