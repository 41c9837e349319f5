"""Tar and zip files: npm packages, WebDataset shards, and archives made to hurt."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from imglish.ingest.sources import archives
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()
PNG = image_bytes("PNG")


def tar_bytes(members: Sequence[tuple[str, bytes]], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


MEMBERS = [
    ("package/package.json", b"{}"),
    ("package/1.jpg", JPEG),
    ("package/1.txt", b"Eins\nOne\n"),
    ("package/2.json", b'{"caption": ["Two", "Zwei"]}'),
    ("package/2.PNG", PNG),
    ("package/3.jpg", JPEG),
    ("package/._1.jpg", b"resource fork"),
]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip"])
def test_pairs_in_any_archive(tmp_path: Path, suffix: str) -> None:
    modes = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    data = zip_bytes(MEMBERS) if suffix == "zip" else tar_bytes(MEMBERS, modes[suffix])
    write(tmp_path, {f"a.{suffix}": data})
    rows = rows_of(source("archive", "pair"), tmp_path)
    assert [(row.row, row.payload, row.captions, row.status) for row in rows] == [
        (f"a.{suffix}#package/1.jpg", JPEG, ["Eins", "One", ""], "ok"),
        (f"a.{suffix}#package/2.PNG", PNG, ["Two", "Zwei"], "ok"),
        (f"a.{suffix}#package/3.jpg", JPEG, None, "no_caption"),
    ]
    images = rows_of(source("archive", "image"), tmp_path)
    assert [row.payload for row in images] == [JPEG, PNG, JPEG]
    texts = rows_of(source("archive", "text"), tmp_path)
    assert statuses(texts) == {f"a.{suffix}#package/1.txt": "ok"}


def test_each_archive_is_a_part(tmp_path: Path) -> None:
    write(tmp_path, {"b.tar": tar_bytes(MEMBERS), "sub/a.zip": zip_bytes(MEMBERS)})
    assert [part.name for part in parts_of(source("archive", "image"), tmp_path)] == ["b.tar", "sub/a.zip"]


def test_captions_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    members = [
        *[(f"{n}.jpg", JPEG) for n in range(4)],
        ("0.txt", b"caf\xe9"),
        ("1.json", b"{broken"),
        ("2.json", b'{"alt": "x"}'),
        ("3.txt", b"x" * (archives.CAPTION_BYTES + 1)),
    ]
    write(tmp_path, {"a.tar": tar_bytes(members)})
    rows = rows_of(source("archive", "pair"), tmp_path)
    assert [row.status for row in rows] == ["not_utf8", "bad_row", "no_caption", "too_large"]
    assert rows_of(source("archive", "pair", captions="alt"), tmp_path)[2].captions == ["x"]


def test_names_that_leave_the_archive_are_refused(tmp_path: Path) -> None:
    names = ["/etc/a.jpg", "../b.jpg", "x/../../c.jpg", "..\\d.jpg", "C:/e.jpg", "./f.jpg"]
    write(
        tmp_path,
        {"a.tar": tar_bytes([(name, JPEG) for name in names]), "b.zip": zip_bytes([(name, JPEG) for name in names])},
    )
    for name in ("a.tar", "b.zip"):
        rows = rows_of(source("archive", "image", f"data/{name}"), tmp_path)
        assert [row.status for row in rows] == ["refused"] * 5 + ["ok"]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    write(tmp_path, {"a.tar": file.getvalue()})
    link = zipfile.ZipInfo("d.jpg")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    write(tmp_path, {"b.zip": file.getvalue()})
    rows = rows_of(source("archive", "image"), tmp_path)
    assert [row.status for row in rows] == ["refused"] * 4
    assert all(row.payload is None for row in rows)


def test_members_are_bounded_as_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBER_BYTES", 1 << 20)
    members = [
        ("bomb.jpg", bytes((1 << 20) + 1)),
        ("full.jpg", bytes(1 << 20)),
        ("more.jpg", bytes(1 << 20)),
        ("x.jpg", JPEG),
    ]
    write(tmp_path, {"a.tgz": tar_bytes(members, "w:gz"), "b.zip": zip_bytes(members)})
    rows = rows_of(source("archive", "image", max_bytes=(1 << 20) + 5000), tmp_path)
    assert [row.status for row in rows] == ["too_large", "ok", "too_large", "too_large"] * 2
    assert "raise max_bytes" in str(rows[2].detail)


def test_a_zip_member_larger_than_it_claims_is_no_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBER_BYTES", 1 << 20)
    data = zip_bytes([("a.jpg", bytes(5 << 20)), ("b.jpg", JPEG)])
    size = (5 << 20).to_bytes(4, "little")
    write(tmp_path, {"a.zip": data.replace(size, (100).to_bytes(4, "little"))})
    rows = rows_of(source("archive", "image"), tmp_path)
    assert [row.status for row in rows] == ["bad_row", "ok"]


def test_a_header_that_claims_gigabytes_is_not_read_whole(tmp_path: Path) -> None:
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    write(
        tmp_path, {"a.tar": tar_bytes([("a.jpg", JPEG)])[:-10240] + header.tobuf(tarfile.USTAR_FORMAT) + bytes(10240)}
    )
    rows = rows_of(source("archive", "image"), tmp_path)
    assert rows[-1].status == "bad_row"
    assert "header of 4294967296 bytes" in str(rows[-1].detail)


def _noise(number: int) -> bytes:
    return hashlib.shake_128(bytes([number])).digest(3000)


@pytest.mark.parametrize("suffix", ["tar", "tgz", "zip"])
def test_a_damaged_archive_gives_what_was_whole_and_the_reason(tmp_path: Path, suffix: str) -> None:
    members = [(f"{n}.jpg", _noise(n)) for n in range(20)]
    whole = {"tar": tar_bytes(members), "tgz": tar_bytes(members, "w:gz"), "zip": zip_bytes(members)}[suffix]
    write(
        tmp_path,
        {f"half/a.{suffix}": whole[: len(whole) // 3], f"junk/a.{suffix}": b"nonsense" * 500, f"none/a.{suffix}": b""},
    )
    half = rows_of(source("archive", "image", "data/half"), tmp_path)
    assert half[-1].status == "bad_row"
    good = [row.payload for row in half if row.status == "ok"]
    assert good == [_noise(n) for n in range(len(good))]
    assert len(good) in ((0,) if suffix == "zip" else (6, 7))  # a zip's list of members is at its end
    for name in ("junk", "none"):
        rows = rows_of(source("archive", "image", f"data/{name}"), tmp_path)
        assert [(row.row, row.status) for row in rows] == [(f"a.{suffix}#", "bad_row")]


@pytest.mark.parametrize("damage", ["header", "boundary"])
def test_a_tar_damaged_between_members_is_not_taken_for_its_end(tmp_path: Path, damage: str) -> None:
    data = bytearray(tar_bytes([(f"{n}.jpg", _noise(n)) for n in range(5)]))
    third = 2 * (512 + 3072)
    data[third + 150] ^= 0xFF
    write(tmp_path, {"a.tar": bytes(data if damage == "header" else data[:third])})
    rows = rows_of(source("archive", "image"), tmp_path)
    assert statuses(rows) == {"a.tar#0.jpg": "ok", "a.tar#1.jpg": "ok", "a.tar#": "bad_row"}
    assert f"at byte {third}" in str(rows[-1].detail)


def test_a_flipped_byte_in_a_zip_member_is_found(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([("a.jpg", JPEG), ("b.jpg", PNG)]))
    data[60] ^= 0xFF
    write(tmp_path, {"a.zip": bytes(data)})
    assert statuses(rows_of(source("archive", "image"), tmp_path)) == {"a.zip#a.jpg": "bad_row", "a.zip#b.jpg": "ok"}


def test_a_member_name_that_comes_twice_is_a_row_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar": tar_bytes([("a.jpg", JPEG), ("a.jpg", PNG)])})
    assert statuses(rows_of(source("archive", "image"), tmp_path)) == {"a.tar#a.jpg": "ok", "a.tar#a.jpg~2": "bad_row"}


def test_a_chain_of_extension_headers_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
    link = header.tobuf(tarfile.GNU_FORMAT) + b"a.jpg".ljust(512, b"\0")
    write(tmp_path, {"a.tgz": gzip.compress(link * 5000)})
    (row,) = rows_of(source("archive", "image"), tmp_path)
    assert (row.row, row.status) == ("a.tgz#", "bad_row")
