"""Numbered work done by processes, called like the function that they run.

    with_processes = Workers(step, count=2)
    with_processes(7)       # step(7), computed by one of them
    with_processes.close()

A process gets the work once, pickled, then numbers through a pipe of its own, and answers through it; nothing else is
shared. Where its end of the pipe closes it ends, so that a killed parent leaves none behind; where the parent's end
closes, a WorkerError says so. Processes are spawned: a script that makes them needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ImglishError, WorkerError
from imglish.shards.buffers import Buffers

T = TypeVar("T")

LARGE = 1 << 20
"""Bytes from which the memory of a received array is used again."""
_END_SECONDS = 10.0


class Workers(Generic[T]):
    """`count` processes that compute a pure, picklable function of a number, for as many threads that call."""

    def __init__(self, work: Callable[[int], T], count: int) -> None:
        self._buffers = Buffers()
        self._idle: SimpleQueue[tuple[SpawnProcess, Connection]] = SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self.processes: list[SpawnProcess] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, theirs), daemon=True, name="imglish-loader")
            process.start()
            theirs.close()
            self.processes.append(process)
            self._idle.put((process, ours))
        self._end = weakref.finalize(self, _end, self.processes)

    def __call__(self, number: int) -> T:
        """`work(number)`, or what it raised; WorkerError when the process is gone."""
        process, connection = self._idle.get()
        try:
            connection.send(number)
            done, result = _receive(connection, self._buffers)
        except (EOFError, OSError) as error:
            process.join(_END_SECONDS)
            raise WorkerError(
                f"worker process {process.pid} of the loader {_ending(process.exitcode)} at step {number}; "
                "see what it wrote to stderr, or start again with workers that need less memory"
            ) from error
        finally:
            self._idle.put((process, connection))
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
    try:
        while True:
            _send(connection, _answer(work, connection.recv()))
    except (EOFError, OSError):
        os._exit(0)  # requests that still wait for a server must not hold a process that nobody asks any more


def _answer(work: Callable[[int], Any], number: int) -> tuple[bool, Any]:
    try:
        return True, work(number)
    except ImglishError as error:
        return False, error
    except Exception:  # noqa: BLE001  of any library, perhaps not picklable; the parent raises what is told here
        return False, WorkerError(f"step {number} failed in a worker process:\n{traceback.format_exc()}")


def _send(connection: Connection, value: Any) -> None:
    """Pickle a value with its arrays behind it, so that they are copied only by the pipe."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    connection.send((head, [view.nbytes for view in views]))
    for view in views:
        while view:
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection, buffers: Buffers) -> Any:
    head, sizes = connection.recv()
    arrays: list[NDArray[np.uint8]] = []
    for size in sizes:
        array = buffers.take((size,)) if size >= LARGE else np.empty(size, dtype=np.uint8)
        view = memoryview(array.data)
        while view:
            count = os.readv(connection.fileno(), [view])
            if not count:
                raise EOFError
            view = view[count:]
        arrays.append(array)
    return pickle.loads(head, buffers=arrays)  # noqa: S301  from a process of our own
