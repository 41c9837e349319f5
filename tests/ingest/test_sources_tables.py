"""Tables of images, documents and URLs in four formats, each with broken rows."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources import streams
from imglish.ingest.sources.base import TO_FETCH
from imglish.ingest.sources.files import File
from imglish.ingest.sources.tabular import CsvTable, JsonTable, TableLayout, open_table
from imglish.ingest.sources.urls import UrlList
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()
PNG = image_bytes("PNG")


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def test_a_csv_names_image_files_beside_it(tmp_path: Path) -> None:
    lines = (
        'file,english,german,source\npics/a.jpg,"A cat, ""Tom""\nasleep",Eine Katze,https://x.example/a\nb.png,,Hund,\n'
    )
    write(tmp_path, {"shots.csv": "\ufeff" + lines, "pics/a.jpg": JPEG, "b.png": PNG})
    rows = rows_of(source("csv", "pair", image="file", captions=["english", "german"], url="source"), tmp_path)
    assert [(row.row, row.payload, row.captions, row.url) for row in rows] == [
        ("shots.csv#30", JPEG, ['A cat, "Tom"\nasleep', "Eine Katze"], "https://x.example/a"),
        ("shots.csv#96", PNG, ["", "Hund"], None),
    ]


def test_broken_csv_rows_say_why_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        b"image,caption",
        b"a.jpg,good",
        b"gone.jpg,no such file",
        b"a.jpg,too,many",
        b"a.jpg,caf\xe9",
        b"/etc/passwd,absolute",
        b"../a.jpg,climbs",
        b",no image",
        b"",
        b"a.jpg," + b"x" * 200_000,
        b"a.jpg,last",
    ]
    write(tmp_path, {"t.csv": b"\n".join(lines), "a.jpg": JPEG})
    rows = rows_of(source("csv", "pair"), tmp_path)
    words = ["ok", "missing_file", "bad_row", "not_utf8", "refused", "refused", "bad_row", "bad_row", "ok"]
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(1, 11) if lines[n]]
    assert statuses(rows) == {f"t.csv#{at}": word for at, word in zip(starts, words, strict=True)}
    assert rows[2].detail == "t.csv, row at byte 47: 3 cells under 2 columns"
    assert all(row.detail for row in rows if row.status != "ok")


def test_one_column_may_hold_a_list_of_captions(tmp_path: Path) -> None:
    write(tmp_path, {"t.tsv": 'image\tcaptions\na.jpg\t["one", "two"]\na.jpg\tplain\n', "a.jpg": JPEG})
    good, bad = rows_of(source("tsv", "pair", captions="captions"), tmp_path)
    assert good.captions == ["one", "two"]
    assert (bad.status, bad.payload) == ("bad_row", None)
    assert "captions = ['captions']" in str(bad.detail)


def test_jsonl_rows_with_everything_that_can_be_wrong(tmp_path: Path) -> None:
    lines = [
        b'{"image": "a.jpg", "caption": "good", "by": "CC0"}',
        b"{nonsense",
        b'["a list"]',
        b'{"image": "a.jpg", "caption": "caf\xe9"}',
        b'{"image": 7, "caption": "x"}',
        b'{"caption": "x"}',
        b"[" * 100_000,
        b'{"image": ' + b"9" * 5000 + b"}",
        b"",
        b'{"image": "a.jpg", "caption": ["not", "text"]}',
    ]
    write(tmp_path, {"t.jsonl": b"\n".join(lines), "a.jpg": JPEG})
    rows = rows_of(source("jsonl", "pair", licence="by"), tmp_path)
    words = ["ok", "bad_row", "bad_row", "not_utf8", "bad_row", "bad_row", "bad_row", "bad_row", "ok"]
    assert [row.status for row in rows] == words
    assert (rows[0].licence, rows[0].captions) == ("CC0", ["good"])
    assert rows[8].captions == [["not", "text"]]  # landing refuses it


def test_parquet_holds_bytes_structs_or_paths(tmp_path: Path) -> None:
    captions = pa.array([["one", "two"], None, ["three"]])
    write(tmp_path, {
        "a.jpg": JPEG,
        "inline/t.parquet": parquet({"image": [JPEG, None, b""], "caption": captions}),
        "struct/t.parquet": parquet({"image": [{"bytes": PNG, "path": "x"}, {"bytes": None, "path": None}]}),
        "t.parquet": parquet({"image": ["a.jpg", "gone.jpg"]}),
    })  # fmt: skip
    rows = rows_of(source("parquet", "pair", "data/inline", captions="caption"), tmp_path)
    assert [(row.status, row.payload, row.captions) for row in rows] == [
        ("ok", JPEG, ["one", "two"]), ("bad_row", None, None), ("ok", b"", ["three"])
    ]  # fmt: skip
    rows = rows_of(source("parquet", "image", "data/struct"), tmp_path)
    assert [(row.status, row.payload) for row in rows] == [("ok", PNG), ("bad_row", None)]
    rows = rows_of(source("parquet", "image", "data/t.parquet"), tmp_path)
    assert [(row.status, row.payload) for row in rows] == [("ok", JPEG), ("missing_file", None)]


def test_tables_hold_documents(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "t.jsonl": '{"text": "One."}\n{"text": null}\n{"text": "\\ud800"}\n',
            "b.parquet": parquet({"text": [b"\xff"]}),
        },
    )
    rows = rows_of(source("jsonl", "text"), tmp_path)
    assert [(row.status, row.payload) for row in rows] == [("ok", b"One."), ("bad_row", None), ("not_utf8", None)]
    (row,) = rows_of(source("parquet", "text"), tmp_path)
    assert row.payload == b"\xff"  # landing decodes it


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column_names_file_column_and_what_there_is(tmp_path: Path, form: str) -> None:
    content: dict[str, bytes | str] = {
        "csv": "picture,caption\n",
        "tsv": "picture\tcaption\n",
        "jsonl": '{"picture": 1, "caption": "x"}',
        "parquet": parquet({"picture": ["x"], "caption": ["y"]}),
    }
    write(tmp_path, {f"t.{form}": content[form]})
    expected = f"source 's': t.{form} has no column 'image'; it has picture, caption; name the right one"
    with pytest.raises(SourceError, match=expected):
        parts_of(source(form, "pair"), tmp_path)
    with pytest.raises(SourceError, match="no column 'url'"):
        parts_of(source("url-list", "pair"), tmp_path)


def test_a_csv_whose_header_is_no_header_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"t.csv": b"url,caption\rhttps://x.example/a.jpg,x\r"})
    with pytest.raises(SourceError, match=r"t\.csv: the header is not a line of column names"):
        parts_of(source("url-list", "pair"), tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"t.parquet": b"PAR1 but not really"})
    with pytest.raises(SourceError, match=r"t\.parquet: not a readable Parquet file"):
        parts_of(source("parquet", "image"), tmp_path)


def test_a_parquet_that_is_damaged_inside_gives_rows_and_the_reason(tmp_path: Path) -> None:
    data = bytearray(
        parquet({"image": [b"x" * 1000 + bytes([n]) for n in range(100)]}, compression="zstd", use_dictionary=False)
    )
    data[4:400] = b"\xff" * 396
    write(tmp_path, {"t.parquet": bytes(data)})
    rows = rows_of(source("parquet", "image"), tmp_path)
    assert statuses(rows) == {"t.parquet#0": "bad_row"}
    assert "rows 0 to 99 cannot be read" in str(rows[0].detail)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_table_that_breaks_off_gives_what_was_whole_and_the_reason(tmp_path: Path, suffix: str) -> None:
    lines = "\n".join(json.dumps({"text": f"{n} {n * 2654435761 % 2**32}"}) for n in range(20_000)).encode()
    packed = gzip.compress(lines) if suffix == "gz" else zstandard.compress(lines)
    write(tmp_path, {f"t.jsonl.{suffix}": packed[: len(packed) // 2]})
    rows = rows_of(source("jsonl", "text"), tmp_path)
    assert len(rows) > 1000
    assert {row.status for row in rows[:-1]} == {"ok"}
    assert rows[-1].status == "bad_row"
    assert "cannot be read after the row at byte" in str(rows[-1].detail)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_a_text_table(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "t"
    path.write_bytes(b"a,b\n" + data)
    file = File(str(path), "t", path.stat().st_size, "")
    layouts = [TableLayout(), TableLayout(multiline=False), TableLayout(quotes=False), TableLayout(header=["a", "b"])]
    for table in (*(CsvTable(file, ",", layout) for layout in layouts), JsonTable(file)):
        table.columns()
        for cut in table.cuts(3):
            for record in table.read(cut):
                assert (record.values is None) == (record.status != "ok")


def test_a_changed_image_makes_its_part_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SPAN_BYTES", 20)
    write(tmp_path, {"t.csv": "image,caption\na.jpg,x\nb.jpg,y\n", "a.jpg": JPEG})
    before = parts_of(source("csv", "pair", multiline=False), tmp_path)
    write(tmp_path, {"b.jpg": JPEG})
    after = parts_of(source("csv", "pair", multiline=False), tmp_path)
    assert [one.fingerprint == two.fingerprint for one, two in zip(before, after, strict=True)] == [True, False]


def test_a_url_list_gives_rows_to_fetch(tmp_path: Path) -> None:
    lines = "url,caption,sum\nhttps://x.example/a.jpg,A,ab12\n,B,\nhttps://x.example/c.jpg,C,\ntoo,many,cells,here\n"
    write(tmp_path, {"t.csv": lines})
    rows = rows_of(source("url-list", "pair", sha256="sum"), tmp_path)
    assert [(row.status, row.url, row.expected_sha256) for row in rows] == [
        (TO_FETCH, "https://x.example/a.jpg", "ab12"),
        ("bad_row", None, None),
        (TO_FETCH, "https://x.example/c.jpg", None),
        ("bad_row", None, None),
    ]
    assert [row.captions for row in rows] == [["A"], None, ["C"], None]
    config = source("url-list", "image")
    assert [part.name for part in UrlList(unit_rows=3).parts(config, str(tmp_path))] == ["t.csv#0", "t.csv#59"]
    with pytest.raises(RecipeError, match="only images are fetched"):
        parts_of(source("url-list", "text"), tmp_path)


def test_an_unknown_kind_of_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"t\.xlsx: not a table; known names end in \.csv"):
        open_table(File(str(tmp_path / "t.xlsx"), "t.xlsx", 0, ""))
