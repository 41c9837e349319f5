"""Runs of several ranks as plain processes with torchrun's environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imglish.recipe import TrainConfig
from imglish.trainer.metrics import TIMED, read_metrics

WORKER = """
import json, os, sys
from imglish.errors import ImglishError
from imglish.recipe import TrainConfig
from imglish.trainer import train

def show(record):
    print(record["step"], flush=True)

manifest, *jobs = sys.argv[1:]
for port, settings, out in map(json.loads, jobs):
    os.environ["MASTER_PORT"] = str(port)
    try:
        train(manifest, TrainConfig.model_validate_json(settings), 5, out, progress=show)
    except ImglishError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_ranks(world_size: int, manifest: Path, *jobs: tuple[TrainConfig, Path]) -> list[subprocess.Popen[str]]:
    """`world_size` processes that do the jobs (settings, folder of the run) one after another."""
    told = [json.dumps([free_port(), settings.model_dump_json(), str(out)]) for settings, out in jobs]
    processes = []
    for rank in range(world_size):
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        names = {name: str(value) for name, value in given.items()}
        environment = {**os.environ, **names, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, str(manifest), *told]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
    return processes


def wait_for(process: subprocess.Popen[str], step: int) -> None:
    """Until the first process has done a step."""
    assert process.stdout is not None
    while int(process.stdout.readline()) < step:
        pass


def finish(processes: Sequence[subprocess.Popen[str]], timeout: float = 120) -> list[tuple[int, str]]:
    """Exit status and what was said on standard error, by rank."""
    found = []
    for process in processes:
        _, said = process.communicate(timeout=timeout)
        found.append((process.returncode, said))
    return found


def run_ranks(world_size: int, manifest: Path, *jobs: tuple[TrainConfig, Path]) -> None:
    """The same, to the end and without a fault."""
    ended = finish(start_ranks(world_size, manifest, *jobs))
    assert [code for code, _ in ended] == [0] * world_size, ended


def untimed(out: Path) -> list[dict[str, Any]]:
    """The records of a run without what depends on the clock or the machine's memory."""
    records = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMED} for record in records]
