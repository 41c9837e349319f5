"""Reproducibility: everything that a rebuild needs, and for each whether this audit has seen it.

    rebuilding(tables)[0]       # {"what": "metadata tables", "count": 9, "state": "verified", "how": "..."}

`verified` has the digest that the manifest names; `here` was found but not read; `missing` was looked for and is not
there; `not checked` cannot be said from the corpus alone.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imglish.audit.tables import Tables
from imglish.digests import json_digest
from imglish.ingest.land import STAGE, read_index
from imglish.ingest.landing import FOLDER
from imglish.ingest.tally import FOLDER as TALLIES
from imglish.ingest.tally import STAGE as TALLY
from imglish.ingest.tally import tally_units
from imglish.receipts import find_receipts
from imglish.storage import Output

Check = dict[str, Any]


def rebuilding(tables: Tables) -> list[Check]:
    """What was looked at, in a fixed order; call it after every table was read."""
    manifest = tables.manifest
    read = "read for this report; SHA-256 as in the manifest"
    found = [
        _check("manifest", 1, "verified", "its counts and both digests follow from its fields"),
        _check("metadata tables", len(manifest.shards), "verified", read),
        _check("decisions tables", len(manifest.decisions.files), "verified", read),
        _check("shards", len(manifest.shards), "not checked", "imglish verify reads every byte of them"),
    ]
    for name in ("text", "visual"):
        tokenizer = getattr(manifest.tokenizers, name)
        there = tokenizer.path is not None and tables.store.exists(tokenizer.path)
        how = "its file is here; its digest is checked before it is used" if there else "its file is not in the corpus"
        found.append(_check(f"{name} tokenizer", 1, "here" if there else "missing", how, tokenizer.digest))
    found += _sources(tables)
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    found.append(_check("libraries", len(manifest.libraries), "not checked", f"a rebuild needs {libraries}"))
    found.append(_check("machine", 1, "not checked", "codes are equal on the numeric platform of the build's receipts"))
    return found


def _sources(tables: Tables) -> list[Check]:
    """Every source: its landing files, and whether its occurrences have the digest that the manifest names."""
    outputs = [Output(file.path, file.sha256, file.bytes, 0) for file in tables.manifest.decisions.files]
    units = [unit.id for unit in tally_units(outputs)]
    tallies = find_receipts(tables.store, TALLIES, TALLY, units)
    parts: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        if unit in tallies and tallies[unit].notes["source"] is not None:
            parts[tallies[unit].notes["source"]].append(tallies[unit].notes["occurrences"])
    index = read_index(tables.store)
    found = []
    for name, facts in tables.manifest.sources.items():
        wanted = index.get(name, {}).get("units", [])
        landed = find_receipts(tables.store, FOLDER, STAGE, wanted) if wanted else {}
        whole = bool(wanted) and len(landed) == len(wanted)
        same = "digest" in facts and json_digest(parts[name]) == facts["digest"]
        state = "verified" if whole and same else "here" if whole else "missing"
        how = {
            "verified": "its landing files are here, and the receipts of the build give the digest of its occurrences",
            "here": "its landing files are here; no receipt says what they hold",
            "missing": "its landing is not beside the manifest; a rebuild has to fetch or read the source again",
        }[state]
        found.append(_check(f"landing of {name}", len(wanted), state, how, facts.get("digest")))
    return found


def _check(what: str, count: int, state: str, how: str, digest: str | None = None) -> Check:
    return {"what": what, "count": count, "state": state, "how": how, "digest": digest}
