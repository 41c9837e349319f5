"""Documents from plain files and jsonl, whole, split and in byte ranges."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources import streams
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write


def test_a_file_is_a_document(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.txt": "\ufeffGrüße\r\n\n",
            "sub/b.md": "# Title",
            "c.html": "<p>not ours",
            "d.txt": b"caf\xe9",
            "e.txt": b"",
        },
    )
    rows = rows_of(source("text", "text"), tmp_path)
    assert [(row.row, row.payload, row.status) for row in rows] == [
        ("a.txt", "Grüße\r\n\n".encode(), "ok"),
        ("d.txt", None, "not_utf8"),
        ("e.txt", b"", "ok"),  # landing calls it empty
        ("sub/b.md", b"# Title", "ok"),
    ]
    assert "0xe9" in str(rows[1].detail)


def test_a_named_encoding_becomes_utf8(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "Größe".encode("latin-1")})
    (row,) = rows_of(source("text", "text", encoding="latin-1"), tmp_path)
    assert row.payload == "Größe".encode()
    with pytest.raises(RecipeError, match="option encoding = 'klingon': Python knows no such encoding"):
        parts_of(source("text", "text", encoding="klingon"), tmp_path)


def test_paragraphs_or_lines_may_be_documents(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "One\nmore\n \n\n\nTwo\r\n\r\nThree\n"})
    rows = rows_of(source("text", "text", split="paragraphs"), tmp_path)
    assert [(row.row, row.payload) for row in rows] == [
        ("a.txt#0", b"One\nmore"), ("a.txt#13", b"Two"), ("a.txt#20", b"Three")
    ]  # fmt: skip
    rows = rows_of(source("text", "text", split="lines"), tmp_path)
    assert [row.payload for row in rows] == [b"One", b"more", b"Two", b"Three"]


def test_jsonl_rows_are_named_by_their_byte_and_bad_ones_say_why(tmp_path: Path) -> None:
    lines = [
        b'{"body": "One", "from": "https://x.example/1", "by": "CC0"}',
        b"{bad",
        b'{"body": 7}',
        b"",
        b'{"body": "\xff"}',
    ]
    write(tmp_path, {"a.jsonl": b"\n".join(lines) + b"\n"})
    rows = rows_of(source("text", "text", text="body", url="from", licence="by"), tmp_path)
    offsets = [0, len(lines[0]) + 1, len(lines[0]) + 6, len(b"\n".join(lines[:4])) + 1]
    words = ["ok", "bad_row", "bad_row", "not_utf8"]
    assert statuses(rows) == {f"a.jsonl#{at}": word for at, word in zip(offsets, words, strict=True)}
    assert (rows[0].payload, rows[0].url, rows[0].licence) == (b"One", "https://x.example/1", "CC0")
    assert "a.jsonl#60: not JSON" in str(rows[1].detail)


@pytest.mark.parametrize("step", [1, 7, 30, 31, 32, 1000])
def test_byte_ranges_read_every_line_once(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [f"{'é' * (n % 9)}{n}" for n in range(30)]
    write(tmp_path, {"a.jsonl": "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in documents)})
    whole = rows_of(source("text", "text"), tmp_path)
    monkeypatch.setattr(streams, "SPAN_BYTES", step)
    ranged = rows_of(source("text", "text"), tmp_path)
    assert ranged == whole
    assert [(row.payload or b"").decode() for row in ranged] == documents


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_jsonl_reads_the_same_and_says_where_it_breaks_off(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"{n} {n * 2654435761 % 2**32}"}) + "\n" for n in range(20_000)).encode()
    packed = gzip.compress(lines) if suffix == "gz" else zstandard.compress(lines)
    write(tmp_path, {f"whole/a.jsonl.{suffix}": packed, f"half/a.jsonl.{suffix}": packed[: len(packed) // 2]})
    whole = rows_of(source("text", "text", "data/whole"), tmp_path)
    half = rows_of(source("text", "text", "data/half"), tmp_path)
    assert len(whole) == 20_000
    assert half[:-1] == whole[: len(half) - 1]
    assert len(half) > 1000
    assert (half[-1].status, "cannot be read after" in str(half[-1].detail)) == ("bad_row", True)


def test_a_line_longer_than_the_limit_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LINE_BYTES", 40)
    write(tmp_path, {"a.jsonl": json.dumps({"text": "x" * 100}) + "\n" + '{"text": "short"}\n'})
    rows = rows_of(source("text", "text"), tmp_path)
    assert [(row.status, row.payload) for row in rows] == [("bad_row", None), ("ok", b"short")]


def test_a_missing_field_names_file_field_and_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"body": "x", "title": "y"}\n'})
    with pytest.raises(SourceError, match=r"a\.jsonl has no field 'text'; it has body, title; name the right one"):
        parts_of(source("text", "text"), tmp_path)


def test_a_file_with_nothing_in_it_has_no_rows(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": b"", "b.jsonl.gz": b""})
    assert [row.row for row in rows_of(source("text", "text", "data/a.jsonl"), tmp_path)] == []
    assert [row.status for row in rows_of(source("text", "text", "data/b.jsonl.gz"), tmp_path)] in ([], ["bad_row"])
