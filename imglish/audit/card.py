"""The dataset card: a README.md with the front matter that model and data hubs read, from manifest and metadata alone.

text = card("corpus/manifest.json")
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.compute as pc

from imglish.audit.balance import AXES, COLUMNS, PLURAL, UNDETERMINED, Balance, unit
from imglish.audit.common import clean, number
from imglish.audit.tables import Tables
from imglish.records import KINDS

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip
"""Size categories of the Hugging Face hub, by their upper ends."""

_COUNTED = (*KINDS, "captions")
_FACTS = ("kind", "format", "licence")
_VERDICTS = {"keep": "kept", "merge": "merged", "drop": "dropped"}


def card(manifest_path: str) -> str:
    """The Markdown; ManifestError when the manifest or a metadata table is missing or damaged."""
    tables = Tables(str(manifest_path))
    manifest = tables.manifest
    counted = Balance(manifest)
    for ordinal, rows in tables.metadata(["table", *COLUMNS]):
        occurrences, histograms = (
            rows.filter(pc.equal(rows.column("table"), name)) for name in ("occurrence", "histogram")
        )
        counted.add(ordinal, occurrences, histograms)
    values = counted.values()
    parts = [
        _front_matter(tables, values, counted.licences()),
        f"# {_plain(manifest.name)}@{_plain(manifest.version)}",
        "Image-text pairs, images and text with precomputed visual codes, for masked data modelling "
        f"(BEiT-3). Digest `{manifest.digest}`; what a model sees `{manifest.data_digest}`.",
        "## What is in it",
        _table(
            ["split", *_COUNTED], ([split, *map(number, _counts(counts))] for split, counts in _sorted(manifest.counts))
        ),
        "Index rows; text in blocks of 512 ids.",
        *(part for kind in KINDS for axis in AXES for part in _axis(values, kind, axis)),
        "## Where it is from",
        _table(["source", *_FACTS, *_VERDICTS.values()], (_source(*source) for source in manifest.sources.items())),
        "## What was decided",
        _table(["rule", "occurrences dropped"], ([name, number(count)] for name, count in _sorted(manifest.drops))),
        f"Rules in order: {', '.join(_plain(str(rule['rule'])) for rule in manifest.decisions.rules) or 'none'}.",
        "## How to use it",
        '```python\nimport imglish\n\ncorpus = imglish.open_corpus("manifest.json")\ncorpus["pair"][0].captions\n```',
        "`imglish audit manifest.json` writes a report with every number, `imglish verify manifest.json` checks every "
        "byte. `croissant.json` describes the files for other tools.",
        "## What to be careful about",
        "Licences are those that the sources state, for each sample in the metadata tables. Captions are as found. "
        "What was compared with evaluation sets, and what was not, stands in the report under Contamination.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(tables: Tables, values: Mapping[str, Any], licences: Mapping[str, int]) -> str:
    manifest = tables.manifest
    languages = sorted({name for of in values.values() for name in of["language"]} - {UNDETERMINED})
    single = list(licences) if len(licences) == 1 else []
    facts: dict[str, Any] = {
        "pretty_name": clean(manifest.name, 80),
        "license": single[0].lower() if single and single[0] != "not stated" else "other",
        "language": languages,
        "size_categories": [_size(sum(counts[kind] for counts in manifest.counts.values() for kind in KINDS))],
        "task_categories": ["image-to-text", "text-to-image", "fill-mask"],
        "tags": ["webdataset", "croissant", "beit-3", "imglish"],
    }
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=True)}" for name, value in facts.items()), "---"]
    )


def _size(count: int) -> str:
    return next((name for end, name in _SIZES if count < end), "n>1B")


def _axis(values: Mapping[str, Any], kind: Any, axis: str) -> list[str]:
    cells = values[PLURAL[kind]][axis]
    named = sorted(cells.items(), key=lambda item: (-item[1][unit(kind)], item[0]))[:20]
    rows = [[name, number(cell[unit(kind)]), f"{cell['share']:.1%}"] for name, cell in named if cell[unit(kind)]]
    return [_table([f"{PLURAL[kind]} by {axis}", unit(kind), "share"], rows)] if rows else []


def _source(name: str, facts: Mapping[str, Any]) -> list[str]:
    counts = [number(facts[verdict]) if verdict in facts else "" for verdict in _VERDICTS]
    return [name, *(str(facts.get(field) or "not stated") for field in _FACTS), *counts]


def _sorted(values: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items())


def _counts(counts: Mapping[str, int]) -> list[int]:
    return [counts[name] for name in _COUNTED]


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows]
    heads = list(heads)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines]) if lines else ""


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one cell."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#&$" else character for character in clean(text, 120))
