"""Turns at a host: how many requests at once, how far apart, and when to leave it alone.

    gate = Gate(Share(connections=4, delay=0.05), give_up=10, until=time.monotonic() + 1800)
    with gate.turn("example.org"):
        ...                                 # at most four threads are here, their starts 50 ms apart
    gate.report("example.org", None)        # or the FetchError

All URLs of a host lie in one lane (`imglish.ingest.lanes`) and a lane runs in one process, so these limits hold for
the whole cluster. A host that fails `give_up` times without an answer in between is down for the rest of the unit.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from imglish.errors import FetchError

NO_ANSWER = ("timeout", "unresolved", "fetch_error")
"""Failures without an answer, which speak of the host rather than of the URL."""


@dataclass(frozen=True)
class Share:
    """What one lane may ask of a host: connections at once, seconds between starts."""

    connections: int
    delay: float


class LaterError(Exception):
    """The host wants to be left alone until `at` (`time.monotonic`)."""

    def __init__(self, at: float) -> None:
        super().__init__(f"not before {at:.1f}")
        self.at = at


@dataclass
class _Host:
    changed: threading.Condition
    active: int = 0
    free: float = 0.0  # when the next request may start
    paused: float = 0.0  # until when the host asked to be left alone
    delay: float = 0.0
    failures: int = 0
    last: str = ""


@dataclass
class Gate:
    """The turns of one unit; thread-safe."""

    share: Share
    give_up: int
    until: float  # end of the unit, time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _hosts: dict[str, _Host] = field(init=False)

    def __post_init__(self) -> None:
        self._hosts = defaultdict(lambda: _Host(threading.Condition(self._lock), delay=self.share.delay))

    def slow_down(self, host: str, delay: float) -> None:
        """Keep at least this many seconds between two requests."""
        with self._lock:
            self._hosts[host].delay = max(self._hosts[host].delay, delay)

    @contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """Wait for a turn and hold it; LaterError while the host is paused, FetchError postponed or host_down."""
        self._enter(host)
        try:
            yield
        finally:
            with self._lock:
                state = self._hosts[host]
                state.active -= 1
                state.changed.notify()

    def _enter(self, host: str) -> None:
        with self._lock:
            state = self._hosts[host]
            while True:
                now = time.monotonic()
                if self.give_up and state.failures >= self.give_up:
                    state.changed.notify()
                    raise FetchError("host_down", f"{state.failures} failures in a row, the last: {state.last}")
                if now >= self.until:
                    state.changed.notify()
                    raise FetchError("postponed", "the time of this unit was over before it was this URL's turn")
                if state.paused > now:
                    state.changed.notify()
                    raise LaterError(state.paused)
                if state.active < self.share.connections and state.free <= now:
                    break
                full = state.active >= self.share.connections
                state.changed.wait((self.until if full else min(state.free, self.until)) - now)
            state.active += 1
            state.free = now + state.delay
            if state.active < self.share.connections:
                state.changed.notify()  # the next one waits for `free` only

    def pace(self, host: str) -> None:
        """Wait until a redirect may lead to this host: its delay holds, its connections are not counted."""
        with self._lock:
            state = self._hosts[host]
            now = time.monotonic()
            start = max(now, state.free)
            state.free = start + state.delay
        time.sleep(max(0.0, min(start, self.until) - now))

    def pause(self, host: str, seconds: float) -> None:
        """Leave the host alone for a while."""
        with self._lock:
            state = self._hosts[host]
            state.paused = max(state.paused, time.monotonic() + seconds)
            state.changed.notify_all()

    def report(self, host: str, failure: FetchError | None) -> None:
        """Tell how a request ended; an answer of any kind shows that the host is up."""
        with self._lock:
            state = self._hosts[host]
            if failure is None or failure.reason not in NO_ANSWER:
                state.failures = 0
            elif not state.failures >= self.give_up:
                state.failures += 1
                state.last = f"{failure.reason}: {failure.detail}"[:200]
