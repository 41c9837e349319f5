"""What changed between two corpora, from their manifests and tables alone; no tar is opened.

    found = diff("old/manifest.json", "new/manifest.json")
    found["samples"]["removed"]          # [{"kind": "pair", "source": "web", "why": "image_size@1", "count": 12}, ...]
    print(describe(found))

A sample is a pair, an image or a document, known by kind and record id. Why one was added is what its occurrence was in
the old corpus (the rule that dropped it, or "new"); why one was removed is what became of it in the new one (the rule,
"gone" from the source, or "tombstone"). Re-decided are occurrences in both whose verdict, rule, sample kind or split
differ. Tables that both corpora have are skipped, so a small change is a small diff; of the others, keys are held.
"""

from __future__ import annotations

import bisect
from collections import Counter
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

Occurrence = tuple[str, str]
"""Source and row."""
Sample = tuple[str, str]
"""Kind and record id in hex."""
Decided = dict[Occurrence, dict[str, Any]]
"""Rows of a decisions table by occurrence."""
Sampled = dict[Sample, tuple[str, Occurrence]]
"""Split and surviving occurrence by sample."""

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
    before, after = _different_decisions(old, new)
    plain = [tables.manifest.model_dump(mode="json") for tables in (old, new)]
    fields = {name: _fields(plain[0][name], plain[1][name]) for name in ("tokenizers", "views", "images")}
    changes = list(_changes(old, new, before, after))
    found = {
        "diff": DIFF_VERSION,
        "old": _identity(old),
        "new": _identity(new),
        "counts": _fields(plain[0]["counts"], plain[1]["counts"]),
        "samples": _samples(changes),
        "decisions": _decisions(before, after),
        **fields,
        "rules": _fields(*(_rules(manifest) for manifest in plain)),
        "recipe": _fields(plain[0]["recipe"], plain[1]["recipe"]),
        "libraries": _fields(plain[0]["libraries"], plain[1]["libraries"]),
    }
    return found, _examples(changes)


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


def _different_decisions(old: Tables, new: Tables) -> tuple[Decided, Decided]:
    """Decisions that only one of the corpora has, by occurrence; read source by source."""
    left, right = _by_source(old, new), _by_source(new, old)
    before: Decided = {}
    after: Decided = {}
    for source in sorted(left.keys() | right.keys()):
        pair = [_decided(tables, files.get(source, ())) for tables, files in ((old, left), (new, right))]
        for into, mine, other in ((before, *pair), (after, *pair[::-1])):
            for row in mine.join(other, keys=_DECIDED, join_type="left anti").to_pylist():
                into[row["source"], row["row"]] = row
    return before, after


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


def _decisions(before: Decided, after: Decided) -> dict[str, Any]:
    new = Counter((place[0], _verdict(after[place])) for place in after.keys() - before.keys())
    gone = Counter((place[0], _verdict(before[place])) for place in before.keys() - after.keys())
    both = before.keys() & after.keys()
    changed = Counter((place[0], _verdict(before[place]), _verdict(after[place])) for place in both)
    return {
        "new": _rows(new, ("source", "verdict")),
        "gone": _rows(gone, ("source", "verdict")),
        "redecided": _rows(changed, ("source", "old", "new")),
    }


def _verdict(row: Mapping[str, Any]) -> str:
    """ "drop by image_size@1", "keep as pair in train"."""
    by = f" by {row['rule']}" if row["rule"] else ""
    kept = f" as {row['sample_kind']} in {row['split']}" if row["verdict"] != "drop" else ""
    return f"{row['verdict']}{by}{kept}"


def _changes(old: Tables, new: Tables, before: Decided, after: Decided) -> Iterable[Change]:
    """Every sample that was added, removed or moved to the other split."""
    left, right = _different_samples(old, new)
    for (kind, key), (_, place) in _only(right, left):
        yield Change("added", kind, place[0], _why(place, after, before, "new"), key, place[1])
    for (kind, key), (_, place) in _only(left, right):
        yield Change("removed", kind, place[0], _why(place, before, after, "gone"), key, place[1])
    for kind, key in left.keys() & right.keys():
        split, (source, row) = right[kind, key]
        yield Change("moved", kind, source, f"{left[kind, key][0]} to {split}", key, row)


def _samples(changes: Iterable[Change]) -> dict[str, Any]:
    counts = {name: Counter[tuple[str, ...]]() for name in ("added", "removed", "moved")}
    for change in changes:
        counts[change.what][change.kind, change.source, change.why] += 1
    return {name: _rows(found, ("kind", "source", "why")) for name, found in counts.items()}


def _examples(changes: Iterable[Change]) -> list[Change]:
    """Up to `EXAMPLES` samples for each kind, source and reason, those with the lowest record ids."""
    found: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        mine = found.setdefault((change.what, change.kind, change.source, change.why), [])
        bisect.insort(mine, change)
        del mine[EXAMPLES:]
    return [change for name in sorted(found) for change in found[name]]


def _why(place: Occurrence, here: Decided, there: Decided, otherwise: str) -> str:
    """What the corpus without a sample says about its surviving occurrence.

    Decisions that agree are in neither mapping; then only a tombstone tells the corpora apart.
    """
    row = there.get(place)
    if row is None:
        return otherwise if place in here else "tombstone"
    return str(row["rule"]) if row["verdict"] == "drop" else _verdict(row)


def _only(mine: Sampled, other: Sampled) -> Iterable[tuple[Sample, tuple[str, Occurrence]]]:
    return ((sample, found) for sample, found in mine.items() if sample not in other)


def _different_samples(old: Tables, new: Tables) -> tuple[Sampled, Sampled]:
    """Samples that are only in one of the corpora, or in another split there."""
    digests = [{_place(shard) for shard in tables.manifest.shards} for tables in (old, new)]
    merged = bool(old.manifest.parts or new.manifest.parts)  # there, equal tables need not be each other's
    shared = set() if merged else digests[0] & digests[1]
    left, right = (_survivors(tables, shared) for tables in (old, new))
    found: list[Sampled] = []
    for mine, other in ((left, right), (right, left)):
        rows = mine.join(other, keys=["kind", "key", "split"], join_type="left anti", right_suffix="_other").to_pylist()
        found.append({(row["kind"], row["key"]): (row["split"], (row["source"], row["row"])) for row in rows})
    return found[0], found[1]


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


def _rows(counts: Mapping[Any, int], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Counts as rows, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{**dict(zip(names, key, strict=True)), "count": count} for key, count in ordered]


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
