"""The manifest: canonical, checked when loaded, and silent about paths, hosts and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from imglish.errors import ManifestError
from imglish.shards.manifest import Manifest, build_manifest, load_manifest, parse_manifest
from imglish.storage import Store
from tests.shards.corpus_helpers import facts, put_shard, samples, small_corpus

SCHEMA = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


def changed(manifest: Manifest, *path: str | int, value: Any) -> bytes:
    plain = json.loads(manifest.to_json())
    target = plain
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return json.dumps(plain).encode()


def test_a_manifest_comes_back_from_its_canonical_json(manifest: Manifest) -> None:
    again = parse_manifest(manifest.to_json(), "m")
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_counts_are_the_sums_of_each_split(manifest: Manifest) -> None:
    assert manifest.counts["train"] == {"pair": 6, "image": 4, "text": 12, "captions": 12}
    assert manifest.counts["validation"]["pair"] == 3


def test_the_json_schema_in_docs_is_that_of_the_code_and_accepts_a_manifest(manifest: Manifest) -> None:
    schema = json.loads(SCHEMA.read_text())
    assert schema == Manifest.model_json_schema(), "write json.dumps(schema, indent=1) there"
    jsonschema.validate(json.loads(manifest.to_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(changed(manifest, "shards", 0, "bytes", value=-1)), schema)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "webdataset", "not a manifest"),
        (("format_version",), 2, "format_version 2 is newer than 1"),
        (("name",), "other", "digest is"),
        (("recipe", "seed"), 1, "digest is"),
        (("shards", 0, "sha256"), "0" * 64, "data_digest is"),
        (("shards", 0, "split"), "validation", "counts.train.pair is 6 but the shards hold 3"),
        (("counts", "train", "captions"), 13, "counts.train.captions is 13 but the shards hold 12"),
        (("tokenizers", "visual", "digest"), "0" * 64, "data_digest is"),
        (("tokenizers", "text"), {}, "field tokenizers.text.digest: field required"),
        (("extra",), 1, "field extra: extra inputs are not permitted"),
        (("shards", 0, "path"), "../../etc/passwd", "must be relative"),
        (("shards", 0, "path"), "/etc/passwd", "must be relative"),
        (("shards", 0, "path"), "http://example.org/a.tar", "must be relative"),
        (("data_digest",), "zz", "field data_digest"),
    ],
)
def test_a_changed_manifest_is_refused_and_the_field_named(
    manifest: Manifest, path: tuple[str | int, ...], value: Any, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(changed(manifest, *path, value=value), "m")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"format":"imglish"}'])
def test_what_is_no_manifest_says_so(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^m: "):
        parse_manifest(data, "m")


def test_paths_are_outside_both_digests(manifest: Manifest) -> None:
    moved = changed(manifest, "shards", 0, "path", value="elsewhere/0.tar")
    assert parse_manifest(moved, "m").digest == manifest.digest


def test_recipe_and_sources_move_digest_but_not_data_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    receipts = [put_shard(store, "train", *samples(1, 1), [])]
    one = build_manifest(receipts, name="a", version="1", **facts())
    other = build_manifest(receipts, name="a", version="1", **facts(recipe={"seed": 1}))
    views = build_manifest(receipts, name="a", version="1", **facts(views={"count": 3}))
    assert one.data_digest == other.data_digest != views.data_digest
    assert len({one.digest, other.digest, views.digest}) == 3


def test_a_missing_fact_is_named_when_building(tmp_path: Path) -> None:
    known = facts()
    del known["libraries"]
    with pytest.raises(ManifestError, match="field libraries"):
        build_manifest([], name="a", version="1", **known)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="imglish build"):
        load_manifest(str(tmp_path / "manifest.json"))
