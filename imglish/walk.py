"""A build that only looks: an engine that refuses to work, and a store that remembers what was read.

`Pipeline.walk` runs a build's own code on these two: what it could read is what is done (`plan`), and what it read is
what is alive (`gc`). `WatchedEngine` is the working one that says how fast it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imglish.errors import ImglishError
from imglish.stages import Engine, Receipt, Reduce, Task, Unit
from imglish.storage import Store


class PendingError(ImglishError):
    """Work that a walk found undone: `stage` and the number of units."""

    def __init__(self, stage: str, units: int) -> None:
        super().__init__(f"{stage}: {units} units to do")
        self.stage, self.units = stage, units


class NoEngine:
    """An engine that refuses to work, for walks."""

    def map(self, task: Any, units: Sequence[Any]) -> Iterator[Receipt]:
        raise PendingError(units[0].stage, len(units))

    def group(self, load: Any, pieces: Any, buckets: Sequence[int], reduce: Reduce) -> Iterator[Receipt]:
        raise PendingError(reduce.stage, len(buckets))

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class WatchedEngine:
    """An engine that says every half minute how many of something its finished units handled a second."""

    engine: Engine
    counted: str
    note: Callable[[str], None]
    interval_seconds: float = 30.0

    def map(self, task: Task, units: Sequence[Unit]) -> Iterator[Receipt]:
        began = last = time.monotonic()
        count = 0
        for receipt in self.engine.map(task, units):
            count += receipt.counts.get(self.counted, 0) - receipt.counts.get(f"{self.counted}_reused", 0)
            now = time.monotonic()
            if now - last >= self.interval_seconds:
                last = now
                self.note(f"{receipt.stage}: {count:,} {self.counted}, {count / (now - began):,.1f} a second")
            yield receipt

    def group(self, load: Any, pieces: Any, buckets: Sequence[int], reduce: Reduce) -> Iterator[Receipt]:
        return self.engine.group(load, pieces, buckets, reduce)

    def close(self) -> None:
        self.engine.close()


class WatchedStore(Store):
    """A store that remembers which files were read; a walk on it finds what is alive."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.seen: set[str] = set()

    def read(self, path: str) -> bytes:
        self.seen.add(path)
        return super().read(path)

    def mark_read(self, paths: Iterable[str]) -> None:
        self.seen.update(paths)
