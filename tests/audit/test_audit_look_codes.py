"""What codes stand for, as pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imglish.audit.look import contact_sheet
from imglish.audit.look_codes import cut, decoded, feature_picture, frequent, patches_by_code, tokenizer_of
from imglish.pipeline import Pipeline
from imglish.sample import InlineEngine
from imglish.shards.manifest import load_manifest
from imglish.shards.reader import open_corpus
from imglish.storage import Store
from tests.pipeline.corpora import small_recipe, write_sources
from tests.tokenize.plain_vqkd import published, write_published


def test_patches_are_cut_row_by_row() -> None:
    view = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    patches = cut(view, (2, 2))
    assert patches.shape == (4, 4, 4, 3)
    assert (patches[1] == view[:4, 4:]).all()
    assert (patches[2] == view[4:, :4]).all()


def test_the_most_typical_patches_of_a_code_come_first() -> None:
    patches = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 200, 12, 90, 11)])
    codes = np.array([5, 1, 5, 5, 5], np.uint16)
    found = patches_by_code(patches, codes, [5, 9], 3)
    assert list(found) == [5], "a code that no patch has is left out"
    assert found[5][:, 0, 0, 0].tolist() == [12, 11, 10]
    assert frequent(np.array([1, 5, 7], np.uint16), codes, 2) == [5, 1]


def test_features_become_colours_whose_differences_are_theirs() -> None:
    features = np.zeros((4, 7), np.float32)
    features[2:] = np.linspace(1, 2, 7)
    picture = feature_picture(features, (2, 2))
    assert (picture[0, 0] == picture[0, 1]).all()
    assert (picture[1, 0] == picture[1, 1]).all()
    assert picture[0, 0, 0] == 0
    assert picture[1, 0, 0] == 255


@pytest.mark.parametrize("decoder", [True, False])
def test_the_sheet_of_a_vqkd_corpus_shows_the_decoders_features(tmp_path: Path, decoder: bool) -> None:
    write_sources(tmp_path / "sources", pairs=8, images=4, texts=4)
    state = {key: value for key, value in published(codes=64).items() if decoder or "decode" not in key}
    write_published(tmp_path / "sources" / "vqkd.pth", state)
    visual = {"type": "vqkd", "weights": "vqkd.pth"}
    tokenize = {"text": {"vocabulary": 300}, "visual": visual, "stored": {"short_side": 96}, "views": {"count": 1}}
    recipe = small_recipe(tmp_path / "sources", tmp_path / "work", tokenize={**tokenize, "batch": 4})
    Pipeline(recipe, InlineEngine()).build()
    manifest = str(Path(recipe.work, "manifest.json"))
    tokenizer = tokenizer_of(Store(recipe.work), load_manifest(manifest).tokenizers.visual)
    codes = open_corpus(manifest)["pair"][0].codes[0]
    features = decoded(tokenizer, codes)
    assert (features is not None) == decoder
    contact_sheet(manifest, str(tmp_path / "look.png"), count=4)
    with Image.open(io.BytesIO((tmp_path / "look.png").read_bytes())) as image:
        corner = np.asarray(image.convert("RGB"))[-420:-60, -400:-60]
    assert (len(np.unique(corner.reshape(-1, 3), axis=0)) > 20) == decoder
