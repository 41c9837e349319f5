"""However a file is cut, the parts together have every row of the whole once, under the same names."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imglish.ingest.sources import files, mediawiki, parquets, streams, tars
from imglish.ingest.sources.base import Row
from imglish.ingest.sources.files import File
from imglish.ingest.sources.streams import Span, span_lines, spans
from tests.ingest.source_helpers import parts_of, rows_of, source, write

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
lines = st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), max_size=12)


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how large the parts of anything are."""

    def set_size(size: int) -> None:
        monkeypatch.setattr(streams, "SPAN_BYTES", size)
        for module in (files, parquets, tars):
            monkeypatch.setattr(module, "PART_BYTES", size)

    return set_size


def in_parts(root: Path, cut_at: Callable[[int], None], step: int, config: Any) -> tuple[list[Row], list[Row], int]:
    """(rows of the source as one part a file, rows when cut, number of parts)."""
    cut_at(1 << 30)
    whole = rows_of(config, root)
    cut_at(step)
    return whole, rows_of(config, root), len(parts_of(config, root))


@few
@given(lines, st.booleans(), st.integers(1, 40))
def test_every_line_is_in_one_span(tmp_path: Path, found: list[bytes], ended: bool, step: int) -> None:
    data = b"\n".join(found) + (b"\n" if ended and found else b"")
    (tmp_path / "a").write_bytes(data)
    cuts = spans(File(str(tmp_path / "a"), "a", len(data), ""), step)
    read = [pair for span in cuts for pair in span_lines(str(tmp_path / "a"), span)]
    assert read == list(span_lines(str(tmp_path / "a"), Span()))
    assert b"".join(line for _, line in read) == data
    assert [offset for offset, _ in read] == [sum(len(line) for _, line in read[:n]) for n in range(len(read))]


def seekable(data: bytes, frame: int) -> bytes:
    """zstd's seekable format: frames of `frame` bytes and a table of them."""
    frames = [data[at : at + frame] for at in range(0, len(data), frame)]
    packed = [zstandard.compress(piece) for piece in frames]
    table = b"".join(struct.pack("<II", len(p), len(f)) for p, f in zip(packed, frames, strict=True))
    footer = struct.pack("<IBI", len(packed), 0, 0x8F92EAB1)
    return b"".join(packed) + struct.pack("<II", 0x184D2A5E, len(table) + len(footer)) + table + footer


@few
@given(lines, st.integers(1, 20), st.integers(1, 40))
def test_independent_frames_are_read_apart(tmp_path: Path, found: list[bytes], frame: int, step: int) -> None:
    data = b"\n".join(found)
    packed = seekable(data, frame)
    path = tmp_path / "a.zst"
    path.write_bytes(packed)
    cuts = spans(File(str(path), "a.zst", len(packed), ""), step)
    assert b"".join(line for span in cuts for _, line in span_lines(str(path), span)) == data
    assert len(cuts) == max(1, -(-len(data) // (-(-step // frame) * frame)))


def test_a_table_of_frames_that_lies_is_not_believed(tmp_path: Path) -> None:
    packed = bytearray(seekable(b"x\n" * 50, 10))
    packed[-9:-5] = struct.pack("<I", 1 << 30)
    assert spans(_file(tmp_path, bytes(packed)), 10) == [Span()]
    packed = bytearray(seekable(b"x\n" * 50, 10))
    packed[-17:-13] = struct.pack("<I", 99)  # a frame's compressed size
    assert spans(_file(tmp_path, bytes(packed)), 10) == [Span()]


def _file(root: Path, data: bytes) -> File:
    (root / "a.zst").write_bytes(data)
    return File(str(root / "a.zst"), "a.zst", len(data), "")


texts = st.lists(st.text(max_size=8), max_size=10)


@few
@given(found=texts, step=st.integers(1, 60))
def test_json_lines(tmp_path: Path, cut_at: Callable[[int], None], found: list[str], step: int) -> None:
    broken = ["{broken", "", json.dumps({"text": 7}), "\t "]
    objects = [json.dumps({"text": text}, ensure_ascii=n % 2 == 0) for n, text in enumerate(found)]
    write(tmp_path, {"a.jsonl": "\n".join([*objects, *broken]).encode("utf-8", "surrogatepass")})
    for form in ("text", "jsonl"):
        whole, cut, _ = in_parts(tmp_path, cut_at, step, source(form, "text"))
        assert cut == whole
        assert len({row.row for row in cut}) == len(cut) == len(found) + 2


@few
@given(
    found=st.lists(st.sampled_from(["one", "zwei", " ", "", "\t", "drei drei"]), max_size=14),
    step=st.integers(1, 30),
    split=st.sampled_from(["paragraphs", "lines"]),
)
def test_paragraphs_and_lines(
    tmp_path: Path, cut_at: Callable[[int], None], found: list[str], step: int, split: str
) -> None:
    write(tmp_path, {"a.txt": "\n".join(found)})
    whole, cut, _ = in_parts(tmp_path, cut_at, step, source("text", "text", split=split))
    assert cut == whole
    joined = [line.strip() for line in found if line.strip()]
    assert [line for row in cut for line in (row.payload or b"").decode().split("\n")] == joined


cells = st.lists(st.lists(st.text(max_size=6).filter(lambda t: "\0" not in t), min_size=2, max_size=2), max_size=10)


@few
@given(found=cells, step=st.integers(1, 40))
def test_csv_with_line_breaks_in_cells_is_one_part(
    tmp_path: Path, cut_at: Callable[[int], None], found: list[list[str]], step: int
) -> None:
    write(tmp_path, {"a.csv": _csv([["text", "b"], *found])})
    whole, cut, parts = in_parts(tmp_path, cut_at, step, source("csv", "text"))
    assert (cut, parts) == (whole, 1)
    written = [row[0].encode("utf-8", "replace").decode() for row in found]
    assert [(row.payload or b"").decode() for row in cut] == written


@few
@given(found=cells, step=st.integers(1, 40), form=st.sampled_from(["csv", "tsv"]))
def test_csv_and_tsv_without_line_breaks_in_cells_are_cut(
    tmp_path: Path, cut_at: Callable[[int], None], found: list[list[str]], step: int, form: str
) -> None:
    flat = [["".join(c for c in cell if c not in '\r\n\t"') + "x" for cell in row] for row in found]
    data = (
        _csv([["text", "b"], *flat]) if form == "csv" else "\n".join("\t".join(row) for row in [["text", "b"], *flat])
    )
    write(tmp_path, {f"a.{form}": data.encode("utf-8", "replace") if isinstance(data, str) else data})
    whole, cut, _ = in_parts(tmp_path, cut_at, step, source(form, "text", multiline=False))
    assert cut == whole
    assert [(row.payload or b"").decode() for row in cut] == [
        row[0].encode("utf-8", "replace").decode() for row in flat
    ]


def _csv(rows: list[list[str]]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue().encode("utf-8", "replace")


def test_a_quote_that_is_open_at_the_end_of_a_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": 'text\n"two\nlines"\nplain\n'})
    rows = rows_of(source("csv", "text", multiline=False), tmp_path)
    assert [row.status for row in rows] == ["bad_row", "ok", "ok"]
    assert "set multiline = true" in str(rows[0].detail)
    assert [row.payload for row in rows_of(source("csv", "text"), tmp_path)] == [b"two\nlines", b"plain"]


@pytest.mark.parametrize("rows", [None, 1, 7, 16, 100])
def test_parquet_is_cut_at_row_groups_or_in_them(tmp_path: Path, rows: int | None) -> None:
    pq.write_table(pa.table({"text": [f"t{n}" for n in range(50)]}), tmp_path / "a.parquet", row_group_size=16)
    table = parquets.ParquetTable(File(str(tmp_path / "a.parquet"), "a.parquet", 0, ""))
    read = [record for cut in table.cuts(rows) for record in table.read(cut)]
    assert [(record.place, dict(record.values or {})) for record in read] == [(n, {"text": f"t{n}"}) for n in range(50)]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "jsonl.bz2", "csv.gz", "tsv.zst"])
def test_what_is_compressed_is_one_part(tmp_path: Path, cut_at: Callable[[int], None], suffix: str) -> None:
    form = suffix.partition(".")[0]
    data = b"text\n" + b"".join(b"t%d\n" % n for n in range(50))
    data = b"".join(b'{"text": "t%d"}\n' % n for n in range(50)) if form == "jsonl" else data
    pack = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress}[suffix.rpartition(".")[2]]
    write(tmp_path, {f"a.{suffix}": pack(data)})
    whole, cut, parts = in_parts(tmp_path, cut_at, 10, source(form, "text"))
    assert (cut, parts) == (whole, 1)
    assert [row.payload for row in cut] == [b"t%d" % n for n in range(50)]


def tar_of(names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = b"%d " % number * (number % 5 * 100)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("step", [512, 1024, 3000, 20_000])
def test_a_large_tar_is_cut_between_members_or_samples(
    tmp_path: Path, cut_at: Callable[[int], None], step: int
) -> None:
    stems = [f"folder/{'long' * 40 if n % 9 == 0 else 's'}{n}" for n in range(30)]
    names = [f"{stem}.{ext}" for stem in stems for ext in ("jpg", "json", "txt")]
    write(tmp_path, {"a.tar": tar_of([*names, names[0], names[3]])})
    for form, kind in (("archive", "image"), ("archive", "text"), ("webdataset", "pair")):
        whole, cut, parts = in_parts(tmp_path, cut_at, step, source(form, kind))
        assert [(row.row, row.payload, row.captions) for row in cut] == [
            (row.row, row.payload, row.captions) for row in whole
        ]
        assert len({row.row for row in cut}) == len(cut) == (30 if kind == "text" else 32)
        assert parts > 1


def wiki(numbers: Iterator[int]) -> bytes:
    page = "<page><title>T{0}</title><ns>0</ns><id>{0}</id><revision><text>Text {0}</text></revision></page>\n"
    return "".join(page.format(n) for n in numbers).encode()


@pytest.mark.parametrize("step", [1, 50, 100, 1000])
def test_a_multistream_dump_is_cut_between_its_streams(
    tmp_path: Path, cut_at: Callable[[int], None], step: int
) -> None:
    pieces = [b"<mediawiki>", *(wiki(iter(range(n, n + 5))) for n in range(0, 40, 5)), b"</mediawiki>"]
    write(tmp_path, {"enwiki-1-pages-articles-multistream.xml.bz2": b"".join(map(bz2.compress, pieces))})
    whole, cut, parts = in_parts(tmp_path, cut_at, step, source("mediawiki", "text"))
    assert cut == whole
    assert [row.payload for row in cut] == [f"T{n}\n\nText {n}\n".encode() for n in range(40)]
    assert parts > 1 or step == 1000


def test_a_stream_mark_on_the_edge_of_a_read_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams_of = [bz2.compress(b"%d" % n) for n in range(20)]
    (tmp_path / "a").write_bytes(b"".join(streams_of))
    starts = [sum(map(len, streams_of[:n])) for n in range(20)]
    for read in range(10, 60):
        monkeypatch.setattr(mediawiki, "_READ", read)
        with (tmp_path / "a").open("rb") as file:
            assert list(mediawiki._stream_starts(file, Span())) == starts


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("ahead", [1, 100, 1 << 20])
def test_reading_ahead_gives_the_same_lines_up_to_the_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, ahead: int
) -> None:
    lines = [b"%d %s\n" % (number, b"x" * (number % 50)) for number in range(300)]
    pack = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    whole = pack(b"".join(lines))
    monkeypatch.setattr(streams, "_AHEAD", ahead)
    (tmp_path / f"whole.txt{suffix}").write_bytes(whole)
    (tmp_path / f"cut.txt{suffix}").write_bytes(whole[:-9])
    assert [line for _, line in span_lines(str(tmp_path / f"whole.txt{suffix}"), Span())] == lines
    found = []
    with pytest.raises(OSError, match=r"."):
        for _, line in span_lines(str(tmp_path / f"cut.txt{suffix}"), Span()):
            found.append(line)
    assert found == lines[: len(found)]
    threads = threading.active_count()
    early = span_lines(str(tmp_path / f"whole.txt{suffix}"), Span())
    next(early)
    early.close()
    assert threading.active_count() == threads
