"""What was made lately, up to a number of bytes in memory.

    index = Recent(limit=128 << 20)
    rows = index.get(("pair", 7), lambda: fetch_rows("pair", 7), lambda rows: rows.nbytes)

Threads that ask for the same key make its value once; the value that was unused for longest goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_TURNS = 32
"""Locks that keys share, so that different keys seldom wait for each other."""


class Recent(Generic[K, V]):
    """Values by key, the latest `limit` bytes of them; the newest is always held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K, make: Callable[[], V], size: Callable[[V], int]) -> V:
        """The value of a key, made when it is not held; what `make` raises passes through."""
        held = self._find(key)
        if held is None:
            with self._turns[hash(key) % _TURNS]:
                held = self._find(key)
                if held is None:
                    value = make()
                    held = (value, size(value))
                    self._hold(key, held)
        return held[0]

    def _find(self, key: K) -> tuple[V, int] | None:
        with self._lock:
            held = self._values.get(key)
            if held is not None:
                self._values.move_to_end(key)
            return held

    def _hold(self, key: K, held: tuple[V, int]) -> None:
        with self._lock:
            self._values[key] = held
            self._bytes += held[1]
            while self._bytes > self._limit and len(self._values) > 1:
                _, (_, freed) = self._values.popitem(last=False)
                self._bytes -= freed
