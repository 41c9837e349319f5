"""SIGTERM and SIGUSR1 as a question that the loop asks after every step.

with stop_signals() as stop:
    ...
    if stop.received: save and leave
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a machine away (SIGUSR1: Slurm's --signal)."""


class Stop:
    """`received` names the signal that came, or is None."""

    def __init__(self) -> None:
        self.received: str | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Take note of `SIGNALS` instead of dying; the handlers before are put back. Outside the main thread, where Python
    allows no handlers, nothing is ever received."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
