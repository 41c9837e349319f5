"""Turns at hosts, waits between attempts, opt-outs in headers, and what a fetch leaves behind in its process."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from imglish.errors import FetchError
from imglish.ingest.attempts import Session, may_pass, retry_after
from imglish.ingest.fetch import _img2dataset, fetch_rows, spread
from imglish.ingest.gate import Gate, LaterError, Share
from imglish.ingest.optouts import OPT_OUTS, directives_of, opted_out
from imglish.ingest.robots import Robots
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.recipe import FetchConfig
from tests.ingest.web_helpers import Web, body, image_bytes, never, status

JPEG = image_bytes()


def gate(connections: int = 2, delay: float = 0.0, give_up: int = 0, seconds: float = 30.0) -> Gate:
    return Gate(Share(connections, delay), give_up, time.monotonic() + seconds)


def config(*servers: Web, **fields: Any) -> FetchConfig:
    given: dict[str, Any] = {"timeout": 2.0, "deadline": 4.0, "host_delay": 0.0, "backoff": 0.01} | fields
    return FetchConfig(allow_private=tuple(server.host for server in servers), **given)


def wanted(*urls: str) -> list[Row]:
    return [Row(f"l#{n}", url=url, status=TO_FETCH) for n, url in enumerate(urls)]


def headers(*lines: str) -> Message:
    message = Message()
    for line in lines:
        name, _, value = line.partition(": ")
        message[name] = value
    return message


def test_a_host_has_only_so_many_turns_at_once() -> None:
    turns, inside, most = gate(connections=3), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(20):
            with turns.turn("a.example"):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside[0], 1 <= most[0] <= 3) == (0, True)


def test_turns_start_a_delay_apart_but_not_those_of_another_host() -> None:
    turns = gate(connections=8, delay=0.05)
    began = time.monotonic()
    starts = []
    for _ in range(4):
        with turns.turn("a.example"):
            starts.append(time.monotonic() - began)
    assert all(later - sooner > 0.045 for sooner, later in pairwise(starts))
    turns.slow_down("b.example", 20.0)
    with turns.turn("b.example"):
        pass
    short = Gate(Share(1, 20.0), 0, time.monotonic() + 0.1)
    with short.turn("a.example"):
        pass
    with pytest.raises(FetchError, match="postponed"), short.turn("a.example"):
        pass


def test_a_host_that_never_answers_is_given_up_and_one_answer_brings_it_back() -> None:
    turns, silent = gate(give_up=3), FetchError("timeout", "no answer")
    for failure in (silent, silent, FetchError("http_500", ""), silent, silent):
        turns.report("a.example", failure)
    with turns.turn("a.example"):
        turns.report("a.example", silent)
    with pytest.raises(FetchError, match="host_down: 3 failures in a row, the last: timeout"), turns.turn("a.example"):
        pass
    with turns.turn("b.example"):
        pass


def test_a_paused_host_sends_its_urls_away_until_later() -> None:
    turns = gate()
    turns.pause("a.example", 20)
    with pytest.raises(LaterError) as later, turns.turn("a.example"):
        pass
    assert 19 < later.value.at - time.monotonic() <= 20


def test_retry_after_is_waited_for_by_the_whole_host() -> None:
    def first_is_busy(web: Web, client: socket.socket) -> None:
        (busy if sum(web.requests.values()) == 1 else body(JPEG))(web, client)

    busy = body(b"", "Retry-After: 1", code="429 Too Many Requests")
    with Web({f"/{n}": first_is_busy for n in range(6)}) as web:
        rows = fetch_rows(wanted(*(web.url(f"/{n}") for n in range(6))), config(web, host_connections=1, threads=2))
    assert [row.status for row in rows] == ["ok"] * 6
    assert sum(row.attempts or 0 for row in rows) == 7  # one was told; the others waited with it


def test_a_host_that_asks_for_an_hour_is_left_to_retry() -> None:
    busy = body(b"", "Retry-After: 3600", code="503 Busy")
    with Web({"/a": busy, "/b": body(JPEG)}) as web:
        rows = fetch_rows(wanted(web.url("/a"), web.url("/b")), config(web, host_connections=1, unit_deadline=0.5))
    assert [(row.status, row.attempts) for row in rows] == [("http_503", 1), ("postponed", 0)]


def test_retry_after_comes_as_seconds_or_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 97 < retry_after(headers(f"Retry-After: {soon}")) <= 100
    for value, seconds in (("7", 7.0), ("-1", 0.0), ("soon", 0.0), ("9" * 30, 999_999_999.0), ("", 0.0)):
        assert retry_after(headers(f"Retry-After: {value}")) == seconds
    assert retry_after(None) == retry_after(headers("Date: x")) == 0.0


def test_waits_double_and_are_drawn_from_the_url() -> None:
    def waits(url: str) -> list[float]:
        session = Session(config(backoff=10.0, retries=9, max_wait=1e9, deadline=1e9), Robots(None, ""), Share(1, 0.0))
        session.begin([url])
        found = []
        for session.tries[url].attempts in range(1, 6):
            session._plan(session.tries[url], "a.example", FetchError("timeout", ""))
            found.append((session.tries[url].due or 0.0) - time.monotonic())
        return found

    first, second = waits("http://a.example/1"), waits("http://a.example/2")
    assert all(5 * 2**n - 0.1 <= wait <= 15 * 2**n for n, wait in enumerate(first))
    assert first != second
    assert [round(wait, 1) for wait in waits("http://a.example/1")] == [round(wait, 1) for wait in first]


@pytest.mark.parametrize("word", ["http_404", "http_403", "refused", "too_large", "opted_out", "robots_disallowed"])
def test_what_will_not_pass_is_not_tried_again(word: str) -> None:
    assert not may_pass(FetchError(word, ""))


def test_a_unit_whose_time_or_bytes_are_over_postpones_the_rest() -> None:
    with Web({"/never": never} | {f"/{n}": body(JPEG) for n in range(9)}) as web:
        slow = wanted(*[web.url("/never")], *(web.url(f"/{n}") for n in range(9)))
        rows = fetch_rows(slow, config(web, host_connections=1, threads=1, unit_deadline=0.3, timeout=0.5, retries=0))
        assert [row.status for row in rows] == ["timeout"] + ["postponed"] * 9
        rows = fetch_rows(
            wanted(*(web.url(f"/{n}") for n in range(9))), config(web, threads=1, unit_bytes=len(JPEG) + 1)
        )
        assert [row.status for row in rows] == ["ok"] * 2 + ["postponed"] * 7


def test_two_hundred_urls_of_which_thirty_never_answer_end_within_the_bound() -> None:
    servers = [Web({"/never": never, "/x.jpg": body(JPEG)}, address=f"127.0.0.{n + 2}") for n in range(10)]
    for server in servers:
        server.__enter__()
    try:
        urls = [servers[n % 10].url(f"/never?{n}" if n % 20 in (3, 7, 11) else f"/x.jpg?{n}") for n in range(200)]
        for server in servers:
            server.answers |= {f"/x.jpg?{n}": body(JPEG) for n in range(200)} | {
                f"/never?{n}": never for n in range(200)
            }
        limits = {"timeout": 1.0, "deadline": 2.0, "unit_deadline": 20.0, "host_failures": 0}
        began = time.monotonic()
        rows = fetch_rows(wanted(*urls), config(*servers, **limits))
        assert time.monotonic() - began < limits["unit_deadline"] + limits["deadline"] + 5
    finally:
        for server in servers:
            server.__exit__(None, None, None)
    assert [row.status for row in rows] == ["timeout" if "never" in url else "ok" for url in urls]


def test_a_fetch_leaves_no_thread_no_opener_and_no_time_out_behind() -> None:
    before, patience = set(threading.enumerate()), socket.getdefaulttimeout()
    with Web({"/x.jpg": body(JPEG), "/500": status(500)}) as web:
        served = set(web.threads)
        fetch_rows(wanted(web.url("/x.jpg"), web.url("/500"), "http://localhost:1/x"), config(web))
        left = [thread for thread in threading.enumerate() if thread not in before | served | set(web.threads)]
        for thread in left:  # a look-up that has answered may still be on its way out
            thread.join(timeout=5)
        assert not [thread for thread in left if thread.is_alive()]
    assert urllib.request._opener is None  # type: ignore[attr-defined]
    assert socket.getdefaulttimeout() == patience


def test_hosts_take_turns_in_proportion() -> None:
    urls = [f"http://a.example/{n}" for n in range(6)] + [f"http://b.example/{n}" for n in range(2)]
    order = "".join(url[7] for url in spread(urls))
    assert (order.count("a"), order.count("b"), "bb" in order, "aaaa" in order) == (6, 2, False, False)


@pytest.mark.parametrize(
    ("value", "mine"),
    [
        ("noai", {"noai"}),
        ("NoAI, NoImageAI", {"noai", "noimageai"}),
        ("imglish: noai", {"noai"}),
        ("otherbot: noai, noindex", set()),
        ("otherbot: noindex, imglish: noai", {"noai"}),
        ("noarchive, otherbot: noai", {"noarchive"}),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"unavailable_after", "noai"}),
        ("max-snippet: 3, noai", {"max-snippet", "noai"}),
        ("*: noai", {"noai"}),
        ("none", {"noindex"}),
        (":::, ,", {"", "::"}),
    ],
)
def test_directives_are_those_for_everybody_or_for_us(value: str, mine: set[str]) -> None:
    assert directives_of(value, "imglish") == mine


def test_opt_outs_are_the_recipes() -> None:
    said = headers("X-Robots-Tag: noindex", "TDM-Reservation: 1")
    assert opted_out(said, OPT_OUTS, "imglish") == "X-Robots-Tag: noindex"
    assert opted_out(said, ("noai", "tdm-reservation"), "imglish") == "TDM-Reservation: 1"
    assert opted_out(said, ("noai",), "imglish") is None
    assert opted_out(headers("TDM-Reservation: 0", "X-Robots-Tag: all"), OPT_OUTS, "imglish") is None


@pytest.mark.parametrize("value", ["noai", "imglish: noimageai", "otherbot: noai", "all", "noindex, nofollow"])
def test_img2dataset_reads_common_headers_as_we_do(value: str) -> None:
    theirs = _img2dataset().is_disallowed(headers(f"X-Robots-Tag: {value}"), "imglish", set(OPT_OUTS))
    assert (opted_out(headers(f"X-Robots-Tag: {value}"), OPT_OUTS, "imglish") is not None) == theirs
