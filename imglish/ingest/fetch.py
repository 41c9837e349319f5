"""Downloads the payloads of URL lists: img2dataset's `Downloader` inside one of our units, behind the guard.

    rows = fetch_rows([Row("list.csv#0", url="https://example.org/cat.jpg", status=TO_FETCH)], FetchConfig())
    rows[0].payload, rows[0].status, rows[0].attempts        # b"\\xff\\xd8...", "ok", 1

img2dataset brings the thread pool and the flow of images; it calls `urllib.request.urlopen`, so `attempts.Session`, a
guarded opener, is installed for the duration of the unit and the former one put back. One unit at a time fetches in a
process, because that opener is global. In place of its resizer stands what keeps bytes as they are, and its sample
writer is a dictionary.

A unit goes in rounds: each asks once for every URL that is due, spread so that hosts take turns. What failed and may
pass is due again after its back-off, so no thread sleeps while there is other work. Each distinct URL is fetched once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import pyarrow as pa

from imglish.errors import FetchError, SourceError
from imglish.ingest.addresses import clean_url, host_of
from imglish.ingest.attempts import Session, Try
from imglish.ingest.gate import Share
from imglish.ingest.robots import Robots
from imglish.ingest.sources.base import Row
from imglish.recipe import FetchConfig

DECIDING = (
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "X-Robots-Tag",
    "TDM-Reservation",
    "Retry-After",
    "Location",
)
"""Headers of the last answer that a receipt keeps, first 200 characters of each."""
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftyp", "AVIF or HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\1\0", "ICO"),
)
"""(offset, first bytes, format) of what counts as an image; annotate decides whether it decodes."""
_ONE_AT_A_TIME = threading.Lock()


def fetch_rows(
    rows: Sequence[Row], config: FetchConfig, robots: Robots | None = None, share: Share | None = None
) -> list[Row]:
    """The rows in their order, each with its payload or the status that says why there is none.

    `detail` says what happened, `attempts` how many requests were sent, `receipt` what the last answer was. No URL
    gets more than `config.deadline` seconds of requests and none is started after `config.unit_deadline`, so this
    returns within unit_deadline + deadline seconds, and a few for threads to end. `share` is what may be asked of each
    host, the recipe's own by default. SourceError when img2dataset is not installed.
    """
    wanted: dict[str, None] = {}
    refused: dict[int, FetchError] = {}
    urls: list[str] = []
    for number, row in enumerate(rows):
        try:
            urls.append(clean_url(row.url))
            wanted[urls[-1]] = None
        except FetchError as error:
            urls.append("")
            refused[number] = error
    share = share or Share(config.host_connections, config.host_delay)
    bodies, tries = _download(list(wanted), Session(config, robots or Robots(None, ""), share)) if wanted else ({}, {})
    return [
        _failed(row, refused[number], Try(""))
        if number in refused
        else _finish(row, tries[url], bodies.get(url), config)
        for number, (row, url) in enumerate(zip(rows, urls, strict=True))
    ]


class _Basket:
    """img2dataset's sample writer, in memory: bodies by URL."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def write(self, img_str: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        if img_str is not None:
            self.bodies[meta["url"]] = img_str

    def close(self) -> None:
        """Everything is in memory."""


def _as_received(image: BinaryIO, boxes: object) -> tuple[bytes, None, None, None, None, None]:
    """img2dataset's resizer: (bytes, width, height, original width and height, error)."""
    return image.read(), None, None, None, None, None


def _download(urls: list[str], session: Session) -> tuple[dict[str, bytes], Mapping[str, Try]]:
    """Run img2dataset in rounds over cleaned, distinct URLs: bodies and what is known, by URL."""
    basket = _Basket()
    with _ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="imglish-fetch-") as folder:
        downloader = _img2dataset()
        with _installed(session):
            session.begin(urls)
            while due := session.due():
                began = time.monotonic()
                job = _job(downloader, session.config, folder, basket, len(due))
                job.download_shard((0, _list_file(folder, spread(due))))
                session.unasked(due, began)
    return basket.bodies, session.tries


def spread(urls: Sequence[str]) -> list[str]:
    """The URLs in an order in which every host takes turns in proportion: number i of n of a host stands at i / n."""
    hosts = [host_of(url) for url in urls]
    total, seen = Counter(hosts), Counter[str]()
    place: list[float] = []
    for host in hosts:
        place.append((seen[host] + 0.5) / total[host])
        seen[host] += 1
    return [urls[number] for number in sorted(range(len(urls)), key=lambda number: (place[number], number))]


def _list_file(folder: str, urls: Sequence[str]) -> str:
    """The shard of img2dataset that lists these URLs; its downloader removes it."""
    shard = str(Path(folder) / "urls.arrow")
    with pa.OSFile(shard, "wb") as sink, pa.ipc.new_file(sink, pa.schema([("url", pa.string())])) as writer:
        writer.write_table(pa.table({"url": pa.array(urls, pa.string())}))
    return shard


def _job(downloader: ModuleType, config: FetchConfig, folder: str, basket: _Basket, count: int) -> Any:
    """img2dataset's downloader of one shard: no retries of its own, no resizing, no opt-outs, which the session has."""
    return downloader.Downloader(
        sample_writer_class=lambda *_: basket,
        resizer=_as_received,
        thread_count=min(config.threads, count),
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=["url"],
        timeout=config.timeout,
        number_sample_per_shard=count,
        oom_shard_count=1,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )


@contextmanager
def _installed(opener: urllib.request.OpenerDirector) -> Iterator[None]:
    """Make `urllib.request.urlopen` use this opener, and put the former one back."""
    former = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(opener)
    try:
        yield
    finally:
        urllib.request.install_opener(former)


@cache
def _img2dataset() -> ModuleType:
    """img2dataset's module `downloader`, without the rest of the package.

    The package's own `__init__` imports its writers and resizer, and with them torch and albumentations: two seconds
    and 260 MB in every worker for what is not used here. So the submodule is imported below a bare package, and both
    are taken out of `sys.modules` again, where whoever wants img2dataset itself finds nothing.
    """
    name = "img2dataset"
    kept = {known: sys.modules.pop(known) for known in list(sys.modules) if known.partition(".")[0] == name}
    try:
        if kept.get(name, name) is None or (spec := importlib.util.find_spec(name)) is None:
            raise ImportError(f"no module named {name!r}")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"{name}.downloader")
    except ImportError as error:
        raise SourceError(
            f"URL lists need img2dataset, which cannot be imported ({error}); pip install 'imglish[fetch]'"
        ) from None
    finally:
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[known]
        sys.modules.update(kept)


def _finish(row: Row, state: Try, body: bytes | None, config: FetchConfig) -> Row:
    """The row with what came back for its URL."""
    if state.failure is not None or body is None:
        return _failed(row, state.failure or FetchError("fetch_error", "img2dataset gave no result"), state)
    if not body:
        return _failed(row, FetchError("empty", f"no bytes from {state.seen.url}"), state)
    if image_format(body) is None:
        kind = state.seen.headers.get_content_type() if state.seen.headers else "no type"
        return _failed(row, FetchError("not_image", f"{kind} from {state.seen.url}, begins with {body[:24]!r}"), state)
    expected = row.expected_sha256
    if expected is not None and expected.lower() != (found := hashlib.sha256(body).hexdigest()):
        said = f"SHA-256 is {found}, the source says {expected}"
        return _failed(row, FetchError("sha256_mismatch", said), state)
    moved = None if state.seen.url == row.url else f"from {state.seen.url}"
    return replace(row, payload=body, status="ok", detail=moved, attempts=state.attempts, receipt=_receipt(state))


def _failed(row: Row, failure: FetchError, state: Try) -> Row:
    return replace(
        row,
        payload=None,
        status=failure.reason,
        detail=failure.detail,
        attempts=state.attempts,
        receipt=_receipt(state),
    )


def _receipt(state: Try) -> dict[str, Any] | None:
    """What the last answer was; None when no request was sent."""
    if not state.attempts:
        return None
    seen = state.seen
    found = {} if seen.headers is None else {name: seen.headers.get(name) for name in DECIDING}
    headers = {name.lower(): _shown(value) for name, value in found.items() if value is not None}
    return {"url": seen.url, "code": seen.code, "sent": seen.sent, "headers": headers}


def _shown(value: Any) -> str:
    """A header's value in ASCII, as much of it as a receipt keeps."""
    return str(value)[:200].encode("ascii", "backslashreplace").decode()


def image_format(payload: bytes) -> str | None:
    """The image format that the first bytes announce, or None."""
    for offset, signature, name in _SIGNATURES:
        if payload[offset : offset + len(signature)] == signature:
            return name
    return None
