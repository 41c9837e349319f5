"""Numbered work done ahead of its consumer by threads or processes, handed over in order.

    ahead = Prefetch(work, workers=2)
    ahead.get(7)        # work(7); 8, 9, ... are being worked on
    ahead.close()

Whole numbers go to workers, so how many there are cannot change a result. With processes, threads wait for them, as
many as they have numbers at once (`imglish.shards.workers`). An error of `work(n)` is raised by `get(n)`, as it is, and
n may be asked for again. Asking for another number than the next one starts over there.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from imglish.shards.workers import DEPTH, Workers

T = TypeVar("T")

AHEAD = 2
"""Results per worker that are ready or in the making: one to hand over while the next is made."""


class Prefetch(Generic[T]):
    """Results of a pure function of a number; `workers` = 0 computes them when asked.

    `processes`: in as many processes, for which the function must be picklable.
    """

    def __init__(self, work: Callable[[int], T], workers: int, processes: bool = False) -> None:
        self.processes = Workers(work, workers) if processes and workers else None
        self._work = work if self.processes is None else self.processes
        self._ahead = AHEAD * workers
        self._pending: deque[tuple[int, Future[T]]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if workers:
            threads = workers * DEPTH if self.processes is not None else workers
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="imglish-loader")
            weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def get(self, number: int) -> T:
        """The result for `number`; waits for it, and raises what `work` raised."""
        if self._pool is None:
            return self._work(number)
        if self._pending and self._pending[0][0] != number:
            self._forget()
        while len(self._pending) < self._ahead:
            following = number + len(self._pending)
            self._pending.append((following, self._pool.submit(self._work, following)))
        try:
            result = self._pending[0][1].result()
        except BaseException:
            self._forget()
            raise
        self._pending.popleft()
        return result

    def close(self) -> None:
        """Drop what is pending and end the workers; returns when they have ended."""
        self._forget()
        if self.processes is not None:
            self.processes.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self) -> None:
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
