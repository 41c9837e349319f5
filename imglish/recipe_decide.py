"""The part of a recipe about which occurrences become samples.

    [decide]
    rules = ["preset:basic", "gopher_quality@rae2021", "rules/mine.py:too_loud"]

    [decide.rule.gopher_quality]
    min_words = 30

Rules, their variants, thresholds and presets are listed in docs/rules.md. What a rule is and which thresholds it takes
is said where it is written (`imglish.ingest.rules`), which checks `rules` and `rule` before anything is built.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from imglish.recipe_base import RUN, Section


class DecideConfig(Section):
    """Which occurrences become samples."""

    rules: tuple[str, ...] = ("preset:basic",)
    """Rules in the order in which they decide: `name`, `name@variant`, `preset:name`, or `file.py:function` below
    `root`. A rule's place is its bit in `decisions.fired`; at most 59."""
    rule: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Thresholds by name of the rule, `[decide.rule.image_size]` in TOML; those left out are the variant's."""
    measures: tuple[str, ...] = ()
    """Measures of one's own, `file.py:function` below `root`, whose columns rules of one's own read. Each has a bit."""
    measure: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of measures by name, such as weights, `[decide.measure.nsfw]` in TOML; a change measures anew."""
    placeholder_urls: int = Field(default=20, ge=0)
    """More different URLs of one host than this behind the same bytes are a placeholder; 0 never says so."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of records in the validation split, by content."""
    captioned_images: Literal["pair", "both"] = "pair"
    """Whether an image source's picture that also has captions stays in the image stream ("both") or not."""
    alarm_share: Annotated[float, RUN] = Field(default=0.9, gt=0, le=1)
    """A rule that drops more than this share of a source stops the build before anything is tokenized; 1 never does."""
    alarm_accept: Annotated[dict[str, tuple[str, ...]], RUN] = Field(default_factory=dict)
    """Sources by name of a rule (without variant and version) that may lose more than that to it:
    `{ language = ["book"] }`."""
    buckets: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Buckets of the grouping by record; None makes one for every 150,000 occurrences, about 25 MB."""
