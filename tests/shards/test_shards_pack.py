"""Pack: the same bytes from any order, chunking and number of rounds; only changed shards again; nothing half done."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.digests import record_id
from imglish.errors import StageError
from imglish.recipe import StoredConfig
from imglish.records import pack_json, unpack_json
from imglish.shards import format as fmt
from imglish.shards.captions import merge_captions
from imglish.shards.images import decode_jpeg
from imglish.shards.manifest import build_manifest
from imglish.shards.pack import PackInput, pack
from imglish.shards.pack_load import LoadRows
from imglish.shards.pack_units import digest_shards
from imglish.shards.placement import Placement, share_of
from imglish.shards.reader import Corpus
from imglish.stages import Receipt
from imglish.storage import Store
from tests.shards.corpus_helpers import document, facts, picture
from tests.shards.pack_helpers import PlainEngine, Tables, mixed_tables, recipe, store_with

DIGESTS = {"text": "a", "visual": "b"}


def shas(receipts: list[Receipt]) -> list[str]:
    return [receipt.outputs["shard"].sha256 for receipt in receipts]


def corpus_of(store: Store, receipts: list[Receipt]) -> Corpus:
    manifest = build_manifest(receipts, name="small", version="1", **facts())
    return Corpus(manifest, store.root, "train")


def test_bytes_do_not_depend_on_row_order_files_pieces_or_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe()
    tables = mixed_tables(wanted)
    store, inputs = store_with(tmp_path / "a", tables)
    one = pack(store, PlainEngine(0), wanted, inputs, DIGESTS)
    joined = Tables(*([row for table in tables for row in vars(table)[name]] for name in vars(tables[0])))
    for number, (made, rounds, most) in enumerate([(tables[::-1], 1, 1), (tables, 3, 50), ([joined], 2, 1)], 1):
        monkeypatch.setattr("imglish.shards.pack.PIECE_ROWS", most)
        other, again = store_with(tmp_path / str(number), made)
        receipts = pack(other, PlainEngine(number), recipe(rounds=rounds), again, DIGESTS)
        assert shas(receipts) == shas(one)
        assert [receipt.notes for receipt in receipts] == [receipt.notes for receipt in one]
        assert [receipt.unit for receipt in receipts] == [receipt.unit for receipt in one]


def test_a_second_run_writes_nothing_and_a_change_rewrites_only_its_shard(tmp_path: Path) -> None:
    wanted = recipe(train_shards=4)
    tables = mixed_tables(wanted)
    store, inputs = store_with(tmp_path, tables)
    first = pack(store, PlainEngine(), wanted, inputs, DIGESTS)
    engine = PlainEngine()
    assert shas(pack(store, engine, wanted, inputs, DIGESTS)) == shas(first)
    assert engine.reduced == []
    member = next(row for row in tables[0].members if row["kind"] == "pair" and row["split"] == "train")
    member["captions"] = pack_json([f"changed {text}" for text in unpack_json(member["captions"])])
    inputs = [table.put(store) for table in tables]
    second = pack(store, engine, wanted, inputs, DIGESTS)
    changed = [n for n, (a, b) in enumerate(zip(shas(first), shas(second), strict=True)) if a != b]
    assert engine.reduced == changed == [int.from_bytes(member["record_id"][:8], "big") * 4 >> 64]
    pack(store, engine, wanted, inputs, {"text": "another"})
    assert engine.reduced == [*changed, 0, 1, 2, 3, 4]


def test_every_sample_is_in_exactly_one_shard_of_its_split(tmp_path: Path) -> None:
    wanted = recipe()
    tables = mixed_tables(wanted)
    store, inputs = store_with(tmp_path, tables)
    receipts = pack(store, PlainEngine(), wanted, inputs, DIGESTS)
    assert [receipt.notes["split"] for receipt in receipts] == ["train"] * 3 + ["validation"]
    corpus = corpus_of(store, receipts)
    for split in ("train", "validation"):
        part = Corpus(corpus.manifest, corpus.base, split)
        for kind in ("pair", "image"):
            rows = [row for table in tables for row in table.images]
            keys = [row["record_id"].hex() for row in rows if row["kind"] == kind and row["split"] == split]
            assert sorted(sample.key for sample in part[kind]) == sorted(keys)
    ids = np.concatenate([document(n, 300 + 60 * (n % 7)) for n in (*range(12), *range(100, 112)) if n % 5])
    text = np.concatenate([block.ids for block in corpus["text"]])
    assert sorted(text[text != fmt.PAD]) == sorted(ids)


def test_captions_of_all_occurrences_are_merged_by_priority_without_repeats(tmp_path: Path) -> None:
    wanted = recipe()
    store, inputs = store_with(tmp_path, mixed_tables(wanted))
    receipts = pack(store, PlainEngine(), wanted, inputs, DIGESTS)
    key = record_id("image", picture(1)).hex()
    sample = next(sample for sample in corpus_of(store, receipts)["pair"] if sample.key == key)
    assert sample.captions == ["CAPTION elsewhere", "caption 0 of 1", "caption 1 of 1"]
    assert len(sample.ids) == 3
    assert sum(receipt.counts["duplicate_captions"] for receipt in receipts) == 1


def test_metadata_answers_where_a_sample_came_from_and_histograms_add_up(tmp_path: Path) -> None:
    wanted = recipe()
    store, inputs = store_with(tmp_path, mixed_tables(wanted))
    receipts = pack(store, PlainEngine(), wanted, inputs, DIGESTS)
    corpus = corpus_of(store, receipts)
    for ordinal, receipt in enumerate(receipts):
        table = store.read_table(receipt.outputs["metadata"].path)
        rows = table.filter(pc.equal(table.column("table"), "occurrence")).to_pylist()
        assert len(rows) == receipt.counts["occurrences"]
        assert sum(row["captions"] or 0 for row in rows) == receipt.counts["captions"]
        bars = table.filter(pc.equal(table.column("table"), "histogram")).to_pylist()
        codes = sum(row["count"] for row in bars if row["name"] == "codes")
        assert codes == 8 * (receipt.counts["pair"] + receipt.counts["image"])
        ids = sum(row["count"] for row in bars if row["name"] == "ids" and row["kind"] == "text")
        lengths = sum(row["count"] * row["value"] for row in bars if row["name"] == "document_ids")
        assert ids == lengths == receipt.counts["document_ids"]
        whole = corpus.read_blocks(ordinal, range(receipt.counts["text"])).reshape(-1)
        for row in rows:
            if row["kind"] == "text":
                expected = document(int(row["row"]), row["length"])
                assert (whole[row["start"] : row["start"] + row["length"]] == expected).all()


def test_by_kind_shards_hold_one_kind_each_and_all_exist(tmp_path: Path) -> None:
    wanted = recipe(layout="by-kind", train_shards=2)
    store, inputs = store_with(tmp_path, mixed_tables(wanted))
    receipts = pack(store, PlainEngine(), wanted, inputs, DIGESTS)
    kinds = ["pair", "pair", "image", "image", "text", "text", "pair", "image", "text"]
    assert [receipt.notes["kind"] for receipt in receipts] == kinds
    for receipt in receipts:
        assert all(receipt.counts[kind] == 0 for kind in ("pair", "image", "text") if kind != receipt.notes["kind"])
    mixed = pack(store, PlainEngine(), recipe(), inputs, DIGESTS)
    for kind in ("pair", "image", "captions"):
        assert sum(receipt.counts[kind] for receipt in receipts) == sum(receipt.counts[kind] for receipt in mixed)


def test_shards_that_nothing_fell_into_exist(tmp_path: Path) -> None:
    store, inputs = store_with(tmp_path, [Tables()])
    receipts = pack(store, PlainEngine(), recipe(rounds=2), inputs, DIGESTS)
    assert [receipt.counts["pair"] for receipt in receipts] == [0, 0, 0, 0]
    assert store.exists(receipts[0].outputs["shard"].path)
    with pytest.raises(StageError, match="no landing file"):
        pack(store, PlainEngine(), recipe(), [], DIGESTS)


def test_a_stored_image_that_is_not_the_one_that_was_encoded_stops_pack(tmp_path: Path) -> None:
    wanted = recipe()
    tables = Tables()
    name = tables.add_image(1, wanted)
    store, inputs = store_with(tmp_path, [tables])
    other = wanted.model_copy(
        update={"tokenize": wanted.tokenize.model_copy(update={"stored": StoredConfig(quality=50)})}
    )
    with pytest.raises(StageError, match=rf"record {name.hex()} .* codes were made from .* tokenize again"):
        pack(store, PlainEngine(), other, inputs, DIGESTS)


def test_tables_that_disagree_stop_pack_and_name_the_record(tmp_path: Path) -> None:
    wanted = recipe()
    tables = Tables()
    image, text = tables.add_image(1, wanted, ["a"]), tables.add_text(1)
    store, inputs = store_with(tmp_path, [tables])
    empty = Tables().put(store)

    def run(**changes: object) -> None:
        pack(store, PlainEngine(), wanted, [replace(inputs[0], **changes)], DIGESTS)  # type: ignore[arg-type]

    with pytest.raises(StageError, match=rf"pair {image.hex()} has occurrences but no codes"):
        run(images=empty.images)
    with pytest.raises(StageError, match=rf"text {text.hex()} has occurrences but no codes or ids"):
        run(documents=empty.documents)
    with pytest.raises(StageError, match="has codes or ids but no occurrence"):
        run(members=empty.members)
    with pytest.raises(StageError, match=rf"record {image.hex()} has codes but no payload"):
        run(landing=empty.landing)
    doubled = [inputs[0], replace(empty, images=inputs[0].images, landing=inputs[0].landing)]
    with pytest.raises(StageError, match="stands twice in the images tables"):
        pack(store, PlainEngine(), wanted, doubled, DIGESTS)


def test_rows_that_the_engine_loses_stop_pack(tmp_path: Path) -> None:
    class Lossy(PlainEngine):
        def group(self, load, pieces, buckets, reduce):  # type: ignore[no-untyped-def]
            return super().group(lambda piece: load(piece).slice(1), pieces, buckets, reduce)

    wanted = recipe(train_shards=1)
    store, inputs = store_with(tmp_path, mixed_tables(wanted))
    with pytest.raises(StageError, match="the engine lost or repeated some"):
        pack(store, Lossy(), wanted, inputs, DIGESTS)


FULL_DISK = """
import resource, sys
from imglish.errors import StorageError
from imglish.shards.pack import pack
from tests.shards.pack_helpers import PlainEngine, mixed_tables, recipe, store_with
wanted = recipe(train_shards=1)
store, inputs = store_with(sys.argv[1], mixed_tables(wanted))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    pack(store, PlainEngine(), wanted, inputs, {})
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
before = sorted(store.files("shards"))
receipts = pack(store, PlainEngine(), wanted, inputs, {})
print(before, len(receipts), len(list(store.files("shards"))))
"""


def test_a_full_disk_leaves_no_half_shard_and_the_next_run_finishes(tmp_path: Path) -> None:
    """The kernel refuses to let files grow beyond 30 kB, which is what a full disk looks like to the writer."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    message, state = done.stdout.splitlines()
    assert "cannot write under" in message and "run the same command again" in message
    assert state == "[] 2 4"


def test_only_row_groups_that_hold_wanted_records_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(train_shards=64)
    tables = Tables()
    for number in range(40):
        tables.add_image(number, wanted)
    store, inputs = store_with(tmp_path, [tables])
    import pyarrow.parquet as pq

    landing = store.read_table(inputs[0].landing.path)
    pq.write_table(landing, store.path(inputs[0].landing.path), row_group_size=4)
    read: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self, batch_size, row_groups, columns):  # type: ignore[no-untyped-def]
        read.extend(row_groups)
        return plain(self, batch_size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    placement = Placement(64, 1, "mixed")
    target = int(placement.ordinals(["train"], ["image"], [tables.images[0]["record_id"]])[0])
    rows = LoadRows(store, placement, wanted.tokenize.stored, [target])({"files": [inputs[0].paths()]})
    assert rows.num_rows >= 2
    assert len(read) < 4
    assert decode_jpeg(rows.column("jpeg").drop_null()[0].as_py()).shape == (32, 48, 3)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=50), st.integers(1, 2**32 - 1))
def test_a_shard_is_the_exact_share_of_the_upper_half_of_the_id(ids: list[bytes], of: int) -> None:
    found = share_of(ids, np.full(len(ids), of, dtype=np.uint64))
    assert found.tolist() == [int.from_bytes(name[:8], "big") * of >> 64 for name in ids]


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from(["mixed", "by-kind"]), st.integers(1, 12))
def test_rounds_hold_every_shard_once_and_slots_are_numbered_in_order(
    train: int, validation: int, layout: str, rounds: int
) -> None:
    placement = Placement(train, validation, layout)
    slots = placement.slots()
    assert [slot.ordinal for slot in slots] == list(range(len(placement)))
    assert sorted(n for ordinals in placement.rounds(rounds) for n in ordinals) == list(range(len(slots)))
    for slot in slots:
        name = ((slot.number * 2**64 + slot.of - 1) // slot.of).to_bytes(8, "big") + bytes(8)
        assert placement.ordinals([slot.split], [slot.kind or "text"], [name])[0] == slot.ordinal


texts = st.lists(st.sampled_from(["a", "b ", " b", "c\nd", "c d", "", " "]), max_size=6)


@given(st.lists(texts, min_size=1, max_size=4), st.integers(1, 4), st.integers(4, 8))
def test_merged_captions_keep_their_ids_order_and_caps(members: list[list[str]], limit: int, max_ids: int) -> None:
    rows = []
    for member, captions in enumerate(members):
        ids = [np.array([0, *[100 * member + i + 4] * (3 * i), 2], np.uint16) for i in range(len(captions))]
        coded = fmt.encode_u16(np.concatenate(ids)) if ids else None
        rows.append({"source": "s", "row": str(member), "captions": pack_json(captions), "caption_ids": coded})
    merged = merge_captions(rows, limit, max_ids)
    folded = [fmt.fold(text) for captions in members for text in captions]
    distinct = list(dict.fromkeys(text for text in folded if text))
    assert merged.texts == distinct[:limit]
    assert len(merged.ids) == len(merged.texts) == len(merged.origins)
    assert merged.origins == sorted(merged.origins)
    for origin, text, ids in zip(merged.origins, merged.texts, merged.ids, strict=True):
        place = [fmt.fold(caption) for caption in members[origin]].index(text)
        expected = [0, *[100 * origin + place + 4] * (3 * place), 2]
        assert ids.tolist() == (expected if len(expected) <= max_ids else [*expected[: max_ids - 1], 2])


def test_captions_and_ids_that_do_not_pair_up_are_named() -> None:
    row = {
        "source": "web",
        "row": "7",
        "captions": pack_json(["a", "b"]),
        "caption_ids": fmt.encode_u16(np.array([0, 2])),
    }
    with pytest.raises(StageError, match="web 7: 2 captions but ids of 1"):
        merge_captions([row], 4, 4)


def test_pack_inputs_name_their_files(tmp_path: Path) -> None:
    _, inputs = store_with(tmp_path, [Tables()])
    assert isinstance(inputs[0], PackInput)
    assert set(inputs[0].paths()) == {"landing", "members", "documents", "images"}


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=16, max_size=16)), max_size=40))
def test_a_shard_has_one_digest_whatever_the_order_of_its_rows(rows: list[tuple[int, bytes]]) -> None:
    kinds = {"shard": pa.int32(), "digest": pa.binary(16)}
    table = pa.table(
        [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds.values())], names=[*kinds]
    )
    found = {row["shard"]: (row["rows"], row["digest"]) for row in digest_shards(table).to_pylist()}
    expected = {}
    for shard in {n for n, _ in rows}:
        mine = sorted(digest for n, digest in rows if n == shard)
        expected[shard] = (len(mine), hashlib.sha256(b"".join(mine)).hexdigest())
    assert found == expected
