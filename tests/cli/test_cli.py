"""Every verb does its work, teaches with --help, and says what is wrong with one line and the right exit status."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imglish.cli import main
from imglish.digests import record_id
from tests.pipeline.corpora import drawing, write_sources
from tests.shards.changed_helpers import packed
from tests.shards.pack_helpers import mixed_tables
from tests.shards.pack_helpers import recipe as pack_recipe

RECIPE = """
name = "small"
root = "sources"
work = "corpus"

[[source]]
name = "pairs"
format = "folder"
kind = "pair"
path = "pairs"

[[source]]
name = "images"
format = "folder"
kind = "image"
path = "images"

[[source]]
name = "texts"
format = "text"
kind = "text"
path = "texts"

[decide]
validation_share = 0.2
rule = { language = { min_score = 0.1 } }

[tokenize]
batch = 16
text = { vocabulary = 400 }
visual = { size = 64, patch = 16, codes = 32, iterations = 5 }
stored = { short_side = 96 }
views = { count = 2 }

[pack]
train_shards = 2

[train]
batch = { pair = 2, image = 2, text = 2 }
steps = 4
warmup = 1
text_length = 64
"""


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """The exit status of `imglish words...`."""
    monkeypatch.setattr(sys, "argv", ["imglish", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose corpus is built."""
    folder = tmp_path_factory.mktemp("cli")
    write_sources(folder / "sources")
    (folder / "small.toml").write_text(RECIPE)
    ran = subprocess.run(
        [sys.executable, "-m", "imglish", "build", str(folder / "small.toml"), "--workers", "1"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "MB in" in ran.stdout and "small@1  digest " in ran.stdout and "exact" not in ran.stderr
    assert "pack: 3 of 3" in ran.stderr
    return folder / "small.toml"


def test_build_again_prints_the_same_digest(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "build", recipe) == 0
    assert f"manifest {recipe.parent}/corpus/manifest.json" in capsys.readouterr().out


def test_verify_names_a_flipped_byte_and_fails(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = recipe.parent / "corpus" / "manifest.json"
    assert run(monkeypatch, "verify", manifest) == 0
    assert "every byte is as the manifest says" in capsys.readouterr().out
    shard = sorted((manifest.parent / "shards").glob("*.tar"))[0]
    good = shard.read_bytes()
    try:
        shard.write_bytes(good[:700] + bytes([good[700] ^ 1]) + good[701:])
        assert run(monkeypatch, "verify", manifest) == 1
        assert shard.stem[:8] in capsys.readouterr().out
    finally:
        shard.write_bytes(good)


def test_plan_audit_look_and_gc_work_on_a_built_corpus(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = recipe.parent / "corpus" / "manifest.json"
    assert run(monkeypatch, "plan", recipe) == 0
    assert "nothing to do; the manifest is up to date" in capsys.readouterr().out
    assert run(monkeypatch, "audit", manifest) == 0
    assert (manifest.parent / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert run(monkeypatch, "look", manifest, "--seed", "1", "-o", manifest.parent / "look.png") == 0
    assert (manifest.parent / "look.png").read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, "audit", manifest, "--index") == 0
    assert list((manifest.parent / "look").glob("words-*.parquet"))
    card = manifest.parent / "README.md"
    assert run(monkeypatch, "croissant", manifest, "--card", card) == 0
    assert card.read_text().startswith("---\npretty_name: ")
    assert json.loads((manifest.parent / "croissant.json").read_bytes())["@type"] == "sc:Dataset"
    (manifest.parent / "tables" / ".tmp-x").write_bytes(b"left")
    assert run(monkeypatch, "gc", recipe, "--dry-run") == 0
    assert "would remove 1 files" in capsys.readouterr().out
    assert run(monkeypatch, "gc", recipe) == 0
    assert not (manifest.parent / "tables" / ".tmp-x").exists()


def test_diff_says_what_another_threshold_did(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, other = recipe.parent / "corpus", recipe.parent / "other"
    assert run(monkeypatch, "diff", corpus / "manifest.json", corpus / "manifest.json") == 0
    assert capsys.readouterr().out.endswith("the same corpus\n")
    shutil.copytree(corpus, other)
    changes = ("work=other", "decide.rule.text_length.min_words=10000", "decide.captioned_images=both")
    assert run(monkeypatch, "build", recipe, "--workers", "1", *changes) == 1
    stopped = capsys.readouterr().err
    assert "AlarmError: text_length@1 drops 30 of 30 occurrences of source texts (100.0%)" in stopped
    accepted = 'decide.alarm_accept.text_length=["texts"]'
    assert f"accept it: '{accepted}'" in stopped
    assert run(monkeypatch, "build", recipe, "--workers", "1", *changes, accepted) == 0
    capsys.readouterr()
    assert run(monkeypatch, "diff", corpus / "manifest.json", other / "manifest.json") == 0
    said = capsys.readouterr().out
    assert "samples removed: 30  kind text, source texts, why text_length@1\n" in said
    assert "decisions redecided: " in said and "new drop by text_length@1" in said
    assert "samples added: 4  kind image, source images, why merge by " in said
    assert "rules.text_length@1.thresholds.min_words: 50 -> 10000\n" in said
    assert run(monkeypatch, "diff", corpus / "manifest.json", other / "manifest.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["decide.captioned_images"] == ["pair", "both"]


def test_why_tells_a_record_in_words_and_as_json(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = recipe.parent / "corpus" / "manifest.json"
    key = record_id("image", drawing(0)).hex()
    assert run(monkeypatch, "why", manifest, "pairs/0000.jpg") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"record {key} of small@1") and "in the corpus: " in said
    assert run(monkeypatch, "why", manifest, key[:8], "--json") == 0
    assert json.loads(capsys.readouterr().out)["record"] == key


def test_decide_says_what_changes_dry_and_for_good(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(recipe.parent / "corpus", tmp_path / "corpus")
    place, tries = f"work={work}", "text_length.min_words=10000"
    assert run(monkeypatch, "decide", recipe, place, "--dry-run", "--set", tries) == 0
    said = capsys.readouterr().out
    assert "30 of 90 occurrences change" in said and "kept -> dropped by text_length@1: texts/" in said
    assert "a build would stop: text_length@1 drops 30 of 30" in said
    assert run(monkeypatch, "decide", recipe, place, "--dry-run", "--json", "--workers", "1") == 0
    assert json.loads(capsys.readouterr().out)["changes"]["rows"] == []
    assert run(monkeypatch, "decide", recipe, place, f"decide.rule.{tries}", "--workers", "1") == 1
    shown = capsys.readouterr()
    assert "shards and manifest follow with 'imglish build'" in shown.out and "AlarmError: " in shown.err
    assert run(monkeypatch, "decide", recipe, place, "--workers", "1") == 0
    assert "the corpus is as decided" in capsys.readouterr().out


def test_sample_decisions_draws_a_page_and_reads_its_labels(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = recipe.parent / "corpus" / "manifest.json", tmp_path / "sample"
    assert run(monkeypatch, "sample-decisions", manifest, "-o", folder, "--each", "3") == 0
    assert "12 of 90 decisions, in 4 strata" in capsys.readouterr().out and (folder / "index.html").exists()
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace('"merge",""', '"merge","right"'))
    assert run(monkeypatch, "sample-decisions", manifest, "--labels", table) == 0
    assert "exact_duplicate@1       3       0        0      100.0%   43.9% to 100.0%" in capsys.readouterr().out
    assert run(monkeypatch, "sample-decisions", manifest, "--labels", table, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rules"][1]["right"] == 3


def test_merge_counts_what_stands_in_both_and_verify_and_audit_take_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = mixed_tables(pack_recipe())
    parts = [packed(tmp_path / name, pack_recipe(), mine) for name, mine in (("a", tables), ("b", tables[:1]))]
    whole = tmp_path / "all.json"
    assert run(monkeypatch, "merge", whole, *parts, "--name", "both") == 0
    said = capsys.readouterr().out
    assert "2 parts, 8 shards; 24 records stand in more than one part, 0 of them in different splits" in said
    assert "is in a and b" in said and "both@1  digest " in said and "not globally deduplicated" in said
    assert run(monkeypatch, "verify", whole) == 0
    assert run(monkeypatch, "audit", whole) == 0
    assert run(monkeypatch, "merge", tmp_path / "a" / "all.json", *parts) == 1
    assert "put the merged manifest into a folder above all parts" in capsys.readouterr().err


def test_train_resumes_where_it_stopped(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", recipe) == 0
    said = capsys.readouterr()
    assert "finished after step 4" in said.out and "checkpoint " in said.out
    assert run(monkeypatch, "train", recipe) == 0
    assert "finished after step 4" in capsys.readouterr().out


def test_a_run_is_repeated_from_its_file_timed_and_exported(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, model = (recipe.parent / name for name in ("first", "second", "model"))
    assert run(monkeypatch, "train", recipe, "train.hard_stop=2", "-o", first) == 0
    assert run(monkeypatch, "train", "--from-run", first / "run.json", "-o", second) == 0
    assert "stopped after step 2" in capsys.readouterr().out
    losses = [
        [json.loads(line)["loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (first, second)
    ]
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    assert run(monkeypatch, "export", second, "-o", model) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(model / "model.safetensors")
    assert "small@1" in (model / "README.md").read_text()
    assert run(monkeypatch, "bench", recipe, "--steps", "1") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[1:4]] == ["reader only", "step only", "end to end"]
    assert said[4] in ("the limit is the reader", "the limit is the step")


def test_replay_gives_the_digests_that_a_run_logged(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, folder = recipe.parent / "corpus" / "manifest.json", recipe.parent / "replayed"
    assert run(monkeypatch, "train", recipe, "-o", folder) == 0
    logged = [json.loads(line)["batch_digest"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    capsys.readouterr()
    for step, digest in enumerate(logged, 1):
        assert run(monkeypatch, "replay", manifest, "--step", str(step), "--run", folder / "run.json") == 0
        assert f"batch_digest {digest}" in capsys.readouterr().out
    options = ("--batch", "pair=2,image=2,text=2", "--seed", "0", "--details", "--json")
    assert run(monkeypatch, "replay", manifest, "--step", "4", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch_digest"] == logged[3]
    assert [len(found["kinds"][kind]) for kind in ("pair", "image", "text")] == [2, 2, 2]
    assert all(row["occurrences"] for rows in found["kinds"].values() for row in rows)


def test_plan_says_what_a_run_will_read(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", recipe, "--train", "--world-size", "2") == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny (shared), ") and "memory of a device" in said and "time of the run" in said
    assert "small@1: 4 steps of 2 pair + 2 image + 2 text on 2 ranks" in said
    for title in ("epochs of the run", "requests in an epoch", "cache of a rank", "share a shard", "cold resume reads"):
        assert title in said
    assert run(monkeypatch, "plan", recipe, "--train", "--world-size", "3") == 1
    assert "3 ranks cannot share equally" in capsys.readouterr().err


def test_fit_prints_the_locked_tokenizers(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fit", "visual", recipe) == 0
    assert capsys.readouterr().out.startswith("visual: ")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("build", "none.toml"), 2, "RecipeError: no recipe at none.toml; see recipes/ for examples"),
        (("build", "{recipe}", "train.leraning_rate=1"), 2, "did you mean train.learning_rate?"),
        (("fit", "texts", "{recipe}"), 2, "use text, visual, both, quality or alignment"),
        (("train", "{recipe}", "--manifest", "none.json"), 1, "none.json"),
        (("train",), 2, "give a recipe, or --from-run"),
        (("train", "--from-run", "none.json", "-o", "out"), 1, "none.json cannot be read"),
        (("train", "--from-run", "none.json"), 2, "a folder of its own with --output"),
        (("export", "no-such-run", "-o", "out"), 1, "no-such-run holds no checkpoint"),
        (("plan", "{recipe}", "--train", "--device", "a101"), 2, "--device a101 is not known; there are a100-40gb"),
        (("verify", "none.json"), 1, "none.json"),
        (("audit", "none.json"), 1, "none.json"),
        (("audit", "{manifest}", "--require", "stats.x<1", "--index"), 2, "--require is about the report of a corpus"),
        (("audit", "{manifest}", "--step", "3"), 2, "--step belongs to --run"),
        (("look", "none.json"), 1, "none.json"),
        (("gc", "none.toml"), 2, "no recipe at none.toml"),
        (("plan", "none.toml"), 2, "no recipe at none.toml"),
        (("why", "none.json", "abcd"), 1, "no manifest at none.json; make one with 'imglish build'"),
        (("why", "{manifest}", "nothing"), 1, "'nothing' is none of the three names of a record; give a record id"),
        (("decide", "{recipe}", "--set", "text_length.min_words=9"), 2, "--set belongs to --dry-run"),
        (("decide", "{recipe}", "--dry-run", "--set", "text_lenght.min_words=9"), 2, "did you mean text_length.min"),
        (("decide", "{recipe}", "--dry-run", "--set", "text_length.min_word=9"), 2, "did you mean decide.rule.text_l"),
        (("decide", "{recipe}", "--dry-run", "--set", 'text_length.min_words="x"'), 2, "decide.rule.text_length.min_w"),
        (("sample-decisions", "{manifest}"), 2, "give -o FOLDER to draw a sample, or --labels CSV"),
        (("sample-decisions", "{manifest}", "--labels", "none.csv"), 2, "no labels at none.csv"),
        (("sample-decisions", "{manifest}", "-o", "x", "--rule", "nsfw"), 2, "'nsfw' decided nothing here"),
        (("demo", "--data", "no-such-folder"), 1, "no-such-folder"),
        (("plan", "{recipe}", "--world-size", "2"), 2, "belong to --train"),
        (("plan", "{recipe}", "--train", "--manifest", "none.json"), 1, "no manifest at none.json"),
        (("replay", "none.json", "--step", "1"), 1, "no manifest at none.json"),
        (("replay", "none.json", "--step", "1", "--batch", "pear=8"), 2, "'pear=8' is not one of pair, image, text"),
        (("replay", "none.json", "--step", "1", "--seed", "1", "--run", "r"), 2, "--run says what seed was"),
        (("replay", "none.json"), 2, "Missing option '--step'"),
        (("bild",), 2, "No such command 'bild'"),
    ],
)
def test_a_wrong_input_is_one_clear_line(
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    places = {"{recipe}": str(recipe), "{manifest}": str(recipe.parent / "corpus" / "manifest.json")}
    assert run(monkeypatch, *(places.get(word, word) for word in words)) == status
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "plan",
        "build",
        "fit",
        "verify",
        "diff",
        "merge",
        "audit",
        "look",
        "croissant",
        "train",
        "replay",
        "gc",
        "export",
        "bench",
        "why",
        "decide",
        "sample-decisions",
    ],
)
def test_every_verb_teaches(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


def test_help_imports_no_heavy_package() -> None:
    script = (
        "import sys; sys.argv = ['imglish', '--help']\n"
        "from imglish.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'dask', 'distributed', 'pandas', 'img2dataset', 'cv2', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_forget_says_what_would_go_and_then_does_it(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(recipe.parent / "corpus", corpus)
    key = record_id("image", drawing(0)).hex()
    assert run(monkeypatch, "forget", corpus / "manifest.json", "--key", key, "--dry-run") == 0
    assert capsys.readouterr().out == "1 records, 1 rows of landing would go\n"
    assert run(monkeypatch, "forget", corpus / "manifest.json", "--key", key) == 0
    assert "tombstones: 1 pair, 0 image, 0 text; 0 records were not in the corpus" in capsys.readouterr().out
    assert run(monkeypatch, "forget", corpus / "manifest.json", "--key", "beef") == 2
    assert "--key 'beef' is no record id" in capsys.readouterr().err
    assert run(monkeypatch, "forget", corpus / "manifest.json") == 2


def test_retry_counts_what_landed_and_names_an_unknown_class(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "retry", recipe, "--class", "timeout,5xx") == 0
    assert capsys.readouterr().out.split()[0] == "ok"
    assert run(monkeypatch, "retry", recipe, "--class", "timeuot") == 2
    assert "no failure class 'timeuot'; known are timeout" in capsys.readouterr().err
