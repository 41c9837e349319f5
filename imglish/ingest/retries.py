"""Which failures are worth another try, and how a fetch is going.

    retried(receipt, ["timeout", "5xx"])      # {"timeout", "http_503"}: the statuses of this unit to fetch once more

A class is a status word of `records.LANDING` ("timeout"), a code ("404"), a hundred of codes ("5xx"), "all" for
everything that the web said or did not say, or "transient": what may have passed by itself, the default of
`imglish retry`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from imglish.errors import RecipeError
from imglish.stages import Receipt

TRANSIENT = (
    "timeout",
    "unresolved",
    "fetch_error",
    "host_down",
    "postponed",
    "robots_unreachable",
    "http_408",
    "http_425",
    "http_429",
    "5xx",
)
_FINAL = (
    "not_image",
    "empty",
    "too_large",
    "sha256_mismatch",
    "opted_out",
    "robots_disallowed",
    "redirects",
    "refused",
)
CLASSES = (*TRANSIENT, *_FINAL, "4xx", "3xx", "transient", "all")
_LINE_SECONDS = 5.0
_SHOWN = 4


def parse_classes(text: str) -> list[str]:
    """Classes from a command line, `timeout,5xx,404`; RecipeError for an unknown one."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        code = word.removeprefix("http_")
        if word not in CLASSES and not (code.isdigit() and len(code) == 3):
            raise RecipeError(f"no failure class {word!r}; known are {', '.join(CLASSES)} and codes such as 404")
    return words


def matches(status: str, classes: Collection[str]) -> bool:
    """Whether a status word belongs to one of the classes; "ok" and what a source's own rows lack never do."""
    if not (status in TRANSIENT or status in _FINAL or status.startswith("http_")):
        return False
    for name in classes:
        if name in ("all", status, status.removeprefix("http_")):
            return True
        if name == "transient" and matches(status, TRANSIENT):
            return True
        if len(name) == 3 and name.endswith("xx") and status.startswith(f"http_{name[0]}"):
            return True
    return False


def retried(receipt: Receipt, classes: Collection[str]) -> frozenset[str]:
    """The statuses that a landed unit has and that belong to one of the classes."""
    words = (name.removeprefix("status/") for name in receipt.counts if name.startswith("status/"))
    return frozenset(word for word in words if matches(word, classes))


class LiveRates:
    """Says how fetching goes, at most every few seconds: `fetch: 8,120 URLs, 91.2 % ok, 4.0 % http_404, ...`."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._counts, self._last = note, Counter[str](), time.monotonic()

    def __call__(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            if name.startswith("status/"):
                self._counts[name.removeprefix("status/")] += count
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            self._note(self.line())

    def end(self) -> None:
        """The last line, when anything was fetched."""
        if self._counts:
            self._note(self.line())

    def line(self) -> str:
        """Share of success, then the commonest failures."""
        total = sum(self._counts.values())
        words = sorted((word for word in self._counts if word != "ok"), key=lambda word: (-self._counts[word], word))
        rest = sum(self._counts[word] for word in words[_SHOWN:])
        shares = [("ok", self._counts["ok"]), *((word, self._counts[word]) for word in words[:_SHOWN])]
        shares += [("other", rest)] if rest else []
        return f"fetch: {total:,} URLs, " + ", ".join(f"{count / total:.1%} {word}" for word, count in shares)
