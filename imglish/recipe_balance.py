"""The part of a recipe about how much of what passes the rules is kept.

    [balance.concepts]
    path = "metadata.json"          # concepts, a JSON list or one a line; relative to `root`
    cap = 20000                     # captions of one concept
    unmatched = "drop"              # as MetaCLIP; "keep" leaves pairs without a concept alone

    [[balance.cap]]
    source = "web"                  # at most 100,000 samples of this source
    samples = 100000

    [[balance.cap]]
    kind = "text"
    language = "*"                  # of every language by itself
    bytes = 5000000000

Everything is off by default. Which samples go follows from the seed and the record id alone (docs/balance.md). Repeat
factors, the other half of balance, are `pack.repeat`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from imglish.recipe_base import Section
from imglish.records import Kind

EACH = "*"
"""In a cap: every source, kind or language by itself."""


class ConceptsConfig(Section):
    """Caps on concepts in captions (MetaCLIP, Xu et al. 2023)."""

    path: str = Field(min_length=1)
    """Concepts, words or phrases: a JSON list of strings, or a text file with one a line; relative to `root`."""
    cap: int = Field(default=20_000, ge=1)
    """Captions of a concept above which its pairs are kept by the probability cap / captions (MetaCLIP's t: 20,000 for
    400 M pairs, 170,000 for 2.5 G)."""
    unmatched: Literal["keep", "drop"] = "keep"
    """What becomes of pairs whose captions hold no concept; MetaCLIP drops them."""


class CapConfig(Section):
    """At most so much of one group of samples; what is left out (None) does not tell groups apart."""

    source: str | None = Field(default=None, min_length=1)
    """Source of the surviving occurrence, or "*"."""
    kind: Kind | Literal["*"] | None = None
    """pair, image or text, or "*"."""
    language: str | None = Field(default=None, min_length=1)
    """Language as annotate tells it, of a pair its first caption's, or "*"; samples without one are in no group."""
    samples: int | None = Field(default=None, ge=1)
    """Most samples of a group."""
    bytes: int | None = Field(default=None, ge=1)
    """Most bytes of a group's payloads, as received."""

    @model_validator(mode="after")
    def _one_limit(self) -> CapConfig:
        if (self.samples is None) == (self.bytes is None):
            raise ValueError("a cap says either `samples` or `bytes`")
        if self.source is None and self.kind is None and self.language is None:
            raise ValueError('a cap names a source, a kind or a language, or "*" for each')
        return self


class BalanceConfig(Section):
    """How much is kept of what passes the rules; concepts first, then caps in their order."""

    concepts: ConceptsConfig | None = None
    """Caps on concepts; None for none."""
    cap: tuple[CapConfig, ...] = ()
    """Caps on groups, `[[balance.cap]]` in TOML; each counts what those before it left."""

    def active(self) -> bool:
        """Whether anything is balanced."""
        return self.concepts is not None or bool(self.cap)
