"""Checkpoints: whole or not there, of any number of ranks.

    checkpoints = Checkpoints(folder, place, keep_every=50_000, asynchronous=True)
    checkpoints.save(step=200, tensors={"model": ..., "optimizer": ...}, facts={"loader": {...}})
    checkpoints.finish()                       # until nothing is being written
    found = latest(folder)                     # newest checkpoint that is whole, or None
    load(found, tensors, place)                # in place, cut for the ranks of now

A checkpoint is a folder `step-00000200`: tensors as torch.distributed.checkpoint writes them, `facts.json`, and
`digests.json` with the SHA-256 of every other file. All ranks write under a temporary name; the leader seals, syncs and
renames it, so a crash at any moment leaves no half one under a final name, and no pointer to the newest that could be
wrong. What a disk tears later fails its digests and is not read. torch's metadata file is a pickle, which is why none
is opened before its digest has been checked. Only tensors and JSON are stored.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.utils._pytree import tree_map_only

from imglish.digests import canonical_json, file_digest
from imglish.errors import TrainError
from imglish.trainer.parallel import Place

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what we mean

KEPT = 2
"""Newest checkpoints that stay; the one before the newest is the way back when a disk damages that."""

_DIGESTS = "digests.json"
_FACTS = "facts.json"
_ALONE = Place(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose digests have been checked."""

    path: Path
    step: int
    facts: Mapping[str, Any]


class Checkpoints:
    """Those of one run. With `keep_every`, checkpoints at its multiples stay for good beside the newest `KEPT`.

    `asynchronous`: `save` returns as soon as a copy has been taken, and the next one waits until that is written.
    """

    def __init__(
        self, folder: Path, place: Place = _ALONE, keep_every: int | None = None, asynchronous: bool = False
    ) -> None:
        self.folder, self.place, self.keep_every, self.asynchronous = folder, place, keep_every, asynchronous
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="imglish-checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint and drop old ones; every rank must call it. TrainError when the disk refuses."""
        self.finish()
        temporary = self.folder / f".tmp-step-{step:08d}"
        with _told(temporary):
            if self.place.leads:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            self.place.wait()
            group = {"process_group": self.place.patient, "no_dist": self.place.world_size == 1}
            if not self.asynchronous:
                save_tensors(tensors, checkpoint_id=temporary, **group)
                self._seal(temporary, step, facts)
                self.place.wait()  # digests of large files take longer than a step may
                return
            if self.place.device.type == "cpu":  # of tensors elsewhere torch takes the copy
                tensors = tree_map_only(Tensor, lambda each: each.detach().clone(), tensors)
            writing = async_save(tensors, checkpoint_id=temporary, **group)
        self._pending = self._pool.submit(self._seal_when, writing, temporary, step, facts)

    def finish(self) -> None:
        """Wait until nothing is being written, on any rank; TrainError when it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with _told(self.folder):
                pending.result()
            self.place.wait()

    def _seal_when(self, writing: Any, temporary: Path, step: int, facts: Mapping[str, Any]) -> None:
        writing.result()
        self._seal(temporary, step, facts)

    def _seal(self, temporary: Path, step: int, facts: Mapping[str, Any]) -> None:
        """Facts, digests, the final name; then drop what need not stay. The leader's work."""
        if not self.place.leads:
            return
        target = self.folder / f"step-{step:08d}"
        (temporary / _FACTS).write_bytes(canonical_json({"format": 1, "step": step, **facts}))
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        (temporary / _DIGESTS).write_bytes(canonical_json(digests))
        _sync(*temporary.iterdir(), temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync(self.folder)
        for stale in self.folder.glob(".tmp-step-*"):  # of a run that was killed while it wrote
            shutil.rmtree(stale, ignore_errors=True)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            if not self.keep_every or int(old.name.removeprefix("step-")) % self.keep_every:
                shutil.rmtree(old)


def save(folder: Path, step: int, tensors: dict[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint of a run on one process and drop old ones; returns its folder."""
    Checkpoints(folder).save(step, tensors, facts)
    return folder / f"step-{step:08d}"


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


def load(checkpoint: Checkpoint, tensors: dict[str, Any], place: Place = _ALONE) -> None:
    """Fill `tensors` (nested, of the shapes that were saved) in place, however they are cut here and were when they
    were saved; every rank must call it. TrainError when shapes or names differ."""
    try:
        group = {"process_group": place.patient, "no_dist": place.world_size == 1}
        load_tensors(tensors, checkpoint_id=checkpoint.path, **group)
    except (CheckpointException, RuntimeError, ValueError) as error:
        raise TrainError(f"checkpoint {checkpoint.path} does not fit the model: {error}") from error


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """What a disk refuses, as TrainError."""
    try:
        yield
    except (OSError, CheckpointException) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise TrainError(
            f"cannot write checkpoint {target}: {reason or error}; free space and start the run again, it "
            "goes on from the checkpoint before"
        ) from error


def _sync(*paths: Path) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
