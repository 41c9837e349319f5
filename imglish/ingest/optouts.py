"""Opt-outs in the headers of an answer: X-Robots-Tag and TDM-Reservation.

    opted_out(headers, OPT_OUTS, "imglish")     # "X-Robots-Tag: noai", or None

X-Robots-Tag is a list of directives, each perhaps for one agent only (`otherbot: noindex, noai`): an agent's name
counts for the directives after it, up to the next name. `noai` and `noimageai` were proposed by DeviantArt in 2022,
`noindex` and `noimageindex` are Google's; img2dataset honours these four. `TDM-Reservation: 1` is the W3C community
group's protocol for the reservation of article 4 of the EU's directive 2019/790.
"""

from __future__ import annotations

from collections.abc import Collection
from email.message import Message

TDM = "tdm-reservation"
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex", TDM)
"""What is honoured by default: four directives of X-Robots-Tag, and the header TDM-Reservation."""
_VALUED = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))
"""Directives that are written `name: value`, and so look like an agent's name."""


def opted_out(headers: Message, directives: Collection[str], agent: str) -> str | None:
    """The header line by which a server reserves an answer against this agent, or None."""
    for value in headers.get_all("X-Robots-Tag", []):
        if directives_of(value, agent) & set(directives):
            return f"X-Robots-Tag: {value[:200]}"
    if TDM in directives and any(value.strip() == "1" for value in headers.get_all("TDM-Reservation", [])):
        return "TDM-Reservation: 1"
    return None


def directives_of(value: str, agent: str) -> set[str]:
    """The directives of one X-Robots-Tag that are meant for everybody or for this agent, in lower case."""
    mine: set[str] = set()
    whom = ""
    for item in value.lower().split(","):
        name, colon, rest = item.strip().partition(":")
        name = name.strip()
        if colon and name not in _VALUED:
            whom, name = name, rest.strip()
        if whom in ("", "*", agent.lower()):
            mine.add("noindex" if name == "none" else name)  # "none" is noindex and nofollow
    return mine
