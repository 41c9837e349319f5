"""WebDataset tars and what img2dataset writes, in their real layouts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imglish.errors import RecipeError
from tests.ingest.source_helpers import rows_of, source, statuses, write
from tests.ingest.test_sources_archives import tar_bytes
from tests.ingest.web_helpers import image_bytes

JPEG, PNG = image_bytes(), image_bytes("PNG")


def log(columns: dict[str, list[object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def meta(key: str, **more: str) -> bytes:
    facts = {"caption": f"c{key}", "url": f"https://x.example/{key}", "key": key, "status": "success"}
    return json.dumps({**facts, "error_message": None, "width": 40, "height": 40, **more}).encode()


def test_img2dataset_tars_with_the_table_beside_them(tmp_path: Path) -> None:
    members = [
        ("000000000.jpg", JPEG), ("000000000.json", meta("0")), ("000000000.txt", b"A cat"),
        ("000000002.jpg", PNG), ("000000002.json", b"{broken"), ("000000002.txt", b"caf\xe9"),
        ("000000003.json", meta("3")), ("000000003.txt", b"no image"),
        ("000000004.jpg", JPEG), ("000000004.json", meta("4", license="CC0")),
    ]  # fmt: skip
    table = log({
        "key": ["000000000", "000000001", "000000002"],
        "url": ["https://x.example/0", "https://x.example/1", "https://x.example/2"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 404: Not Found", None],
    })  # fmt: skip
    write(tmp_path, {"00000.tar": tar_bytes(members), "00000.parquet": table, "00000_stats.json": b"{}"})
    rows = rows_of(source("img2dataset", "pair"), tmp_path)
    assert [(row.row, row.status, row.captions) for row in rows] == [
        ("00000.tar#000000000.jpg", "ok", ["A cat"]),
        ("00000.tar#000000002.jpg", "not_utf8", None),
        ("00000.tar#000000003", "bad_row", None),
        ("00000.tar#000000004.jpg", "no_caption", None),
        ("00000.tar#?1", "fetch_error", None),
    ]
    assert (rows[0].payload, rows[0].url, rows[3].licence) == (JPEG, "https://x.example/0", "CC0")
    assert rows[4].detail == "img2dataset: failed_to_download: HTTP Error 404: Not Found"
    assert rows[4].url == "https://x.example/1"
    images = rows_of(source("img2dataset", "image"), tmp_path)
    assert [row.status for row in images] == ["ok", "ok", "bad_row", "ok", "fetch_error"]


def test_img2dataset_parquet_with_bytes(tmp_path: Path) -> None:
    table = log({
        "url": ["https://x.example/0", "https://x.example/1", "https://x.example/2"],
        "caption": ["A cat", "gone", None],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "success"],
        "jpg": [JPEG, None, PNG],
    })  # fmt: skip
    write(tmp_path, {"00000.parquet": table})
    for config in (source("img2dataset", "pair"), source("parquet", "pair", preset="img2dataset")):
        rows = rows_of(config, tmp_path)
        assert [(row.row, row.status, row.payload, row.captions) for row in rows] == [
            ("00000.parquet#0", "ok", JPEG, ["A cat"]),
            ("00000.parquet#1", "fetch_error", None, None),
            ("00000.parquet#2", "ok", PNG, []),  # landing says no_caption
        ]
        assert rows[0].url == "https://x.example/0"


def test_extensions_say_what_is_what_and_samples_may_be_nested(tmp_path: Path) -> None:
    members = [
        ("park/dog.7.left.png", PNG), ("park/dog.7.json", b"{}"), ("park/dog.jpg", JPEG),
        ("./a.b/cat.jpeg", JPEG), ("./a.b/cat.alt.txt", b"one\ntwo\n"), ("./a.b/cat.json", b'{"title": "three"}'),
        ("x.jpg", JPEG), ("x.alt.txt", b"only"), ("x.jpg", PNG), ("__meta__/index", b"\0"), ("._x.jpg", b"fork"),
        ("y.cls", b"7"), ("z.txt", b"text"),
    ]  # fmt: skip
    write(tmp_path, {"a.tar.gz": tar_bytes(members, "w:gz")})
    options = {"images": ["jpeg", "7.left.png", "jpg"], "captions": ["alt.txt", "json:title"]}
    rows = rows_of(source("webdataset", "pair", **options), tmp_path)
    assert [(row.row, row.status, row.captions) for row in rows] == [
        ("a.tar.gz#park/dog.7.left.png", "no_caption", None),
        ("a.tar.gz#./a.b/cat.jpeg", "ok", ["one", "two", "", "three"]),
        ("a.tar.gz#x.jpg", "ok", ["only"]),
        ("a.tar.gz#y", "bad_row", None),
        ("a.tar.gz#z", "bad_row", None),
    ]
    texts = rows_of(source("webdataset", "text", text="txt"), tmp_path)
    assert [row.payload for row in texts if row.status == "ok"] == [b"text"]


def test_a_truncated_tar_keeps_the_sample_before_the_damage(tmp_path: Path) -> None:
    data = tar_bytes([(f"{n}.{ext}", b"x" * 600) for n in range(3) for ext in ("jpg", "txt")])
    write(tmp_path, {"a.tar": data[: 5 * (512 + 1024)]})
    rows = rows_of(source("webdataset", "pair"), tmp_path)
    assert statuses(rows) == {
        "a.tar#0.jpg": "ok",
        "a.tar#1.jpg": "ok",
        "a.tar#2.jpg": "no_caption",
        "a.tar#": "bad_row",
    }
    assert "cannot be read after 3 samples" in str(rows[-1].detail)


def test_members_that_lead_out_and_huge_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imglish.ingest.sources.webdataset.MEMBER_BYTES", 100)
    write(tmp_path, {"a.tar": tar_bytes([("../a.jpg", b"x"), ("/b.jpg", b"x"), ("c.jpg", b"x" * 101)])})
    rows = rows_of(source("webdataset", "image"), tmp_path)
    assert [row.status for row in rows] == ["refused", "refused", "too_large"]


def test_unknown_options_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar": tar_bytes([("a.jpg", JPEG)])})
    with pytest.raises(RecipeError, match=r"unknown option caption; did you mean captions\?"):
        rows_of(source("webdataset", "pair", caption="x"), tmp_path)
    with pytest.raises(RecipeError, match="unknown option captions"):
        rows_of(source("img2dataset", "pair", captions="x"), tmp_path)
