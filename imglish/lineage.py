"""What a manifest says about where its corpus came from: sources, decisions, tokenizers, recipe, libraries; and the
trail from its decisions back to every table."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imglish.digests import json_digest
from imglish.ingest.alarm import LATER_RULES
from imglish.ingest.decide import Decided
from imglish.ingest.match.join import Matched
from imglish.ingest.measures.base import Measure
from imglish.ingest.measures.registry import make_measure, needed_names
from imglish.ingest.rules import active_rules
from imglish.ingest.tally import Verdicts, verdicts
from imglish.ingest.trail import Trail, TrailFile
from imglish.recipe import Recipe, content_fields
from imglish.shards.images import CODEC
from imglish.stages import Receipt, counts_of
from imglish.storage import Output
from imglish.versions import BYTES_LIBRARIES


class DecidedTables(NamedTuple):
    """What was decided from, and what came out; `sources`, `landing`, `annotations` and `measures` by landing file."""

    sources: Sequence[str]
    landing: Sequence[Output]
    annotations: Sequence[Output]
    measures: Sequence[Sequence[Output]]
    matched: Matched
    decided: Decided


def trail_of(recipe: Recipe, tables: DecidedTables, tallies: Sequence[Receipt]) -> Trail:
    """The trail to the tables of these decisions; the tallies stand in the order of the decisions' files."""
    kinds = {source.name: source.kind for source in recipe.source}
    spans = [n for n, (first, end) in enumerate(tables.decided.spans) for _ in range(first, end)]
    files = [
        TrailFile(
            source=source,
            kind=kinds[source],
            rows=tables.landing[n].rows,
            landing=tables.landing[n].path,
            annotations=tables.annotations[n].path,
            measures=tuple(output.path for output in tables.measures[n]),
            decisions=tables.decided.decisions[n].path,
            evidence=tables.decided.evidence[spans[n]].path,
            leaks=tables.matched.leaks[n].path if tables.matched.leaks else None,
        )
        for n, source in enumerate(tables.sources)
    ]
    return Trail(
        name=f"{recipe.name}@{recipe.version}",
        decisions=decisions_digest(tallies),
        rules=tuple(rule.facts() for rule in active_rules(recipe)),
        later_rules=LATER_RULES,
        files=tuple(files),
        edges=tuple(output.path for output in tables.matched.edges),
        counts=counts_of(tallies),
    )


def decisions_digest(tallies: Sequence[Receipt]) -> str:
    """Logical digest of all decisions."""
    return json_digest([tally.notes["decisions"] for tally in tallies])


def lineage(
    recipe: Recipe,
    models: Mapping[str, Mapping[str, Any]],
    decisions: Sequence[Output],
    tallies: Sequence[Receipt],
) -> dict[str, Any]:
    """The arguments of `build_manifest` beside the shards; the tallies stand in the order of the decisions' files."""
    found = verdicts(counts_of(tallies))
    return {
        "name": recipe.name,
        "version": recipe.version,
        "tokenizers": {name: _tokenizer_facts(model) for name, model in models.items()},
        "views": content_fields(recipe.tokenize.views),
        "images": {**CODEC, "stored": content_fields(recipe.tokenize.stored)},
        "sources": _sources(recipe, found, tallies),
        "drops": _drops(found),
        "decisions": {
            "digest": decisions_digest(tallies),
            "files": [{"path": d.path, "sha256": d.sha256, "bytes": d.bytes} for d in decisions],
            "rules": [rule.facts() for rule in active_rules(recipe)],
            "measures": [_measure_facts(make_measure(name, recipe)) for name in needed_names(recipe)],
        },
        "recipe": {name: value for name, value in content_fields(recipe).items() if name != "train"},
        "libraries": {name: importlib.metadata.version(name) for name in BYTES_LIBRARIES},
    }


def _tokenizer_facts(model: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("digest", "vocabulary", "mask_id", "type", "codes", "size", "patch", "grid", "path")
    return {name: model[name] for name in wanted if name in model}


def _measure_facts(measure: Measure) -> dict[str, Any]:
    return {"measure": measure.name, "version": measure.version, "params": dict(measure.params)}


def _sources(recipe: Recipe, found: Sequence[Verdicts], tallies: Sequence[Receipt]) -> dict[str, Any]:
    """Per source: what it is, verdicts, and a digest over its occurrences (row references and record ids)."""
    facts: dict[str, Any] = {}
    for source in recipe.source:
        mine = [row for row in found if row.source == source.name]
        totals = {
            verdict: sum(row.count for row in mine if row.verdict == verdict) for verdict in ("keep", "merge", "drop")
        }
        parts = [tally.notes["occurrences"] for tally in tallies if tally.notes["source"] == source.name]
        about = {"format": source.format, "kind": source.kind, "licence": source.licence}
        facts[source.name] = {**about, **totals, "digest": json_digest(parts)}
    return facts


def _drops(found: Sequence[Verdicts]) -> dict[str, int]:
    drops: dict[str, int] = {}
    for row in found:
        if row.verdict == "drop":
            drops[row.rule] = drops.get(row.rule, 0) + row.count
    return drops
