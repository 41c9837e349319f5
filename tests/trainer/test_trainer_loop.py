import json
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from imglish.errors import TrainError
from imglish.recipe import TrainConfig
from imglish.shards.loader import validation_batches
from imglish.trainer import loop, train
from imglish.trainer.parallel import Place
from tests.trainer.rank_helpers import start_ranks, untimed, wait_for
from tests.trainer.trainer_helpers import config, corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


def interrupt(process: subprocess.Popen[str], step: int, number: signal.Signals) -> tuple[int, str]:
    """Wait for a step, send a signal; the exit code and what was said."""
    with process:
        wait_for(process, step)
        process.send_signal(number)
        said = process.stderr.read() if process.stderr is not None else ""
    return process.returncode, said


def test_a_killed_and_resumed_run_has_the_losses_of_one_that_was_not(manifest: Path, tmp_path: Path) -> None:
    settings = config(precision="bf16")
    train(manifest, settings, 5, tmp_path / "whole")
    code, _ = interrupt(start_ranks(1, manifest, (settings, tmp_path / "killed"))[0], 7, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert max(record["step"] for record in untimed(tmp_path / "killed")) >= 7
    result = train(manifest, settings, 5, tmp_path / "killed")
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")
    assert [record["step"] for record in untimed(tmp_path / "whole")] == list(range(1, 13))
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["starts"] == [0, 6]
    assert result.status == "finished"


def test_a_run_told_to_stop_saves_exits_75_and_goes_on(manifest: Path, tmp_path: Path) -> None:
    settings = config(steps=100_000, checkpoint_every=100_000)
    code, said = interrupt(start_ranks(1, manifest, (settings, tmp_path))[0], 2, signal.SIGTERM)
    saved = untimed(tmp_path)[-1]["step"]
    assert code == 75
    assert f"SIGTERM received: saved step {saved}" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{saved:08d}"]
    again = start_ranks(1, manifest, (settings, tmp_path))[0]
    assert again.stdout is not None
    assert int(again.stdout.readline()) == saved + 1
    again.kill()
    again.communicate()


def test_a_finished_run_says_everything_and_is_not_trained_again(manifest: Path, tmp_path: Path) -> None:
    settings = config(steps=3)
    result = train(manifest, settings, 5, tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["result"]["evaluation"]["codes"]["positions"] == result.evaluation["codes"].positions  # type: ignore[index]
    assert set(result.evaluation or ()) == {"codes", "words", "image/codes", "pair/codes", "pair/words", "text/words"}
    assert {"torch", "threads", "platform", "device"} <= told["environment"].keys()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(manifest, settings, 5, tmp_path)
    assert again.evaluation == result.evaluation
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_can_be_repeated_from_its_run_file(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=3), 5, tmp_path / "first")
    told = json.loads((tmp_path / "first" / "run.json").read_text())
    settings = TrainConfig.model_validate_json(json.dumps(told["train"]))
    train(told["corpus"]["manifest"], settings, told["identity"]["seed"], tmp_path / "second")
    assert untimed(tmp_path / "first") == untimed(tmp_path / "second")


def test_a_checkpoint_of_another_run_is_refused_with_the_differing_fields(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=3), 5, tmp_path)
    with pytest.raises(TrainError, match=r"seed was 5 and is 6; train\.learning_rate was 0\.001 and is 0\.002"):
        train(manifest, config(steps=3, learning_rate=0.002), 6, tmp_path)
    with pytest.raises(TrainError, match="holds a run at step 3"):
        train(manifest, config(steps=3), 5, tmp_path, resume="never")


def test_fields_that_do_not_change_the_run_may_differ_on_resume(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=3), 5, tmp_path)
    assert train(manifest, config(steps=3, log_every=1, loader_workers=0), 5, tmp_path).step == 3


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_batch(
    manifest: Path, tmp_path: Path, poison: str
) -> None:
    trainer = loop.Trainer(str(manifest), config(steps_to_skip=(9,)), 5, tmp_path, Place(0, 1, torch.device("cpu")))
    trainer.start("auto")
    head = trainer.model.mlm_head
    if poison == "loss":
        with torch.no_grad():
            head.bias[7] = math.nan
    else:
        head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainError, match=r"step 1: .*failed-batch-00000001\.json.*steps_to_skip=\[1, 9\]"):
        trainer.run(None)
    trainer.close()
    listed = json.loads((tmp_path / "failed-batch-00000001.json").read_text())
    assert listed["step"] == 1 and {"pair", "image", "text"} == listed["kinds"].keys()
    assert not (tmp_path / "checkpoints").exists()


def test_time_that_is_over_ends_the_run_with_a_checkpoint(manifest: Path, tmp_path: Path) -> None:
    result = train(manifest, config(max_minutes=1e-9, steps=5), 5, tmp_path / "never")
    assert (result.status, result.step) == ("out of time", 1)
    assert result.checkpoint.is_dir()


def test_what_fits_in_training_fits_in_evaluation(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(*given: Any, **named: Any) -> Any:
        asked.append(named["batch"])
        return validation_batches(*given, **named)

    monkeypatch.setattr(loop, "validation_batches", watched)
    train(manifest, config(steps=1, batch={"pair": 4, "image": 2, "text": 2}, accumulate=2), 5, tmp_path)
    assert asked == [{"pair": 2, "image": 1, "text": 1}]


def test_a_tiny_model_learns_what_it_is_shown(manifest: Path, tmp_path: Path) -> None:
    train(manifest, config(steps=40, learning_rate=2e-3, drop_path=0.0), 5, tmp_path)
    losses = [record["loss_nats"] for record in untimed(tmp_path)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_all_cores_are_used_unless_told_even_after_a_stage_that_used_one(manifest: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(manifest, config(steps=1, threads=None), 5, tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["environment"]["threads"] == len(os.sched_getaffinity(0))
