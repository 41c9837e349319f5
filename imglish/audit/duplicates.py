"""Duplicates: groups of occurrences of which one survived, by how they were found, from the decisions tables.

    duplicates.values()["exact_duplicate@1"]        # {"groups": ..., "sizes": {...}, "largest": [...]}

A group is a surviving occurrence and all that name it as the one they repeat; its size counts the survivor too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.pictures import described

LARGEST = 8
"""Groups that are named for every rule."""
COLUMNS = ("rule", "other_source", "other_row")
_GROUP = ["rule", "other_source", "other_row"]


class Duplicates:
    """Counts over decisions tables."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """One table, with `COLUMNS`."""
        found = rows.filter(pc.is_valid(rows.column("other_row"))).group_by(_GROUP).aggregate([([], "count_all")])
        if found.num_rows:
            self._parts.append(found)

    def values(self) -> dict[str, Any]:
        """By rule: groups, occurrences that gave way, sizes and the largest."""
        if not self._parts:
            return {}
        whole = pa.concat_tables(self._parts).group_by(_GROUP).aggregate([("count_all", "sum")])
        rules = sorted(pc.unique(whole.column("rule")).drop_null().to_pylist())
        return {rule: _rule(whole.filter(pc.equal(whole.column("rule"), rule))) for rule in rules}


def _rule(groups: pa.Table) -> dict[str, Any]:
    counted = pc.value_counts(groups.column("count_all_sum")).to_pylist()
    sizes = Counter({item["values"] + 1: item["counts"] for item in counted})
    keys = [("count_all_sum", "descending"), ("other_source", "ascending"), ("other_row", "ascending")]
    largest = groups.take(pc.sort_indices(groups, sort_keys=keys)[:LARGEST]).to_pylist()
    return {
        "groups": groups.num_rows,
        "occurrences": sum((size - 1) * count for size, count in sizes.items()),
        "sizes": described(sizes),
        "largest": [
            {"source": row["other_source"], "row": row["other_row"], "size": row["count_all_sum"] + 1}
            for row in largest
        ],
    }
