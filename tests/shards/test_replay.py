"""Replay says what the loader gave, without reading a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from imglish.errors import OrderError, RecipeError, ShardError
from imglish.records import Kind
from imglish.shards.batches import Batch
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.loader import Loader, corpus_order
from imglish.shards.manifest import build_manifest
from imglish.shards.pack import pack
from imglish.shards.reader import Corpus, open_corpus
from imglish.shards.replay import (
    ReplayedStep,
    order_of_run,
    parse_change,
    parse_counts,
    replay,
    to_json,
    to_lines,
)
from imglish.shards.views import render
from tests.shards.corpus_helpers import facts
from tests.shards.pack_helpers import PlainEngine, mixed_tables, recipe, store_with

BATCH: dict[Kind, int] = {"pair": 4, "image": 2, "text": 3}
RUN: dict[str, Any] = {
    "batch": BATCH,
    "seed": 5,
    "schedule": [(4, {"pair": 2, "text": 5})],
    "lanes": 2,
    "windows": {"pair": 3},
    "exclusions": Exclusions([Exclusion(0, "pair", 2, 1), Exclusion(3, "text", 1, 0), Exclusion(2, "image", 1, 0)]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus with its metadata."""
    wanted = recipe()
    store, inputs = store_with(tmp_path_factory.mktemp("replay"), mixed_tables(wanted))
    receipts = pack(store, PlainEngine(), wanted, inputs, {"text": "a", "visual": "b"})
    store.put_as("manifest.json", build_manifest(receipts, name="small", version="1", **facts()).to_json())
    return Path(store.root)


@pytest.fixture
def corpus(root: Path) -> Corpus:
    return open_corpus(str(root / "manifest.json"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def details(corpus: Corpus, step: int = 3) -> ReplayedStep:
    return replay(corpus, corpus_order(corpus, **RUN), step, details=True)


def batches(corpus: Corpus, count: int, **options: Any) -> list[Batch]:
    with Loader(corpus, workers=0, **options) as loader:
        return [next(loader) for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"seed": 1}, RUN])
def test_digest_keys_and_replacements_are_the_loaders_at_every_step(corpus: Corpus, options: dict[str, Any]) -> None:
    order = corpus_order(corpus, **options)
    for step, batch in enumerate(batches(corpus, 12, **options), 1):
        replayed = replay(corpus, order, step)
        assert (replayed.position, replayed.digest, replayed.keys) == (batch.position, batch.digest, batch.keys)
        assert sum(int(rows.replaced.sum()) for rows in replayed.rows.values()) == batch.replaced


def test_details_are_the_caption_and_the_view_that_the_batch_holds(corpus: Corpus) -> None:
    for step, batch in enumerate(batches(corpus, 8, **RUN), 1):
        replayed = details(corpus, step)
        for kind in ("pair", "image"):
            rows, visits = replayed.rows.get(kind), (replayed.visits or {}).get(kind, ())
            for place, visit in enumerate(visits):
                sample: Any = corpus.read(kind, int(rows.ordinal[place]), int(rows.row[place]))
                assert visit.view is not None and visit.view.box == tuple(sample.views[visit.view.number])
                assert visit.view.of == len(sample.views)
                pixels = render(sample.jpeg, visit.view.box, 32)
                assert np.array_equal(batch[kind].images[place], pixels)
                if kind == "pair":
                    caption = visit.caption
                    ids = sample.ids[caption.number]
                    assert (caption.text, caption.of) == (sample.captions[caption.number], len(sample.ids))
                    assert np.array_equal(batch[kind].ids[place][: len(ids)], ids)
                    assert batch[kind].padding_mask[place][len(ids) :].all()
                else:
                    assert visit.caption is None


def test_details_name_every_occurrence_and_the_source_of_the_caption(corpus: Corpus) -> None:
    found: dict[str, Any] = {}
    for step in range(1, 9):
        replayed = details(corpus, step)
        found |= zip(replayed.keys["pair"], (replayed.visits or {})["pair"], strict=True)
    merged = [visit for visit in found.values() if len(visit.occurrences) == 2]
    assert merged and all(len(visit.occurrences) == 1 for visit in found.values() if visit not in merged)
    for visit in merged:
        assert [(one.source, one.merged, one.captions) for one in visit.occurrences] == [
            ("album", True, 2),
            ("web", False, 1),
        ]
        assert visit.caption.source == ("album" if visit.caption.number < 2 else "web")
        assert visit.caption.text == ["CAPTION elsewhere", "caption 0 of 1", "caption 1 of 1"][visit.caption.number]


def test_a_text_block_names_the_documents_that_reach_into_it(corpus: Corpus) -> None:
    import pyarrow.parquet as pq

    for step in range(1, 6):
        replayed = details(corpus, step)
        assert replayed.visits is not None
        for place, visit in enumerate(replayed.visits["text"]):
            shard = corpus.manifest.shards[int(replayed.rows["text"].ordinal[place])]
            first = 512 * int(replayed.rows["text"].row[place])
            rows = pq.read_table(Path(corpus.base) / shard.metadata.path).to_pylist()
            spans = [(row["start"], row["key"]) for row in rows if row["kind"] == "text" and row["start"] is not None]
            lengths = {row["key"]: row["length"] for row in rows if row["length"] is not None}
            inside = [key for start, key in sorted(spans) if start < first + 512 and start + lengths[key] > first]
            assert [one.document for one in visit.occurrences] == inside and inside
            assert all(one.source == "books" for one in visit.occurrences)


def test_no_byte_of_a_picture_is_read(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    expected = to_json(details(corpus))
    for ordinal, _ in corpus.sections("image"):
        path = copy / corpus.manifest.shards[ordinal].path
        data = bytearray(path.read_bytes())
        for kind in ("pair", "image"):
            for row in corpus.index(kind, ordinal):
                start, length = int(row["jpg"]["offset"]), int(row["jpg"]["length"])
                data[start : start + length] = bytes(length)
        path.write_bytes(data)
    with pytest.raises(ShardError, match="field jpg"):
        corpus["pair"][0]
    assert to_json(details(open_corpus(str(copy / "manifest.json")))) == expected


def test_without_shards_the_rows_the_text_keys_and_the_digest_are_still_there(copy: Path) -> None:
    expected = details(open_corpus(str(copy / "manifest.json")))
    shutil.rmtree(copy / "shards")
    found = details(open_corpus(str(copy / "manifest.json")))
    assert found.digest == expected.digest and found.keys["text"] == expected.keys["text"]
    assert found.keys["pair"] == [None] * 4
    rows = to_json(found)["kinds"]["image"]
    assert [row["row"] for row in rows] == expected.rows["image"].row.tolist()
    assert all((row["key"], row["occurrences"], row["view"]) == (None, [], None) for row in rows)
    assert "(its shard is not there)" in "\n".join(to_lines(found))


def test_metadata_alone_missing_leaves_caption_and_view(copy: Path) -> None:
    for path in (copy / "shards").glob("*.parquet"):
        path.unlink()
    visits = details(open_corpus(str(copy / "manifest.json"))).visits
    assert visits is not None
    assert all(visit.caption and visit.caption.source is None and not visit.occurrences for visit in visits["pair"])


def test_a_corpus_behind_a_url_gives_the_same(root: Path, corpus: Corpus) -> None:
    fsspec.filesystem("memory").put(str(root), "/replay", recursive=True)
    assert to_json(details(open_corpus("memory://replay/manifest.json"))) == to_json(details(corpus))


@pytest.mark.parametrize(("field", "problem"), [("txt", "field txt: crc32c"), ("views", "field views: crc32c")])
def test_a_damaged_caption_or_view_is_named_not_shown(copy: Path, field: str, problem: str) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    replayed = details(corpus)
    ordinal, row = int(replayed.rows["pair"].ordinal[0]), int(replayed.rows["pair"].row[0])
    entry = corpus.index("pair", ordinal)[row]
    _flip(copy / corpus.manifest.shards[ordinal].path, int(entry[field]["offset"]))
    with pytest.raises(ShardError, match=rf"shard {ordinal} .*pair row {row}: sample p/{replayed.keys['pair'][0]}"):
        details(corpus)
    with pytest.raises(ShardError, match=problem):
        details(corpus)


def test_a_damaged_index_row_and_a_damaged_table_are_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    replayed = details(corpus)
    ordinal, row = int(replayed.rows["image"].ordinal[0]), int(replayed.rows["image"].row[0])
    shard = corpus.manifest.shards[ordinal]
    table = copy / shard.metadata.path
    good = table.read_bytes()
    table.write_bytes(good[:-4] + b"nope")
    with pytest.raises(ShardError, match=rf"metadata of shard {ordinal} cannot be read"):
        details(corpus)
    table.write_bytes(good)
    _flip(copy / shard.path, shard.sections["image"].index_offset + row * 68 + 16)
    with pytest.raises(ShardError, match=rf"index row {row} of kind image is damaged"):
        details(corpus)


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def test_lines_hold_every_row_and_obey_no_caption(corpus: Corpus) -> None:
    replayed = details(corpus)
    hostile = replayed.visits["pair"][0]  # type: ignore[index]
    object.__setattr__(hostile.caption, "text", "\x1b[2J\u202egone \u9b5a")
    lines = list(to_lines(replayed))
    assert lines[0] == f"small@1  data_digest {corpus.manifest.data_digest}"
    assert lines[1] == f"step 3  position 2  seed 5  batch_digest {replayed.digest}"
    assert next(line.split() for line in lines if line.startswith("image"))[:5] == ["image", "2", "rows", "epoch", "0"]
    assert sum(line.startswith(("pair ", "image ", "text ")) for line in lines) == 3 + 4 + 2 + 3
    assert any("\\x1b[2J\\u202egone \u9b5a" in line for line in lines) and "\x1b" not in "".join(lines)
    assert all(key in "\n".join(lines) for keys in replayed.keys.values() for key in keys if key)


def test_json_has_a_row_for_every_sample(corpus: Corpus) -> None:
    replayed = details(corpus)
    value = json.loads(json.dumps(to_json(replayed)))
    assert value["batch_digest"] == replayed.digest and value["position"] == 2
    row = value["kinds"]["pair"][1]
    assert (row["place"], row["key"]) == (1, replayed.keys["pair"][1])
    assert row["occurrences"][0]["source"] in ("web", "album") and len(row["view"]["box"]) == 5
    assert "occurrences" not in to_json(replay(corpus, corpus_order(corpus), 1))["kinds"]["pair"][0]


def test_the_order_of_a_run_comes_from_its_record(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"from": 0, "kind": "pair", "shard": 2, "row": 1}\n')
    identity = {"data_digest": corpus.manifest.data_digest, "seed": 7}
    train = {"batch": BATCH, "schedule": [[4, {"pair": 2}]], "exclusions": str(tmp_path / "lines.jsonl"), "steps": 9}
    (tmp_path / "run.json").write_text(json.dumps({"identity": identity, "train": train, "corpus": {"name": "small"}}))
    order = order_of_run(tmp_path / "run.json", corpus)
    assert (order.seed, order.mixture.counts(4)["pair"], len(order.exclusions.lines)) == (7, 2, 1)
    identity["data_digest"] = "0" * 64
    (tmp_path / "run.json").write_text(json.dumps({"identity": identity, "train": train}))
    with pytest.raises(OrderError, match=r"the run was on data_digest 0000000000000000\.\.\. but this manifest has"):
        order_of_run(tmp_path / "run.json", corpus)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"identity": 1, "train": 2}', None])
def test_what_is_no_record_of_a_run_is_refused(corpus: Corpus, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(
        OrderError, match=r"run\.json (is no|cannot be read).*give the run\.json in the folder of a run"
    ):
        order_of_run(tmp_path / "run.json", corpus)


def test_steps_count_from_one(corpus: Corpus) -> None:
    with pytest.raises(OrderError, match="step is 0; steps count from 1"):
        replay(corpus, corpus_order(corpus), 0)


def test_counts_and_changes_are_read_from_the_command_line() -> None:
    assert parse_counts("pair=8, text=4") == {"pair": 8, "text": 4}
    assert parse_change("1000:image=2") == (1000, {"image": 2})


@pytest.mark.parametrize("text", ["pair", "pair=", "pear=8", "pair=-1", "pair=8,pair=9", "pair=8,", ""])
def test_a_wrong_count_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is not one of pair, image, text with a number"):
        parse_counts(text)


@pytest.mark.parametrize("text", ["pair=8", "x:pair=8", ":pair=8"])
def test_a_wrong_change_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="write it as 1000:pair=16"):
        parse_change(text)
