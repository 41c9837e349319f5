"""Fetching windows of the order before the loader reads them.

    ahead = FetchAhead(corpus, order, rank=0, world_size=1)
    ahead.advance(position)        # after every batch: what the next windows need is on its way to the cache
    ahead.close()

The order says by arithmetic which rows this rank visits in its present windows and in the next ones; the index says
where they lie; their chunks are fetched by a few threads, nearest need first. Batches never wait for this:
what is not in the cache yet they read by small ranges of their own. A fetch that fails is left to them too, whose
retries end in an error that names what is missing.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Mapping
from itertools import zip_longest

import numpy as np

from imglish.errors import ShardError, StorageError
from imglish.records import Kind
from imglish.shards.files import File
from imglish.shards.order import Order, Piece
from imglish.shards.reader import Corpus

FETCHERS = 8
"""Chunks on their way at once (ours: 8 x 8 MiB fill the line of a large machine)."""
_LOOKS = 16  # times that the plan is made anew while a window lasts

Job = tuple[Kind, Piece]


class FetchAhead:
    """Keeps the cache of a remote corpus ahead of one rank's batches; needs `corpus.files.cache`."""

    def __init__(self, corpus: Corpus, order: Order, rank: int, world_size: int) -> None:
        assert corpus.files.cache is not None
        self._corpus = corpus
        self._order = order
        self._share = (rank, world_size)
        self._budget = corpus.files.cache.limit * 3 // 4  # chunks reach beyond windows, and others may share the folder
        self._due = range(0)  # positions for which the plan stands
        self._changed = threading.Condition()
        self._todo: deque[Job] = deque()
        self._done: set[Job] = set()
        self._under_way: set[tuple[str, int]] = set()
        self._busy = 0
        self._failure: StorageError | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name="imglish-fetch", daemon=True) for _ in range(FETCHERS)
        ]
        for thread in self._threads:
            thread.start()

    def advance(self, position: int) -> None:
        """Plan for the batches from `position` on; StorageError when the cache could not be written."""
        if self._failure is not None:
            raise self._failure
        if position in self._due:
            return
        lasting = self._lasting(position)
        self._due = range(position, position + max(1, min(lasting.values()) // _LOOKS))
        if not self._done:
            self._warn(self._jobs(position, dict.fromkeys(lasting, 1)))
        jobs = self._affordable(self._jobs(position, lasting))
        with self._changed:
            self._done &= set(jobs)
            self._todo = deque(job for job in jobs if job not in self._done)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop after the chunks that are on their way; they are not waited for."""
        with self._changed:
            self._closed = True
            self._todo.clear()
            self._changed.notify_all()

    def _lasting(self, position: int) -> dict[Kind, int]:
        """Batches that a window of each kind lasts; by then the next window of every lane is needed."""
        counts = self._order.mixture.counts(position)
        kinds = {kind: order for kind, order in self._order.kinds.items() if counts[kind]}
        return {kind: -(-min(one.lanes * one.window, one.count) // counts[kind]) for kind, one in kinds.items()}

    def _jobs(self, position: int, steps: Mapping[Kind, int]) -> list[Job]:
        """What the next batches of each kind need, kinds in turn."""
        counts, first = self._order.mixture.counts(position), self._order.mixture.prefix(position)
        jobs = {
            kind: self._order.kinds[kind].ahead(first[kind], first[kind] + counts[kind] * ahead, *self._share)
            for kind, ahead in steps.items()
        }
        in_turn = zip_longest(*([(kind, piece) for piece in pieces] for kind, pieces in jobs.items()))
        return [job for turn in in_turn for job in turn if job is not None]

    def _affordable(self, jobs: list[Job]) -> list[Job]:
        """The nearest jobs that the cache can hold together."""
        ends = np.cumsum([self._bytes(job) for job in jobs])
        return jobs[: int(np.searchsorted(ends, self._budget, side="right"))]

    def _warn(self, present: list[Job]) -> None:
        """Say so when the cache is too small for the windows that are being read."""
        need = sum(map(self._bytes, present))
        if need > self._budget:
            warnings.warn(
                f"the cache's limit allows {self._budget} bytes of windows and this rank reads {need} bytes of them at "
                "once; rows that do not fit are asked for one by one; raise the limit or make windows smaller",
                stacklevel=4,
            )

    def _bytes(self, job: Job) -> int:
        kind, piece = job
        shard = self._corpus.manifest.shards[piece.ordinal]
        return shard.sections[kind].bytes * (piece.end - piece.first) // shard.counts[kind]

    def _take(self) -> Job | None:
        with self._changed:
            while not self._todo and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._busy += 1
            return self._todo.popleft()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                finished = self._fetch(job)
            except ShardError:
                finished = False  # left to the batches that need it
            except StorageError as error:
                finished, self._failure = False, error
            with self._changed:
                self._busy -= 1
                if finished:
                    self._done.add(job)

    def _fetch(self, job: Job) -> bool:
        """Bring a job's chunks into the cache; False when that was given up."""
        kind, piece = job
        files = self._corpus.files
        for file, start, end in self._corpus.spans(kind, piece.ordinal, piece.first, piece.end):
            for chunk in files.chunks(file, start, end):
                if self._closed:
                    return False
                if self._claim(file, chunk[0]):
                    try:
                        files.fetch(file, *chunk)
                    finally:
                        self._under_way.discard((file.sha256, chunk[0]))
        return True

    def _claim(self, file: File, start: int) -> bool:
        """Whether a chunk is nobody else's at the moment."""
        with self._changed:
            free = (file.sha256, start) not in self._under_way
            self._under_way.add((file.sha256, start))
            return free
