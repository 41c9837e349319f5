"""Claims of `make proof` on training: small corpora of the tests, real processes, real signals.

Every run is a process of its own per rank, started as torchrun starts them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from imglish.errors import TrainError
from imglish.recipe import TrainConfig
from imglish.trainer.checkpoint import latest, open_checkpoint
from tests.trainer.rank_helpers import finish, run_ranks, start_ranks, untimed
from tests.trainer.trainer_helpers import config, corpus

Numbers = dict[str, Any]
KILLS = 10
STEPS = 60
PLACES = 100
"""Of damage in a file; a checkpoint has 60 MB, all of which is read each time."""


def _settings(**changes: Any) -> TrainConfig:
    """Stochastic depth, an average, asynchronous checkpoints every 5 steps; patient, as a machine may pause us."""
    fields: dict[str, Any] = {
        "batch": {"pair": 4, "image": 4, "text": 4},
        "steps": STEPS,
        "checkpoint_every": 5,
        "asynchronous": True,
        "ema": 0.99,
        "timeout": 600.0,
    }
    return config(**(fields | changes))


def killed_runs(world_size: int, root: Path) -> Numbers:
    """60 steps whole, against ten times 60 steps with one SIGKILL at a random instant from step 30 on, and a resume."""
    manifest, rng = _corpus(root), random.Random(world_size)
    run_ranks(world_size, manifest, (_settings(), root / "whole"))
    whole = untimed(root / "whole")
    assert len(whole) == STEPS
    reached, resumed = [], []
    for number in range(KILLS):
        out = root / f"killed-{number}"
        started = start_ranks(world_size, manifest, (_settings(), out))
        _wait(started[0], rng.randint(30, 52))
        time.sleep(rng.uniform(0, 0.15))
        os.kill(started[rng.randrange(world_size)].pid, signal.SIGKILL)
        finish(started, timeout=600)
        before = untimed(out)
        assert len(before) < STEPS, "the run ended before it was killed"
        found = latest(out / "checkpoints")
        assert found is not None
        reached.append(len(before))
        resumed.append(found.step)
        run_ranks(world_size, manifest, (_settings(), out))
        assert untimed(out) == whole, f"run {number} differs"
    return {"killed_after_step": reached, "resumed_at_step": resumed, "loss_step_60_nats": whole[-1]["loss_nats"]}


def same_losses(root: Path) -> Numbers:
    """30 steps on 1, 2 and 4 ranks, on 2 and 4 shards, in parts, and saved by 2 shards and continued by 1 process."""
    manifest, steps = _corpus(root), 30
    runs: dict[str, tuple[int, list[TrainConfig]]] = {
        "1": (1, [_settings(steps=steps)]),
        "1, accumulate 2": (1, [_settings(steps=steps, accumulate=2)]),
        "2 ddp": (2, [_settings(steps=steps)]),
        "2 ddp, accumulate 2": (2, [_settings(steps=steps, accumulate=2)]),
        "4 ddp": (4, [_settings(steps=steps)]),
        "2 fsdp": (2, [_settings(steps=steps, parallel="fsdp")]),
        "4 fsdp": (4, [_settings(steps=steps, parallel="fsdp")]),
        "2 fsdp to step 15": (2, [_settings(steps=steps, parallel="fsdp", hard_stop=15)]),
    }
    for name, (world_size, settings) in runs.items():
        run_ranks(world_size, manifest, *((each, root / name) for each in settings))
    shutil.copytree(root / "2 fsdp to step 15", root / "2 fsdp, then 1")
    run_ranks(1, manifest, (_settings(steps=steps), root / "2 fsdp, then 1"))
    shutil.copytree(root / "2 fsdp to step 15", root / "2 fsdp, then 4 ddp")
    run_ranks(4, manifest, (_settings(steps=steps), root / "2 fsdp, then 4 ddp"))
    whole = untimed(root / "1")
    numbers: Numbers = {}
    for name in [*runs, "2 fsdp, then 1", "2 fsdp, then 4 ddp"]:
        other = untimed(root / name)
        compared = whole[: len(other)]
        assert len(other) == (15 if "to step" in name else steps)
        assert [one["batch_digest"] for one in compared] == [one["batch_digest"] for one in other], name
        numbers[name] = max(
            abs(one["loss_nats"] - two["loss_nats"]) / one["loss_nats"]
            for one, two in zip(compared, other, strict=True)
        )
        assert numbers[name] < 1e-5, (name, numbers)
    return {"largest_relative_difference": numbers}


def torn_checkpoints(root: Path) -> Numbers:
    """Every file of a checkpoint of 2 shards, cut and flipped at places of a grid of 100: always refused."""
    manifest = _corpus(root)
    run_ranks(2, manifest, (_settings(steps=10, parallel="fsdp"), root / "run"))
    whole = root / "run" / "checkpoints" / "step-00000010"
    before, tried = open_checkpoint(whole).step, 0
    for path in sorted(whole.iterdir()):
        content = path.read_bytes()
        for number in range(PLACES):
            place = number * len(content) // PLACES
            damaged = content[:place] if number % 2 else _flipped(content, place)
            path.write_bytes(damaged)
            try:
                open_checkpoint(whole)
            except TrainError:
                tried += 1
            else:
                raise AssertionError(f"{path.name} damaged at byte {place} was taken for good")
            if number % 25 == 0:
                found = latest(whole.parent)
                assert found is not None and found.step == 5
        path.write_bytes(content)
    assert open_checkpoint(whole).step == before == 10
    return {"files": len(list(whole.iterdir())), "damages_refused": tried}


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _wait(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    while int(process.stdout.readline()) < step:
        pass


def _corpus(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return corpus(root / "corpus")
