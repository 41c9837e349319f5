"""What changed between two corpora, from their manifests and tables alone; no tar is opened.

    found = diff("old/manifest.json", "new/manifest.json")
    found["samples"]["removed"]          # [{"kind": "pair", "source": "web", "why": "image_size@1", "count": 12}, ...]
    print(describe(found))

A sample is a pair, an image or a document, known by kind and record id. Why one was added is what its occurrence was in
the old corpus (the rule that dropped it, or "new"); why one was removed is what became of it in the new one (the rule,
"gone" from the source, or "tombstone"). Re-decided are occurrences in both whose verdict, rule, sample kind or split
differ. Tables that both corpora have are skipped, so a small change is a small diff; of the others, the
decisions of one source are held at a time, and the keys of all samples as columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imglish.audit.tables import Tables
from imglish.digests import flatten
from imglish.shards.manifest import FileRef, Shard

DIFF_VERSION = 1
"""Version of the names in the result."""

EXAMPLES = 3
"""Samples named for each kind, source and reason."""

_DECIDED = ["source", "row", "kind", "verdict", "rule", "sample_kind", "split"]
_WHAT = "decisions table"
_METADATA = ["table", "kind", "key", "source", "row", "merged"]


class Change(NamedTuple):
    """One sample that is in one corpus only, or in another split: what happened to it and why, and its survivor."""

    what: str
    kind: str
    source: str
    why: str
    key: str
    row: str


def diff(old_path: str, new_path: str) -> dict[str, Any]:
    """`compare`, without the examples."""
    return compare(Tables(old_path), Tables(new_path))[0]


def compare(old: Tables, new: Tables) -> tuple[dict[str, Any], list[Change]]:
    """All differences under stable names, as JSON values; ManifestError when a manifest or table is damaged.

    `samples`: added, removed and moved to the other split, by kind, source and reason. `decisions`: occurrences that
    are new, gone or re-decided, by source and by what was and is said. `tokenizers`, `views`, `images`, `rules`
    (thresholds filled in), `recipe` and `libraries`: dotted names with the value in both (null where there is none).
    `counts`: index rows by split, kind. Beside them up to `EXAMPLES` samples for each kind, source and reason.
    """
    changed = _Changed(old, new)
    plain = [tables.manifest.model_dump(mode="json") for tables in (old, new)]
    fields = {name: _fields(plain[0][name], plain[1][name]) for name in ("tokenizers", "views", "images")}
    found = {
        "diff": DIFF_VERSION,
        "old": _identity(old),
        "new": _identity(new),
        "counts": _fields(plain[0]["counts"], plain[1]["counts"]),
        "samples": changed.samples(),
        "decisions": changed.decisions(),
        **fields,
        "rules": _fields(*(_rules(manifest) for manifest in plain)),
        "recipe": _fields(plain[0]["recipe"], plain[1]["recipe"]),
        "libraries": _fields(plain[0]["libraries"], plain[1]["libraries"]),
    }
    return found, changed.examples


def _identity(tables: Tables) -> dict[str, Any]:
    manifest = tables.manifest
    facts = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}
    return {**facts, "data_digest": manifest.data_digest, "shards": len(manifest.shards)}


def _rules(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What was decided by, by rule."""
    return {str(rule["rule"]): {"place": n, **rule} for n, rule in enumerate(manifest["decisions"]["rules"])}


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Fields that differ, [old, new]; where files lie is no difference."""
    left, right = flatten(old), flatten(new)
    names = (name for name in sorted(left.keys() | right.keys()) if not name.endswith(".path"))
    return {name: [left.get(name), right.get(name)] for name in names if left.get(name) != right.get(name)}


class _Changed:
    """What became of occurrences and samples, source by source: counts, and `examples` in the order of `Change`."""

    def __init__(self, old: Tables, new: Tables) -> None:
        self._decisions: list[pa.Table] = []
        self._samples: list[pa.Table] = []
        self.examples: list[Change] = []
        files = _by_source(old, new), _by_source(new, old)
        added, removed, moved = _different_samples(old, new)
        sources = {*files[0], *files[1]}
        for table in (added, removed, moved):
            sources.update(pc.unique(table.column("source")).to_pylist())
        for source in sorted(sources):
            before, after = _different_decisions((old, files[0].get(source, ())), (new, files[1].get(source, ())))
            self._decisions.append(_compared(before, after, source))
            mine = [table.filter(pc.field("source") == source) for table in (added, removed, moved)]
            self._count(
                [
                    _told(mine[0], after, before, "added", "new"),
                    _told(mine[1], before, after, "removed", "gone"),
                    mine[2].append_column("what", pa.repeat(pa.scalar("moved"), mine[2].num_rows)),
                ]
            )

    def _count(self, parts: list[pa.Table]) -> None:
        """Counts and examples of the changed samples of one source."""
        rows = pa.concat_tables([part.select(Change._fields) for part in parts])
        groups = rows.group_by(["what", "kind", "source", "why"]).aggregate([([], "count_all")])
        self._samples.append(groups)
        for group in groups.drop_columns(["count_all"]).to_pylist():
            what, kind, why = (pc.field(name) == group[name] for name in ("what", "kind", "why"))
            mine = rows.filter(what & kind & why)
            few = pc.select_k_unstable(mine, EXAMPLES, sort_keys=[("key", "ascending"), ("row", "ascending")])
            self.examples += [Change(**row) for row in mine.take(few).to_pylist()]
        self.examples.sort()

    def samples(self) -> dict[str, Any]:
        """Numbers of samples, by what became of them."""
        rows = pa.concat_tables(self._samples) if self._samples else None
        return {
            what: _rows(rows, {name: name for name in ("kind", "source", "why")}, pc.field("what") == what)
            for what in ("added", "removed", "moved")
        }

    def decisions(self) -> dict[str, Any]:
        """Numbers of occurrences, by what was and is said of them."""
        rows = pa.concat_tables(self._decisions) if self._decisions else None
        old, new = pc.field("old"), pc.field("new")
        return {
            "new": _rows(rows, {"source": "source", "verdict": "new"}, old.is_null()),
            "gone": _rows(rows, {"source": "source", "verdict": "old"}, new.is_null()),
            "redecided": _rows(rows, dict.fromkeys(("source", "old", "new")), old.is_valid() & new.is_valid()),
        }


Part = tuple[Tables, Iterable[FileRef]]
"""A corpus, and the decisions tables of one source that the other corpus has not."""


def _different_decisions(old: Part, new: Part) -> tuple[pa.Table, pa.Table]:
    """(row, said, why) of the decisions that only one of the corpora has; of one source."""
    left, right = (_decided(*part) for part in (old, new))
    return _said(_without(left, right, _DECIDED)), _said(_without(right, left, _DECIDED))


def _without(mine: pa.Table, other: pa.Table, keys: list[str]) -> pa.Table:
    """Rows whose keys the other table has not."""
    return mine.join(other.select(keys), keys=keys, join_type="left anti")


def _said(rows: pa.Table) -> pa.Table:
    """Verdicts in words, "drop by image_size@1" or "keep as pair in train", and why a sample is gone by them."""
    verdict, rule, kind, split = (rows.column(name) for name in ("verdict", "rule", "sample_kind", "split"))
    dropped = pc.equal(verdict, "drop")
    by = pc.if_else(pc.equal(rule, ""), "", pc.binary_join_element_wise(" by ", rule, ""))
    kept = pc.if_else(dropped, "", pc.binary_join_element_wise(" as ", kind, " in ", split, ""))
    said = pc.binary_join_element_wise(verdict, by, kept, "")
    return pa.table({"row": rows.column("row"), "said": said, "why": pc.if_else(dropped, rule, said)})


def _compared(before: pa.Table, after: pa.Table, source: str) -> pa.Table:
    """How many occurrences went from what was said to what is said; null where there is none."""
    both = before.select(["row", "said"]).join(
        after.select(["row", "said"]), keys="row", join_type="full outer", left_suffix="_old", right_suffix="_new"
    )
    counts = both.group_by(["said_old", "said_new"]).aggregate([([], "count_all")])
    old, new, count = (counts.column(name) for name in ("said_old", "said_new", "count_all"))
    return pa.table({"source": pa.repeat(source, len(count)), "old": old, "new": new, "count_all": count})


def _told(samples: pa.Table, here: pa.Table, there: pa.Table, what: str, otherwise: str) -> pa.Table:
    """Samples of one corpus with `what` and why: what the other says about their surviving occurrences.

    Decisions that agree are in neither table; then only a tombstone tells the corpora apart.
    """
    mine = here.select(["row"]).append_column("here", pa.repeat(otherwise, here.num_rows))
    told = samples.drop_columns(["why"]).join(there.select(["row", "why"]), keys="row").join(mine, keys="row")
    why = pc.coalesce(told.column("why"), told.column("here"), "tombstone")
    return told.set_column(told.column_names.index("why"), "why", why).append_column(
        "what", pa.repeat(pa.scalar(what), told.num_rows)
    )


def _by_source(mine: Tables, other: Tables) -> dict[str, list[FileRef]]:
    """Decisions tables that the other corpus has not, by their source."""
    shared = {file.sha256 for file in other.manifest.decisions.files}
    found: dict[str, list[FileRef]] = {}
    for file in mine.manifest.decisions.files:
        if file.sha256 not in shared:
            for source in pc.unique(mine.read(file, _WHAT, ["source"]).column("source")).to_pylist():
                found.setdefault(source, []).append(file)
    return found


def _decided(tables: Tables, files: Iterable[FileRef]) -> pa.Table:
    """Rows of `_DECIDED`; null becomes "", since a join never matches nulls."""
    schema = pa.schema([(name, pa.string()) for name in _DECIDED])
    parts = [tables.read(file, _WHAT, _DECIDED).select(_DECIDED).cast(schema) for file in files]
    whole = pa.concat_tables([schema.empty_table(), *parts])
    return pa.table([pc.fill_null(column, "") for column in whole.columns], schema=schema)


def _different_samples(old: Tables, new: Tables) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(kind, key, source, row, split, why) of samples that were added, removed or moved to the other split, which is
    their `why`."""
    digests = [{_place(shard) for shard in tables.manifest.shards} for tables in (old, new)]
    merged = bool(old.manifest.parts or new.manifest.parts)  # there, equal tables need not be each other's
    shared = set() if merged else digests[0] & digests[1]
    left, right = (_survivors(tables, shared) for tables in (old, new))
    same = ["kind", "key"]
    moved = right.join(left.select([*same, "split"]), keys=same, join_type="inner", right_suffix="_old")
    moved = moved.filter(pc.field("split") != pc.field("split_old"))
    why = pc.binary_join_element_wise(moved.column("split_old"), moved.column("split"), " to ")
    moved = moved.drop_columns(["split_old"]).append_column("why", why)
    nothing = [_without(*pair, same) for pair in ((right, left), (left, right))]
    added, removed = (rows.append_column("why", pa.nulls(rows.num_rows, pa.string())) for rows in nothing)
    return added, removed, moved


def _place(shard: Shard) -> tuple[str, str]:
    return shard.metadata.digest, shard.split


def _survivors(tables: Tables, shared: Collection[tuple[str, str]]) -> pa.Table:
    """(kind, key, source, row, split) of every sample in the shards whose metadata is not shared."""
    schema = pa.schema([(name, pa.string()) for name in ("kind", "key", "source", "row", "split")])
    parts = [schema.empty_table()]
    for ordinal, shard in enumerate(tables.manifest.shards):
        if _place(shard) in shared:
            continue
        rows = tables.read(shard.metadata, f"metadata of shard {ordinal}", _METADATA)
        rows = rows.filter((pc.field("table") == "occurrence") & ~pc.field("merged"))
        rows = rows.append_column("split", pa.repeat(pa.scalar(shard.split), rows.num_rows))
        parts.append(rows.select(schema.names).cast(schema))
    return pa.concat_tables(parts)


def _rows(counts: pa.Table | None, names: Mapping[str, str | None], which: pc.Expression) -> list[dict[str, Any]]:
    """Counts of some groups as rows, the largest first; `names` are columns by their names in the result."""
    found = [] if counts is None else counts.filter(which).to_pylist()
    rows = [
        {name: row[column or name] for name, column in names.items()} | {"count": row["count_all"]} for row in found
    ]
    return sorted(rows, key=lambda row: (-row["count"], *(row[name] for name in names)))


def describe(found: Mapping[str, Any]) -> str:
    """A diff for people, a line for each difference."""
    old, new = found["old"], found["new"]
    lines = [
        f"{one['name']}@{one['version']}  digest {one['digest'][:16]}  {one['shards']} shards" for one in (old, new)
    ]
    if old["digest"] == new["digest"]:
        return "\n".join([*lines, "the same corpus"])
    if old["data_digest"] == new["data_digest"]:
        lines.append("the same data: a model trained on one has seen the other")
    for title, part in (("samples", "samples"), ("decisions", "decisions")):
        for name, rows in found[part].items():
            lines += [f"{title} {name}: {_sentence(row)}" for row in rows]
    for name in ("counts", "tokenizers", "views", "images", "rules", "recipe", "libraries"):
        lines += [f"{name}.{field}: {_shown(a)} -> {_shown(b)}" for field, (a, b) in found[name].items()]
    return "\n".join(lines)


def _sentence(row: Mapping[str, Any]) -> str:
    cells = [f"{name} {value}" for name, value in row.items() if name != "count"]
    return f"{row['count']:,}  {', '.join(cells)}"


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
