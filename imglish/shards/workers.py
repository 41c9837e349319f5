"""Numbered work done by processes, called like the function that they run.

    with_processes = Workers(step, count=2)
    with_processes(7)       # step(7), computed by one of them
    with_processes.close()

A process gets the work once, pickled, then numbers through a pipe of its own, and answers through it. Arrays in the
shared memory of `imglish.shards.buffers` are not copied: the answer says where they lie, and the next request which of
them are needed no more. Such memory has no name, so a killed process leaves nothing behind. Where its end of the pipe
closes a process ends, so that a killed parent leaves none; where the parent's end closes, a WorkerError says so.
Processes are spawned: a script that makes them needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ImglishError, WorkerError
from imglish.shards.buffers import Buffers, Memory, SharedBytes, map_shared, shared_bytes

T = TypeVar("T")

DEPTH = 2
"""Numbers that a process has at once: the next one is there when one is done, whenever the parent gets to run."""
LARGE = 1 << 20
"""Bytes from which the memory of an array received through the pipe is used again."""
_END_SECONDS = 10.0


class _Part(NamedTuple):
    """One array of an answer: `bytes` of them behind it in the pipe, or at `start` of the shared memory `serial`."""

    bytes: int
    serial: int | None = None
    start: int = 0
    size: int = 0
    """Of the whole memory, when its descriptor follows; 0 when it was sent before."""


class _Worker:
    """The parent's end of one process, with the shared memory that it has seen; for DEPTH threads at once."""

    def __init__(self, process: SpawnProcess, connection: Connection, buffers: Buffers) -> None:
        self.process, self.connection = process, connection
        self._buffers = buffers
        self._lock = threading.Lock()
        self._shared: dict[int, Memory] = {}
        self._given_back: set[int] = set()
        self._last = threading.Event()
        self._last.set()

    def __call__(self, number: int) -> tuple[bool, Any]:
        """Whether work(number) was done, and its result or what it raised. EOFError or OSError: it is gone."""
        with self._lock:
            before, self._last = self._last, threading.Event()
            mine = self._last
            free = {serial for serial, memory in self._shared.items() if memory.free}
            unused = sorted(free - self._given_back)  # said once: the process may be using it again by now
            self._given_back |= free
            self.connection.send((number, unused))
        before.wait()  # answers come in the order of requests
        try:
            return self._answer()
        finally:
            mine.set()

    def exit_code(self) -> int | None:
        """How the process ended; None when it has not. One thread at a time: a process can be waited for once."""
        with self._lock:
            self.process.join(_END_SECONDS)
            return self.process.exitcode

    def _answer(self) -> tuple[bool, Any]:
        head, parts, held = self.connection.recv()
        with self._lock:
            self._shared = {serial: memory for serial, memory in self._shared.items() if serial in held}
            arrays = [
                self._through_pipe(part.bytes) if part.serial is None else self._in_place(part, part.serial)
                for part in parts
            ]
            self._given_back -= {part.serial for part in parts}
        return pickle.loads(head, buffers=arrays)  # type: ignore[no-any-return]  # noqa: S301  from our own process

    def _through_pipe(self, size: int) -> NDArray[np.uint8]:
        array = self._buffers.take((size,)) if size >= LARGE else np.empty(size, dtype=np.uint8)
        view = memoryview(array.data)
        while view:
            count = os.readv(self.connection.fileno(), [view])
            if not count:
                raise EOFError
            view = view[count:]
        return array

    def _in_place(self, part: _Part, serial: int) -> NDArray[np.uint8]:
        if part.size:
            descriptor = recv_handle(self.connection)
            try:
                self._shared[serial] = Memory(map_shared(descriptor, part.size))
            finally:
                os.close(descriptor)
        return self._shared[serial].bytes[part.start : part.start + part.bytes]


class Workers(Generic[T]):
    """`count` processes that compute a pure, picklable function of a number, for as many threads that call."""

    def __init__(self, work: Callable[[int], T], count: int) -> None:
        buffers = Buffers()
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self.processes: list[SpawnProcess] = []
        workers: list[_Worker] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, theirs), daemon=True, name="imglish-loader")
            process.start()
            theirs.close()
            self.processes.append(process)
            workers.append(_Worker(process, ours, buffers))
        for worker in workers * DEPTH:
            self._idle.put(worker)
        self._end = weakref.finalize(self, _end, self.processes)

    def __call__(self, number: int) -> T:
        """`work(number)`, or what it raised; WorkerError when the process is gone."""
        worker = self._idle.get()
        try:
            done, result = worker(number)
        except (EOFError, OSError) as error:
            raise WorkerError(
                f"worker process {worker.process.pid} of the loader {_ending(worker.exit_code())} at step "
                f"{number}; see what it wrote to stderr, or start again with workers that need less memory"
            ) from error
        finally:
            self._idle.put(worker)
        if done:
            return result  # type: ignore[no-any-return]
        raise result

    def close(self) -> None:
        """End the processes, whatever they are doing; returns when they are gone."""
        self._end()


def _end(processes: Iterable[SpawnProcess]) -> None:
    for process in processes:
        process.kill()  # a worker owns nothing that has to be put in order
    for process in processes:
        process.join()


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "does not answer"
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"


def _serve(work: Callable[[int], Any], connection: Connection) -> None:
    """Answer numbers until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to end
    sent: weakref.WeakValueDictionary[int, SharedBytes] = weakref.WeakValueDictionary()
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    threading.Thread(target=_send_all, args=(connection, answers, sent), daemon=True).start()
    try:
        while True:
            number, unused = connection.recv()
            for serial in unused:
                if serial in sent:
                    sent[serial].lent = False
            answers.put(_answer(work, number))
    except (EOFError, OSError):
        os._exit(0)  # requests that still wait for a server must not hold a process that nobody asks any more


def _send_all(
    connection: Connection,
    answers: SimpleQueue[tuple[bool, Any]],
    sent: weakref.WeakValueDictionary[int, SharedBytes],
) -> None:
    """Send answers while the next one is in the making."""
    try:
        while True:
            _send(connection, answers.get(), sent)
    except OSError:
        os._exit(0)


def _answer(work: Callable[[int], Any], number: int) -> tuple[bool, Any]:
    try:
        return True, work(number)
    except ImglishError as error:
        return False, error
    except Exception:  # noqa: BLE001  of any library, perhaps not picklable; the parent raises what is told here
        return False, WorkerError(f"step {number} failed in a worker process:\n{traceback.format_exc()}")


def _send(connection: Connection, value: Any, sent: weakref.WeakValueDictionary[int, SharedBytes]) -> None:
    """Pickle a value with its arrays behind it: where they lie, or, copied only by the pipe, their bytes."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    parts: list[_Part] = []
    descriptors: list[int] = []
    for view in views:
        place = shared_bytes(view)
        if place is None:
            parts.append(_Part(view.nbytes))
            continue
        memory, start = place
        known = memory.serial in sent
        parts.append(_Part(view.nbytes, memory.serial, start, 0 if known else len(memory)))
        descriptors += [] if known else [memory.descriptor]
        memory.lent, sent[memory.serial] = True, memory
    connection.send((head, parts, set(sent)))
    for view, part in zip(views, parts, strict=True):
        if part.serial is None:
            _write(connection.fileno(), view)
        elif part.size:
            send_handle(connection, descriptors.pop(0), os.getppid())


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
