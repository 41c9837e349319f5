"""Two builds of almost the same corpus: every difference is found, explained, and nothing else is."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from imglish import records
from imglish.audit.diff import describe, diff
from imglish.shards.manifest import build_manifest, load_manifest
from imglish.shards.pack import pack
from imglish.shards.tombstones import tombstone
from imglish.storage import Store
from tests.shards.changed_helpers import keys_of, reference_samples
from tests.shards.corpus_helpers import facts
from tests.shards.pack_helpers import PlainEngine, Tables, recipe

KEEP, DROP = ("keep", None), ("drop", "image_size@1")


def corpus(root: Path, verdicts: dict[int, tuple[str, str | None]], validation: set[int] = frozenset(), **about) -> str:  # type: ignore[no-untyped-def, assignment]
    """Pictures by number, kept or dropped; those that have no verdict are not in the source at all."""
    wanted, tables = recipe(), Tables()
    rows = []
    for number, (verdict, rule) in sorted(verdicts.items()):
        split = "validation" if number in validation else "train"
        row = {"source": f"s{number % 2}", "row": f"r{number}", "kind": "image", "verdict": verdict, "rule": rule}
        kept = verdict == "keep"
        if kept:
            tables.add_image(number, wanted, source=row["source"], split=split)
            tables.members[-1]["row"] = row["row"]
        place = {"sample_kind": "image" if kept else None, "split": split if kept else None}
        rows.append({**row, **place, "fired": 0, "priority": 0, "record_id": None})
    store = Store(root)
    receipts = pack(store, PlainEngine(), wanted, [tables.put(store)], {})
    files = []
    for source in ("s0", "s1"):
        mine = records.table([row for row in rows if row["source"] == source], records.DECISIONS)
        output = store.put_table("tables/decide", mine)
        files.append({"path": output.path, "sha256": output.sha256, "bytes": output.bytes})
    made = facts(decisions={"digest": "3" * 64, "files": files}, **about)
    manifest = build_manifest(receipts, name="small", version="1", **made)
    store.put_as("manifest.json", manifest.to_json())
    return str(root / "manifest.json")


def row(**values: object) -> dict[str, object]:
    return values


def test_equal_corpora_do_not_differ(tmp_path: Path) -> None:
    paths = [corpus(tmp_path / name, dict.fromkeys(range(6), KEEP)) for name in ("a", "b")]
    found = diff(*paths)
    assert found["samples"] == {"added": [], "removed": [], "moved": []}
    assert found["decisions"] == {"new": [], "gone": [], "redecided": []}
    assert describe(found).endswith("the same corpus")


def test_samples_and_decisions_are_told_by_source_and_reason(tmp_path: Path) -> None:
    old = dict.fromkeys(range(12), KEEP) | {3: DROP, 5: DROP}
    new = old | {3: KEEP, 4: DROP, 6: DROP, 20: KEEP}
    del new[7]
    found = diff(corpus(tmp_path / "a", old), corpus(tmp_path / "b", new, validation={8}))
    assert found["samples"] == {
        "added": [
            row(kind="image", source="s0", why="new", count=1),
            row(kind="image", source="s1", why="image_size@1", count=1),
        ],
        "removed": [
            row(kind="image", source="s0", why="image_size@1", count=2),
            row(kind="image", source="s1", why="gone", count=1),
        ],
        "moved": [row(kind="image", source="s0", why="train to validation", count=1)],
    }
    keep, drop = "keep as image in train", "drop by image_size@1"
    assert found["decisions"] == {
        "new": [row(source="s0", verdict=keep, count=1)],
        "gone": [row(source="s1", verdict=keep, count=1)],
        "redecided": [
            row(source="s0", old=keep, new=drop, count=2),
            row(source="s0", old=keep, new="keep as image in validation", count=1),
            row(source="s1", old=drop, new=keep, count=1),
        ],
    }
    text = describe(found)
    assert "samples removed: 2  kind image, source s0, why image_size@1" in text
    assert "counts.train.image: 10 -> 8" in text
    json.dumps(found)


def test_any_two_corpora_differ_as_a_loop_over_their_pictures_says(tmp_path: Path) -> None:
    draw = random.Random(0)
    sides: list[dict[int, tuple[str, str | None]]] = [{0: KEEP}, {0: KEEP}]
    for number in range(1, 60):
        for side in sides:
            if draw.random() < 0.9:
                side[number] = draw.choice([KEEP, KEEP, DROP, ("drop", "nsfw@1")])
    splits = [set(draw.sample(range(60), 12)) for _ in sides]
    found = diff(*(corpus(tmp_path / str(n), side, splits[n]) for n, side in enumerate(sides)))
    expected: Counter[tuple[str, ...]] = Counter()
    for number in range(60):
        source = f"s{number % 2}"
        old, new = (_words(side.get(number), number in split) for side, split in zip(sides, splits, strict=True))
        what = "new" if old is None else "gone" if new is None else "redecided"
        if old != new:
            expected[what, source, *(x for x in (old, new) if x)] += 1
        kept = [x is not None and x.startswith("keep") for x in (old, new)]
        why = [x and x.removeprefix("drop by ") for x in (old, new)]
        if kept == [False, True]:
            expected["added", source, why[0] or "new"] += 1
        elif kept == [True, False]:
            expected["removed", source, why[1] or "gone"] += 1
        elif kept == [True, True] and old != new:
            expected["moved", source, f"{_split(number in splits[0])} to {_split(number in splits[1])}"] += 1
    told = {
        (what, *(value for name, value in one.items() if name not in ("count", "kind"))): one["count"]
        for part in ("samples", "decisions")
        for what, rows in found[part].items()
        for one in rows
    }
    assert told == expected


def _split(validation: bool) -> str:
    return "validation" if validation else "train"


def _words(verdict: tuple[str, str | None] | None, validation: bool) -> str | None:
    if verdict is None:
        return None
    return f"keep as image in {_split(validation)}" if verdict == KEEP else f"drop by {verdict[1]}"


def test_a_removed_and_a_restored_sample_are_tombstones_whatever_else_changed(tmp_path: Path) -> None:
    verdicts = dict.fromkeys(range(8), KEEP)
    old, new = corpus(tmp_path / "a", verdicts), corpus(tmp_path / "b", verdicts | {4: DROP})
    odd = keys_of(list(reference_samples(new)), "image")
    table = pa.concat_tables(
        Store(tmp_path / "b").read_table(shard.metadata.path) for shard in load_manifest(new).shards
    )
    gone = next(r["key"] for r in table.to_pylist() if r["row"] == "r3")
    also = next(r["key"] for r in table.to_pylist() if r["row"] == "r6")
    assert {gone, also} <= set(odd)
    tombstone(new, [gone, also])
    found = diff(old, new)["samples"]["removed"]
    assert found == [
        row(kind="image", source="s0", why="image_size@1", count=1),
        row(kind="image", source="s0", why="tombstone", count=1),
        row(kind="image", source="s1", why="tombstone", count=1),
    ]
    assert row(kind="image", source="s1", why="tombstone", count=1) in diff(new, old)["samples"]["added"]


@pytest.mark.parametrize("reverse", [False, True])
def test_fields_are_named_with_both_values(tmp_path: Path, reverse: bool) -> None:
    verdicts = dict.fromkeys(range(3), KEEP)
    old = corpus(tmp_path / "a", verdicts, recipe={"seed": 0, "pack": {"train_shards": 3}})
    other = {"seed": 0, "pack": {"train_shards": 4, "layout": "by-kind"}}
    tokenizers = facts()["tokenizers"]
    tokenizers["text"] = {**tokenizers["text"], "digest": "8" * 64, "path": "elsewhere.model"}
    new = corpus(tmp_path / "b", verdicts, recipe=other, tokenizers=tokenizers, libraries={"simplejpeg": "2"})
    paths = (new, old) if reverse else (old, new)
    found = diff(*paths)

    def both(left: object, right: object) -> list[object]:
        return [right, left] if reverse else [left, right]

    assert found["recipe"] == {"pack.layout": both(None, "by-kind"), "pack.train_shards": both(3, 4)}
    assert found["tokenizers"] == {"text.digest": both("1" * 64, "8" * 64)}
    assert found["libraries"] == {"simplejpeg": both("1", "2")}
    assert found["samples"]["added"] == found["samples"]["removed"] == []
    assert f"recipe.pack.layout: {'by-kind -> -' if reverse else '- -> by-kind'}" in describe(found)
