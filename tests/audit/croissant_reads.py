"""What mlcroissant makes of a description, as JSON; a process of its own, since it warns and leaves files open.

python -m tests.audit.croissant_reads corpus/croissant.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import mlcroissant

RECORD_SETS = ("pair", "pair_txt", "pair_codes", "image", "text", "occurrence")


def plain(value: Any) -> Any:
    """A value of a record: bytes as hex, a picture as its size."""
    if isinstance(value, bytes):
        return value.hex()
    return list(value.size) if hasattr(value, "size") else value


if __name__ == "__main__":
    dataset = mlcroissant.Dataset(sys.argv[1])
    issues = dataset.metadata.ctx.issues
    records = {
        name: [{field: plain(value) for field, value in row.items()} for row in dataset.records(name)]
        for name in RECORD_SETS
    }
    found = {"errors": sorted(map(str, issues.errors)), "warnings": sorted(map(str, issues.warnings))}
    json.dump({**found, "version": dataset.metadata.ctx.conforms_to.value, "records": records}, sys.stdout, default=str)
