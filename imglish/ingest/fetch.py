"""Downloads the payloads of URL lists: img2dataset's `Downloader` inside one of our units, behind the guard.

    rows = fetch_rows([Row("list.csv#0", url="https://example.org/cat.jpg", status=TO_FETCH)], FetchConfig())
    rows[0].payload, rows[0].status, rows[0].attempts        # b"\\xff\\xd8...", "ok", 1

img2dataset brings the thread pool, the retries and the X-Robots-Tag opt-outs; it calls `urllib.request.urlopen`, so
a guarded opener is installed for the duration of the unit and the former one put back. One unit at a time fetches in
a process, because that opener is global. Its resizer is told to keep bytes as they are, and its sample writer is a
dictionary. Each distinct URL is asked for once; what cannot pass (404, refused, too large) is not tried again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from imglish.errors import FetchError, SourceError
from imglish.ingest.guard import Answer, Guard, clean_url
from imglish.ingest.sources.base import Row
from imglish.recipe import FetchConfig

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""X-Robots-Tag directives that are honoured: img2dataset's default."""
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


def fetch_rows(rows: Sequence[Row], config: FetchConfig) -> list[Row]:
    """The rows in their order, each with its payload or the status that says why there is none.

    `detail` says what happened and `attempts` how many requests were sent. No URL takes longer than
    `config.deadline` seconds, so a unit ends after len(rows) / threads x deadline at the latest.
    SourceError when img2dataset is not installed.
    """
    session = _Session(config)
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
    bodies = _download(list(wanted), session, config) if wanted else {}
    return [
        _failed(row, refused[number], 0)
        if number in refused
        else _finish(row, session.tries.get(url, _Try(0.0)), bodies.get(url))
        for number, (row, url) in enumerate(zip(rows, urls, strict=True))
    ]


@dataclass
class _Try:
    """What the session knows about one URL."""

    until: float  # time.monotonic
    attempts: int = 0
    failure: FetchError | None = None
    tagged: Answer | None = None  # an answer with X-Robots-Tag, which img2dataset would ask for again
    answer_url: str = ""
    content_type: str = ""


class _Session(Guard):
    """The guard of one unit: counts requests, keeps the deadline over retries, does not repeat hopeless ones."""

    def __init__(self, config: FetchConfig) -> None:
        super().__init__(
            user_agent=config.user_agent,
            max_bytes=config.max_bytes,
            timeout=config.timeout,
            deadline=config.deadline,
            allow_private=config.allow_private,
        )
        self.tries: dict[str, _Try] = {}

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Answer:
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        state = self.tries.setdefault(url, _Try(time.monotonic() + self.deadline))
        if state.failure is not None and (not _may_pass(state.failure) or time.monotonic() >= state.until):
            raise state.failure
        if state.tagged is not None:
            return state.tagged
        state.attempts += 1
        try:
            answer = self.fetch(url, state.until)
        except FetchError as error:
            state.failure = error
            raise
        state.failure = None
        state.tagged = answer if "X-Robots-Tag" in answer.headers else None
        state.answer_url, state.content_type = answer.url, answer.headers.get_content_type()
        return answer


def _may_pass(failure: FetchError) -> bool:
    """Whether a further attempt may succeed: too early, too many requests, server trouble, lost packets."""
    return failure.reason in (
        "timeout",
        "fetch_error",
        "http_408",
        "http_425",
        "http_429",
    ) or failure.reason.startswith("http_5")


class _Basket:
    """img2dataset's sample writer, in memory: bodies and error messages by URL."""

    def __init__(self) -> None:
        self.results: dict[str, tuple[bytes | None, str | None]] = {}

    def write(self, img_str: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        self.results[meta["url"]] = (img_str, meta["error_message"])

    def close(self) -> None:
        """Everything is in memory."""


def _download(urls: list[str], session: _Session, config: FetchConfig) -> dict[str, tuple[bytes | None, str | None]]:
    """Run img2dataset over cleaned, distinct URLs: (body, None) or (None, its error message) by URL."""
    with _ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="imglish-fetch-") as folder:
        downloader, resizer = _img2dataset()
        basket = _Basket()
        shard = Path(folder) / "urls.arrow"
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("url", pa.string())])) as writer:
            writer.write_table(pa.table({"url": pa.array(urls, pa.string())}))
        job = downloader.Downloader(
            sample_writer_class=lambda *_: basket,
            resizer=resizer.Resizer(256, "no", False, disable_all_reencoding=True),
            thread_count=min(config.threads, len(urls)),
            save_caption=False,
            extract_exif=False,
            output_folder=folder,
            column_list=["url"],
            timeout=config.timeout,
            number_sample_per_shard=len(urls),
            oom_shard_count=1,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="jpg",
            retries=config.retries,
            user_agent_token=config.user_agent.partition("/")[0],
            disallowed_header_directives=list(OPT_OUTS),
        )
        with _installed(session):
            job.download_shard((0, str(shard)))
    return basket.results


@contextmanager
def _installed(opener: urllib.request.OpenerDirector) -> Iterator[None]:
    """Make `urllib.request.urlopen` use this opener, and put the former one back."""
    former = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(opener)
    try:
        yield
    finally:
        urllib.request.install_opener(former)


def _img2dataset() -> tuple[ModuleType, ModuleType]:
    """img2dataset's modules, imported without the update check and warnings of its dependencies."""
    kept = os.environ.get("NO_ALBUMENTATIONS_UPDATE")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # albumentations would ask pypi.org for its version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from img2dataset import downloader, resizer
    except ImportError as error:
        raise SourceError(
            f"URL lists need img2dataset, which cannot be imported ({error}); pip install 'imglish[fetch]'"
        ) from None
    finally:
        if kept is None:
            del os.environ["NO_ALBUMENTATIONS_UPDATE"]
        else:
            os.environ["NO_ALBUMENTATIONS_UPDATE"] = kept
    return downloader, resizer


def _finish(row: Row, state: _Try, result: tuple[bytes | None, str | None] | None) -> Row:
    """The row with what came back for its URL."""
    body, message = result or (None, "img2dataset gave no result")
    if body is None:
        return _failed(row, state.failure or _other(message or ""), state.attempts)
    if not body:
        return _failed(row, FetchError("empty", f"no bytes from {state.answer_url}"), state.attempts)
    if image_format(body) is None:
        said = f"{state.content_type} from {state.answer_url}, begins with {body[:24]!r}"
        return _failed(row, FetchError("not_image", said), state.attempts)
    found = hashlib.sha256(body).hexdigest()
    if row.expected_sha256 is not None and row.expected_sha256.lower() != found:
        said = f"SHA-256 is {found}, the source says {row.expected_sha256}"
        return _failed(row, FetchError("sha256_mismatch", said), state.attempts)
    moved = None if state.answer_url == row.url else f"from {state.answer_url}"
    return replace(row, payload=body, status="ok", detail=moved, attempts=state.attempts)


def _failed(row: Row, failure: FetchError, attempts: int) -> Row:
    return replace(row, payload=None, status=failure.reason, detail=failure.detail, attempts=attempts)


def _other(message: str) -> FetchError:
    """What img2dataset itself objects to."""
    return FetchError("refused" if "X-Robots-Tag" in message else "fetch_error", message)


def image_format(payload: bytes) -> str | None:
    """The image format that the first bytes announce, or None."""
    for offset, signature, name in _SIGNATURES:
        if payload[offset : offset + len(signature)] == signature:
            return name
    return None
