"""Personal data: redacted by edits, or the record is dropped.

A redacted span becomes a placeholder with a keyed hash of what stood there, such as <email-3f9c2a11>: equal addresses
stay equal wherever and in whatever order they are met, and a model cannot learn them. Who has the key can test a guess;
with a public key (the default is the empty one) so can everyone, so choose one, or `placeholder = "class"`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from imglish.ingest.measures.personal import CLASSES
from imglish.ingest.rules.base import Edit, Family, Finding
from imglish.ingest.rules.captions import unpack
from imglish.recipe import Section

Hit = Sequence[Any]
"""(caption number or -1, start byte, end byte, class, 16 hex digits of a hash of what stands there)."""


class Pii(Section):
    """Thresholds of `pii`."""

    classes: tuple[Literal["email", "ip", "phone", "card", "iban"], ...] = CLASSES
    """What counts: e-mail, public IP addresses, telephone numbers, payment cards, bank accounts."""
    action: Literal["redact", "drop"] = "redact"
    """Replace each by a placeholder, or drop the record."""
    max_hits: int = Field(default=0, ge=0)
    """With "drop": hits that are let pass."""
    placeholder: Literal["hash", "class"] = "hash"
    """<email-3f9c2a11>, or <email> for all."""
    key: str = Field(default="", max_length=64)
    """Key of the hash; it is a field of the recipe and so of the manifest."""


def pii(rows: pa.Table, limits: Pii) -> Finding:
    """Redacts or drops e-mail, public IP addresses, phone numbers, cards and IBANs (FineWeb: e-mail and IP)."""
    fired = np.zeros(rows.num_rows, dtype=bool)
    score = np.full(rows.num_rows, np.nan)
    edits: dict[int, list[Edit]] = {}
    for i, hits in unpack(rows, "pii").items():
        mine = [hit for hit in hits if hit[3] in limits.classes]
        score[i] = len(mine)
        if limits.action == "drop":
            fired[i] = len(mine) > limits.max_hits
        elif mine:
            edits[i] = [(hit[0], hit[1], hit[2], _placeholder(hit, limits)) for hit in mine]
    said = {int(i): f"{score[i]:.0f} pieces of personal data" for i in np.flatnonzero(fired)}
    return Finding(fired, score, float(limits.max_hits), said, edits)


def _placeholder(hit: Hit, limits: Pii) -> str:
    if limits.placeholder == "class":
        return f"<{hit[3]}>"
    keyed = hashlib.blake2b(bytes.fromhex(hit[4]), key=limits.key.encode(), digest_size=4)
    return f"<{hit[3]}-{keyed.hexdigest()}>"


FAMILIES = (Family("pii", 1, ("pii",), pii, {"redact": Pii(), "drop": Pii(action="drop")}),)
