"""Contamination: which evaluation sets were looked for, what was found, and what nobody has looked for.

    contamination.values(manifest, funnel)["unchecked"]     # sentences

A dropped occurrence whose deciding rule is `contaminated` says in its decision what of which set it copies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.shards.manifest import Manifest

RULE = "contaminated"
MATCHES = 20
"""Matches that are shown, the closest first."""
COLUMNS = ("source", "row", "kind", "verdict", "rule", "score", "threshold", "detail")
_SAID = re.compile(r"(?P<said>.*) of evaluation set (?P<set>\S+)", re.DOTALL)
_MATCH = ["source", "row", "kind", "score", "threshold", "detail"]


class Contamination:
    """Matches over decisions tables."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()  # set, kind
        self._best: list[dict[str, Any]] = []

    def add(self, rows: pa.Table) -> None:
        """One table, with `COLUMNS`."""
        found = rows.filter(pc.equal(rows.column("verdict"), "drop"))
        found = found.filter(pc.starts_with(found.column("rule"), f"{RULE}@")).select(_MATCH)
        for row in found.to_pylist():
            said = _SAID.fullmatch(row["detail"] or "")
            name = said["set"] if said else "unknown"
            self.count[name, row["kind"]] += 1
            self._best.append(row | {"set": name, "detail": said["said"] if said else row["detail"] or ""})
        self._best = sorted(self._best, key=_closest_first)[:MATCHES]

    def values(self, manifest: Manifest, funnel: Mapping[str, Any]) -> dict[str, Any]:
        """The finished numbers."""
        match = match_of(manifest)
        names = [str(one["name"]) for one in match.get("evaluation", ())]
        by_set = {name: {} for name in names} | {name: {} for name, _ in sorted(self.count)}  # type: ignore[var-annotated]
        for (name, kind), count in sorted(self.count.items()):
            by_set[name][kind] = count
        fired = sum(cell["fired"] for rule, cell in funnel["rule"].items() if rule.startswith(f"{RULE}@"))
        return {
            "checked": [_set(one) for one in match.get("evaluation", ())],
            "limits": dict(match.get("leak", {})) if names else {},
            "dropped": sum(self.count.values()),
            "fired": fired,
            "set": by_set,
            "matches": self._best,
            "unchecked": _unchecked(manifest, match),
        }


def match_of(manifest: Manifest) -> Mapping[str, Any]:
    found = manifest.recipe.get("match", {})
    return found if isinstance(found, Mapping) else {}


def _set(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": one["name"], "path": one.get("path"), "texts": list(one.get("texts", ()))}


def _closest_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (-(row["score"] or 0.0), row["source"], row["row"])


def _unchecked(manifest: Manifest, match: Mapping[str, Any]) -> list[str]:
    """What this corpus was not compared with, as sentences."""
    if manifest.parts:
        return ["This corpus was merged; each part says what it was compared with, and nothing was done across parts."]
    if not match.get("evaluation"):
        return [
            "No evaluation set was compared with this corpus (the recipe has no [[match.evaluation]]): whether it "
            "holds pictures or texts of a benchmark is unknown."
        ]
    leak = match.get("leak", {})
    return [
        "Any evaluation set that is not listed here.",
        f"Pictures that are less than {leak.get('similarity')} similar to one of a set, or whose hashes differ in more "
        f"than {leak.get('radius')} of 64 bits: crops, heavy edits, collages.",
        f"Texts and captions that hold less than {leak.get('containment')} of the 13-word runs of an evaluation text: "
        "paraphrases and translations.",
        f"Evaluation texts of fewer than {leak.get('min_words')} words.",
        "Text inside pictures.",
    ]
