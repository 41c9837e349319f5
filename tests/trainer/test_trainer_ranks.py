"""Runs of two ranks on this machine: the same batches and losses as one process, one error, one signal."""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imglish.recipe import TrainConfig
from imglish.trainer import train
from tests.trainer.rank_helpers import finish, run_ranks, start_ranks, untimed, wait_for
from tests.trainer.trainer_helpers import config, corpus

STEPS = 16


def settings(**changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "batch": {"pair": 4, "image": 4, "text": 4},
        "steps": STEPS,
        "checkpoint_every": 5,
        "ema": 0.9,
        "layer_decay": 0.9,
    }
    return config(**(fields | changes))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def runs(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process; two ranks as copies, asynchronously saved; two as shards, stopped right after an evaluation."""
    root = tmp_path_factory.mktemp("runs")
    sharded = settings(parallel="fsdp", hard_stop=8, evaluate_every=4, activation_checkpointing=True)
    copied = settings(asynchronous=True)
    started = start_ranks(2, manifest, (copied, root / "ddp"), (sharded, root / "fsdp"))
    train(manifest, settings(), 5, root / "one")
    ended = finish(started)
    assert [code for code, _ in ended] == [0, 0], ended
    return root


def largest_difference(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> float:
    """Relative, over all losses of all steps; batches must be the same."""
    assert [each["batch_digest"] for each in first] == [each["batch_digest"] for each in second]
    return max(
        abs(one[name] - other[name]) / abs(one[name])
        for one, other in zip(first, second, strict=True)
        for name in one
        if name.startswith("loss_nats")
    )


def test_two_ranks_have_the_batches_and_losses_of_one_process(runs: Path) -> None:
    whole = untimed(runs / "one")
    assert len(whole) == STEPS
    assert largest_difference(whole, untimed(runs / "ddp")) < 1e-5
    assert largest_difference(whole[:8], untimed(runs / "fsdp")) < 1e-5


def test_a_batch_taken_in_parts_has_the_losses_of_a_whole_one(manifest: Path, runs: Path, tmp_path: Path) -> None:
    train(manifest, settings(accumulate=2), 5, tmp_path)
    assert largest_difference(untimed(runs / "one"), untimed(tmp_path)) < 1e-5


def test_what_two_shards_saved_one_process_continues(manifest: Path, runs: Path) -> None:
    result = train(manifest, settings(), 5, runs / "fsdp")
    assert result.status == "finished"
    assert largest_difference(untimed(runs / "one"), untimed(runs / "fsdp")) < 1e-5
    assert json.loads((runs / "fsdp" / "run.json").read_text())["starts"] == [0, 8]


def test_a_rank_that_is_killed_ends_the_other_with_one_error_and_the_run_goes_on_as_if_nothing_had_happened(
    manifest: Path, runs: Path, tmp_path: Path
) -> None:
    started = start_ranks(2, manifest, (settings(), tmp_path / "killed"))
    wait_for(started[0], 11)
    began = time.monotonic()
    os.kill(started[1].pid, signal.SIGKILL)
    (code, said), (killed, _) = finish(started, timeout=60)
    assert time.monotonic() - began < 60
    assert (code, killed) == (1, -signal.SIGKILL)
    assert said.count("TrainError") == 1 and "rank 0 of 2 lost another rank" in said and "Traceback" not in said
    run_ranks(2, manifest, (settings(), tmp_path / "killed"))
    assert untimed(tmp_path / "killed") == untimed(runs / "ddp")


def test_a_signal_to_one_rank_saves_and_ends_all_and_one_says_so(manifest: Path, tmp_path: Path) -> None:
    started = start_ranks(2, manifest, (settings(steps=100_000, checkpoint_every=100_000), tmp_path))
    wait_for(started[0], 2)
    os.kill(started[1].pid, signal.SIGUSR1)
    ended = finish(started, timeout=60)
    assert [code for code, _ in ended] == [75, 75]
    assert sum(said.count("saved step") for _, said in ended) == 1
    saved = untimed(tmp_path)[-1]["step"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{saved:08d}"]
