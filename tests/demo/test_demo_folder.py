"""The demo's recipe on a user's folder: what is recognised, what is left alone, and what it is scaled to."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imglish.demo import folder_recipe
from imglish.errors import RecipeError, SourceError
from imglish.ingest.sources import reader
from imglish.recipe import FetchConfig, Recipe, make_recipe
from tests.demo.demo_helpers import picture, put

PNG = picture(7, "PNG")
TEXT = "A document of some words."


def folder(tmp_path: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        put(tmp_path / "my data" / name, content)
    return tmp_path / "my data"


def rows(recipe: Recipe) -> dict[str, list[tuple[str, list[str] | None]]]:
    """(row, captions) of the usable rows by source."""
    found = {}
    for source in recipe.source:
        read = reader(source)
        each = [row for part in read.parts(source, recipe.root) for row in read.rows(source, part)]
        found[source.name] = [
            (row.row, None if row.captions is None else list(row.captions))
            for row in each
            if row.status in ("ok", "to_fetch")
        ]
    return found


def test_images_captions_and_documents_are_told_apart(tmp_path: Path) -> None:
    files = {
        "dogs/rex.png": PNG,
        "dogs/rex.txt": "Rex",
        "dogs/rex.md": TEXT,
        "birds/1.png": PNG,
        "notes.md": TEXT,
        "essays/one.txt": TEXT,
        "essays/deep/two.txt": TEXT,
        "top.txt": TEXT,
        ".hidden/three.txt": TEXT,
    }
    recipe = folder_recipe(folder(tmp_path, files), tmp_path / "work")
    found = rows(recipe)
    assert found.pop("pairs") == [("dogs/rex.png", ["Rex"])]
    assert found.pop("images") == [("birds/1.png", None), ("dogs/rex.png", None)]
    documents = {
        (source.path, row) for source in recipe.source if source.kind == "text" for row, _ in found[source.name]
    }
    assert documents == {
        ("**/*.md", "notes.md"),
        ("**/*.md", "dogs/rex.md"),
        ("essays/**/*.txt", "one.txt"),
        ("essays/**/*.txt", "deep/two.txt"),
        ("*.txt", "top.txt"),
    }


def test_a_document_beside_captions_is_left_out_aloud(tmp_path: Path) -> None:
    lines: list[str] = []
    data = folder(tmp_path, {"a.png": PNG, "a.txt": "A", "readme.txt": TEXT})
    recipe = folder_recipe(data, tmp_path / "work", lines.append)
    assert [source.name for source in recipe.source] == ["pairs", "images"]
    assert lines == ["readme.txt is not used: beside captions it may be one; move documents to a folder of their own"]


def test_folders_with_odd_names_are_found(tmp_path: Path) -> None:
    data = folder(
        tmp_path, {"a.png": PNG, "a.txt": "A", "es [1]/x y*.txt": TEXT, "es [1]/t[2].csv": "file,alt\n../a.png,A\n"}
    )
    recipe = folder_recipe(data, tmp_path / "work")
    found = rows(recipe)
    assert found["texts-1"] == [("es [1]/x y*.txt", None)]
    assert found["es-1-t-2-.csv"] == []  # the table's row leads out of its folder


@pytest.mark.parametrize(
    ("name", "content", "kind", "expected"),
    [
        ("t.csv", "file_name,text\na.png,A dog\n", "pair", ["A dog"]),
        ("t.csv", "Image,Caption_en,caption_de\na.png,A dog,Ein Hund\n", "pair", ["A dog", "Ein Hund"]),
        ("t.csv", 'path,captions\na.png,"[""A"", ""B""]"\n', "pair", ["A", "B"]),
        ("t.tsv", "file\ttitle\na.png\tA dog\n", "pair", ["A dog"]),
        ("t.jsonl", json.dumps({"image": "a.png", "captions": ["A", "B"]}), "pair", ["A", "B"]),
        ("t.csv", "id,image\n1,a.png\n", "image", None),
        ("t.csv", "URL,ALT\nhttps://example.org/a.png,A dog\n", "pair", ["A dog"]),
        ("t.csv", "url\nhttps://example.org/a.png\n", "image", None),
        ("t.jsonl", json.dumps({"id": 1, "content": TEXT}), "text", None),
    ],
)
def test_tables_are_recognised_by_usual_column_names(
    tmp_path: Path, name: str, content: str, kind: str, expected: list[str] | None
) -> None:
    recipe = folder_recipe(folder(tmp_path, {"sub/a.png": PNG, f"sub/{name}": content}), tmp_path / "work")
    (source,) = (source for source in recipe.source if source.name == f"sub-{name}")
    assert source.kind == kind
    assert [captions for _, captions in rows(recipe)[source.name]] == [expected]


def test_parquet_with_images_inside_is_recognised(tmp_path: Path) -> None:
    data = folder(tmp_path, {"note.md": TEXT})
    table = pa.table({"image": [{"bytes": PNG, "path": "a.png"}], "caption": ["A dog"]})
    pq.write_table(table, data / "part-0.parquet")
    assert rows(folder_recipe(data, tmp_path / "work"))["part-0.parquet"] == [("part-0.parquet#0", ["A dog"])]


def test_a_table_without_usual_names_is_left_out_aloud(tmp_path: Path) -> None:
    lines: list[str] = []
    folder_recipe(folder(tmp_path, {"a.png": PNG, "t.csv": "x,y\n1,2\n"}), tmp_path / "work", lines.append)
    assert lines == ["t.csv is not used: none of its columns (x, y) has a usual name"]


def test_sizes_follow_the_data(tmp_path: Path) -> None:
    small = folder_recipe(folder(tmp_path, {"a.png": PNG, "a.txt": "A", "t/b.txt": TEXT}), tmp_path / "work")
    assert small.tokenize.text.vocabulary == 512
    assert small.tokenize.visual.codes == 16
    assert small.pack.train_shards == 1
    assert small.train.batch == {"pair": 1, "image": 1, "text": 1}
    files = {f"{number}.md": TEXT * 1000 for number in range(600)}
    large = folder_recipe(folder(tmp_path, files), tmp_path / "work")
    assert large.tokenize.text.vocabulary == 1500
    assert large.pack.train_shards == 2
    for recipe in (small, large):
        assert make_recipe(json.loads(recipe.model_dump_json())) == recipe


def test_no_private_address_may_be_fetched(tmp_path: Path) -> None:
    recipe = folder_recipe(folder(tmp_path, {"u.csv": "url\nhttp://127.0.0.1:18377/x\n"}), tmp_path / "work")
    assert recipe.fetch == FetchConfig()
    assert recipe.name == "my-data"


def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds nothing to build from.*<name>\.txt.*parquet.*\.md"):
        folder_recipe(folder(tmp_path, {"code.py": "x = 1", "t.csv": "x,y\n"}), tmp_path / "work")
    with pytest.raises(SourceError, match="is not a folder"):
        folder_recipe(tmp_path / "nowhere", tmp_path / "work")


def test_the_corpus_may_not_lie_in_the_data(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": PNG})
    with pytest.raises(RecipeError, match="lies inside the data folder"):
        folder_recipe(data, data / "corpus")
