"""What a person sees of a run: a live table on a terminal, plain lines every few steps otherwise.

with watch(config) as progress:
    train(manifest, config, seed, out_dir, progress=progress)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from imglish.recipe import TrainConfig

Progress = Callable[[Mapping[str, Any]], None]
"""Called with the record of every step (see `imglish.trainer.metrics`)."""


@contextmanager
def watch(config: TrainConfig, stream: TextIO | None = None) -> Iterator[Progress]:
    """A progress function for `train` that writes to `stream` (default: standard error)."""
    console = Console(file=stream or sys.stderr)
    if int(os.environ.get("RANK", 0)):  # the first rank shows it
        yield lambda record: None
        return
    if not console.is_terminal:
        yield _plain(console, config)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda record: live.update(_table(record, config.steps))


def _plain(console: Console, config: TrainConfig) -> Progress:
    def show(record: Mapping[str, Any]) -> None:
        if record["step"] % config.log_every and record["step"] != config.steps:
            return
        losses = " ".join(f"{name} {record[f'loss_nats/{name}']:.3f}" for name in _targets(record))
        console.print(
            f"step {record['step']}/{config.steps}  loss {record['loss_nats']:.3f} nats ({losses})  {_speed(record)}",
            highlight=False,
            soft_wrap=True,
        )

    return show


def _table(record: Mapping[str, Any], steps: int) -> Table:
    table = Table(title=f"step {record['step']} of {steps}")
    for heading in ("masked", "loss, nats", "accuracy"):
        table.add_column(heading, justify="left" if heading == "masked" else "right")
    for name in _targets(record):
        table.add_row(name, f"{record[f'loss_nats/{name}']:.3f}", f"{record[f'accuracy/{name}']:.1%}")
    table.add_row("together", f"{record['loss_nats']:.3f}", "")
    table.caption = (
        f"{_speed(record)}\nrate {record['learning_rate']:.2e}, gradient {record['gradient_norm']:.2f}, epochs "
        + ", ".join(
            f"{name.removeprefix('epochs/')} {record[name]:.2f}" for name in record if name.startswith("epochs/")
        )
    )
    return table


def _speed(record: Mapping[str, Any]) -> str:
    parts = [f"{record['samples_per_second']:.1f} samples/s", f"{record['tokens_per_second']:.0f} tokens/s"]
    parts += [f"MFU {record['mfu']:.1%}"] if "mfu" in record else []
    return ", ".join([*parts, f"waiting for data {record['data_wait_share']:.0%}"])


def _targets(record: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("loss_nats/") for name in record if name.startswith("loss_nats/")]
