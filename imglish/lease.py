"""One command at a time on a store without locks: a lease that its holder renews.

    with lease(Store("s3://bucket/corpus"), ".held"):
        ...                                             # StorageError when another command holds it

Leases are numbered files, `.held/000001.json`, ... Only the highest counts, and only who creates it (a conditional
write, which one of several wins) holds it: the lease of a command that ended says so, and one that is not renewed
for `STALE_SECONDS` is that of a killed one. Who finds a lease watches for a change of the file, so no clocks are
compared; a command that was killed on this very machine is known at once. A holder that was taken for dead (it slept)
finds a higher number and fails at its end; what it wrote until then is named by content and harmless.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imglish.errors import StorageError
from imglish.storage import Store

BEAT_SECONDS = 10.0
"""How often a holder renews its lease."""
STALE_SECONDS = 60.0
"""A lease that has not been renewed for so long is free."""
_LOOK_SECONDS = 0.5


@contextmanager
def lease(store: Store, folder: str, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS) -> Iterator[None]:
    """Hold `folder` of a store. StorageError when another command does, or took over in between."""
    number = _acquire(store, folder, stale)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, _path(folder, number), stop, beat), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        lost = _highest(store, folder) != number
        if not lost:
            store.put_as(_path(folder, number), _state(free=True))
    if lost:
        raise StorageError(f"{store.url(folder)}: another command took over while this one was away; run it again")


def _acquire(store: Store, folder: str, stale: float) -> int:
    """The number of a new lease of ours."""
    last = _highest(store, folder)
    if last and not _free(store, _path(folder, last), stale):
        holder = json.loads(store.read(_path(folder, last)))
        raise StorageError(
            f"{store.root} is in use by another imglish command, process {holder['process']} on {holder['host']}; "
            "wait for it or stop it"
        )
    number = last + 1
    if not store.put_new(_path(folder, number), _state(free=False)) or _highest(store, folder) != number:
        raise StorageError(f"{store.root} is in use by an imglish command that has just begun; wait for it or stop it")
    for old in _numbers(store, folder):
        if old < number:
            store.remove(_path(folder, old))
    return number


def _free(store: Store, path: str, stale: float) -> bool:
    """Whether a lease has ended; waits for a sign of life for up to `stale` seconds."""
    first = store.read(path)
    state = json.loads(first)
    if state["free"] or _died_here(state):
        return True
    end = time.monotonic() + stale
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        now = store.read(path)
        if json.loads(now)["free"]:
            return True
        if now != first:
            return False
    return True


def _renew(store: Store, path: str, stop: threading.Event, beat: float) -> None:
    while not stop.wait(beat):
        try:
            store.put_as(path, _state(free=False))
        except Exception:  # noqa: BLE001  a store that is out of reach for a moment; the next beat tries again
            continue


def _state(free: bool) -> bytes:
    return json.dumps({"free": free, "beat": uuid.uuid4().hex, **_here(), "process": os.getpid()}).encode()


def _here() -> dict[str, Any]:
    """What tells this machine, since its start, and the processes that it numbers from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    spaces = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "processes": str(spaces.readlink()) if spaces.exists() else "",
    }


def _died_here(state: dict[str, Any]) -> bool:
    mine = _here()
    if not mine["boot"] or any(state.get(name) != value for name, value in mine.items()):
        return False
    return not Path(f"/proc/{state['process']}").exists()


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def _numbers(store: Store, folder: str) -> list[int]:
    names = (path.rpartition("/")[2].partition(".")[0] for path in store.files(folder))
    return sorted(int(name) for name in names if name.isdigit())


def _highest(store: Store, folder: str) -> int:
    return max(_numbers(store, folder), default=0)
