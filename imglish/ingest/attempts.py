"""The attempts of one unit: which URL is due, in whose turn, and whether a failure may pass.

    session = Session(config, robots, Share(connections=4, delay=0.05))
    session.begin(urls)
    while due := session.due():             # waits for the next back-off; empty when nothing is left
        ...                                 # urllib.request.urlopen(url) once for each, in any threads
    session.tries[url].failure

An attempt that fails is made again only where that makes sense: no answer in time, a broken connection, 408, 425, 429
and server errors. The wait doubles with each attempt and is drawn from a stream of the URL; Retry-After lengthens it
and holds the whole host back. Answers that say what they want (404, refused, too large) are final.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from imglish.errors import FetchError
from imglish.ingest.addresses import host_of
from imglish.ingest.gate import Gate, LaterError, Share
from imglish.ingest.guard import Answer, Guard, Seen
from imglish.ingest.optouts import opted_out
from imglish.ingest.robots import Robots, agent_of, origin_of
from imglish.recipe import FetchConfig
from imglish.seeds import stream, uniform

_BUSY = ("http_429", "http_503")
"""Answers that speak of the host: all its URLs wait."""


@dataclass
class Try:
    """What the session knows about one URL; `due` (`time.monotonic`) is None when nothing more is asked."""

    url: str
    due: float | None = None
    attempts: int = 0
    spent: float = 0.0  # seconds of requests
    failure: FetchError | None = None
    seen: Seen = field(default_factory=Seen)


class Session(Guard):
    """The guard of one unit, as an opener of urllib."""

    def __init__(self, config: FetchConfig, robots: Robots, share: Share) -> None:
        super().__init__(
            user_agent=config.user_agent,
            max_bytes=config.max_bytes,
            timeout=config.timeout,
            deadline=config.deadline,
            allow_private=config.allow_private,
            hop=self._hop,
            accept=self._accept,
        )
        self.config, self.robots, self.share = config, robots, share
        self.tries: dict[str, Try] = {}
        self.kept = 0  # bytes of payload

    def begin(self, urls: Iterable[str]) -> None:
        """Start the unit's clock; every URL is due now unless robots.txt says no."""
        now = time.monotonic()
        self.until = now + self.config.unit_deadline
        self.gate = Gate(self.share, self.config.host_failures, self.until)
        for url in urls:
            refusal = self.robots.refusal(url)
            self.tries[url] = Try(url, now if refusal is None else None, failure=refusal)
        for origin in {origin_of(url) for url, state in self.tries.items() if state.due is not None}:
            self.gate.slow_down(host_of(origin), self.robots.delay(origin) * self.slowness)

    @property
    def slowness(self) -> float:
        """How many lanes share each host: a Crawl-delay is as many times longer in one of them."""
        return max(1.0, self.config.host_connections / self.share.connections)

    def due(self) -> list[str]:
        """The URLs to ask for now, after waiting for the first of them; none when all are settled or time is up."""
        waiting = [state for state in self.tries.values() if state.due is not None]
        first = min((state.due for state in waiting if state.due is not None), default=None)
        if first is None:
            return []
        if first >= self.until:
            for state in waiting:
                self._settle(state, state.failure or FetchError("postponed", "its host asked for a longer pause"))
            return []
        time.sleep(max(0.0, first - time.monotonic()))
        now = time.monotonic()
        return [state.url for state in waiting if state.due is not None and state.due <= now]

    def unasked(self, urls: Iterable[str], since: float) -> None:
        """Settle what a round left without asking, so that every round ends something."""
        for state in (self.tries[url] for url in urls):
            if state.due is not None and state.due <= since:
                self._settle(state, FetchError("fetch_error", "img2dataset did not ask for it"))

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Answer:
        """One attempt; what `urllib.request.urlopen` calls."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        state, host = self.tries[url], host_of(url)
        try:
            with self.gate.turn(host):
                return self._attempt(state, host)
        except LaterError as later:
            state.due = later.at
            raise
        except FetchError as failure:
            if state.failure is not failure:  # no turn was had
                self._settle(state, state.failure or failure)
            raise

    def _attempt(self, state: Try, host: str) -> Answer:
        if self.kept >= self.config.unit_bytes:
            raise FetchError("postponed", f"this unit holds {self.kept} bytes already")
        state.attempts += 1
        state.seen = Seen()
        began = time.monotonic()
        failure = None
        try:
            answer = self.fetch(state.url, began + max(0.1, self.config.deadline - state.spent), state.seen)
            self.kept += len(answer.body)
            self._settle(state, None)
            return answer
        except FetchError as error:
            failure = error
            raise
        finally:
            state.spent += time.monotonic() - began
            self.gate.report(host, failure)
            if failure is not None:
                self._plan(state, host, failure)

    def _plan(self, state: Try, host: str, failure: FetchError) -> None:
        """Decide whether and when a failed URL is asked for again."""
        asked = retry_after(state.seen.headers) if failure.reason in _BUSY else 0.0
        drawn = float(uniform(stream(0, "backoff", state.url).bits(1, state.attempts))[0])
        wait = max(asked, self.config.backoff * 2 ** (state.attempts - 1) * (0.5 + drawn))
        if failure.reason in _BUSY:
            self.gate.pause(host, min(wait, self.config.max_wait))
        more = state.attempts <= self.config.retries and state.spent < self.config.deadline
        if not (more and may_pass(failure) and wait <= self.config.max_wait):
            self._settle(state, failure)
            return
        state.failure, state.due = failure, time.monotonic() + wait

    def _settle(self, state: Try, failure: FetchError | None) -> None:
        state.failure, state.due = failure, None

    def _hop(self, url: str) -> None:
        """A redirect: the target's robots.txt where it is known, and its delay."""
        refusal = self.robots.refusal(url)
        if refusal is not None:
            raise refusal
        self.gate.pace(host_of(url))

    def _accept(self, headers: Message) -> None:
        said = opted_out(headers, self.config.opt_outs, agent_of(self.config.user_agent))
        if said is not None:
            raise FetchError("opted_out", said)


def may_pass(failure: FetchError) -> bool:
    """Whether a further attempt may succeed: too early, too many requests, server trouble, lost packets."""
    return failure.reason in (
        "timeout",
        "unresolved",
        "fetch_error",
        "http_408",
        "http_425",
        "http_429",
    ) or failure.reason.startswith("http_5")


def retry_after(headers: Message | None) -> float:
    """Seconds that a Retry-After asks for (RFC 9110 section 10.2.3: seconds or a date), 0.0 without a valid one."""
    value = "" if headers is None else str(headers.get("Retry-After", "")).strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return 0.0
    return max(0.0, moment.timestamp() - time.time())
