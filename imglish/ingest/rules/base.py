"""What a rule is: a named, versioned predicate or edit over annotations.

    rule = active_rules(recipe)[1]                  # image_size@1
    finding = rule.judge(annotations, rule.limits)
    finding.fired[i], finding.score[i], finding.threshold

A rule sees the annotations of one landing file and says where it fired, with score, threshold and a detail for people.
It never reads a payload, so a change of thresholds judges again in seconds. Some rules edit instead of dropping. A
change of what a rule means is a new version; a change of a threshold is a change of the recipe.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.recipe import Section, content_fields

Edit = tuple[int, int, int, str]
"""(caption number or -1 for a text, start byte, end byte, replacement), bytes of what was received."""
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """Where a rule fired on n rows: `fired` bool [n], `score` and `threshold` float [n] (NaN = none; one threshold may
    stand for all), details by row, and edits by row, which do not need the rule to have fired."""

    fired: Mask
    score: Floats
    threshold: float | Floats | None = None
    detail: Mapping[int, str] = field(default_factory=dict)
    edits: Mapping[int, Sequence[Edit]] = field(default_factory=dict)

    def thresholds(self) -> Floats:
        """One threshold a row, NaN where there is none."""
        given = np.nan if self.threshold is None else self.threshold
        return np.broadcast_to(np.asarray(given, dtype=np.float64), self.fired.shape)


Judge = Callable[[pa.Table, Any], Finding]


class NoLimits(Section):
    """A rule without thresholds."""


@dataclass(frozen=True)
class Family:
    """A rule with its variants by name, each the thresholds that it stands for; the first is meant when none is named.

    A rule without variants has one, named "". `reads` are columns of annotations or of measures.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    judge: Judge
    variants: Mapping[str, Section]


@dataclass(frozen=True)
class Rule:
    """One rule of a recipe; `str(rule)` is what decisions record: name@version or name@variant.version."""

    name: str
    variant: str
    version: int
    reads: tuple[str, ...]
    judge: Judge
    limits: Any
    source_sha256: str | None = None
    """Digest of the file of a user's own rule."""

    def __str__(self) -> str:
        return f"{self.name}@{self.variant}.{self.version}" if self.variant else f"{self.name}@{self.version}"

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it, as JSON values."""
        limits = content_fields(self.limits) if isinstance(self.limits, Section) else dict(self.limits)
        found = {"rule": str(self), "thresholds": limits}
        return found if self.source_sha256 is None else found | {"source_sha256": self.source_sha256}


@dataclass(frozen=True)
class Check:
    """One comparison of a rule that has several: it fails where `value` `beyond` `limit`; None as limit never does."""

    name: str
    value: Floats
    beyond: Literal["<", ">", "<=", ">="]
    limit: float | None

    def failed(self) -> Mask:
        """Bool [n]; a value that is NaN (nothing measured) does not fail."""
        if self.limit is None:
            return np.zeros(len(self.value), dtype=bool)
        compare = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}[self.beyond]
        return np.asarray(compare(self.value, self.limit), dtype=bool)

    def say(self, place: int) -> str:
        """For people: "mean_word_length 2.31 < 3"."""
        return f"{self.name} {self.value[place]:.4g} {self.beyond} {self.limit:g}"


def first_failure(count: int, checks: Sequence[Check]) -> Finding:
    """A rule of several comparisons on n rows: where any fails, the first that does gives score, threshold, detail."""
    fired = np.zeros(count, dtype=bool)
    score, threshold = np.full(count, np.nan), np.full(count, np.nan)
    detail: dict[int, str] = {}
    for check in checks:
        new = check.failed() & ~fired
        score[new] = check.value[new]
        if check.limit is not None:
            threshold[new] = check.limit
        detail |= {place: check.say(place) for place in np.flatnonzero(new).tolist()}
        fired |= new
    return Finding(fired, score, threshold, detail)


def floats(rows: pa.Table, name: str) -> Floats:
    """A column as float64, nulls as NaN (every comparison with NaN is false, so rules skip them)."""
    return np.asarray(pc.cast(rows.column(name), pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where nothing was counted."""
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))


def mask(values: Any) -> Mask:
    """A boolean Arrow array as numpy, nulls as False."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def is_kind(rows: pa.Table, *kinds: str) -> Mask:
    """Rows of these kinds."""
    return mask(pc.is_in(rows.column("kind"), value_set=pa.array(kinds)))


def texts_of(rows: pa.Table, name: str, where: Mask) -> dict[int, Any]:
    """Values of a column by row, where the mask holds."""
    chosen = rows.column(name).filter(pa.array(where)).to_pylist()
    return dict(zip(np.flatnonzero(where).tolist(), chosen, strict=True))
