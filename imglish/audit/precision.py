"""How often a rule was right: labels of a stratified sample, weighted by the strata, with a Wilson interval.

    labels = read_labels("labels.csv", opened.trail.decisions, strata)
    found = precision(labels, strata)[0]
    found.rule, found.precision, found.low, found.high

Stratum h of a rule has N_h decisions, of which n_h were labelled right or wrong ("unsure" counts for neither). The
precision is the sum of N_h * right_h / n_h over the sum of N_h. Its interval is Wilson's (1927) at 95 % for as many
independent labels as the weights leave, (sum N_h)^2 / sum(N_h^2 / n_h) (Kish 1965). Without the correction for finite
populations it is a little too wide.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
from scipy.stats import norm

from imglish.audit.labels import Stratum
from imglish.errors import RecipeError

COLUMNS = ("decisions", "occurrence", "rule", "verdict", "label")
LABELS = ("right", "wrong", "unsure")
CONFIDENCE = 0.95
DIGITS = 16
"""Of the decisions' digest in every row of a CSV."""


@dataclass(frozen=True)
class Label:
    """What a person said of one decision; "" for nothing yet."""

    occurrence: str
    stratum: Stratum
    label: str


@dataclass(frozen=True)
class Precision:
    """Of one rule: labels, the weighted share that is right, and its interval; None while nothing is labelled.

    `covered` of its `decisions` are in strata with a label; of the others nothing is known.
    """

    rule: str
    right: int
    wrong: int
    unsure: int
    precision: float | None
    low: float | None
    high: float | None
    covered: int
    decisions: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def to_csv(labels: Sequence[Label], decisions: str) -> str:
    """The CSV that the page saves; an occurrence begins with a source's name, so no cell is a spreadsheet's formula."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in labels:
        writer.writerow([decisions[:DIGITS], one.occurrence, one.stratum.rule, one.stratum.verdict, one.label])
    return out.getvalue()


def read_labels(path: str, decisions: str, strata: Mapping[Stratum, int]) -> list[Label]:
    """Labels of these decisions from a CSV; RecipeError names the line for anything that is wrong with it."""
    try:
        with fsspec.open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"no labels at {path}; save them from the page of 'imglish sample-decisions'") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 ({error}); save it as CSV in UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise RecipeError(f"{path} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    found: dict[str, Label] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        label = _label(row, where, decisions, strata)
        if found.setdefault(label.occurrence, label) != label:
            raise RecipeError(f"{where}: {label.occurrence!r} has another label above; keep one of them")
    return list(found.values())


def _label(row: Mapping[str, str | None], where: str, decisions: str, strata: Mapping[Stratum, int]) -> Label:
    cells = {name: (row[name] or "").strip() for name in COLUMNS}
    if cells["decisions"] != decisions[:DIGITS]:
        raise RecipeError(
            f"{where}: labels of decisions {cells['decisions']!r}, but these are {decisions[:DIGITS]}; draw a sample "
            "of these, or name the manifest that the labels were drawn from"
        )
    if cells["label"] not in (*LABELS, ""):
        raise RecipeError(f"{where}: label {cells['label']!r} is not one of {', '.join(LABELS)}")
    stratum = Stratum(cells["occurrence"].partition("/")[0], cells["rule"], cells["verdict"])
    if stratum not in strata:
        raise RecipeError(f"{where}: nothing of {stratum.source!r} was decided {stratum.verdict!r} by {stratum.rule!r}")
    return Label(cells["occurrence"], stratum, cells["label"])


def precision(labels: Sequence[Label], strata: Mapping[Stratum, int]) -> list[Precision]:
    """One row for every rule that decided something, in their order of names."""
    counts = Counter((one.stratum, one.label) for one in labels)
    return [_of_rule(rule, counts, strata) for rule in sorted({stratum.rule for stratum in strata})]


def _of_rule(rule: str, counts: Mapping[tuple[Stratum, str], int], strata: Mapping[Stratum, int]) -> Precision:
    mine = {stratum: size for stratum, size in strata.items() if stratum.rule == rule}
    said = {stratum: [counts.get((stratum, name), 0) for name in LABELS] for stratum in mine}
    judged = {stratum: right + wrong for stratum, (right, wrong, _) in said.items() if right + wrong}
    covered = sum(mine[stratum] for stratum in judged)
    share = low = high = None
    if covered:
        share = sum(mine[stratum] * said[stratum][0] / count for stratum, count in judged.items()) / covered
        effective = covered**2 / sum(mine[stratum] ** 2 / count for stratum, count in judged.items())
        low, high = wilson(share, effective)
    right, wrong, unsure = (sum(of[number] for of in said.values()) for number in range(len(LABELS)))
    return Precision(rule, right, wrong, unsure, share, low, high, covered, sum(mine.values()))


def wilson(share: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share seen in `count` independent trials, which need not be whole."""
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (z2 * share * (1 - share) / count + z2**2 / (4 * count**2)) ** 0.5 / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
