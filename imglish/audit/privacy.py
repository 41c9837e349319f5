"""Privacy and safety: what was redacted, what was dropped as personal or unsafe, which wishes were honoured.

Counts are over all occurrences, kept or not. Examples show where something stood and what stands there now, never what
it was: the tables do not hold it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.records import unpack_json
from imglish.shards.manifest import Manifest

EXAMPLES = 6
COLUMNS = ("source", "row", "kind", "edits")
WISHES = ("opted_out", "robots_disallowed", "robots_unreachable", "forgotten")
"""Statuses of payloads that were not taken, or removed, because somebody asked for it (`records.LANDING`)."""
_RULES = ("pii", "nsfw")
_PLACEHOLDER = re.compile(r"<([a-z]+)(-[0-9a-f]{8})?>")


class Privacy:
    """Counts over decisions tables."""

    def __init__(self) -> None:
        self.edits = 0
        self.pieces: Counter[str] = Counter()
        self.occurrences = 0
        self.examples: list[dict[str, Any]] = []

    def add(self, rows: pa.Table) -> None:
        """One table, with `COLUMNS`."""
        edited = rows.filter(pc.is_valid(rows.column("edits"))).select(list(COLUMNS))
        for row in edited.to_pylist():
            edits = unpack_json(row["edits"])
            found = [(edit, classes) for edit in edits if (classes := _PLACEHOLDER.findall(edit[3]))]
            self.edits += len(edits)
            self.pieces.update(name for _, classes in found for name, _ in classes)
            self.occurrences += bool(found)
            if found and len(self.examples) < EXAMPLES:
                self.examples.append(_example(row, found[0][0]))

    def values(self, funnel: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
        """The finished numbers; rules and wishes are the funnel's."""
        rules = [str(rule["rule"]) for rule in manifest.decisions.rules]
        names = sorted({*rules, *funnel["rule"]})
        mine = [name for name in names if name.split("@")[0] in _RULES]
        return {
            "edits": self.edits,
            "redacted": {"occurrences": self.occurrences, "pieces": dict(sorted(self.pieces.items()))},
            "examples": self.examples,
            "rule": {name: _fired(funnel["rule"].get(name)) for name in mine},
            "not_checked": [what for name, what in _CHECKS if not any(rule.split("@")[0] == name for rule in rules)],
            "wishes": {name: funnel["payload"].get(name, 0) for name in WISHES},
            "tombstones": len(manifest.tombstones),
            "robots": bool(manifest.recipe.get("fetch", {}).get("robots", False)),
            "opt_outs": list(manifest.recipe.get("fetch", {}).get("opt_outs", ())),
        }


_CHECKS = (
    ("pii", "personal data in texts and captions (no rule pii)"),
    ("nsfw", "pictures that are not safe for work (no rule nsfw)"),
)


def _fired(cell: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: cell[name] if cell else 0 for name in ("dropped", "fired")}


def _example(row: Mapping[str, Any], edit: Sequence[Any]) -> dict[str, Any]:
    caption, start, end, replacement = edit
    place = {"source": row["source"], "row": row["row"], "kind": row["kind"], "caption": caption}
    return place | {"start": start, "end": end, "masked": "•" * min(24, end - start), "replacement": replacement}
