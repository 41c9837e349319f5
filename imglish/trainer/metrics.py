"""One JSON line per optimizer step, and the same numbers for TensorBoard and W&B where they are installed.

    log = MetricsLog(out_dir, first_step=200)       # a resumed run forgets lines after its checkpoint
    log.write({"step": 201, "loss_nats": 9.1, ...})

Names carry units: `loss_nats/pair/words`, `seconds`, `samples_per_second`. What depends on the clock or the memory of a
machine is in `TIMED`; everything else repeats bit for bit when a run is repeated.
"""

from __future__ import annotations

import importlib.util
import json
import math
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imglish.errors import TrainError
from imglish.storage import Store

TIMED = (
    "seconds",
    "samples_per_second",
    "tokens_per_second",
    "mfu",
    "data_wait_seconds",
    "data_wait_share",
    "peak_memory_bytes",
)


class MetricsLog:
    """`metrics.jsonl` in the run's folder, cut back to the first `first_step` steps.

    `wandb` is a project of Weights & Biases; TrainError when the package is not there.
    """

    def __init__(self, out_dir: Path, first_step: int, tensorboard: bool = True, wandb: str | None = None) -> None:
        path = out_dir / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= first_step] if first_step else []
        Store(out_dir).put_as(path.name, b"".join(_line(record) for record in kept))
        self._file = path.open("ab", buffering=0)
        self._board = _summary_writer(out_dir / "tensorboard", first_step) if tensorboard else None
        self._wandb = None if wandb is None else _wandb_run(wandb, out_dir)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a step's record, which is on its way to the disk when this returns."""
        self._file.write(_line(record))
        numbers = {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, record["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=record["step"])

    def picture(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Show a picture, uint8 [H, W, 3], on TensorBoard."""
        if self._board is not None:
            self._board.add_image("masked", pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class Profiler:
    """torch's profiler over the steps [first, first + count), into `trace-<rank>.json.gz` for chrome://tracing."""

    def __init__(self, folder: Path, rank: int, first: int | None, count: int) -> None:
        self.path, self.first, self.count = folder / f"trace-{rank}.json.gz", first, count
        self._running: torch.profiler.profile | None = None

    def before(self, step: int) -> None:
        """To be called before every step, counted from 1, and with the number after the last at the end."""
        if self.first is None:
            return
        if self._running is None and step == self.first:
            self._running = torch.profiler.profile(record_shapes=True)
            self._running.start()
        elif self._running is not None and step >= self.first + self.count:
            self.close()

    def close(self) -> None:
        """Write what was recorded, if anything was."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            running.export_chrome_trace(str(self.path))


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a log in order; a last line that a crash cut short is left out, a missing file is empty."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def _line(record: Mapping[str, Any]) -> bytes:
    """JSON has no number that is not finite: null stands for it."""
    plain = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in record.items()}
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def _summary_writer(folder: Path, first_step: int) -> Any:
    """TensorBoard's writer, or None when it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1)


def _wandb_run(project: str, out_dir: Path) -> Any:
    if importlib.util.find_spec("wandb") is None:
        raise TrainError(f"train.wandb is {project!r} but wandb is not installed; pip install wandb, or leave it out")
    return importlib.import_module("wandb").init(project=project, name=out_dir.name, dir=str(out_dir))
