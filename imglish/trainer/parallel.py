"""Ranks: who this process is, what is added up among all, and how a model is spread over them.

    with open_place(config) as place:                 # one process, or as many as torchrun started
        objective = spread(Objective(model), config, place)
        place.total(tensor)                           # summed over the ranks

Gloo on CPUs, NCCL on GPUs with gloo beside it for what waits long. Ranks agree on everything that they decide
together (stop, skip) through `total`, so none waits for another that has left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from imglish.errors import ImglishError, TrainError
from imglish.recipe import TrainConfig
from imglish.records import KINDS
from imglish.trainer.losses import Objective

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one that checks or writes a checkpoint."""


@dataclass(frozen=True)
class Place:
    """A process among `world_size`, counted from 0, and its device. `patient` is a gloo group with a long time-out."""

    rank: int
    world_size: int
    device: torch.device
    store: Any = None
    patient: Any = None

    @property
    def leads(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.world_size > 1:
            distributed.barrier(group=self.patient)

    def share(self, name: str, value: Any) -> Any:
        """The leader's value, which is JSON, on every rank; a name can be used once."""
        if self.world_size == 1:
            return value
        if self.leads:
            self.store.set(name, json.dumps(value))
        return json.loads(self.store.get(name))

    def speaks_first(self) -> bool:
        """True on the first rank that asks: it tells what went wrong."""
        try:
            return self.store is None or self.store.add("spoken", 1) == 1
        except RuntimeError:  # the rank that kept the store is gone
            return True


@contextmanager
def open_place(config: TrainConfig) -> Iterator[Place]:
    """The place of this process, from torchrun's environment.

    An error on any rank ends all of them, within `config.timeout` seconds, and one of them tells it: the first that
    fails raises, the others leave silently with the same exit status. A rank that lost another raises TrainError.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Place(0, 1, device)
        return
    store, _, _ = next(rendezvous("env://", rank, world_size, timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=config.timeout)
    )
    place = Place(rank, world_size, device, store, distributed.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield place
    except (ImglishError, RuntimeError) as error:
        told = _told(error, place)
        if told is not None and not place.speaks_first():
            sys.exit(told.exit_code)
        if told is None or told is error:
            raise
        raise told from error
    distributed.destroy_process_group()


def _told(error: Exception, place: Place) -> ImglishError | None:
    """What to tell; None for an error that is not ours, whose traceback is wanted."""
    if isinstance(error, ImglishError):
        return error
    lost = isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Socket"))
    if not lost:
        return None
    reason = str(error).strip().splitlines()[0].partition(". This is typically")[0]
    return TrainError(
        f"rank {place.rank} of {place.world_size} lost another rank ({reason}); see what that one said, and start the "
        "same command again: it goes on from the newest checkpoint"
    )


def spread(objective: Objective, config: TrainConfig, place: Place) -> nn.Module:
    """The objective over all ranks: activation checkpointing, then compile, then copies (DDP) or shards (FSDP2).

    Parameters keep their names. The optimizer is to be built after this.
    """
    layers = list(objective.model.layers)
    if config.activation_checkpointing:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    if config.compile:
        for layer in layers:
            layer.compile()
    if place.world_size == 1:
        return objective
    if config.parallel == "fsdp":
        compute = torch.bfloat16 if config.precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(place.device.type, (place.world_size,))
        for module in (*layers, objective):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        return objective
    # Looking for unused parameters also keeps torch from cutting its buckets anew after the first step, which on CPUs
    # would add gradients of more than two ranks in another order after a resume.
    look = (place.device.type == "cpu" and place.world_size > 2) or not _every_kind(config)
    return DistributedDataParallel(objective, find_unused_parameters=look, gradient_as_bucket_view=True)


def synchronise(objective: nn.Module, now: bool) -> None:
    """Whether the next backward pass adds gradients up among ranks, or only accumulates them here."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(now)
    elif isinstance(objective, DistributedDataParallel):
        objective.require_backward_grad_sync = now


def gather_no_more(objective: nn.Module) -> None:
    """Cut parameters again after a forward pass without a backward one, which leaves those outside of layers whole: the
    optimizer and checkpoints know the cut ones only."""
    if isinstance(objective, FSDPModule):
        objective.reshard()


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Of all gradients together, whole on every rank."""
    norm = nn.utils.get_total_norm([given.grad for given in parameters if given.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _every_kind(config: TrainConfig) -> bool:
    batches = [config.batch, *(counts for _, counts in config.schedule)]
    return all(counts.get(kind, 0) for counts in batches for kind in KINDS)
