"""COCO captions, Visual Genome regions and SBU lists, in their real layouts, each with broken rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imglish.errors import SourceError
from imglish.ingest.sources import annotations, sbu
from imglish.ingest.sources.base import TO_FETCH
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.test_sources_archives import zip_bytes
from tests.ingest.web_helpers import image_bytes

JPEG = image_bytes()

COCO = {
    "info": {"description": "COCO 2017 Dataset", "year": 2017},
    "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
    "images": [
        {"license": 4, "file_name": "000000000009.jpg", "coco_url": "http://images.example/9.jpg", "id": 9},
        {"license": 99, "file_name": "000000000025.jpg", "id": 25},
        {"license": 4, "file_name": "../../etc/passwd", "id": 30},
        {"id": 31},
        {"file_name": "000000000009.jpg", "id": 9},
        {"file_name": "gone.jpg", "id": 34},
    ],
    "annotations": [
        {"image_id": 9, "id": 661611, "caption": "Closeup of bins of food."},
        {"image_id": 9, "id": 661977, "caption": "A meal on a tray."},
        {"image_id": 777, "id": 1, "caption": "of no image"},
        {"image_id": 25, "id": 2},
    ],
}


@pytest.mark.parametrize("images", ["train2017.zip", "train2017"])
def test_coco_captions_with_images_in_a_zip_or_a_folder(tmp_path: Path, images: str) -> None:
    members = {f"train2017/{n:012d}.jpg": JPEG for n in (9, 25)}
    files: dict[str, bytes | str] = {"train2017.zip": zip_bytes(list(members.items()))}
    files = files if images.endswith("zip") else dict(members)
    write(tmp_path, {"annotations/captions_train2017.json": json.dumps(COCO), **files})
    config = source("coco", "pair", "data/annotations/captions_*.json", images=[f"../{images}"])
    rows = rows_of(config, tmp_path)
    name = "captions_train2017.json"
    assert statuses(rows) == {
        f"{name}#annotation-2": "bad_row", f"{name}#annotation-3": "bad_row", f"{name}#9": "ok", f"{name}#25": "ok",
        f"{name}#30": "refused", f"{name}#image-3": "bad_row", f"{name}#9~6": "bad_row", f"{name}#34": "missing_file",
    }  # fmt: skip
    first = next(row for row in rows if row.row == f"{name}#9")
    assert (first.captions, first.payload) == (["Closeup of bins of food.", "A meal on a tray."], JPEG)
    assert (first.url, first.licence) == ("http://images.example/9.jpg", "http://creativecommons.org/licenses/by/2.0/")
    assert all(row.detail for row in rows if row.status != "ok")


@pytest.mark.parametrize("text", ["{broken", "[]", '{"images": []}', "\xff"])
def test_a_coco_file_that_is_none_is_one_bad_row(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"a.json": text.encode("latin-1")})
    assert statuses(rows_of(source("coco", "pair"), tmp_path)) == {"a.json#": "bad_row"}


def test_images_that_are_nowhere_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": json.dumps(COCO)})
    with pytest.raises(SourceError, match=r"no train\.zip at"):
        parts_of(source("coco", "pair", images=["train.zip"]), tmp_path)


def region(number: int, *phrases: object) -> dict[str, object]:
    return {"id": number, "regions": [
        {"region_id": 1, "width": 82, "height": 139, "image_id": number, "phrase": p, "y": 57, "x": 421}
        for p in phrases
    ]}  # fmt: skip


def test_visual_genome_regions_are_the_captions_of_their_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "_CHUNK", 7)  # elements and characters lie across reads
    elements = [region(1, "the clock is green\n", "schön ☃ 😀"), {"id": 2}, region(3, "a man"), region(1, "again")]
    text = json.dumps(elements, ensure_ascii=False, indent=1)
    write(tmp_path, {"region_descriptions.json": text, "VG_100K/1.jpg": JPEG, "VG_100K_2/3.jpg": JPEG})
    config = source("visual-genome", "pair", images=["VG_100K", "VG_100K_2"])
    rows = rows_of(config, tmp_path)
    assert [(row.status, row.captions) for row in rows] == [
        ("ok", ["the clock is green", "schön ☃ 😀"]), ("bad_row", None), ("ok", ["a man"]), ("bad_row", None)
    ]  # fmt: skip
    assert rows[0].row == "region_descriptions.json#1"
    cut = (tmp_path / "data/region_descriptions.json").read_bytes()[:-120]
    write(tmp_path, {"region_descriptions.json": cut})
    broken = rows_of(config, tmp_path)
    assert [row.status for row in broken] == ["ok", "bad_row", "ok", "bad_row"]
    assert "character" in str(broken[-1].detail)


@pytest.mark.parametrize("text", ["", "{}", "[1, nonsense]", "[" * 5000, '[{"id": 1, "regions": [', "[{]"])
def test_a_region_file_that_is_none_is_a_bad_row(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"a.json": text})
    rows = rows_of(source("visual-genome", "image"), tmp_path)
    assert rows[-1].status == "bad_row"
    assert rows[-1].detail


URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"


def test_sbu_lists_are_read_line_by_line_in_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"http://static.flickr.example/{n}.jpg" for n in range(5)] + [""]
    captions = [f"caption {n}" for n in range(4)]
    write(tmp_path, {URLS: "\n".join(urls) + "\n", CAPTIONS: "\n".join(captions) + "\n"})
    whole = rows_of(source("sbu", "pair"), tmp_path)
    assert [(row.row, row.status, row.url, row.captions) for row in whole[:5]] == [
        (f"{URLS}#{n}", TO_FETCH, urls[n], [captions[n]] if n < 4 else []) for n in range(5)
    ]
    assert (whole[5].row, whole[5].status) == (f"{URLS}#5", "bad_row")
    for size in (1, 2, 3, 5, 6):
        monkeypatch.setattr(sbu, "UNIT_ROWS", size)
        assert rows_of(source("sbu", "pair"), tmp_path) == whole
    write(tmp_path, {CAPTIONS: "\n".join([*captions, "4", "5", "too many", "by far"])})
    for size in (1, 4, 100):
        monkeypatch.setattr(sbu, "UNIT_ROWS", size)
        rows = rows_of(source("sbu", "pair"), tmp_path)
        assert [row.status for row in rows] == [TO_FETCH] * 5 + ["bad_row"] * 3


def test_sbu_without_captions_file_is_an_error_and_json_is_read(tmp_path: Path) -> None:
    write(tmp_path, {f"half/{URLS}": "http://x.example/a\n"})
    with pytest.raises(SourceError, match="no captions file beside"):
        parts_of(source("sbu", "pair", "data/half"), tmp_path)
    whole = {"image_urls": ["http://x.example/a", 7], "captions": ["A", "B"], "user_ids": ["u", "v"]}
    write(tmp_path, {"json/sbu-captions-all.json": json.dumps(whole), "bad/a.json": '{"image_urls": 3}'})
    rows = rows_of(source("sbu", "pair", "data/json"), tmp_path)
    assert [(row.status, row.captions) for row in rows] == [(TO_FETCH, ["A"]), ("bad_row", None)]
    assert statuses(rows_of(source("sbu", "pair", "data/bad"), tmp_path)) == {"a.json#": "bad_row"}
