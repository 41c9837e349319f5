"""Why: the whole story of a record, from the tables of a build and the corpus made from it.

    opened = open_trail("corpus/manifest.json")
    story = tell(opened, "foods/17")                   # plain values, as `imglish why --json` prints them
    print("\n".join(story_lines(story)))               # imglish.audit.why_text

A record is told with every occurrence: how it came, what was measured, which rules fired with what score, what became
of it and in whose favour; with its verified matches; and with its place in the shards. Payloads are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imglish.audit.keys import Named, occurrence, occurrences_of, resolve
from imglish.audit.lookup import OneOf, each, find_rows, row_at
from imglish.errors import ManifestError
from imglish.ingest.match.propose import EDGES
from imglish.ingest.trail import Opened, open_trail, part_paths
from imglish.records import ANNOTATIONS, DECISIONS, EVIDENCE, LANDING, unpack_json
from imglish.shards.format import BLOCK_IDS
from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.placement import Placement
from imglish.shards.ranges import parent
from imglish.shards.reader import Corpus

Story = dict[str, Any]
_LANDED = [name for name in LANDING.names if name != "payload"]
_MEASURED = [name for name in ANNOTATIONS.names if name not in (*LANDING.names[:4], "status", "detail", "bytes")]
_SAMPLED = ("source", "row", "merged", "captions", "url", "licence", "language", "start", "length")


def open_all(path: str) -> list[Opened]:
    """The trail of a manifest, or those of the parts of a merged one."""
    try:
        return [open_trail(path)]
    except ManifestError:
        parts = _parts(path)
        if not parts:
            raise
        return [opened for part in parts for opened in open_all(part)]


def _parts(path: str) -> Sequence[str]:
    try:
        return part_paths(load_manifest(path), path)
    except ManifestError:
        return ()


def tell(opened: Opened, key: str) -> Story:
    """The story of the one record that a key names; for a pattern of URLs {"candidates": [...]}.

    UnknownKeyError when the key names nothing or several records, ManifestError when a table is gone.
    """
    named, several = resolve(opened, key)
    if several:
        rows = [(one.key, one.record, one.url) for one in named]
        return {"candidates": [{"occurrence": k, "record": _hex(record), "url": url} for k, record, url in rows]}
    record = named[0].record
    if record is not None:
        mine = occurrences_of(opened, record)
    else:
        mine = [one for one in [occurrence(opened, named[0].source, named[0].row)] if one is not None]
    told = each(opened.store, lambda one: _occurrence(opened, one), mine)
    manifest = opened.manifest
    corpus = None if manifest is None else {"digest": manifest.digest, "path": opened.path}
    return {
        "corpus": opened.trail.name,
        "decisions": opened.trail.decisions,
        "manifest": corpus,
        "record": _hex(record),
        "occurrences": told,
        "matches": [] if record is None else _matches(opened, record),
        "samples": None if manifest is None else _samples(opened, manifest, told),
    }


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _occurrence(opened: Opened, one: Named) -> Story:
    """One occurrence from landing to verdict."""
    store, file = opened.store, opened.trail.files[one.file]
    decision = row_at(store, file.decisions, one.place, DECISIONS.names)
    annotated = row_at(store, file.annotations, one.place, _MEASURED)
    measures = [row_at(store, path, one.place) for path in file.measures]
    evidence = find_rows(store, file.evidence, "row", OneOf([one.row]), EVIDENCE.names).to_pylist()
    said = [
        {name: row[name] for name in EVIDENCE.names if name not in ("source", "row")}
        for row in evidence
        if row["source"] == one.source
    ]
    return {
        "occurrence": one.key,
        "source": one.source,
        "row": one.row,
        "kind": decision["kind"],
        "landed": _landed(opened, one),
        "measured": _plain(annotated) | {name: value for more in measures for name, value in _plain(more).items()},
        "verdict": decision["verdict"],
        "rule": decision["rule"],
        "score": decision["score"],
        "threshold": decision["threshold"],
        "detail": decision["detail"],
        "fired": _fired(opened, decision["fired"]),
        "evidence": said,
        "leaks": _leaks(opened, one),
        "edits": unpack_json(decision["edits"]) or [],
        "survivor": _survivor(opened, decision),
        "sample": None
        if decision["sample_id"] is None
        else {"kind": decision["sample_kind"], "key": _hex(decision["sample_id"]), "split": decision["split"]},
    }


def _landed(opened: Opened, one: Named) -> Story:
    """The row of landing, without its payload; by name, since `imglish forget` puts rows elsewhere."""
    path = opened.trail.files[one.file].landing
    if one.record is not None:
        rows = find_rows(opened.store, path, "record_id", OneOf([one.record]), _LANDED).to_pylist()
        mine = [row for row in rows if row["row"] == one.row]
    else:
        mine = []
    if not mine:
        mine = find_rows(opened.store, path, "row", OneOf([one.row]), _LANDED).to_pylist()
    if not mine:
        return {}
    row = mine[0]
    packed = {name: unpack_json(row[name]) for name in ("captions", "receipt")}
    plain = {name: row[name] for name in _LANDED if name not in ("source", "row", "kind", "record_id", *packed)}
    return plain | {"sha256": _hex(row["sha256"])} | packed


def _plain(row: Story) -> Story:
    """What was measured, without the names of the occurrence; nested values unpacked, other binaries left out."""
    found: Story = {}
    for name, value in row.items():
        if value is None or name in LANDING.names[:4]:
            continue
        if isinstance(value, bytes):
            try:
                value = unpack_json(value)
            except ValueError:  # a signature, or some other binary
                continue
        found[name] = value
    return found


def _fired(opened: Opened, bits: int) -> list[str]:
    """Names of the rules whose bit is set; near duplicates share one, and balance the last."""
    names = [rule["rule"] for rule in opened.trail.rules]
    later = opened.trail.later_rules
    names += [*later[:2], "near duplicate", "balance"]
    return [name for bit, name in enumerate(names) if bits >> bit & 1]


def _leaks(opened: Opened, one: Named) -> list[Story]:
    """What of evaluation sets it resembles, above the stored floors."""
    path = opened.trail.files[one.file].leaks
    if path is None:
        return []
    rows = opened.store.read_table(path).to_pylist()
    return [
        {k: row[k] for k in ("side", "score", "set", "item", "detail")} for row in rows if row["place"] == one.place
    ]


def _survivor(opened: Opened, decision: Story) -> Story | None:
    """The occurrence in whose favour this one was merged or dropped."""
    if decision["other_row"] is None:
        return None
    found = occurrence(opened, decision["other_source"], decision["other_row"])
    key = f"{decision['other_source']}/{decision['other_row']}"
    return {"occurrence": key, "record": None if found is None else _hex(found.record)}


def _matches(opened: Opened, record: bytes) -> list[Story]:
    """Verified matches with other records, whether they decided or not, best first."""
    edges: list[Story] = [
        {"record": row[other], **{name: row[name] for name in ("method", "score", "containment")}}
        for path in opened.trail.edges
        for side, other in (("a", "b"), ("b", "a"))
        for row in find_rows(opened.store, path, side, OneOf([record]), EDGES.names).to_pylist()
    ]
    others = _verdicts(opened, [edge["record"] for edge in edges])
    edges.sort(key=lambda edge: (-edge["score"], edge["record"], edge["method"]))
    return [edge | {"record": _hex(edge["record"]), "occurrences": others.get(edge["record"], [])} for edge in edges]


def _verdicts(opened: Opened, records: Sequence[bytes]) -> dict[bytes, list[Story]]:
    """What became of every occurrence of some records."""
    if not records:
        return {}
    columns = ["source", "row", "record_id", "verdict", "rule"]
    files = [file.decisions for file in opened.trail.files]
    found: dict[bytes, list[Story]] = {}
    for rows in each(opened.store, lambda p: find_rows(opened.store, p, "record_id", OneOf(records), columns), files):
        for row in rows.to_pylist():
            said = {"occurrence": f"{row['source']}/{row['row']}", "verdict": row["verdict"], "rule": row["rule"]}
            found.setdefault(row["record_id"], []).append(said)
    return found


def _samples(opened: Opened, manifest: Manifest, told: Sequence[Story]) -> list[Story]:
    """Where the samples are that these occurrences belong to."""
    named = {(one["sample"]["kind"], one["sample"]["key"], one["sample"]["split"]) for one in told if one["sample"]}
    return [_sample(opened, manifest, *one) for one in sorted(named)]


def _sample(opened: Opened, manifest: Manifest, kind: Any, key: str, split: Any) -> Story:
    pack = manifest.recipe["pack"]
    placement = Placement(pack["train_shards"], pack["validation_shards"], pack["layout"])
    ordinal = int(placement.ordinals([split], [kind], [bytes.fromhex(key)])[0])
    shard = manifest.shards[ordinal]
    rows = find_rows(opened.store, shard.metadata.path, "key", OneOf([key]), [*_SAMPLED, "table", "kind"]).to_pylist()
    members = [
        {name: row[name] for name in _SAMPLED} for row in rows if row["table"] == "occurrence" and row["kind"] == kind
    ]
    found = {"kind": kind, "key": key, "split": split, "shard": ordinal, "path": shard.path, "occurrences": members}
    corpus = Corpus(manifest, parent(opened.path), split)
    return found | (_document(members) if kind == "text" else _pictured(corpus, kind, ordinal, key))


def _pictured(corpus: Corpus, kind: Any, ordinal: int, key: str) -> Story:
    """Index rows of a pair or image, more than one when it is repeated, and its captions as they stand in the shard."""
    index = corpus.index(kind, ordinal)
    rows = np.flatnonzero(np.isin(index["key"], np.array([bytes.fromhex(key)], index["key"].dtype))).tolist()
    if not rows:
        return {"rows": [], "tombstone": False, "captions": []}
    gone = bool(index["flags"][rows[0]])
    captions = [] if gone or kind != "pair" else list(corpus.read("pair", ordinal, rows[0]).captions)
    return {"rows": rows, "tombstone": gone, "captions": captions}


def _document(members: Sequence[Story]) -> Story:
    """Text blocks that a document reaches into; the metadata of one that was removed is gone."""
    if not members:
        return {"rows": [], "tombstone": True, "captions": []}
    start, length = members[0]["start"], members[0]["length"]
    blocks = list(range(start // BLOCK_IDS, (start + max(1, length) - 1) // BLOCK_IDS + 1))
    return {"rows": blocks, "tombstone": False, "captions": []}
