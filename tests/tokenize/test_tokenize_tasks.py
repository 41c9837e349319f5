"""The tokenize stages on small landings: edits, truncation, members, documents, images."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imglish.digests import record_id
from imglish.errors import StageError, TokenizerError
from imglish.recipe import Recipe
from imglish.records import DOCUMENTS, IMAGES, MEMBERS, unpack_json
from imglish.shards.images import decode_jpeg, store_image
from imglish.shards.views import draw_views, render
from imglish.stages import Receipt
from imglish.storage import Store, read_rows
from imglish.tokenize.codebook import Codebook, CodebookFit
from imglish.tokenize.rows import LandingFile, edited_captions, edited_document
from imglish.tokenize.tasks import TokenizeText, TokenizeVisual, model_path, text_units, visual_units
from imglish.tokenize.text import EOS, TextTokenizer
from tests.tokenize.tokenize_helpers import (
    image,
    landing_file,
    pair,
    picture,
    png,
    recipe,
    select_files,
    text,
    text_model,
)

TOKENIZER = TextTokenizer(text_model())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with both models in place."""
    store = Store(tmp_path)
    store.put_as(model_path(TOKENIZER.digest, ".model"), text_model())
    book = _codebook()
    store.put_as(model_path(book.digest, ".safetensors"), book.write())
    return store


def _codebook() -> Codebook:
    fit = CodebookFit(recipe().tokenize.visual, 0)
    fit.add(np.stack([picture(number, (32, 32)) for number in range(12)]))
    return Codebook.read(fit.finish(), "test")


def text_stage(store: Store, file: LandingFile, of: Recipe | None = None) -> Receipt:
    (unit,) = text_units(of or recipe(), select_files(store, [file]), {"digest": TOKENIZER.digest})
    task = pickle.loads(pickle.dumps(TokenizeText(store)))
    receipt: Receipt = task(pickle.loads(pickle.dumps(unit)))
    return receipt


def visual_stage(store: Store, file: LandingFile, of: Recipe | None = None) -> list[dict[str, Any]]:
    (unit,) = visual_units(of or recipe(), select_files(store, [file]), {"digest": _codebook().digest})
    receipt = TokenizeVisual(store)(pickle.loads(pickle.dumps(unit)))
    return rows_of(store, receipt, "images", IMAGES)


def rows_of(store: Store, receipt: Receipt, name: str, schema: pa.Schema) -> list[dict[str, Any]]:
    found = store.read_table(receipt.outputs[name].path)
    assert found.schema.equals(schema)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def ids(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u2").tolist()


def by_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["row"]: row for row in rows}


def test_captions_become_ids_in_their_order(store: Store) -> None:
    captions = ["a red house", "un garçon", "a\0b 😀 שלום"]
    file = landing_file(store, "one", [pair("a", png(1), captions)])
    receipt = text_stage(store, file)
    (member,) = rows_of(store, receipt, "members", MEMBERS)
    assert unpack_json(member["captions"]) == captions
    assert ids(member["caption_ids"]) == [x for caption in captions for x in TOKENIZER.encode(caption).tolist()]
    assert (member["kind"], member["split"], member["merged"], member["licence"]) == ("pair", "train", False, "CC0-1.0")
    assert receipt.counts["captions"] == 3
    assert receipt.counts["documents"] == 0


def test_long_captions_are_truncated_with_their_end_kept_and_counted(store: Store) -> None:
    captions = ["red house " * 60, "red"]
    file = landing_file(store, "one", [pair("a", png(1), captions)])
    receipt = text_stage(store, file)
    (member,) = rows_of(store, receipt, "members", MEMBERS)
    found = ids(member["caption_ids"])
    assert found[:64] == [*TOKENIZER.encode(captions[0])[:63].tolist(), EOS]
    assert found[64:] == TOKENIZER.encode("red").tolist()
    assert receipt.counts["captions_truncated"] == 1
    assert receipt.counts["caption_ids"] == len(found)


def test_edits_change_captions_and_drop_those_replaced_whole(store: Store) -> None:
    captions = ["mail me at x@y.z", "bad", "über alles gut"]
    edits = [[0, 11, 16, "<mail>"], [1, 0, 3, ""], [2, 6, 12, ""], [0, 0, 4, "write"]]
    file = landing_file(store, "one", [pair("a", png(1), captions, edits=edits)])
    (member,) = rows_of(store, text_stage(store, file), "members", MEMBERS)
    assert unpack_json(member["captions"]) == ["write me at <mail>", "über gut"]
    assert ids(member["caption_ids"])[-1] == EOS


def test_documents_are_edited_and_encoded(store: Store) -> None:
    words = "straße and river near the big mountain"
    edit = [-1, len("straße ".encode()), len("straße and ".encode()), ""]
    file = landing_file(store, "one", [text("a", words, edits=[edit]), text("b", "out", verdict="drop")])
    receipt = text_stage(store, file)
    (document,) = rows_of(store, receipt, "documents", DOCUMENTS)
    edited = "straße river near the big mountain"
    assert ids(document["ids"]) == TOKENIZER.encode(edited).tolist()
    assert document["characters"] == len(edited)
    assert document["record_id"] == record_id("text", words.encode())
    assert receipt.counts["document_ids"] == len(ids(document["ids"]))
    (member,) = rows_of(store, receipt, "members", MEMBERS)
    assert (member["kind"], member["captions"], member["language"]) == ("text", None, "en")


def test_members_name_the_kind_of_their_sample(store: Store) -> None:
    payload = png(1)
    file = landing_file(
        store,
        "one",
        [
            pair("kept", payload, ["red"], priority=1),
            pair("merged", payload, ["house"], verdict="merge"),
            image("captioned", payload, verdict="merge", sample_kind="pair"),
            image("alone", png(2), split="validation"),
            image("dropped", png(3), verdict="drop"),
        ],
    )
    members = by_row(rows_of(store, text_stage(store, file), "members", MEMBERS))
    assert {row: (m["kind"], m["merged"]) for row, m in members.items()} == {
        "kept": ("pair", False),
        "merged": ("pair", True),
        "captioned": ("pair", True),
        "alone": ("image", False),
    }
    assert members["merged"]["caption_ids"] is not None
    assert members["captioned"]["captions"] is None
    assert members["alone"]["split"] == "validation"
    assert members["kept"]["priority"] == 1


def test_an_image_that_stays_beside_its_pair_has_a_row_of_each_kind(store: Store) -> None:
    file = landing_file(store, "one", [pair("a", png(1), ["red"]), image("b", png(1))])
    rows = visual_stage(store, file)
    assert sorted(row["kind"] for row in rows) == ["image", "pair"]
    assert rows[0]["codes"] == rows[1]["codes"]


def test_codes_are_those_of_the_rendered_views_of_the_stored_image(store: Store) -> None:
    file = landing_file(store, "one", [image(str(n), png(n, (70 + n, 61))) for n in range(6)])
    rows = visual_stage(store, file)
    payloads = {record_id("image", png(n, (70 + n, 61))): png(n, (70 + n, 61)) for n in range(6)}
    config = recipe().tokenize
    assert [row["record_id"] for row in rows] == sorted(payloads)
    for row in rows:
        stored = store_image(payloads[row["record_id"]], config.stored)
        views = draw_views([row["record_id"]], [(stored.width, stored.height)], config.views, 0)[0]
        assert ids(row["views"]) == views.reshape(-1).tolist()
        pixels = np.stack([render(decode_jpeg(stored.jpeg), view, 32) for view in views])
        assert ids(row["codes"]) == _codebook().encode(pixels).reshape(-1).tolist()
        assert (row["width"], row["height"]) == (stored.width, stored.height)


def test_codes_do_not_depend_on_which_rows_are_kept(store: Store) -> None:
    rows = [image(str(n), png(n)) for n in range(11)]
    whole = {row["record_id"]: row for row in visual_stage(store, landing_file(store, "one", rows))}
    sparse = [row | {"verdict": "drop"} if int(row["row"]) % 3 else row for row in rows]
    found = visual_stage(store, landing_file(store, "one", sparse))
    assert len(found) == 4
    assert all(row == whole[row["record_id"]] for row in found)


def test_the_batch_slot_of_an_image_follows_from_all_images_of_its_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    encode = Codebook.encode

    def spy(self: Codebook, images: Any) -> Any:
        seen.append(np.flatnonzero(images.any(axis=(1, 2, 3))).tolist())
        assert images.shape == (4, 32, 32, 3)
        return encode(self, images)

    monkeypatch.setattr(Codebook, "encode", spy)
    rows = [image(str(n), png(n)) for n in range(9)] + [text("t", "words between images")]
    order = [row["row"] for row in sorted(rows[:9], key=lambda row: record_id("image", row["payload"]))]
    for number, row in enumerate(order):
        rows[int(row)]["verdict"] = "keep" if number in (1, 3, 8) else "drop"
    visual_stage(store, landing_file(store, "one", rows))
    assert seen == [[1, 3], [1, 3], [0], [0]], "two views of batch 0, none of batch 1, two of batch 2"


def test_an_empty_landing_file_gives_empty_tables(store: Store) -> None:
    file = landing_file(store, "one", [])
    receipt = text_stage(store, file)
    assert rows_of(store, receipt, "members", MEMBERS) == []
    assert rows_of(store, receipt, "documents", DOCUMENTS) == []
    assert visual_stage(store, file) == []


def test_a_unit_changes_only_with_what_it_reads(store: Store) -> None:
    rows = [pair("a", png(1), ["red"]), pair("b", png(2), ["house"], verdict="drop")]
    file = landing_file(store, "one", rows)

    def units(changed: Sequence[Mapping[str, Any]], **tokenize: Any) -> tuple[str, str]:
        of, other = recipe(**tokenize), landing_file(store, "one", changed)
        (text_unit,) = text_units(of, select_files(store, [other]), {"digest": TOKENIZER.digest})
        (visual_unit,) = visual_units(of, select_files(store, [other]), {"digest": _codebook().digest})
        return text_unit.id, visual_unit.id

    before = units(rows)
    assert units([rows[0], rows[1] | {"rule": "image_size@1", "score": 1.0}]) == before, "only a dropped row differs"
    assert units([rows[0] | {"fired": 4}, rows[1]]) == before
    edited = units([rows[0] | {"edits": [[0, 0, 1, "R"]]}, rows[1]])
    assert edited[0] != before[0]
    assert edited[1] == before[1], "edits do not reach pixels"
    kept = units([rows[0], rows[1] | {"verdict": "keep", "sample_kind": "pair", "split": "train"}])
    assert kept[0] != before[0]
    assert kept[1] != before[1]
    assert units(rows, views={"count": 3})[0] == before[0]
    assert units(rows, views={"count": 3})[1] != before[1]
    assert file == landing_file(store, "one", rows)


def test_payloads_of_other_row_groups_are_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imglish.storage.PARQUET_ROW_GROUP_BYTES", 1)
    rows = [text(str(n), f"words of document {n}") for n in range(6)]
    landing = landing_file(store, "one", rows).landing
    read: list[int] = []
    read_group = pq.ParquetFile.read_row_group

    def spy(file: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        read.append(group)
        return read_group(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    found = [table.to_pylist() for table in read_rows(store, landing.path, np.array([1, 4]), ["payload"])]
    assert read == [1, 4]
    payloads = sorted((row["payload"] for row in rows), key=lambda payload: record_id("text", payload))
    assert found == [[{"payload": payloads[1]}], [{"payload": payloads[4]}]]


def test_many_row_groups_give_what_one_gives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [pair(str(n), png(n), [f"house {n}", "red"]) for n in range(7)] + [text("t", "river near the tree")]
    rows[3]["verdict"] = "drop"
    once, images = (
        text_stage(store, landing_file(store, "one", rows)),
        visual_stage(store, landing_file(store, "one", rows)),
    )
    monkeypatch.setattr("imglish.storage.PARQUET_ROW_GROUP_BYTES", 1)
    file = landing_file(store, "one", rows)
    again = text_stage(store, file)
    for name, schema in (("members", MEMBERS), ("documents", DOCUMENTS)):
        assert rows_of(store, again, name, schema) == rows_of(store, once, name, schema)
    assert visual_stage(store, file) == images


def test_files_that_are_not_aligned_are_refused(store: Store) -> None:
    file = landing_file(store, "one", [pair("a", png(1), ["red"])])
    other = landing_file(store, "one", [pair("b", png(1), ["red"])])
    with pytest.raises(StageError, match="do not have the same rows"):
        text_stage(store, file._replace(decisions=other.decisions))


def test_an_edit_that_does_not_fit_names_the_row(store: Store) -> None:
    file = landing_file(store, "one", [pair("a", png(1), ["red"], edits=[[0, 2, 9, ""]])])
    with pytest.raises(StageError, match=r"one row a: edit of bytes 2\.\.9 does not fit 3 bytes"):
        text_stage(store, file)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([[0, 1, 2, ""]], "cuts a character"),
        ([[0, 0, 3, ""], [0, 2, 4, ""]], "edited up to 3"),
        ([[1, 0, 0, ""]], "caption 1"),
    ],
)
def test_impossible_edits_are_refused(edits: list[list[Any]], message: str) -> None:
    with pytest.raises(StageError, match=message):
        edited_captions(["éab"], edits)


def test_edits_at_one_place_are_inserted_and_the_rest_stays() -> None:
    assert edited_document("añb".encode(), [[-1, 1, 3, "n"], [-1, 0, 0, "> "]]) == "> anb"
    assert edited_document(b"abc", None) == "abc"
    assert edited_captions(["a", " ", "b"], None) == ["a", "b"]


def test_a_kept_image_that_cannot_be_stored_names_the_row(store: Store) -> None:
    file = landing_file(store, "one", [image("a", b"GIF89a no image")])
    with pytest.raises(StageError, match="one row a: kept, but its image cannot be stored"):
        visual_stage(store, file)


def test_a_model_file_that_was_exchanged_is_refused(store: Store) -> None:
    other = text_model(331)
    store.put_as(model_path("0" * 64, ".model"), other)
    file = landing_file(store, "one", [pair("a", png(1), ["red"])])
    (unit,) = text_units(recipe(), select_files(store, [file]), {"digest": "0" * 64})
    with pytest.raises(TokenizerError, match="fit it again"):
        TokenizeText(store)(unit)
