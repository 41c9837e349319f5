"""Landing: units, checks, the index, and what happens when things die or vanish."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imglish.digests import record_id
from imglish.errors import SourceError, StorageError
from imglish.ingest import land as land_module
from imglish.ingest import landing as landing_module
from imglish.ingest.checks import check_row
from imglish.ingest.land import LandTask, land, land_units, landing_files
from imglish.ingest.sources.base import Part, Row
from imglish.recipe import Recipe, SourceConfig, make_recipe
from imglish.records import LANDING, unpack_json
from imglish.stages import Receipt, counts_of
from imglish.storage import Store
from tests.ingest.engine_helpers import Inline
from tests.ingest.source_helpers import write
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()
PNG = image_bytes("PNG")


def recipe(root: Path, *sources: Mapping[str, Any], **more: Any) -> Recipe:
    given = [{"name": f"s{n}", "path": "data", **source} for n, source in enumerate(sources)]
    return make_recipe({"name": "test", "root": str(root), "work": str(root / "work"), "source": given, **more})


def store_of(made: Recipe) -> Store:
    return Store(made.work)


def rows(store: Store, receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    return [row for file in landing_files(receipts) for row in store.read_table(file.path).to_pylist()]


FOLDER = {"format": "folder", "kind": "pair"}


def test_rows_land_sorted_with_ids_sizes_and_reasons(tmp_path: Path) -> None:
    write(tmp_path, {
        "a.jpg": JPEG, "a.txt": "A picture\0\n \n", "b.png": PNG, "b.txt": "x", "c.jpg": JPEG[:40], "c.txt": "half",
        "d.jpg": b"", "d.txt": "nothing", "e.jpg": JPEG, "f.jpg": JPEG, "f.txt": " \n\n", "g.jpg": JPEG,
        "g.txt": b"\xff",
    })  # fmt: skip
    made = recipe(tmp_path, {**FOLDER, "licence": "CC0"})
    store = store_of(made)
    ((receipt,),) = land(store, Inline(), made).values()
    table = store.read_table(receipt.outputs["rows/000000"].path)
    assert table.schema == LANDING
    found = table.to_pylist()
    expected = sorted(
        (record_id("image", data), name, data) for name, data in {"a": JPEG, "b": PNG, "c": JPEG[:40]}.items()
    )
    assert [(row["record_id"], row["row"][0], row["payload"]) for row in found[:3]] == expected
    assert [(row["row"], row["status"]) for row in found[3:]] == [
        ("d.jpg", "empty"), ("e.jpg", "no_caption"), ("f.jpg", "no_caption"), ("g.jpg", "not_utf8"),
    ]  # fmt: skip
    assert all(
        row[name] is None for row in found[3:] for name in ("payload", "record_id", "bytes", "sha256", "captions")
    )
    assert all(row["detail"] for row in found[3:])
    first = next(row for row in found if row["row"] == "a.jpg")
    assert unpack_json(first["captions"]) == ["A picture"]
    assert (first["bytes"], first["licence"], first["kind"], first["source"]) == (len(JPEG), "CC0", "pair", "s0")
    total = {"occurrences": 7, "bytes": len(JPEG) + len(PNG) + 40, "status/ok": 3, "status/empty": 1}
    assert receipt.counts == {**total, "status/no_caption": 2, "status/not_utf8": 1}


def test_texts_are_decoded_strictly(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "Grüße", "b.txt": " \n\t", "t.jsonl": '{"text": ""}'})
    made = recipe(tmp_path, {"format": "text", "kind": "text"})
    found = rows(store_of(made), land(store_of(made), Inline(), made)["s0"])
    by_row = {row["row"]: row for row in found}
    assert {name: row["status"] for name, row in by_row.items()} == {
        "a.txt": "ok",
        "b.txt": "empty",
        "t.jsonl#0": "empty",
    }
    assert by_row["a.txt"]["record_id"] == record_id("text", "Grüße".encode())
    config = made.source[0]
    assert check_row(config, Row("x", payload=b"caf\xe9")).status == "not_utf8"


def test_texts_may_land_uncompressed_and_are_the_same_rows(tmp_path: Path) -> None:
    lines = [{"text": f"{number} {'word ' * (1 + number % 7)}\u2019"} for number in range(200)]
    write(tmp_path, {"a.jsonl": b"\n".join(json.dumps(line).encode() for line in lines)})
    found = {}
    for landing in ("zstd", "none"):
        made = recipe(tmp_path, {"format": "text", "kind": "text"}, run={"landing": landing})
        store = Store(tmp_path / landing)
        (receipts,) = land(store, Inline(), made).values()
        (file,) = landing_files(receipts)
        facts = pq.ParquetFile(store.path(file.path)).metadata.row_group(0)
        column = LANDING.get_field_index("payload")
        found[landing] = (receipts[0].unit, store.read_table(file.path), facts.column(column).compression)
    assert [compression for _, _, compression in found.values()] == ["ZSTD", "UNCOMPRESSED"]
    assert found["zstd"][0] == found["none"][0]
    assert found["zstd"][1].equals(found["none"][1])
    payloads = {line["text"].encode() for line in lines}
    assert set(found["none"][1].column("payload").to_pylist()) == payloads


@pytest.mark.parametrize("text", ["", "\u3000\u2003", " \n"])
def test_white_space_is_no_text_however_it_is_spelt(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"a.jsonl": json.dumps({"text": text}).encode()})
    made = recipe(tmp_path, {"format": "text", "kind": "text"})
    ((receipt,),) = land(store_of(made), Inline(), made).values()
    assert [row["status"] for row in rows(store_of(made), [receipt])] == ["empty"]


@pytest.mark.parametrize(
    ("captions", "status", "left"),
    [
        (["a", "\0", "  ", "b\0c"], "ok", ["a", "bc"]),
        (["good", "half \ud83d pair"], "ok", ["good"]),
        (["half \ud83d pair"], "not_utf8", None),
        ([], "no_caption", None),
        (None, "no_caption", None),
        (["good", 7], "bad_row", None),
        ([["nested"]], "bad_row", None),
    ],
)
def test_captions_are_checked(captions: Any, status: str, left: list[str] | None) -> None:
    config = SourceConfig(name="s", format="folder", kind="pair", path=".")
    row = check_row(config, Row("x", payload=JPEG, captions=captions))
    assert (row.status, row.captions) == (status, left)
    assert (row.payload is not None) == (status == "ok")


def test_images_and_texts_carry_no_captions() -> None:
    config = SourceConfig(name="s", format="folder", kind="image", path=".")
    row = check_row(config, Row("x", payload=JPEG, captions=["a"]))
    assert (row.status, row.captions) == ("ok", None)


def test_landing_twice_runs_nothing_and_landing_anew_gives_equal_bytes(tmp_path: Path) -> None:
    write(
        tmp_path,
        {f"{n}.jpg": image_bytes(side=n + 1) for n in range(20)} | {f"{n}.txt": f"number {n}" for n in range(20)},
    )
    made = recipe(tmp_path, FOLDER)
    first = land(store_of(made), Inline(), made)
    engine = Inline()
    assert land(store_of(made), engine, made) == first
    assert engine.ran == []
    again = Store(tmp_path / "again")
    second = land(again, Inline(), made)
    assert [r.outputs for r in second["s0"]] == [r.outputs for r in first["s0"]]
    assert [r.unit for r in second["s0"]] == [r.unit for r in first["s0"]]


def test_priority_and_paths_never_change_units(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    shutil.copytree(tmp_path / "data", tmp_path / "moved/elsewhere")
    ids = {
        land_units(made, made.source[0])[0].id
        for made in (
            recipe(tmp_path, FOLDER),
            recipe(tmp_path, {**FOLDER, "priority": 7}),
            recipe(tmp_path / "moved", {**FOLDER, "path": "elsewhere"}),
            recipe(tmp_path, FOLDER, fetch={"user_agent": "other/1"}),
        )
    }
    assert len(ids) == 1
    changed = recipe(tmp_path, {**FOLDER, "licence": "CC0"})
    assert land_units(changed, changed.source[0])[0].id not in ids


def test_sources_may_be_deleted_after_landing(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    made = recipe(tmp_path, FOLDER, {"format": "folder", "kind": "image", "name": "again"})
    first = land(store_of(made), Inline(), made)
    index = json.loads(store_of(made).read("landing/index.json"))
    assert {name: entry["units"] for name, entry in index.items()} == {n: [r.unit for r in f] for n, f in first.items()}
    shutil.rmtree(tmp_path / "data")
    notes: list[str] = []
    engine = Inline()
    assert land(store_of(made), engine, made, note=notes.append) == first
    assert engine.ran == []
    assert notes == [
        f"source {name}: nothing at data; its 1 landed units are used as they are" for name in ("s0", "again")
    ]
    assert json.loads(store_of(made).read("landing/index.json")) == index


def test_a_source_that_is_gone_is_an_error_if_its_landing_is_not_whole_or_its_options_changed(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    made = recipe(tmp_path, FOLDER)
    ((receipt,),) = land(store_of(made), Inline(), made).values()
    shutil.rmtree(tmp_path / "data")
    relicensed = recipe(tmp_path, {**FOLDER, "licence": "CC0"})
    with pytest.raises(SourceError, match="nothing at"):
        land(store_of(made), Inline(), relicensed)
    store_of(made).remove(receipt.outputs["rows/000000"].path)
    with pytest.raises(SourceError, match="nothing at"):
        land(store_of(made), Inline(), made)


def test_only_what_is_new_lands(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": "One.", "two/b.txt": "Two."})
    text = {"format": "text", "kind": "text"}
    made = recipe(tmp_path, {**text, "path": "data/one"}, {**text, "path": "data/two"})
    before = land(store_of(made), Inline(), made)
    write(tmp_path, {"two/b.txt": "Two, changed."})
    engine = Inline()
    done: list[tuple[str, int, int]] = []
    after = land(store_of(made), engine, made, progress=lambda *call: done.append(call))
    assert engine.ran == ["b.txt"]
    assert done == [("land", 1, 2), ("land", 2, 2)]
    assert before["s0"] == after["s0"]
    assert rows(store_of(made), after["s1"])[0]["payload"] == b"Two, changed."


def test_a_row_name_that_comes_twice_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice:
        name, version = "folder", 1

        def parts(self, config: SourceConfig, root: str) -> list[Part]:
            return [Part("p", [], [])]

        def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
            yield from (Row("a.jpg", payload=JPEG, captions=["x"]) for _ in range(2))

    monkeypatch.setattr(land_module, "reader", lambda config, root: Twice())
    write(tmp_path, {"a.jpg": JPEG})
    made = recipe(tmp_path, FOLDER)
    with pytest.raises(SourceError, match=r"source 's0': row 'a\.jpg' comes more than once"):
        land(store_of(made), Inline(), made)


def test_a_source_without_rows_lands_as_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path, {"t.jsonl": "\n"})
    made = recipe(tmp_path, {"format": "text", "kind": "text"})
    receipts = land(store_of(made), Inline(), made)["s0"]
    assert rows(store_of(made), receipts) == []
    assert counts_of(receipts) == {"occurrences": 0, "bytes": 0}


class Counted:
    """A reader of 25 rows in one part; `read` says how many it was asked for."""

    name, version = "text", 1
    read = 0
    dies_at = 25

    def parts(self, config: SourceConfig, root: str) -> list[Part]:
        return [Part("p", [], [])]

    def rows(self, config: SourceConfig, part: Part) -> Iterator[Row]:
        for number in range(25):
            if number == Counted.dies_at:
                raise KeyboardInterrupt
            Counted.read += 1
            yield (
                Row(f"r{number:02d}", payload=f"text {number}".encode())
                if number % 7
                else Row(f"r{number:02d}", status="bad_row", detail="seventh")
            )


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(land_module, "reader", lambda config, root: Counted())
    monkeypatch.setattr(landing_module, "FILE_ROWS", 10)
    monkeypatch.setattr(Counted, "read", 0)
    write(tmp_path, {"a.txt": "x"})
    return recipe(tmp_path, {"format": "text", "kind": "text"})


def test_one_unit_lands_in_files_of_bounded_size_each_sorted(counted: Recipe) -> None:
    store = store_of(counted)
    ((receipt,),) = land(store, Inline(), counted).values()
    assert [(name, output.rows) for name, output in receipt.outputs.items()] == [
        ("rows/000000", 10), ("rows/000001", 10), ("rows/000002", 5)
    ]  # fmt: skip
    assert receipt.counts == {"occurrences": 25, "bytes": 139, "status/bad_row": 4, "status/ok": 21}
    for number, file in enumerate(landing_files([receipt])):
        found = store.read_table(file.path).to_pylist()
        assert [row["row"] for row in found] == [
            row["row"] for row in sorted(found, key=lambda r: (r["record_id"] is None, r["record_id"], r["row"]))
        ]
        assert {row["row"] for row in found} == {f"r{n:02d}" for n in range(10 * number, min(25, 10 * number + 10))}
    assert not list(store.files("landing/progress"))


def test_payload_bytes_close_a_file_too(counted: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_module, "FILE_BYTES", 30)
    monkeypatch.setattr(landing_module, "_OVER", 0)
    ((receipt,),) = land(store_of(counted), Inline(), counted).values()
    sizes = [sum(row["bytes"] or 0 for row in store_of(counted).read_table(file.path).to_pylist())
             for file in landing_files([receipt])]  # fmt: skip
    assert max(sizes) <= 30 + 7
    assert sum(sizes) == receipt.counts["bytes"]


def test_a_unit_that_died_goes_on_behind_its_committed_files_and_gives_the_same(
    counted: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = land(Store(tmp_path / "clean"), Inline(), counted)
    store = store_of(counted)
    monkeypatch.setattr(Counted, "dies_at", 24)
    with pytest.raises(KeyboardInterrupt):
        land(store, Inline(), counted)
    committed = sorted(path for path in store.files("landing") if path.endswith(".parquet"))
    assert len(committed) == 2
    stamps = {path: (store.path(path).stat().st_mtime_ns, store.path(path).stat().st_ino) for path in committed}
    monkeypatch.setattr(Counted, "dies_at", 25)
    again = land(store, Inline(), counted)
    assert [r.outputs for r in again["s0"]] == [r.outputs for r in clean["s0"]]
    assert [r.counts for r in again["s0"]] == [r.counts for r in clean["s0"]]
    assert {path: (store.path(path).stat().st_mtime_ns, store.path(path).stat().st_ino) for path in stamps} == stamps
    assert not list(store.files("landing/progress"))


def test_progress_whose_files_are_gone_begins_anew(counted: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(counted)
    monkeypatch.setattr(Counted, "dies_at", 24)
    with pytest.raises(KeyboardInterrupt):
        land(store, Inline(), counted)
    store.remove(next(path for path in store.files("landing") if path.endswith(".parquet")))
    monkeypatch.setattr(Counted, "dies_at", 25)
    ((receipt,),) = land(store, Inline(), counted).values()
    assert len(rows(store, [receipt])) == 25


def test_a_row_name_that_comes_twice_in_two_files_of_a_unit_is_found(
    counted: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: Counted, config: SourceConfig, part: Part) -> Iterator[Row]:
        yield from (Row(f"r{number % 15}", payload=b"x") for number in range(16))

    monkeypatch.setattr(Counted, "rows", twice)
    with pytest.raises(SourceError, match="row 'r0' comes more than once"):
        land(store_of(counted), Inline(), counted)


def test_a_kill_between_output_and_receipt_leaves_a_state_that_can_be_finished(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    made = recipe(tmp_path, FOLDER)
    script = """
        import os, signal, sys
        from imglish.ingest.land import LandTask, land_units
        from imglish.recipe import make_recipe
        from imglish.storage import Store
        Store.put_as = lambda *_: os.kill(os.getpid(), signal.SIGKILL)     # the receipt is written by put_as
        root = sys.argv[1]
        source = {"name": "s0", "path": "data", "format": "folder", "kind": "pair"}
        made = make_recipe({"name": "test", "root": root, "work": root + "/work", "source": [source]})
        LandTask(made.work)(land_units(made, made.source[0])[0])
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=False)
    assert killed.returncode == -9
    left = list(store_of(made).files("landing"))
    assert [Path(path).suffix for path in left] == [".parquet"]
    ((receipt,),) = land(store_of(made), Inline(), made).values()
    assert receipt.outputs["rows/000000"].path in left
    assert not [path for path in store_of(made).files() if ".tmp-" in path]


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    made = recipe(tmp_path, FOLDER)
    (unit,) = land_units(made, made.source[0])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="free space or fix permissions"):
        LandTask(str(tmp_path / "file"))(unit)
