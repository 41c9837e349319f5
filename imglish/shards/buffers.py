"""Large arrays that are used again once nobody holds them.

    images = Buffers().take((128, 224, 224, 3))

A fresh array of 19 MB costs thousands of page faults, as much time as a third of the decoding that fills it. Memory is
free again when this pool holds the only reference to it: arrays handed out, views of them, tensors made from them and
batches that carry them all count, so a consumer may keep what it was given for as long as it likes.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IDLE = 256
"""Arrays handed out since a free one was last used, after which it is given up: a schedule has made batches larger."""


class _Memory:
    """One allocation, and when it was last handed out."""

    def __init__(self, size: int) -> None:
        self.bytes = np.empty(size, dtype=np.uint8)
        self.taken = 0

    def references(self) -> int:
        return sys.getrefcount(self.bytes)

    @property
    def free(self) -> bool:
        return self.references() == _ALONE


_ALONE = _Memory(0).references()
"""What this interpreter counts when nobody else holds an array."""


class Buffers:
    """uint8 arrays of any shape; a pool is shared by threads and empty after unpickling."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: list[_Memory] = []
        self._taken = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A contiguous array with any content, the caller's until every reference to it is gone."""
        size = math.prod(shape)
        with self._lock:
            self._taken += 1
            memory = next((one for one in self._made if len(one.bytes) == size and one.free), None)
            if memory is None:
                self._made = [one for one in self._made if self._taken - one.taken < _IDLE or not one.free]
                memory = _Memory(size)
                self._made.append(memory)
            memory.taken = self._taken
            return memory.bytes.reshape(shape)
