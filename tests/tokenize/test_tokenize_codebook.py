"""The k-means codebook: exact, deterministic, well used, and safe to load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from imglish.errors import TokenizerError
from imglish.recipe import CodebookConfig
from imglish.seeds import stream
from imglish.tokenize.codebook import Codebook, CodebookFit, _Extractor, _Search, safetensors_facts
from imglish.tokenize.visual import VisualTokenizer, load_visual
from tests.tokenize.tokenize_helpers import picture

SIZE, PATCH = 64, 16


def pictures(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.stack([picture(number, (size, size)) for number in range(count)])


def noise(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    bits = stream(1, "noise").bits(count * size * size * 3)
    return (bits >> np.uint64(56)).astype(np.uint8).reshape(count, size, size, 3)


def fitted(images: NDArray[np.uint8], codes: int = 32, seed: int = 0, size: int = SIZE, patch: int = PATCH) -> bytes:
    fit = CodebookFit(CodebookConfig(size=size, patch=patch, codes=codes, iterations=5), seed)
    fit.add(images)
    return fit.finish()


@pytest.fixture(scope="module")
def tokenizer() -> Codebook:
    return Codebook.read(fitted(pictures(40)), "test")


def test_it_is_a_visual_tokenizer(tokenizer: Codebook) -> None:
    plain: VisualTokenizer = tokenizer
    assert (plain.grid, plain.codes, plain.size, plain.patch) == ((4, 4), 32, 64, 16)
    codes = plain.encode(pictures(3))
    assert codes.shape == (3, 16)
    assert codes.dtype == np.uint16
    assert plain.encode(np.empty((0, 64, 64, 3), np.uint8)).shape == (0, 16)


@pytest.mark.parametrize("patch", [4, 8, 14, 16, 32])
def test_features_are_exact_integers_within_their_bounds(patch: int) -> None:
    extract = _Extractor(patch)
    assert np.abs(extract.basis.astype(np.int64)).sum(axis=1).max() * 255 < 1 << 24
    side = patch * 2
    extremes = np.stack([np.full((side, side, 3), value, np.uint8) for value in (0, 255)])
    for image in (*extremes, *noise(3, side)):
        patches = image.reshape(2, patch, 2, patch * 3).swapaxes(1, 2).reshape(4, -1).astype(np.int64)
        sums = patches @ extract.basis.T.astype(np.int64)
        exact = np.rint(sums.astype(np.float32) / np.float32(extract.divisor)) - extract.offset
        assert np.array_equal(extract(image), exact)
        assert np.abs(exact).max() <= 257


def test_grey_patches_have_no_colour_and_flat_ones_no_contrast() -> None:
    extract = _Extractor(16)
    for level in (0, 1, 127, 255):
        features = extract(np.full((16, 16, 3), level, np.uint8))[0]
        assert np.all(features[1:] == 0)
        assert abs(features[0] - 2 * (level - 128)) <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 400), st.integers(0, 1000))
def test_the_search_finds_the_nearest_code_and_the_lowest_of_equals(codes: int, seed: int) -> None:
    draws = (stream(seed, "rows").bits((codes + 390) * 16) % np.uint64(41)).astype(np.int64).reshape(-1, 16) - 20
    book, rows = draws[:codes], draws[codes:]
    book = book[np.argsort(book[:, 0], kind="stable")]
    book[codes // 2] = book[codes // 2 - 1]
    found, distances = _Search(book.astype(np.float32))(rows.astype(np.float32))
    table = ((rows[:, None] - book[None]) ** 2).sum(axis=2)
    assert np.array_equal(found, table.argmin(axis=1))
    assert np.array_equal(distances, table.min(axis=1))
    nothing, _ = _Search(book.astype(np.float32))(rows[:0].astype(np.float32))
    assert len(nothing) == 0


def test_codes_do_not_depend_on_batch_slot_or_threads(tokenizer: Codebook) -> None:
    images = np.concatenate([pictures(9), noise(2)])
    whole = tokenizer.encode(images)
    for number, image in enumerate(images):
        padded = np.zeros((8, SIZE, SIZE, 3), np.uint8)
        padded[number % 8] = image
        assert np.array_equal(tokenizer.encode(padded)[number % 8], whole[number])
    with threadpool_limits(1):
        assert np.array_equal(tokenizer.encode(images), whole)


def test_patches_are_numbered_row_by_row(tokenizer: Codebook) -> None:
    image = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    blank = tokenizer.encode(image)[0]
    image[0, 16:32, 48:64] = (0, 0, 90)
    assert np.flatnonzero(tokenizer.encode(image)[0] != blank).tolist() == [1 * 4 + 3]


def test_a_fit_repeats_bit_for_bit_in_any_order_and_with_any_threads() -> None:
    images = pictures(30)
    again = CodebookFit(CodebookConfig(size=SIZE, patch=PATCH, codes=32, iterations=5), 0)
    for image in images[::-1]:
        again.add(image[None])
    assert again.finish() == fitted(images)
    assert fitted(images, seed=1) != fitted(images)


def test_a_fit_on_integers_is_the_same_on_every_machine() -> None:
    tokenizer = Codebook.read(fitted(noise(8), codes=64), "test")
    assert tokenizer.digest == "8de7619e1ab9120d1a0ba29ecbb350f95055da6ea1aea0966e79a15bdd18da25"
    assert (
        hashlib.sha256(tokenizer.encode(noise(8)).astype("<u2").tobytes()).hexdigest()
        == "e36c2f3d08a271cd1aea1a644e4ba7f0dbae61692568283d041a3d8039cba2d5"
    )


def test_white_background_takes_one_code_and_the_others_are_used() -> None:
    images = pictures(60)
    images[:, :, :40] = 255
    tokenizer = Codebook.read(fitted(images, codes=64), "test")
    counts = np.bincount(tokenizer.encode(images).reshape(-1), minlength=64)
    assert (counts > 0).mean() > 0.9
    white = tokenizer.encode(np.full((1, SIZE, SIZE, 3), 255, np.uint8))
    assert len(np.unique(white)) == 1
    assert len(np.unique(tokenizer.codebook, axis=0)) == 64


def test_too_few_distinct_patches_say_how_many_codes_are_possible() -> None:
    fit = CodebookFit(CodebookConfig(size=SIZE, patch=PATCH, codes=32), 0)
    with pytest.raises(TokenizerError, match="only 0 distinct patches"):
        fit.finish()
    fit.add(np.full((5, SIZE, SIZE, 3), 255, np.uint8))
    with pytest.raises(
        TokenizerError, match=r"only 1 distinct patches, too few for 32 codes; set tokenize\.visual\.codes to 1"
    ):
        fit.finish()


def test_a_patch_too_large_to_stay_exact_is_refused() -> None:
    with pytest.raises(TokenizerError, match="patch 96 is too large"):
        CodebookFit(CodebookConfig(size=192, patch=96), 0)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 64, 64, 3), np.float32), np.zeros((64, 64, 3), np.uint8), np.zeros((1, 32, 64, 3), np.uint8)],
    ids=["floats", "no batch", "size"],
)
def test_images_of_another_shape_or_type_are_refused(tokenizer: Codebook, images: NDArray[np.uint8]) -> None:
    with pytest.raises(TokenizerError, match=r"not uint8 \[B, 64, 64, 3\]"):
        tokenizer.encode(images)


def test_a_file_gives_the_same_tokenizer_back(tokenizer: Codebook, tmp_path: Path) -> None:
    path = tmp_path / "codebook.safetensors"
    path.write_bytes(tokenizer.write())
    loaded = load_visual(path, tokenizer.digest)
    assert loaded.digest == tokenizer.digest
    assert np.array_equal(loaded.encode(pictures(4)), tokenizer.encode(pictures(4)))
    assert tokenizer.write() == path.read_bytes()


def test_the_digest_covers_codes_size_and_patch(tokenizer: Codebook) -> None:
    moved = tokenizer.codebook.copy()
    moved[-1, 5] += 1
    others = [Codebook(moved, 64, 16), Codebook(tokenizer.codebook, 128, 16), Codebook(tokenizer.codebook, 64, 8)]
    assert len({tokenizer.digest, *(other.digest for other in others)}) == 4


def test_another_tokenizer_than_expected_is_refused(tokenizer: Codebook, tmp_path: Path) -> None:
    path = tmp_path / "codebook.safetensors"
    path.write_bytes(tokenizer.write())
    with pytest.raises(
        TokenizerError, match=f"visual tokenizer {tokenizer.digest[:16]}…, but {'0' * 16}… is asked for"
    ):
        load_visual(path, "0" * 64)
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_visual(tmp_path / "missing.safetensors")


def test_damaged_files_are_refused(tokenizer: Codebook) -> None:
    data = tokenizer.write()
    for broken in (b"", b"\0" * 7, b"\xff" * 64, data[:40], data[:-1], data[:200] + data[300:]):
        with pytest.raises(TokenizerError, match="fit it again"):
            Codebook.read(broken, "broken")


@pytest.mark.parametrize("name", ["codebook", "basis"])
def test_files_of_another_feature_extractor_are_refused(tokenizer: Codebook, name: str) -> None:
    data = tokenizer.write()
    header = {"imglish": _header(data)}
    tensors = load(data)
    tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    with pytest.raises(TokenizerError, match="another feature extractor"):
        Codebook.read(save(tensors, header), "changed")
    del tensors[name]
    with pytest.raises(TokenizerError, match="not a whole"):
        Codebook.read(save(tensors, header), "changed")


def _header(data: bytes) -> str:
    return json.dumps(safetensors_facts(data, "test"))
