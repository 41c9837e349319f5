"""The part of a recipe about duplicates that are not byte for byte the same, and about evaluation sets.

    [match]
    exact = true                    # equal pixels, and texts that differ in case and white space only

    [match.text]
    threshold = 0.8                 # near-duplicate documents by true Jaccard of five-word runs

    [match.image]
    threshold = 0.8                 # near-duplicate pictures

    [[match.evaluation]]
    name = "coco-test"
    path = "coco/karpathy-test"     # a folder, .jsonl, .parquet or manifest.json; relative to `root`

Everything is off by default. Verified matches are stored from `floor` on, so a threshold at or above it is only decided
anew; one below it is matched anew (docs/deduplication.md).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from imglish.recipe_base import RUN, Section

HASHES = 112
"""Numbers in the MinHash signature that annotate stores (FineWeb, datatrove: 112 = 14 x 8)."""


class MatchTextConfig(Section):
    """Near-duplicate documents: MinHash bands propose, true overlap of five-word runs decides."""

    threshold: float | None = Field(default=None, gt=0, le=1)
    """Overlap from which one of two documents goes; None leaves near duplicates alone."""
    measure: Literal["jaccard", "containment"] = "jaccard"
    """Shared runs over all runs, or over those of the shorter document."""
    floor: float = Field(default=0.7, gt=0, le=1)
    """Pairs below it, by both measures, are not stored."""
    bands: int = Field(default=14, ge=1, le=HASHES)
    """Bands of the signature; documents that agree in one are compared (datatrove: 14)."""
    rows: int = Field(default=8, ge=1, le=HASHES)
    """Numbers of a band (datatrove: 8). 14 x 8 finds 92 % at Jaccard 0.8, 99 % at 0.86, 56 % at 0.7."""

    @model_validator(mode="after")
    def _fits(self) -> MatchTextConfig:
        if self.bands * self.rows > HASHES:
            raise ValueError(
                f"{self.bands} bands of {self.rows} rows need more than the {HASHES} hashes of a signature"
            )
        return self


class MatchImageConfig(Section):
    """Near-duplicate pictures: perceptual hashes propose, small pictures decide, in greys and in colour."""

    threshold: float | None = Field(default=None, gt=0, le=1)
    """Similarity from which one of two pictures goes (0.8 is a start); None leaves near duplicates alone."""
    floor: float = Field(default=0.7, gt=0, le=1)
    """Pairs below it are not stored."""
    radius: int = Field(default=8, ge=0, le=12)
    """Bits of 64 in which the hashes of compared pictures may differ."""


class EvaluationConfig(Section):
    """One evaluation set that must not be trained on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name, unique in the recipe; decisions name it."""
    path: str
    """A folder of pictures and .txt files, a .jsonl or .parquet table, or a manifest.json; relative to `root`."""
    image: str = "image"
    """Column of a table with a picture: its bytes in Parquet, its path in JSON lines, relative to the file."""
    texts: tuple[str, ...] = ("caption", "captions", "question", "text")
    """Columns of a table with a text, or a list of texts; those that it lacks are left out."""


class LeakConfig(Section):
    """From when on an occurrence counts as a copy of something in an evaluation set."""

    similarity: float = Field(default=0.8, ge=0.7, le=1)
    """Of pictures, as in `match.image.threshold`."""
    radius: int = Field(default=8, ge=0, le=12)
    """Of their hashes, as in `match.image.radius`; another one compares anew."""
    containment: float = Field(default=0.5, ge=0.3, le=1)
    """Share of an evaluation text's 13-grams that a text or caption holds (Marin: 0.5)."""
    min_words: int = Field(default=5, ge=1, le=12)
    """Evaluation texts of fewer than 13 words leak when a whole text or caption equals them, from so many on."""


class MatchConfig(Section):
    """Duplicates beyond equal bytes, and leaks of evaluation sets."""

    exact: bool = False
    """Whether pictures of equal pixels, and texts that differ in case, white space or composition only, are one."""
    text: MatchTextConfig = MatchTextConfig()
    image: MatchImageConfig = MatchImageConfig()
    near_pairs: Literal["merge", "drop"] = "merge"
    """Captions of a pair whose picture nearly repeats another pair's: joined to that one, or dropped with it."""
    evaluation: tuple[EvaluationConfig, ...] = ()
    """Evaluation sets, `[[match.evaluation]]` in TOML."""
    leak: LeakConfig = LeakConfig()
    captions: bool = False
    """Whether repeated captions are counted into a table."""
    buckets: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Buckets of the shuffle that proposes; None makes one for every 500,000 keys."""

    @model_validator(mode="after")
    def _unique_names(self) -> MatchConfig:
        names = [one.name for one in self.evaluation]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two evaluation sets are called {twice[0]!r}; give each its own name")
        return self

    def compares_pictures(self) -> bool:
        """Whether pictures are compared with each other or with evaluation sets."""
        return self.exact or self.image.threshold is not None or bool(self.evaluation)

    def compares_texts(self) -> bool:
        """Whether texts or captions are compared with each other; evaluation sets are compared with texts whole."""
        return self.exact or self.text.threshold is not None or self.captions

    def pairs(self) -> bool:
        """Whether records are compared with each other."""
        return self.exact or self.captions or self.text.threshold is not None or self.image.threshold is not None
