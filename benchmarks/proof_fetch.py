"""Claims about fetching: the network may do what it likes, a unit ends."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imglish.engines.dask import DaskEngine
from imglish.ingest.land import land
from imglish.recipe import make_recipe
from imglish.stages import counts_of
from imglish.storage import Store
from tests.ingest.web_helpers import Web, body, image_bytes, never

URLS, SILENT, HOSTS, WORKERS = 2000, 300, 40, 2
FETCH: dict[str, Any] = {"timeout": 3.0, "deadline": 8.0, "retries": 1, "unit_deadline": 60.0, "unit_rows": 250}
STARTED = 30.0
"""Seconds for a cluster to start and img2dataset to be imported in its workers."""


def no_hang() -> dict[str, Any]:
    """2,000 URLs on 40 hosts, of which 300 never answer: every row has a status within the documented bound."""
    pictures = [body(image_bytes(side=20 + n)) for n in range(20)]
    answers = {f"/{n}.jpg": pictures[n % 20] for n in range(URLS)} | {f"/never-{n}.jpg": never for n in range(URLS)}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        servers = [stack.enter_context(Web(answers, address=f"127.0.0.{n + 2}")) for n in range(HOSTS)]
        urls = [_url(servers, number) for number in range(URLS)]
        Path(folder, "list.csv").write_text("url\n" + "".join(f"{url}\n" for url in urls))
        source = {"name": "list", "format": "url-list", "kind": "image", "path": "list.csv"}
        fetch = FETCH | {"allow_private": [server.host for server in servers], "host_failures": 0}
        made = make_recipe(
            {"name": "hang", "root": folder, "work": f"{folder}/work", "source": [source], "fetch": fetch}
        )
        began = time.perf_counter()
        with DaskEngine(workers=WORKERS, memory="2GB", scratch=f"{folder}/scratch") as engine:
            receipts = land(Store(made.work), engine, made)["list"]
            seconds = time.perf_counter() - began
    counts = counts_of(receipts)
    lanes = -(-len(receipts) // WORKERS)
    bound = STARTED + FETCH["deadline"] + lanes * (FETCH["unit_deadline"] + FETCH["deadline"])
    assert counts["occurrences"] == URLS
    assert counts["status/ok"] == URLS - SILENT, counts
    assert counts["status/timeout"] == SILENT, counts
    assert seconds < bound, f"{seconds:.0f} s, the bound is {bound:.0f} s"
    return {"seconds": round(seconds, 1), "bound_seconds": bound, "units": len(receipts), "counts": counts}


def _url(servers: list[Web], number: int) -> str:
    server = servers[number % len(servers)]
    silent = number * SILENT // URLS != (number + 1) * SILENT // URLS  # evenly through the list
    return server.url(f"/never-{number}.jpg" if silent else f"/{number}.jpg")
