"""The audit of a run: the chain of its batches, what it saw of each source, and a statement that others can check."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imglish.audit.run import ChainError, run_report
from imglish.cli import main
from imglish.errors import OrderError
from imglish.shards import open_corpus
from imglish.shards.loader import Loader
from tests.audit.audit_helpers import corpus

BATCH = {"pair": 4, "image": 2, "text": 3}
STEPS = 30


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def keys(manifest: Path) -> list[dict[str, list[str]]]:
    """What a loader really gave, step by step."""
    with Loader(open_corpus(str(manifest)), batch=BATCH, seed=5, workers=0) as loader:
        return [dict(next(loader).keys) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with what its loader really gave."""
    folder, found = tmp_path_factory.mktemp("run"), open_corpus(str(manifest))
    identity = {"data_digest": found.manifest.data_digest, "seed": 5}
    result = {"status": "finished", "step": STEPS, "checkpoint": "step-00000030"}
    facts = {"identity": identity, "train": {"batch": BATCH}, "corpus": {"name": "small"}, "starts": [0]}
    (folder / "run.json").write_text(json.dumps({**facts, "result": result}))
    with Loader(found, batch=BATCH, seed=5, workers=0) as loader:
        lines = [
            {"step": step, "batch_digest": next(loader).digest, "loss_nats": 9.0 / step, "learning_rate": 1e-3}
            for step in range(1, STEPS + 1)
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_chain_is_what_the_run_logged(manifest: Path, run: Path, tmp_path: Path) -> None:
    values = run_report(str(manifest), str(run), str(tmp_path / "run.html"))
    logged = [json.loads(line)["batch_digest"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert values["chain"]["digest"] == hashlib.sha256(bytes.fromhex("".join(logged))).hexdigest()
    assert [values["chain"][name] for name in ("steps", "checked", "wrong")] == [STEPS, STEPS, 0]
    assert values["chain"]["digest"] in "".join(values["statement"])
    assert json.loads((tmp_path / "run.audit.json").read_bytes()) == values
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert text.count("<figure") == 2
    assert "step-00000030 was trained on exactly the samples" in text


def test_visits_and_epochs_are_what_a_loader_gave(
    manifest: Path, run: Path, keys: list[dict[str, list[str]]], tmp_path: Path
) -> None:
    seen = run_report(str(manifest), str(run), str(tmp_path / "run.html"))["seen"]
    for kind, each in BATCH.items():
        given = [key for step in keys for key in step[kind]]
        counts = np.unique(given, return_counts=True)[1]
        assert [seen[kind][name] for name in ("visits", "rows_seen", "most_visits")] == [
            STEPS * each, len(counts), counts.max(),
        ]  # fmt: skip
    found = open_corpus(str(manifest))
    assert sum(cell["visits"] for cell in seen["pair"]["source"].values()) == STEPS * 4
    assert {name: cell["rows"] for name, cell in seen["pair"]["source"].items()} == {"drawn": 12, "rare": 4}
    ids = sum(
        int((block.ids != 1).sum()) * sum(step["text"].count(block.key) for step in keys) for block in found["text"]
    )
    assert seen["text"]["source"]["books"]["visits"] == ids


def test_a_third_party_needs_manifest_and_run_json_only(manifest: Path, run: Path, tmp_path: Path) -> None:
    shutil.copy(manifest, tmp_path / "manifest.json")
    shutil.copy(run / "run.json", tmp_path / "its.json")
    whole = run_report(str(manifest), str(run), str(tmp_path / "a.html"))
    alone = run_report(str(tmp_path / "manifest.json"), str(tmp_path / "its.json"), str(tmp_path / "b.html"))
    assert alone["chain"]["digest"] == whole["chain"]["digest"]
    assert alone["chain"]["checked"] == 0
    assert "nothing that it logged was held against this" in alone["statement"][2]


def test_a_step_that_saw_other_data_breaks_the_statement(manifest: Path, run: Path, tmp_path: Path) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    lines = (changed / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[6])
    lines[6] = json.dumps({**record, "batch_digest": "0" * 32})
    (changed / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ChainError, match=r"1 of 30 steps saw other data .* first step 7: logged 0000"):
        run_report(str(manifest), str(changed), str(tmp_path / "run.html"))
    values = json.loads((tmp_path / "run.audit.json").read_bytes())
    assert values["chain"]["wrong_steps"][0]["step"] == 7
    assert values["statement"] == [
        "1 of 30 logged steps saw other data than manifest and run.json give: nothing can be said of what this run was "
        "trained on."
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "run.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "run.json").write_text("{}"), "is no run.json"),
        (
            lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1}\n[]\n'),
            "metrics.jsonl, line 2: not a record",
        ),
    ],
)
def test_a_folder_that_is_no_run_is_named_and_nothing_is_written(
    manifest: Path, run: Path, tmp_path: Path, change: Any, said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    change(folder)
    with pytest.raises(OrderError, match=said):
        run_report(str(manifest), str(folder), str(tmp_path / "out.html"))
    assert not (tmp_path / "out.html").exists()


def test_a_step_that_was_not_done_is_refused(manifest: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="has done 30 steps; there are no samples of step 31"):
        run_report(str(manifest), str(run), str(tmp_path / "run.html"), step=31)


def test_the_command_prints_the_statement(
    manifest: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["imglish", "audit", str(manifest), "--run", str(run), "--step", "3", "-o", str(tmp_path / "run.html")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "steps 1 to 30 under seed 5" in capsys.readouterr().out
    assert "Samples of step 3" in (tmp_path / "run.html").read_text(encoding="utf-8")
