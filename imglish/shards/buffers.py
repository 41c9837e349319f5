"""Large arrays that are used again once nobody holds them, in this process or in the one they were sent to.

    images = Buffers().take((128, 224, 224, 3))

A fresh array of 19 MB costs thousands of page faults, as much time as a third of the decoding that fills it. Memory is
free again when this pool holds the only reference to it: arrays handed out, views of them, tensors made from them and
batches that carry them all count, so a consumer may keep what it was given for as long as it likes.

A pool that was pickled, as part of work for another process, is empty there and hands out memory that both processes
can map (`imglish.shards.workers` sends it without a copy); on systems without `memfd_create` it is a plain pool.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_IDLE = 256
"""Arrays handed out since a free one was last used, after which it is given up: a schedule has made batches larger."""
_serials = itertools.count()


class SharedBytes(np.ndarray):
    """uint8 memory without a name in any file system; `descriptor` maps it elsewhere.

    `lent` is set while another process may read it: it is then in use, whatever is referred to here.
    """

    descriptor: int
    serial: int
    lent: bool

    @classmethod
    def make(cls, size: int) -> SharedBytes:
        descriptor = os.memfd_create("imglish-batch")
        os.ftruncate(descriptor, size)
        made = cls((size,), np.uint8, mmap.mmap(descriptor, size))  # no view of an array: views of it would skip it
        made.descriptor, made.serial, made.lent = descriptor, next(_serials), False
        weakref.finalize(made, os.close, descriptor)
        return made


def map_shared(descriptor: int, size: int) -> Bytes:
    """The memory behind a descriptor, which may be closed afterwards."""
    return np.frombuffer(mmap.mmap(descriptor, size), dtype=np.uint8)


def shared_bytes(view: memoryview) -> tuple[SharedBytes, int] | None:
    """The shared memory that a contiguous array's bytes lie in, and where in it; None for other arrays."""
    owner: Any = view.obj
    while isinstance(owner, np.ndarray) and not isinstance(owner, SharedBytes):
        owner = owner.base
    if not isinstance(owner, SharedBytes):
        return None
    return owner, np.frombuffer(view, dtype=np.uint8).ctypes.data - owner.ctypes.data


class Memory:
    """One allocation, and when it was last handed out."""

    def __init__(self, data: Bytes) -> None:
        self.bytes = data
        self.taken = 0

    def references(self) -> int:
        return sys.getrefcount(self.bytes)

    @property
    def free(self) -> bool:
        return self.references() == _ALONE and not getattr(self.bytes, "lent", False)


def _plain(size: int) -> Bytes:
    return np.empty(size, dtype=np.uint8)


_ALONE = Memory(_plain(0)).references()
"""What this interpreter counts when nobody else holds an array."""


class Buffers:
    """uint8 arrays of any shape; a pool is shared by threads."""

    def __init__(self, allocate: Callable[[int], Bytes] = _plain) -> None:
        self._allocate = allocate
        self._lock = threading.Lock()
        self._made: list[Memory] = []
        self._taken = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _for_another_process, ()

    def take(self, shape: tuple[int, ...]) -> Bytes:
        """A contiguous array with any content, the caller's until every reference to it is gone."""
        size = math.prod(shape)
        with self._lock:
            self._taken += 1
            memory = next((one for one in self._made if len(one.bytes) == size and one.free), None)
            if memory is None:
                self._made = [one for one in self._made if self._taken - one.taken < _IDLE or not one.free]
                memory = Memory(self._allocate(size) if size else _plain(size))
                self._made.append(memory)
            memory.taken = self._taken
            return memory.bytes.view(np.ndarray).reshape(shape)


def _for_another_process() -> Buffers:
    return Buffers(SharedBytes.make if hasattr(os, "memfd_create") else _plain)
