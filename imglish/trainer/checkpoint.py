"""Checkpoints: whole or not there.

    save(folder, step=200, tensors={"model": ..., "optimizer": ...}, facts={"loader": {...}, "train": {...}})
    found = latest(folder)             # newest checkpoint that is whole, or None
    load(found, tensors)               # in place

A checkpoint is a folder `step-00000200`: tensors as torch.distributed.checkpoint writes them, `facts.json`, and
`digests.json` with the SHA-256 of every other file. It is written under a temporary name, synced and renamed, so a
crash leaves no half one under a final name; what a disk tears later fails its digests and is not read. torch's metadata
file is a pickle, which is why nothing is opened before its digest has been checked. Only tensors and JSON are stored.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from imglish.digests import canonical_json, file_digest
from imglish.errors import TrainError

KEPT = 2
"""Newest checkpoints that stay; the one before the newest is the way back when a disk damages that."""

_DIGESTS = "digests.json"
_FACTS = "facts.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose digests have been checked."""

    path: Path
    step: int
    facts: Mapping[str, Any]


def save(folder: Path, step: int, tensors: dict[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint and drop old ones; returns its folder. TrainError when the disk refuses."""
    target, temporary = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with _single_process():
            save_tensors(tensors, checkpoint_id=temporary, no_dist=True)
        (temporary / _FACTS).write_bytes(canonical_json({"format": 1, "step": step, **facts}))
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        (temporary / _DIGESTS).write_bytes(canonical_json(digests))
        _sync(*temporary.iterdir(), temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync(folder)
    except OSError as error:
        raise TrainError(
            f"cannot write checkpoint {target}: {error.strerror or error}; free space and start the run again, it "
            "goes on from the checkpoint before"
        ) from error
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None when there is none at all.

    TrainError when there are checkpoints and every one is damaged.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    problems = []
    for path in found:
        try:
            return open_checkpoint(path)
        except TrainError as error:
            problems.append(str(error))
    if problems:
        raise TrainError("; ".join(problems) + f"; remove {folder} to start anew")
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its digests; TrainError names the first that differs."""
    try:
        digests = json.loads((path / _DIGESTS).read_bytes())
        names = {found.name for found in path.iterdir()} - {_DIGESTS}
    except (OSError, ValueError):
        raise TrainError(f"checkpoint {path} is torn: {_DIGESTS} is missing or damaged") from None
    if names != set(digests):
        differing = sorted(names ^ set(digests))
        raise TrainError(f"checkpoint {path} is torn: {', '.join(differing)} missing or not its own")
    for name, digest in digests.items():
        if file_digest(path / name) != digest:
            raise TrainError(f"checkpoint {path} is torn: {name} does not have its SHA-256")
    facts = json.loads((path / _FACTS).read_bytes())
    return Checkpoint(path, facts["step"], facts)


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    """What a checkpoint of a run holds, nested: parameters and AdamW's state of each, by the parameter's name."""
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for parameter in named.values():
        if parameter not in optimizer.state:
            zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=device), **zeros}
    states = {name: dict(optimizer.state[parameter]) for name, parameter in named.items()}
    return {"model": model.state_dict(), "optimizer": states}


def load(checkpoint: Checkpoint, tensors: dict[str, Any]) -> None:
    """Fill `tensors` (nested, of the shapes that were saved) in place; TrainError when shapes or names differ."""
    try:
        with _single_process():
            load_tensors(tensors, checkpoint_id=checkpoint.path, no_dist=True)
    except (CheckpointException, RuntimeError, ValueError) as error:
        raise TrainError(f"checkpoint {checkpoint.path} does not fit the model: {error}") from error


@contextmanager
def _single_process() -> Iterator[None]:
    """Hush torch's remark that there is no process group: one process is what we mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _sync(*paths: Path) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
