"""The page of a diff: two corpora side by side, how far apart their distributions are, and samples that moved.

    diff_page("old/manifest.json", "new/manifest.json", "diff.html")

Distances are between shares, so a corpus that only grew is near the old one: Kolmogorov-Smirnov for numbers, total
variation for names, ids and codes. Pictures of samples come from the corpus that has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from imglish.audit.choice import Chosen
from imglish.audit.common import template, write_file
from imglish.audit.diff import Change, compare
from imglish.audit.distance import kolmogorov, total_variation
from imglish.audit.histograms import bins
from imglish.audit.plots import Plot, grouped
from imglish.audit.statistics import METADATA, Measured
from imglish.audit.tables import Tables
from imglish.audit.thumbnails import Thumbnail, has_tar, thumbnail
from imglish.audit.view import Table, f, n, s, table
from imglish.records import Kind
from imglish.shards import Corpus, open_corpus

PICTURES = 24
"""Examples that are shown with their picture."""
PLOTTED = 6
"""Distributions that are drawn, those that are farthest apart."""


@dataclass(frozen=True)
class Distance:
    """Of one distribution, 0 to 1; `old` and `new` are what was counted."""

    name: str
    measure: str
    old: int
    new: int
    distance: float


@dataclass(frozen=True)
class Example:
    """A sample that moved, with its picture where it has one."""

    change: Change
    picture: Thumbnail | None


def diff_page(old_path: str, new_path: str, output_path: str) -> dict[str, Any]:
    """Write the page and return the diff with `distances`; errors as for the report, and nothing is written then."""
    sides = [Tables(str(path)) for path in (old_path, new_path)]
    found, changes = compare(*sides)
    measured = [_measured(tables) for tables in sides]
    distances = list(_distances(*measured))
    corpora = {"removed": open_corpus(str(old_path))}
    corpora |= dict.fromkeys(("added", "moved"), open_corpus(str(new_path)))
    pictured = [change for change in changes if change.kind != "text"][:PICTURES]
    examples = [Example(change, _picture(corpora[change.what], change)) for change in pictured]
    found["distances"] = {one.name: {"measure": one.measure, "distance": one.distance} for one in distances}
    page = template(
        "diff.html",
        found=found,
        tables=_tables(found, distances, changes),
        plots=_plots(measured[0].histograms(), measured[1].histograms(), distances),
        examples=[example for example in examples if example.picture is not None],
    )
    write_file(str(output_path), page.encode("utf-8"))
    return found


def _measured(tables: Tables) -> Measured:
    measured = Measured(tables)
    for ordinal, rows in tables.metadata(METADATA):
        measured.add(ordinal, rows)
    return measured


def _distances(old: Measured, new: Measured) -> Iterable[Distance]:
    """Of every distribution, the farthest apart first."""
    found = []
    for measure, distance, pair in (
        ("Kolmogorov-Smirnov", kolmogorov, (old.histograms(), new.histograms())),
        ("total variation", total_variation, (old.shares(), new.shares())),
    ):
        for name, mine in pair[0].items():
            other = pair[1][name]
            if mine or other:
                counts = (sum(mine.values()), sum(other.values()))
                found.append(Distance(name, measure, *counts, distance(mine, other)))
    return sorted(found, key=lambda one: (-one.distance, one.name))


def _plots(
    old: Mapping[str, Mapping[int, int]], new: Mapping[str, Mapping[int, int]], distances: Sequence[Distance]
) -> list[Plot]:
    names = [one.name for one in distances if one.name in old and one.old and one.new and one.distance][:PLOTTED]
    drawn = []
    for place, name in enumerate(names):
        a, b = Counter(old[name]), Counter(new[name])
        edges = [item["from"] for item in bins(a + b)]
        drawn.append(grouped(f"diff-{place}", name, "value", _over(a, edges), _over(b, edges)))
    return drawn


def _over(counts: Counter[int], edges: Sequence[int]) -> list[dict[str, int]]:
    """Counts in bins that start at `edges`."""
    ends = [edge - 1 for edge in edges[1:]] + [max([edges[-1], *counts])]
    return [
        {"from": low, "to": high, "count": sum(c for value, c in counts.items() if low <= value <= high)}
        for low, high in zip(edges, ends, strict=True)
    ]


def _picture(corpus: Corpus, change: Change) -> Thumbnail | None:
    """The sample's picture; None where no shard that is here has it."""
    kind, key = cast(Kind, change.kind), np.void(bytes.fromhex(change.key))
    for ordinal in range(len(corpus.manifest.shards)):
        if has_tar(corpus, ordinal) and (corpus.index(kind, ordinal)["key"] == key).any():
            return thumbnail(corpus, Chosen(0, ordinal, kind, change.key, change.source))
    return None


def _tables(
    found: Mapping[str, Any], distances: Sequence[Distance], changes: Sequence[Change]
) -> dict[str, list[Table]]:
    fields = {
        "counts": "Index rows",
        "tokenizers": "Tokenizers",
        "views": "Views",
        "images": "Stored images",
        "rules": "Rules",
        "recipe": "Recipe",
        "libraries": "Libraries",
    }
    changed = [
        table(
            title,
            ["field", "old", "new"],
            ([s(k), s(_shown(a), 160), s(_shown(b), 160)] for k, (a, b) in found[name].items()),
        )
        for name, title in fields.items()
    ]
    moved = [
        table(
            f"Samples {name}",
            ["kind", "source", "why", "samples"],
            ([s(one["kind"]), s(one["source"]), s(one["why"], 120), n(one["count"])] for one in found["samples"][name]),
        )
        for name in ("added", "removed", "moved")
    ]
    decided = [
        table(
            f"Decisions: {name}",
            [*_heads(rows), "occurrences"],
            ([*(s(one[k], 120) for k in _heads(rows)), n(one["count"])] for one in rows),
        )
        for name, rows in found["decisions"].items()
    ]
    far = [
        table(
            "How far apart the distributions are",
            ["distribution", "measure", "counted in old", "in new", "distance"],
            ([s(one.name), s(one.measure), n(one.old), n(one.new), f(one.distance)] for one in distances),
            "0: equal shares; 1: nothing in common. Kolmogorov-Smirnov is the largest difference of the cumulative "
            "shares, total variation the share that would have to move.",
        )
    ]
    named = [
        table(
            "Examples",
            ["record", "what", "kind", "source", "row", "why"],
            (
                [s(one.key[:16]), s(one.what), s(one.kind), s(one.source), s(one.row), s(one.why, 120)]
                for one in changes
            ),
        )
    ]
    groups = {"samples": moved, "examples": named, "distances": far, "fields": changed, "decisions": decided}
    return {name: [one for one in tables if one.rows] for name, tables in groups.items()}


def _heads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in next(iter(rows), {}) if name != "count"]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
