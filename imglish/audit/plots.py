"""Plots of the report as inline SVG: real text, colours from the page's theme, the same bytes for the same numbers.

    plot = bars("samples", "Samples by source", [("gimp", 812), ("emoji", 1868)])
    plot.svg, plot.alt

matplotlib draws with placeholder colours that become CSS variables, so one drawing serves light, dark and paper. Ids
are prefixed by the plot's name, because several drawings share a page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from imglish.audit.common import clean, number, require

WIDTH = 4.2
"""Inches; about 300 SVG units, so that letters of 10 units stay legible on a 390 pixel wide screen."""
MOST_BARS = 16
_LABEL = 22  # characters of a bar's label

_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--first)",
    "#050505": "var(--second)",
    "#060606": "var(--third)",
}
_INK, _MUTED, _LINE, _FIRST, _SECOND, _THIRD = _COLOURS
SERIES = (_FIRST, _SECOND, _THIRD)
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    """A drawing: `name` is unique on the page, `title` stands above it, `alt` says in words what it shows."""

    name: str
    title: str
    svg: str
    alt: str


def bars(name: str, title: str, values: Sequence[tuple[str, int]]) -> Plot:
    """Horizontal bars, largest first, with their numbers; the smallest are added up when there are many."""
    rows = _largest(values)
    with _figure(0.5 + 0.27 * max(1, len(rows)), name) as (figure, axes):
        axes.barh([label for label, _ in rows], [count for _, count in rows], color=_FIRST, height=0.7)
        for place, (_, count) in enumerate(rows):
            axes.annotate(number(count), (count, place), (4, 0), textcoords="offset points", va="center")
        _horizontal(axes, max((count for _, count in rows), default=0))
        svg = _svg(figure, name)
    return Plot(name, title, svg, f"Bar chart. {_sentence(rows)}")


def stacked(name: str, title: str, parts: Sequence[str], values: Mapping[str, Sequence[int]]) -> Plot:
    """Horizontal bars in up to three parts each, in the order given, with a legend and the numbers of every part."""
    rows = [(_label(label), list(counts)) for label, counts in values.items()]
    with _figure(0.7 + 0.44 * max(1, len(rows)), name) as (figure, axes):
        for part, word in enumerate(parts):
            left = [sum(counts[:part]) for _, counts in rows]
            width = [counts[part] for _, counts in rows]
            axes.barh(range(len(rows)), width, left=left, color=SERIES[part], height=0.45, label=word)
        for place, (_, counts) in enumerate(rows):
            said = " / ".join(number(count) for count in counts)
            axes.annotate(said, (1, place), (0, 13), textcoords="offset points", va="center", fontsize=9, color=_MUTED)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        _horizontal(axes, max((sum(counts) for _, counts in rows), default=0), room=1.02)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts), handlelength=1, columnspacing=1)
        svg = _svg(figure, name)
    said = "; ".join(
        f"{label}: " + ", ".join(f"{word} {number(count)}" for word, count in zip(parts, counts, strict=True))
        for label, counts in rows
    )
    return Plot(name, title, svg, f"Stacked bar chart. {said}.")


def histogram(name: str, title: str, unit: str, bins: Sequence[Mapping[str, int]], scale: int = 1) -> Plot:
    """Columns over bins; `scale` divides the bounds that are shown (1000 for thousandths)."""
    rows = [(_range(item, scale), item["count"]) for item in bins]
    with _figure(2.6, name) as (figure, axes):
        axes.bar(range(len(rows)), [count for _, count in rows], color=_FIRST, width=0.92)
        for place, (_, count) in enumerate(rows):
            axes.annotate(short(count), (place, count), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(rows)), [label for label, _ in rows], rotation=40, ha="right", fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel(unit)
        axes.margins(x=0.01, y=0.12)
        svg = _svg(figure, name)
    return Plot(name, title, svg, f"Histogram, {unit}. {_sentence(rows)}")


def grouped(
    name: str, title: str, unit: str, old: Sequence[Mapping[str, int]], new: Sequence[Mapping[str, int]]
) -> Plot:
    """Columns of two corpora side by side over the same bins, each in shares of its own total."""
    totals = [max(1, sum(item["count"] for item in bins)) for bins in (old, new)]
    shares = [[100 * item["count"] / total for item in bins] for bins, total in zip((old, new), totals, strict=True)]
    labels = [_range(item, 1) for item in old]
    with _figure(2.7, name) as (figure, axes):
        for place, (word, values) in enumerate(zip(("old", "new"), shares, strict=True)):
            places = [number + (place - 0.5) * 0.42 for number in range(len(values))]
            axes.bar(places, values, color=SERIES[place], width=0.4, label=word)
        axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=9)
        axes.tick_params(length=0)
        axes.set_xlabel(unit)
        axes.set_ylabel("% of the corpus")
        axes.legend(loc="upper right", handlelength=1)
        axes.margins(x=0.01, y=0.12)
        svg = _svg(figure, name)
    said = "; ".join(f"{label}: {a:.1f} % and {b:.1f} %" for label, a, b in zip(labels, *shares, strict=True))
    return Plot(name, title, svg, f"Columns of the old and the new corpus, {unit}. {said}.")


def curves(name: str, title: str, unit: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> Plot:
    """Up to six curves over steps, told apart by dashes as well as by colour, with their last values in the legend."""
    with _figure(2.5 + 0.17 * len(lines), name) as (figure, axes):
        for place, (label, points) in enumerate(lines.items()):
            shown = f"{_label(label)}  {points[-1][1]:.4g}" if points else _label(label)
            style = ("-", "--", ":")[place // len(SERIES)]
            axes.plot(*zip(*points, strict=True), color=SERIES[place % len(SERIES)], linestyle=style, label=shown)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(color=_LINE, linewidth=0.6)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, handlelength=1.6)
        svg = _svg(figure, name)
    said = "; ".join(
        f"{label}: from {points[0][1]:.4g} to {points[-1][1]:.4g} in {len(points)} points"
        for label, points in lines.items()
        if points
    )
    return Plot(name, title, svg, f"Curves over steps, {unit}. {said}.")


def ranks(name: str, title: str, values: Sequence[Mapping[str, int]]) -> Plot:
    """How often the first, second, fifth ... most frequent code occurs, both axes logarithmic."""
    rows = [(f"rank {item['rank']:,}", item["count"]) for item in values]
    with _figure(2.6, name) as (figure, axes):
        places, counts = [item["rank"] for item in values], [item["count"] for item in values]
        axes.plot(places, counts, color=_FIRST, marker="o", markersize=4, linewidth=1.5)
        for place, count in zip(places[::3], counts[::3], strict=True):
            axes.annotate(short(count), (place, count), (4, 5), textcoords="offset points", fontsize=8)
        if values:
            axes.set_xscale("log")
            axes.set_yscale("log")
        _plain_log(axes.xaxis)
        _plain_log(axes.yaxis)
        axes.set_xlabel("rank of the code")
        axes.set_ylabel("occurrences")
        axes.grid(color=_LINE, linewidth=0.6)
        axes.margins(x=0.08, y=0.12)
        svg = _svg(figure, name)
    return Plot(name, title, svg, f"Line, both axes logarithmic. {_sentence(rows)}")


def short(count: int) -> str:
    """A count in at most four characters or so: 950, 12k, 3.4M."""
    for size, word in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            tenths = count * 10 // size
            return f"{tenths // 10}.{tenths % 10}{word}" if tenths < 100 else f"{tenths // 10}{word}"
    return str(count)


def _largest(values: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    rows = sorted(values, key=lambda row: (-row[1], row[0]))
    if len(rows) > MOST_BARS:
        rest = rows[MOST_BARS - 1 :]
        rows = [*rows[: MOST_BARS - 1], (f"{len(rest)} others", sum(count for _, count in rest))]
    return _distinct([(_label(label), count) for label, count in rows])


def _distinct(rows: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """matplotlib puts equal labels on one bar; cut ones may be equal."""
    seen: dict[str, int] = {}
    found = []
    for label, count in rows:
        seen[label] = seen.get(label, 0) + 1
        found.append((label if seen[label] == 1 else f"{label} ({seen[label]})", count))
    return found


def _label(text: str) -> str:
    return clean(text, _LABEL)


def _range(item: Mapping[str, int], scale: int) -> str:
    low, high = item["from"], item["to"]
    if scale > 1:
        return f"{low / scale:.2g}\u2013{(high + 1) / scale:.2g}"
    return short(low) if low == high else f"{short(low)}\u2013{short(high)}"


def _sentence(rows: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{label}: {number(count)}" for label, count in rows) + "." if rows else "No data."


def _horizontal(axes: Any, most: int, room: float = 1.22) -> None:
    axes.invert_yaxis()
    axes.set_xlim(0, max(1, most) * room)
    axes.set_xticks([])
    axes.tick_params(length=0, labelcolor=_INK)
    axes.spines["bottom"].set_visible(False)


def _plain_log(axis: Any) -> None:
    axis.set_major_formatter(lambda value, place: short(int(value)))
    axis.set_minor_formatter(lambda value, place: "")


@contextmanager
def _figure(height: float, name: str) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes under our settings only, whatever the user's matplotlibrc says."""
    matplotlib = require("matplotlib")
    figures = require("matplotlib.figure")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": f"imglish {name}"})
        figure = figures.Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Any, name: str) -> str:
    """The drawing for a page: no prologue, style sheet or sizes, colours as variables, ids unique to the plot."""
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    used = set(re.findall(r"#([A-Za-z][\w.-]*)[)\"]", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return text.strip() + "\n"
