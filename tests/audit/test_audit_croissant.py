"""Croissant: mlcroissant validates the description and loads samples by it; the card says the same to people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imglish.audit.card import card
from imglish.audit.croissant import croissant
from imglish.shards import open_corpus
from tests.audit.audit_helpers import HOSTILE, corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = corpus(tmp_path_factory.mktemp("corpus")).parent
    (found / "croissant.json").write_text(croissant(str(found / "manifest.json")), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What mlcroissant says and reads."""
    command = [sys.executable, "-m", "tests.audit.croissant_reads", str(folder / "croissant.json")]
    environment = {**os.environ, "CROISSANT_CACHE": str(tmp_path_factory.mktemp("cache"))}
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout))


def test_mlcroissant_finds_no_error_and_no_warning(loaded: dict[str, Any]) -> None:
    assert [loaded["errors"], loaded["warnings"]] == [[], []]
    assert loaded["version"] == "http://mlcommons.org/croissant/1.1"


def test_every_file_stands_there_with_its_digest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    found = json.loads((folder / "croissant.json").read_bytes())
    objects = {one["contentUrl"]: one["sha256"] for one in found["distribution"] if one["@type"] == "cr:FileObject"}
    tars = {shard["path"]: shard["sha256"] for shard in manifest["shards"]}
    tables = {shard["metadata"]["path"]: shard["metadata"]["sha256"] for shard in manifest["shards"]}
    assert objects == tars | tables
    sets = {one["@id"] for one in found["distribution"] if one["@type"] == "cr:FileSet"}
    assert {"pair-jpg", "pair-txt", "pair-ids", "image-codes", "text-ids", "metadata"} <= sets


def test_samples_load_and_are_those_of_the_corpus(loaded: dict[str, Any], folder: Path) -> None:
    parts = [open_corpus(str(folder / "manifest.json"), split) for split in ("train", "validation")]
    pairs = {sample.key: sample for part in parts for sample in part["pair"]}
    pictures, captions, codes = (
        {bytes.fromhex(row[f"{name}/key"]).decode(): row[f"{name}/{field}"] for row in loaded["records"][name]}
        for name, field in (("pair", "jpg"), ("pair_txt", "txt"), ("pair_codes", "codes"))
    )
    assert pictures.keys() == captions.keys() == codes.keys() == pairs.keys()
    for key, sample in pairs.items():
        assert pictures[key] == [48, 32]
        assert bytes.fromhex(captions[key]).decode() == "\n".join(sample.captions)
        assert codes[key] == sample.codes.astype("<u2").tobytes().hex()
    images = {bytes.fromhex(row["image/key"]).decode() for row in loaded["records"]["image"]}
    assert images == {sample.key for part in parts for sample in part["image"]}
    blocks = sum(len(row["text/ids"]) // 2048 for row in loaded["records"]["text"])
    assert blocks == sum(len(part["text"]) for part in parts)
    said = [row for row in loaded["records"]["occurrence"] if row["occurrence/key"] is not None]
    assert len(said) == 24 * 2 + 6 + 5


def test_lineage_and_responsible_fields_say_what_the_manifest_knows(folder: Path) -> None:
    found = json.loads((folder / "croissant.json").read_bytes())
    assert [one["name"] for one in found["prov:wasDerivedFrom"]] == ["drawn"]
    assert found["prov:wasGeneratedBy"]["@type"] == "prov:Activity"
    assert "not compared with any evaluation set" in found["rai:dataLimitations"][0]
    assert found["imglish:statistics"]["counts"]["train"]["pair"] == 16


def test_the_same_corpus_gives_the_same_text(folder: Path) -> None:
    assert croissant(str(folder / "manifest.json")) == (folder / "croissant.json").read_text(encoding="utf-8")
    assert '"datePublished": "2026-11-26"' in croissant(str(folder / "manifest.json"), "2026-11-26")


def test_the_card_has_front_matter_and_counts(folder: Path) -> None:
    text = card(str(folder / "manifest.json"))
    head = dict(line.split(": ", 1) for line in text.split("---\n")[1].strip().split("\n"))
    assert json.loads(head["license"]) == "other"
    assert json.loads(head["language"]) == ["de", "en", "fr"]
    assert json.loads(head["size_categories"]) == ["n<1K"]
    assert "| drawn | 18 | 75.0% |" in text
    assert not any(caption in text for caption in HOSTILE)
    assert text == card(str(folder / "manifest.json"))
