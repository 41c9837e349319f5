"""One JSON line per optimizer step, and the same numbers for TensorBoard where it is installed.

    log = MetricsLog(out_dir, first_step=200)       # a resumed run forgets lines after its checkpoint
    log.write({"step": 201, "loss_nats": 9.1, ...})

Names carry units: `loss_nats/pair/words`, `seconds`, `samples_per_second`. What depends on the clock is in `TIMED`;
everything else repeats bit for bit when a run is repeated.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imglish.storage import Store

TIMED = ("seconds", "samples_per_second", "data_wait_share")


class MetricsLog:
    """`metrics.jsonl` in the run's folder, cut back to the first `first_step` steps."""

    def __init__(self, out_dir: Path, first_step: int, tensorboard: bool = True) -> None:
        path = out_dir / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= first_step] if first_step else []
        Store(out_dir).put_as(path.name, b"".join(_line(record) for record in kept))
        self._file = path.open("ab", buffering=0)
        self._board = _summary_writer(out_dir / "tensorboard", first_step) if tensorboard else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a step's record, which is on its way to the disk when this returns."""
        self._file.write(_line(record))
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a log in order; a last line that a crash cut short is left out, a missing file is empty."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _summary_writer(folder: Path, first_step: int) -> Any:
    """TensorBoard's writer, or None when it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1)
