"""Decide: one verdict per occurrence, from annotations alone.

Two groupings through the engine's shuffle:

- `resolve` judges each annotations file by `RULES` while loading it, brings the occurrences of a record
  together, picks the survivor and the split;
- `decide` brings the verdicts back to their landing file, so that decisions lie row by row beside landing.

The survivor of a record minimises (source priority, source name, row) among the occurrences that no rule
dropped; the other passing ones are merged into it. A pair's captions therefore survive even when the image
was seen first elsewhere. Images of an image source merge into a pair of the same bytes unless the recipe
says `captioned_images = "both"`. The split follows the content: validation if H(seed, record id) < share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import table_digest
from imglish.ingest.placeholders import RULE as PLACEHOLDER
from imglish.ingest.placeholders import drop_placeholders
from imglish.ingest.rules import EXACT_DUPLICATE, RULES, Finding
from imglish.recipe import Recipe, content_fields
from imglish.records import DECISIONS, EVIDENCE, pack_json, table, unpack_json
from imglish.seeds import stream, uniform
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, find_receipt, run_group
from imglish.storage import Output, Store

VERSION = 2
FOLDER = "tables"

_JUDGED = pa.schema(
    [
        pa.field("bucket", pa.int32()),
        pa.field("unit", pa.int32()),  # number of the landing file
        pa.field("place", pa.int32()),  # row in it
        *[DECISIONS.field(name) for name in DECISIONS.names],
        pa.field("evidence", pa.binary()),
        pa.field("url_place", pa.int64()),  # see placeholders
    ]
)


def decide(
    store: Store, engine: Engine, recipe: Recipe, annotations: Sequence[Output], progress: Progress | None = None
) -> list[tuple[Output, Output]]:
    """(decisions, evidence) for every annotations file, in the same order."""
    priorities = {source.name: source.priority for source in recipe.source}
    params = {
        "decide": content_fields(recipe.decide),
        "rules": [*(str(rule) for rule in RULES), PLACEHOLDER],
        "priorities": priorities,
        "seed": recipe.seed,
    }
    pieces = [{"unit": number, "path": output.path} for number, output in enumerate(annotations)]
    resolve_unit = Unit("resolve", VERSION, params, [output.sha256 for output in annotations])
    buckets = recipe.decide.buckets
    resolved = run_group(
        store,
        FOLDER,
        engine,
        resolve_unit,
        _Judge(store, recipe, buckets),
        pieces,
        range(buckets),
        _Resolve(store, recipe),
        progress,
    )
    decide_unit = Unit("decide", VERSION, {}, [resolve_unit.id])
    pieces = [{"path": output.path} for output in resolved.outputs.values()]
    load, reduce = _ByLandingFile(store), _Align(store)
    decided = run_group(
        store, FOLDER, engine, decide_unit, load, pieces, range(len(annotations)), reduce, progress
    ).outputs
    return [(decided[f"{n:06d}/decisions"], decided[f"{n:06d}/evidence"]) for n in range(len(annotations))]


@dataclass(frozen=True)
class _Judge:
    """Loads one annotations file with every rule's verdict; bucket = record id mod buckets."""

    store: Store
    recipe: Recipe
    buckets: int

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = self.store.read_table(piece["path"])
        return judge(rows, self.recipe, piece["unit"], self.buckets)


def judge(rows: pa.Table, recipe: Recipe, unit: int, buckets: int) -> pa.Table:
    """Annotations with the rules' local verdicts, before duplicates are known."""
    findings = [rule.judge(rows, recipe.decide) for rule in RULES]
    fired = np.stack([finding.fired for finding in findings]) if rows.num_rows else np.zeros((len(RULES), 0), bool)
    bits = (fired * (1 << np.arange(len(RULES)))[:, None]).sum(axis=0).astype(np.int64)
    first = np.where(fired.any(axis=0), fired.argmax(axis=0), -1)
    priorities = {source.name: source.priority for source in recipe.source}
    out: list[dict[str, Any]] = []
    for place, row in enumerate(rows.select(["source", "row", "kind", "record_id", "url_place"]).to_pylist()):
        evidence = [_evidence(n, findings[n], place) for n in np.flatnonzero(fired[:, place]).tolist()]
        edits = [edit for finding in findings for edit in finding.edits.get(place, [])]
        decided = evidence[0] if first[place] >= 0 else {}
        row |= {name: decided.get(name) for name in ("rule", "score", "threshold", "detail")}
        row |= {"verdict": "drop" if decided else "keep", "fired": int(bits[place]), "unit": unit, "place": place}
        row |= {"priority": priorities[row["source"]], "edits": pack_json(edits) if edits and not decided else None}
        row["evidence"] = pack_json(evidence) if evidence else None
        row["bucket"] = int.from_bytes((row["record_id"] or b"\0")[:8], "big") % buckets
        out.append(row)
    return table(out, _JUDGED)


def _evidence(number: int, finding: Finding, place: int) -> dict[str, Any]:
    score = finding.score[place]
    return {
        "rule": str(RULES[number]),
        "score": None if np.isnan(score) else float(score),
        "threshold": finding.threshold,
        "detail": finding.detail.get(place),
    }


@dataclass(frozen=True)
class _Resolve:
    """Picks survivors in one bucket of records."""

    store: Store
    recipe: Recipe
    stage: str = "resolve"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.drop_columns(["bucket"])
        keys = ["record_id", "priority", "source", "row"]
        unit = Unit("resolve-bucket", VERSION, _resolve_params(self.recipe), [table_digest(rows, keys)])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None and found.notes["bucket"] == bucket:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        output = self.store.put_table(f"{FOLDER}/resolve", resolve(rows, self.recipe))
        return commit({"rows": output}, notes={"bucket": bucket})


def _resolve_params(recipe: Recipe) -> dict[str, Any]:
    decide = recipe.decide
    params = {"seed": recipe.seed, "share": decide.validation_share, "captioned_images": decide.captioned_images}
    return params | {"placeholder_urls": decide.placeholder_urls}


def resolve(rows: pa.Table, recipe: Recipe) -> pa.Table:
    """Judged rows with survivors, merges, sample kinds and splits filled in; sorted by record."""
    keys = [("record_id", "ascending"), ("priority", "ascending"), ("source", "ascending"), ("row", "ascending")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=keys))
    group = _groups(rows.column("record_id"))
    rows = drop_placeholders(rows, group, recipe.decide.placeholder_urls, bit=len(RULES))
    passing = np.asarray(pc.equal(rows.column("verdict"), "keep").to_numpy(zero_copy_only=False))
    kinds = np.asarray(rows.column("kind").to_numpy(zero_copy_only=False))
    survivor = np.full(rows.num_rows, -1, dtype=np.int64)
    for kind in ("pair", "image", "text"):
        mine = passing & (kinds == kind)
        survivor[mine] = _first_of_group(group, mine)[group[mine]]
    if recipe.decide.captioned_images == "pair":
        pair_of = _first_of_group(group, passing & (kinds == "pair"))[group] if rows.num_rows else survivor
        captioned = passing & (kinds == "image") & (pair_of >= 0)
        survivor[captioned] = pair_of[captioned]
    return _fill(rows, survivor, recipe)


def _groups(record_ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """A running number per record of sorted ids; nulls are records of their own (no rule lets them pass)."""
    ids = record_ids.combine_chunks()
    if len(ids) == 0:
        return np.zeros(0, dtype=np.int64)
    same = pc.fill_null(pc.equal(ids[1:], ids[:-1]), False).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(~same)]).astype(np.int64)


def _first_of_group(group: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every group the first row where `mask` holds, -1 where none does."""
    first = np.full(int(group[-1]) + 1 if len(group) else 0, -1, dtype=np.int64)
    where = np.flatnonzero(mask)[::-1]
    first[group[where]] = where
    return first


def _fill(rows: pa.Table, survivor: NDArray[np.int64], recipe: Recipe) -> pa.Table:
    place = np.arange(rows.num_rows)
    merged = (survivor >= 0) & (survivor != place)
    kept = survivor >= 0
    other = pa.array(survivor, mask=~merged)
    none = pa.nulls(rows.num_rows, pa.string())
    columns = {
        "verdict": pc.if_else(pa.array(merged), "merge", rows.column("verdict")),
        "rule": pc.if_else(pa.array(merged), EXACT_DUPLICATE, rows.column("rule")),
        "other_source": rows.column("source").take(other),
        "other_row": rows.column("row").take(other),
        "sample_kind": rows.column("kind").take(pa.array(survivor, mask=~kept)),
        "split": pc.if_else(pa.array(kept), _splits(rows.column("record_id"), recipe), none),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), _JUDGED.field(name), values)
    return rows


def _splits(record_ids: pa.ChunkedArray, recipe: Recipe) -> pa.Array:
    """The split of every record: its own hash against the share, so a corpus that grows keeps its split."""
    low = [int.from_bytes((value or b"")[-8:], "little") for value in record_ids.to_pylist()]
    chance = uniform(stream(recipe.seed, "split").keys(np.array(low, dtype=np.uint64)))
    names = np.where(chance < recipe.decide.validation_share, "validation", "train")
    return pa.array(names.tolist(), pa.string())


@dataclass(frozen=True)
class _ByLandingFile:
    """Loads resolved rows; bucket = number of the landing file."""

    store: Store

    def __call__(self, piece: Mapping[str, Any]) -> pa.Table:
        rows = self.store.read_table(piece["path"])
        return rows.append_column(_JUDGED.field("bucket"), rows.column("unit"))


@dataclass(frozen=True)
class _Align:
    """Writes the decisions and the evidence of one landing file, in landing's row order."""

    store: Store
    stage: str = "decide"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        rows = rows.drop_columns(["bucket", "unit"])
        unit = Unit("decide-file", VERSION, {"file": bucket}, [table_digest(rows, ["place"])])
        found = find_receipt(self.store, FOLDER, unit.stage, unit.id)
        if found is not None:
            return found
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        rows = rows.take(pc.sort_indices(rows, sort_keys=[("place", "ascending")]))
        decisions = self.store.put_table(f"{FOLDER}/decide", rows.select(DECISIONS.names).cast(DECISIONS))
        evidence = self.store.put_table(f"{FOLDER}/evidence", _evidence_rows(rows))
        return commit({"decisions": decisions, "evidence": evidence}, notes={"bucket": bucket})


def _evidence_rows(rows: pa.Table) -> pa.Table:
    columns = ["source", "row", "evidence", "verdict", "rule", "other_source", "other_row"]
    found: list[dict[str, Any]] = []
    for row in rows.select(columns).to_pylist():
        who = {"source": row["source"], "row": row["row"]}
        found += [who | item for item in unpack_json(row["evidence"]) or []]
        if row["verdict"] == "merge":
            other = {"other_source": row["other_source"], "other_row": row["other_row"]}
            found.append(who | {"rule": row["rule"]} | other)
    return table(found, EVIDENCE)
