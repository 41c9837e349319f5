"""How a long command says where it is: a rich bar on a terminal, one plain line per interval otherwise.

    with reporter() as report:
        report.stage("annotate")              # names what begins
        report.progress("annotate", 3, 10)    # a stage's `Progress` callback
        report.note("left out gimp-help-de: no network")

Everything goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_INTERVAL_SECONDS = 5.0
"""Seconds between two plain lines of one stage."""


class Reporter:
    """Shows stages as bars on a terminal and as lines elsewhere."""

    def __init__(self, console: Console, bars: Bars | None) -> None:
        self.console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are finished."""
        if self._bars is None:
            self._line(stage, done, total)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def note(self, text: str) -> None:
        """One line for people."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to another live display for a while."""
        if self._bars is not None:
            self._bars.stop()
        yield
        if self._bars is not None:
            self._bars.start()

    def _line(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last.get(stage, 0.0) >= PLAIN_INTERVAL_SECONDS:
            self._last[stage] = now
            self.note(f"{stage}: {done} of {total}")


@contextmanager
def reporter() -> Iterator[Reporter]:
    """A reporter on standard error for the length of a command."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Reporter(console, None)
        return
    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        yield Reporter(console, bars)
