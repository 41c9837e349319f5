"""Folders of images with captions, and what every reader shares: finding files, options, parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import pytest

from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources import READERS, reader
from imglish.ingest.sources.base import Reader
from imglish.ingest.sources.files import PART_FILES, File, printable, split_files
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()


def test_images_with_captions_one_a_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"park/dog.JPG": JPEG, "park/dog.txt": "\ufeffA dog.\r\nUn chien.\n", "cat.png": b"", "cat.txt": "A cat"},
    )
    rows = rows_of(source("folder", "pair"), tmp_path)
    assert [(row.row, row.payload, row.captions, row.status) for row in rows] == [
        ("cat.png", b"", ["A cat"], "ok"),  # landing calls it empty
        ("park/dog.JPG", JPEG, ["A dog.", "Un chien.", ""], "ok"),
    ]


def test_broken_rows_say_why(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG, "b.txt": b"caf\xe9", "c.jpg": JPEG, "c.txt": "fine"})
    rows = {row.row: row for row in rows_of(source("folder", "pair"), tmp_path)}
    assert {name: row.status for name, row in rows.items()} == {
        "a.jpg": "no_caption",
        "b.jpg": "not_utf8",
        "c.jpg": "ok",
    }
    assert rows["b.jpg"].detail == "b.txt: byte 0xe9 at offset 3"


def test_images_alone_ignore_caption_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.jpg": JPEG, "a.txt": "not read", "notes.md": "x", ".hidden/b.jpg": JPEG, "._a.jpg": b"resource fork"},
    )
    (row,) = rows_of(source("folder", "image"), tmp_path)
    assert (row.row, row.payload, row.captions) == ("a.jpg", JPEG, None)


def test_a_file_that_vanishes_after_listing_is_a_row(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x", "b.jpg": JPEG, "b.txt": "y"})
    config = source("folder", "pair")
    (part,) = parts_of(config, tmp_path)
    (tmp_path / "data/a.jpg").unlink()
    (tmp_path / "data/b.txt").unlink()
    rows = list(reader(config).rows(config, part))
    assert statuses(rows) == {"a.jpg": "missing_file", "b.jpg": "missing_file"}
    assert "b.txt" in str(rows[1].detail)


def test_a_file_name_that_is_not_utf8_is_a_row_like_any_other(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    (tmp_path / "data/a.jpg").rename(tmp_path / "data" / os.fsdecode(b"caf\xe9.jpg"))
    (row,) = rows_of(source("folder", "image"), tmp_path)
    assert (row.row, row.payload) == (r"caf\udce9.jpg", JPEG)
    assert printable(row.row) == row.row


def test_a_pipe_is_not_waited_for_and_a_link_is_followed(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    os.mkfifo(tmp_path / "data/pipe.jpg")
    (tmp_path / "data/link.jpg").symlink_to("a.jpg")
    assert statuses(rows_of(source("folder", "image"), tmp_path)) == {"a.jpg": "ok", "link.jpg": "ok"}


def test_a_path_may_be_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.jpg": JPEG, "x/b.png": JPEG, "y/a.jpg": JPEG, "odd[1]/c.jpg": JPEG})
    found = {
        path: list(statuses(rows_of(source("folder", "image", path), tmp_path)))
        for path in (
            "data/x",
            "data/x/a.jpg",
            "data/*/a.jpg",
            "data/*",
            "data/odd[1]",
            "data/x/../y",
            str(tmp_path / "data/y"),
        )
    }
    assert found == {
        "data/x": ["a.jpg", "b.png"],
        "data/x/a.jpg": ["a.jpg"],
        "data/*/a.jpg": ["x/a.jpg", "y/a.jpg"],
        "data/*": ["odd[1]/c.jpg", "x/a.jpg", "x/b.png", "y/a.jpg"],
        "data/odd[1]": ["c.jpg"],
        "data/x/../y": ["a.jpg"],
        str(tmp_path / "data/y"): ["a.jpg"],
    }  # fmt: skip


def test_a_source_may_be_an_fsspec_url() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe(
        {
            "/imglish-test/a.jpg": JPEG,
            "/imglish-test/a.txt": b"A picture",
            "/imglish-test/list.csv": b"image,caption\na.jpg,x\n",
        }
    )
    try:
        (row,) = rows_of(source("folder", "pair", "memory://imglish-test"), ".")
        assert (row.row, row.payload, row.captions) == ("a.jpg", JPEG, ["A picture"])
        (row,) = rows_of(source("csv", "pair", "memory://imglish-test/*.csv"), ".")
        assert (row.row, row.payload, row.captions) == ("list.csv#14", JPEG, ["x"])
    finally:
        fs.rm("/imglish-test", recursive=True)


def test_nothing_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"source 's': nothing at .*/data; check its path"):
        parts_of(source("folder", "image"), tmp_path)
    write(tmp_path, {"a.txt": "x"})
    with pytest.raises(SourceError, match=r"holds \.txt files but no images"):
        parts_of(source("folder", "pair"), tmp_path)
    with pytest.raises(SourceError, match=r"no .*\.parquet among 1 files"):
        parts_of(source("parquet", "pair"), tmp_path)


def test_unknown_formats_and_options_get_a_suggestion(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "image,caption\n"})
    with pytest.raises(RecipeError, match=r"unknown format 'parkuet'; did you mean 'parquet'\?"):
        reader(source("parkuet", "pair"))
    with pytest.raises(RecipeError, match="unknown format 'zzz'; known are archive, coco, csv"):
        reader(source("zzz", "pair"))
    with pytest.raises(RecipeError, match=r"source 's': unknown option captoins; did you mean captions\?"):
        parts_of(source("csv", "pair", captoins=["x"]), tmp_path)
    with pytest.raises(RecipeError, match="option image = 7"):
        parts_of(source("csv", "pair", image=7), tmp_path)
    with pytest.raises(RecipeError, match="gives pair or image, not text; use format 'text'"):
        parts_of(source("folder", "text"), tmp_path)


def test_every_format_of_the_registry_has_its_name() -> None:
    def check(found: Reader) -> tuple[str, int]:
        return found.name, found.version

    assert [check(found)[0] for found in READERS.values()] == list(READERS)
    assert {"folder", "csv", "tsv", "jsonl", "parquet", "url-list", "text", "archive"} <= set(READERS)


def test_a_new_file_changes_one_part_only() -> None:
    files = [File(f"/x/{n:05d}.jpg", f"{n:05d}.jpg", 1000, "1") for n in range(0, 20_000, 2)]
    before = split_files(files)
    assert len(files) / PART_FILES * 0.5 < len(before) < len(files) / PART_FILES * 2
    assert [file for part in before for file in part] == files
    after = split_files(sorted([*files, File("/x/09001.jpg", "09001.jpg", 1000, "1")], key=lambda file: file.name))
    assert len([part for part in after if part not in before]) <= 2


def test_parts_close_at_their_size() -> None:
    files = [File(f"/x/{n}", str(n), 50 << 20, "") for n in range(7)]
    assert [len(part) for part in split_files(files)] == [3, 3, 1]


def test_parts_do_not_name_the_place_of_the_source(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x", "t.csv": "image,caption\na.jpg,x\n", "d.md": "text", "z.tar": b""})
    other = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", other / "data")  # copies modification times
    for form, kind in (("folder", "pair"), ("csv", "pair"), ("text", "text"), ("archive", "image")):
        here, there = (parts_of(source(form, kind), root) for root in (tmp_path, other))
        assert [(p.name, p.fingerprint, p.spec) for p in here] == [(p.name, p.fingerprint, p.spec) for p in there]


def test_a_changed_caption_file_changes_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "a.txt": "x"})
    (before,) = parts_of(source("folder", "pair"), tmp_path)
    write(tmp_path, {"a.txt": "longer"})
    (after,) = parts_of(source("folder", "pair"), tmp_path)
    assert before.fingerprint != after.fingerprint
    assert before.name == after.name
