"""What a build folder holds for one command at a time: its lock file of fitted models, and the right to write."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imglish.digests import canonical_json
from imglish.errors import LockError, StorageError
from imglish.lease import lease
from imglish.storage import Store

LOCK = "lock.json"


def read_lock(store: Store) -> dict[str, Any]:
    """The lock: fitted models by what the recipe says about them; empty when nothing was fitted."""
    if not store.exists(LOCK):
        return {}
    try:
        return dict(json.loads(store.read(LOCK)))
    except ValueError:
        raise LockError(f"{store.url(LOCK)} is not JSON; bring it back from a copy, or remove it to fit anew") from None


def write_lock(store: Store, lock: Mapping[str, Any]) -> None:
    """Replace the lock."""
    store.put_as(LOCK, canonical_json(dict(lock)))


@contextmanager
def exclusive(store: Store) -> Iterator[None]:
    """Hold the build folder for one command; a killed one lets go by itself. StorageError when it is held."""
    if not store.local:
        with lease(store, ".held"):
            yield
        return
    store.path().mkdir(parents=True, exist_ok=True)
    with store.path(".held").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{store.root} is in use by another imglish command; wait for it or stop it") from None
        yield
