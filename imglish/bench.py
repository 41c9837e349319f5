"""How fast reader, training step and both together are on this machine.

    for line in bench("corpus/manifest.json", recipe.train, seed=0, steps=20): print(line)

The reader alone hands out batches and nothing else happens; the step alone trains on one batch again and again; end to
end is a run without checkpoints. Whichever of the first two is slower is the limit of the third.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from imglish.recipe import TrainConfig
from imglish.trainer.batches import split
from imglish.trainer.loop import Trainer
from imglish.trainer.mfu import utilisation
from imglish.trainer.parallel import Place, open_place
from imglish.trainer.step import StepResult, train_step

WARM = 3
"""Steps before those that are timed."""


def bench(manifest: str, config: TrainConfig, seed: int, steps: int) -> Iterator[str]:
    """Lines for people, from the leader only; under torchrun for all ranks together."""
    with open_place(config) as place, tempfile.TemporaryDirectory() as folder:
        with closing(Trainer(manifest, config, seed, Path(folder), place)) as trainer:
            lines = list(_measured(trainer, place, steps))
        if place.leads:
            yield from lines


def _measured(trainer: Trainer, place: Place, steps: int) -> Iterator[str]:
    config, samples = trainer.config, sum(trainer.config.batch.values())
    results: list[StepResult] = []

    def read() -> None:
        batches[:] = [next(trainer.loader)]

    def work() -> None:
        parts = split(batches[0], config.accumulate, place.rank, place.world_size)
        given = (trainer.model.config, config, place, trainer.seed, 0)
        results[:] = [train_step(trainer.objective, trainer.optimizer, parts, *given)]

    def both() -> None:
        read()
        work()

    batches = [next(trainer.loader)]
    taken: dict[str, float] = {}
    told = trainer.facts["environment"]
    yield f"{told['device_name']}, {place.world_size} ranks, {told['threads']} threads each, {config.precision}"
    for name, call in (("reader only", read), ("step only", work), ("end to end", both)):
        seconds = _timed(call, steps, place)
        line = f"{name:<12} {1e3 * seconds:9.1f} ms a step {samples / seconds:10.1f} samples/s"
        if call is not read:
            done = results[0]
            line += f" {done.tokens / seconds:10.0f} tokens/s {done.operations / seconds / 1e9:9.1f} Gops/s"
            if trainer.peak is not None:
                line += f"  MFU {utilisation(done.operations, seconds, trainer.peak, place.world_size):.1%}"
        taken[name] = seconds
        yield line
    slower = max(("reader only", "step only"), key=taken.__getitem__)
    yield f"the limit is the {slower.partition(' ')[0]}"


def _timed(call: Callable[[], None], steps: int, place: Place) -> float:
    """Mean seconds of a call, after some that are not counted."""
    for number in range(WARM + steps):
        if number == WARM:
            began = time.perf_counter()
        call()
    if place.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps
