"""Published URL lists by preset, class folders, tars of tars, and readers of one's own."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import imglish.ingest.sources as sources_package
from imglish.errors import RecipeError, SourceError
from imglish.ingest.land import land_units
from imglish.ingest.sources import reader, streams
from imglish.ingest.sources.base import TO_FETCH
from imglish.recipe import load_recipe, make_recipe
from tests.ingest.source_helpers import parts_of, rows_of, source, statuses, write
from tests.ingest.test_sources_archives import tar_bytes
from tests.ingest.web_helpers import image_bytes

JPEG, PNG = image_bytes(), image_bytes("PNG")
URL = "https://x.example/a.jpg"


def parquet(columns: dict[str, list[object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


LISTS: dict[str, tuple[str, bytes]] = {
    "cc3m": ("Train_GCC-training.tsv", f'a "quoted\t{URL}\nno url\n'.encode()),
    "cc12m": ("cc12m.tsv", f'{URL}\ta "quoted\nno caption\n'.encode()),
    "laion": ("part-0.parquet", parquet({
        "SAMPLE_ID": [1, 2], "URL": [URL, None], "TEXT": ['a "quoted', "x"], "HEIGHT": [4, 4], "WIDTH": [4, 4],
        "LICENSE": ["?", "?"], "NSFW": ["UNLIKELY", "NSFW"], "similarity": [0.3, 0.4],
    })),
    "coyo": ("part-0.parquet", parquet({
        "id": [1, 2], "url": [URL, ""], "text": ['a "quoted', "x"], "width": [4, 4], "height": [4, 4],
        "image_phash": ["a", "b"], "watermark_score": [0.1, 0.2],
    })),
    "datacomp": ("0.parquet", parquet({
        "uid": ["u", "v"], "url": [URL, None], "text": ['a "quoted', "x"], "original_width": [4, 4],
        "original_height": [4, 4], "clip_b32_similarity_score": [0.2, 0.3], "face_bboxes": [[[0.1]], []],
        "sha256": [hashlib.sha256(JPEG).hexdigest(), "x"],
    })),
}  # fmt: skip


@pytest.mark.parametrize("preset", LISTS)
def test_a_published_list_is_read_by_its_preset(tmp_path: Path, preset: str) -> None:
    name, data = LISTS[preset]
    write(tmp_path, {name: data})
    good, bad = rows_of(source("url-list", "pair", preset=preset), tmp_path)
    assert (good.status, good.url, good.captions) == (TO_FETCH, URL, ['a "quoted'])
    assert good.expected_sha256 == (hashlib.sha256(JPEG).hexdigest() if preset == "datacomp" else None)
    assert bad.status == "bad_row"
    assert bad.detail


def test_options_override_a_preset(tmp_path: Path) -> None:
    write(tmp_path, {"p.parquet": parquet({"URL": [URL], "ALT": ["x"]})})
    (row,) = rows_of(source("url-list", "pair", preset="laion", captions=["ALT"]), tmp_path)
    assert row.captions == ["x"]
    with pytest.raises(RecipeError, match="option preset = 'laoin'"):
        parts_of(source("url-list", "pair", preset="laoin"), tmp_path)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_a_list_may_be_told_to_have_no_captions(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: f"url\n{URL}\n{URL}?2\n".encode()})
    rows = rows_of(source("url-list", "pair", captions=[]), tmp_path)
    assert [(row.url, row.status, row.captions) for row in rows] == [
        (URL, TO_FETCH, []),
        (f"{URL}?2", TO_FETCH, []),
    ]


def test_hugging_face_parquet_has_images_in_a_struct(tmp_path: Path) -> None:
    images = [{"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": None}]
    write(tmp_path, {"train-00000-of-00001.parquet": parquet({"image": images, "text": ["A cat", "x"]})})
    rows = rows_of(source("parquet", "pair", preset="huggingface"), tmp_path)
    assert [(row.status, row.payload, row.captions) for row in rows] == [
        ("ok", JPEG, ["A cat"]),
        ("bad_row", None, None),
    ]


def test_class_folders_give_captions_and_wordnet_ids_do_not(tmp_path: Path) -> None:
    files = {"train/n01440764/1.JPEG": JPEG, "train/golden_retriever/2.jpg": JPEG, "3.jpg": JPEG}
    write(tmp_path, {**files, "names.txt": "n01440764 tench, Tinca tinca\n"})
    rows = rows_of(source("folder", "pair", captions="folder"), tmp_path)
    assert {row.row: (row.status, row.captions) for row in rows} == {
        "3.jpg": ("no_caption", None),
        "train/golden_retriever/2.jpg": ("ok", ["golden retriever"]),
        "train/n01440764/1.JPEG": ("no_caption", None),
    }
    options = {"captions": "folder", "classes": "data/names.txt"}
    rows = rows_of(source("folder", "pair", **options), tmp_path)
    assert next(row for row in rows if "n0144" in row.row).captions == ["tench", "Tinca tinca"]
    before = parts_of(source("folder", "pair", **options), tmp_path)
    write(tmp_path, {"names.txt": "n01440764 fish\n"})
    after = parts_of(source("folder", "pair", **options), tmp_path)
    assert before[0].fingerprint != after[0].fingerprint
    with pytest.raises(SourceError, match=r"classes = 'gone\.txt'"):
        parts_of(source("folder", "pair", captions="folder", classes="gone.txt"), tmp_path)


def test_a_tar_of_tars_as_imagenet_21k_has_it(tmp_path: Path) -> None:
    whole = tar_bytes([("n01440764_1.JPEG", JPEG), ("n01440764_2.JPEG", PNG)])
    outer = [
        ("n01440764.tar", whole), ("n02084071.tar", whole[:1500]), ("../n3.tar", whole), ("README", b"x"),
        ("n04.tar", tar_bytes([("n04_1.JPEG", JPEG)])),
    ]  # fmt: skip
    write(tmp_path, {"winter21_whole.tar": tar_bytes(outer)})
    rows = rows_of(source("archive", "image", nested=True), tmp_path)
    name = "winter21_whole.tar"
    assert statuses(rows) == {
        f"{name}#n01440764.tar#n01440764_1.JPEG": "ok",
        f"{name}#n01440764.tar#n01440764_2.JPEG": "ok",
        f"{name}#n02084071.tar#n01440764_1.JPEG": "ok",
        f"{name}#n02084071.tar#": "bad_row",
        f"{name}#../n3.tar": "refused",
        f"{name}#n04.tar#n04_1.JPEG": "ok",
    }
    (tmp_path / "names.txt").write_text("n01440764 tench\n")
    options = {"nested": True, "captions": "folder", "classes": "names.txt"}
    pairs = rows_of(source("archive", "pair", **options), tmp_path)
    assert [row.captions for row in pairs if row.row.startswith(f"{name}#n01440764")] == [["tench"], ["tench"]]
    assert {row.status for row in pairs if "n04" in row.row} == {"ok"}  # "n04" is a word for all we know


def test_openwebtext_is_a_tar_of_xz_tars_of_texts(tmp_path: Path) -> None:
    inner = tar_bytes([("0000001-ab.txt", b"One.\n"), ("0000002-cd.txt", b"caf\xe9")], "w:xz")
    outer = [("openwebtext/urlsf_subset00-1_data.xz", inner), ("openwebtext/urlsf_subset00-2_data.xz", inner[:80])]
    write(tmp_path, {"openwebtext.tar": tar_bytes(outer), "openwebtext.tar.xz": tar_bytes(outer, "w:xz")})
    for name in ("openwebtext.tar", "openwebtext.tar.xz"):
        rows = rows_of(source("archive", "text", f"data/{name}", nested=True), tmp_path)
        assert rows[0].row == f"{name}#openwebtext/urlsf_subset00-1_data.xz#0000001-ab.txt"
        assert [row.payload for row in rows[:2]] == [b"One.\n", b"caf\xe9"]  # landing decodes
        assert [row.status for row in rows if "subset00-2" in row.row][-1] == "bad_row"


def test_a_sparse_file_and_a_bomb_in_an_archive_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOMB_BYTES", 1 << 20)
    info = tarfile.TarInfo("a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    write(tmp_path, {"a.tar": bytes(header) + bytes(10240)})
    (row,) = rows_of(source("archive", "image", "data/a.tar"), tmp_path)
    assert row.status in ("refused", "bad_row")
    bomb = tar_bytes([("big.bin", bytes(60 << 20)), ("a.jpg", JPEG)], "w:bz2")
    write(tmp_path, {"b.tar.bz2": bomb})
    (row,) = rows_of(source("archive", "image", "data/b.tar.bz2"), tmp_path)
    assert (row.status, "bomb" in str(row.detail)) == ("bad_row", True)


def test_a_line_that_never_ends_breaks_off_as_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(streams, "BOMB_BYTES", 1 << 20)
    write(tmp_path, {"a.jsonl.gz": gzip.compress(b'{"text": "first"}\n' + bytes(30 << 20))})
    rows = rows_of(source("text", "text"), tmp_path)
    assert [row.status for row in rows] == ["ok", "bad_row"]
    assert "bomb" in str(rows[1].detail)


def test_every_reader_takes_globs_and_fsspec_urls(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/lists/a/1.jsonl", b'{"text": "one"}\n')
    memory.pipe("/lists/b/1.jsonl", b'{"text": "two"}\n')
    rows = rows_of(source("text", "text", "memory://lists/*/1.jsonl"), tmp_path)
    assert [(row.row, row.payload) for row in rows] == [("a/1.jsonl#0", b"one"), ("b/1.jsonl#0", b"two")]


def _example() -> str:
    """The reader in the package's docstring."""
    text = str(sources_package.__doc__).replace("\\t", "\t")
    return "\n".join(line[4:] for line in re.findall(r"(?m)^(?:    .*)?$", text.partition('answer":\n')[2]))


def test_the_documented_reader_works_from_its_file_and_a_change_reads_anew(tmp_path: Path) -> None:
    code = _example().replace('b"\t"', 'b"\\t"')
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    write(tmp_path, {"a.quiz": "Why?\tBecause.\nbroken\n\nWho?\tMe.\n"})
    (tmp_path / "quiz.py").write_text(code)
    values = {"name": "s", "format": "quiz.py:Quiz", "kind": "text", "path": "data"}
    made = make_recipe({"name": "t", "root": str(tmp_path), "work": str(tmp_path / "w"), "source": [values]})
    (unit,) = land_units(made, made.source[0])
    found = reader(made.source[0], str(tmp_path))
    rows = list(found.rows(made.source[0], unit.spec["part"]))
    assert [(row.row, row.payload, row.status) for row in rows] == [
        ("a.quiz#0", b"Why?\nBecause.", "ok"), ("a.quiz#14", None, "bad_row"), ("a.quiz#22", b"Who?\nMe.", "ok")
    ]  # fmt: skip
    (tmp_path / "quiz.py").write_text(code + "\n# changed\n")
    assert land_units(made, made.source[0])[0].id != unit.id


def test_a_reader_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("class A: pass\n")
    for form, said in (("r.py:A", "it has no parts"), ("r.py:B", "cannot take 'B'"), ("gone.py:A", "cannot take 'A'")):
        with pytest.raises(SourceError, match=said):
            reader(source(form, "text"), str(tmp_path))


def test_the_papers_recipe_loads_and_names_its_eleven_corpora() -> None:
    recipe = load_recipe(Path(__file__).resolve().parents[2] / "recipes/beit3-paper.toml")
    names = [one.name for one in recipe.source]
    assert names == [
        "cc12m", "cc3m", "sbu", "coco", "visual-genome", "imagenet-21k", "wikipedia", "bookcorpus", "openwebtext",
        "cc-news", "stories",
    ]  # fmt: skip
    for one in recipe.source:
        reader(one, recipe.root)
        assert one.licence
        assert one.expected_rows
        assert one.expected_bytes
