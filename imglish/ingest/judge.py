"""Judge: the rules' verdicts on annotations, column by column, before duplicates are known.

    rows = measured_rows(store, paths, recipe)                    # annotations and measures, as far as rules read them
    judged = judge(rows, recipe, unit=17, buckets=4)              # schema JUDGED, one row per occurrence
    evidence_rows(resolved)                                       # schema EVIDENCE, one row per rule that fired

The first rule that fired decides; it stands in the row's own columns. What further rules said of the same row travels
in `more` (JSON), which is null for most rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import record_halves
from imglish.errors import StageError
from imglish.ingest.edits import compose
from imglish.ingest.rules import Edit, Finding, Rule, active_rules
from imglish.recipe import Recipe
from imglish.records import ANNOTATIONS, DECISIONS, EVIDENCE, pack_json
from imglish.storage import Store

JUDGED = pa.schema(
    [
        pa.field("bucket", pa.int32()),
        pa.field("unit", pa.int32()),  # number of the landing file
        pa.field("place", pa.int32()),  # row in it
        *[DECISIONS.field(name) for name in DECISIONS.names],
        pa.field("more", pa.binary()),  # JSON list of (rule, score, threshold, detail) after the deciding one
        pa.field("url_place", pa.int64()),  # of ANNOTATIONS, for `placeholders`
    ]
)
_SAID = ("rule", "score", "threshold", "detail")
_ALWAYS = ("source", "row", "kind", "record_id", "url_place")


def measured_rows(store: Store, paths: Sequence[str], recipe: Recipe) -> pa.Table:
    """The annotations at the first path, the measures at the others, columns that no rule reads left out.

    A column that is in none of the files is null: what it measures is not there for this kind of occurrence.
    """
    wanted = dict.fromkeys([*_ALWAYS, *(name for rule in active_rules(recipe) for name in rule.reads)])
    rows = store.read_table(paths[0], [name for name in wanted if name in ANNOTATIONS.names])
    for path in paths[1:]:
        more = store.read_table(path)
        if more.num_rows != rows.num_rows:
            raise StageError(
                f"{path} has {more.num_rows} rows and {paths[0]} {rows.num_rows}; remove both and build again"
            )
        for name in more.column_names:
            rows = rows.append_column(more.schema.field(name), more.column(name)) if name in wanted else rows
    return rows


def judge(rows: pa.Table, recipe: Recipe, unit: int, buckets: int) -> pa.Table:
    """Annotations of landing file `unit` as JUDGED.

    bucket = record id mod buckets. Rows without a record, a quarter of what comes from the web, meet no others: they
    are spread over all buckets.
    """
    rules = active_rules(recipe)
    findings = [rule.judge(_readable(rows, rule), rule.limits) for rule in rules]
    count, place = rows.num_rows, np.arange(rows.num_rows)
    lost, (high, _) = rows.column("record_id").is_null().to_numpy(), record_halves(rows.column("record_id"))
    fired = np.stack([finding.fired for finding in findings])
    dropped: NDArray[np.bool_] = np.any(fired, axis=0)
    first = fired.argmax(axis=0)
    score = np.stack([finding.score for finding in findings])[first, place]
    threshold = np.stack([finding.thresholds() for finding in findings])[first, place]
    names = pa.array([str(rule) for rule in rules])
    rule = pa.array(first, mask=~dropped)
    columns: dict[str, Any] = {
        "bucket": np.where(lost, (place + unit).astype(np.uint64), high) % np.uint64(buckets),
        "unit": np.full(count, unit),
        "place": place,
        **{name: rows.column(name) for name in ("source", "row", "kind", "record_id", "url_place")},
        "verdict": pc.if_else(pa.array(dropped), "drop", "keep"),
        "rule": names.take(rule),
        "score": pa.array(score, mask=~dropped | np.isnan(score)),
        "threshold": pa.array(threshold, mask=~dropped | np.isnan(threshold)),
        "detail": _details(findings, first, dropped),
        "fired": (fired * (1 << np.arange(len(rules)))[:, None]).sum(axis=0),
        "edits": _edits(findings, dropped),
        "priority": _priorities(rows.column("source"), recipe),
        "more": _more(names.to_pylist(), findings, fired),
    }
    return pa.table([_column(columns.get(field.name), field, count) for field in JUDGED], schema=JUDGED)


def _readable(rows: pa.Table, rule: Rule) -> pa.Table:
    """The rows with every column that the rule reads; null where nothing of the kind was measured."""
    for name in rule.reads:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows))
    return rows


def _column(values: Any, field: pa.Field, count: int) -> Any:
    if values is None:
        return pa.nulls(count, field.type)
    return values.cast(field.type) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)


def _details(findings: Sequence[Finding], first: NDArray[np.int64], dropped: NDArray[np.bool_]) -> list[str | None]:
    said: list[str | None] = [None] * len(first)
    for number, finding in enumerate(findings):
        for place, detail in finding.detail.items():
            if dropped[place] and first[place] == number:
                said[place] = detail
    return said


def _edits(findings: Sequence[Finding], dropped: NDArray[np.bool_]) -> list[bytes | None]:
    found: dict[int, list[Edit]] = {}
    for finding in findings:
        for place, edits in finding.edits.items():
            if not dropped[place]:
                found.setdefault(place, []).extend(edits)
    packed: list[bytes | None] = [None] * len(dropped)
    for place, edits in found.items():
        packed[place] = pack_json(compose(edits))
    return packed


def _priorities(sources: pa.ChunkedArray, recipe: Recipe) -> pa.ChunkedArray:
    names = pa.array([source.name for source in recipe.source])
    priorities = pa.array([source.priority for source in recipe.source], pa.int32())
    return priorities.take(pc.index_in(sources.combine_chunks(), value_set=names))


def _more(names: Sequence[str], findings: Sequence[Finding], fired: NDArray[np.bool_]) -> list[bytes | None]:
    more: list[bytes | None] = [None] * fired.shape[1]
    for place in np.flatnonzero(fired.sum(axis=0) > 1).tolist():
        numbers = np.flatnonzero(fired[:, place])[1:].tolist()
        more[place] = orjson.dumps([_said(names[number], findings[number], place) for number in numbers])
    return more


def _said(name: str, finding: Finding, place: int) -> list[Any]:
    numbers = (float(finding.score[place]), float(finding.thresholds()[place]))
    return [name, *(None if np.isnan(number) else number for number in numbers), finding.detail.get(place)]


def evidence_rows(rows: pa.Table) -> pa.Table:
    """EVIDENCE of resolved rows, in their order: rules that fired in the recipe's order, then the merge."""
    place = pa.array(np.arange(rows.num_rows))
    rows = rows.append_column("order", place)
    dropped = rows.filter(pc.equal(rows.column("verdict"), "drop"))
    merged = rows.filter(pc.equal(rows.column("verdict"), "merge"))
    who = ["order", "source", "row"]
    parts = [
        dropped.select([*who, *_SAID, "other_source", "other_row"]),
        _further(rows.filter(pc.is_valid(rows.column("more"))), who),
        merged.select([*who, *_SAID, "other_source", "other_row"]),
    ]
    schema = pa.schema([pa.field("order", pa.int64()), *EVIDENCE])
    filled = [
        pa.table([_column(_get(part, field.name), field, part.num_rows) for field in schema], schema=schema)
        for part in parts
    ]
    whole = pa.concat_tables(filled)
    order = np.argsort(whole.column("order").to_numpy(), kind="stable")
    return whole.take(pa.array(order)).drop_columns(["order"])


def _get(part: pa.Table, name: str) -> Any:
    return part.column(name) if name in part.column_names else None


def _further(rows: pa.Table, who: Sequence[str]) -> pa.Table:
    """What `more` holds, one row each."""
    said = [orjson.loads(packed) for packed in rows.column("more").to_pylist()]
    spread = pa.array(np.repeat(np.arange(rows.num_rows), [len(items) for items in said]))
    flat = [item for items in said for item in items]
    columns = {name: pa.array([item[n] for item in flat], EVIDENCE.field(name).type) for n, name in enumerate(_SAID)}
    return pa.table({**{name: rows.column(name).take(spread) for name in who}, **columns})
