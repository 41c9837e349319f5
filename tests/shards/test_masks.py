import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.digests import json_digest
from imglish.errors import OrderError
from imglish.seeds import stream
from imglish.shards.masks import Masks, block_masks, shown_ids, text_masks

KEYS = stream(0, "test").bits(500)
SPECIAL = (0, 1, 2)


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**40))
def test_every_mask_has_the_exact_count(height: int, width: int, share: float, seed: int) -> None:
    count = round(share * height * width)
    masks = block_masks(stream(seed, "mask").bits(20), (height, width), count)
    assert masks.shape == (20, height * width)
    assert np.all(masks.sum(axis=1) == count)


def test_a_mask_depends_on_its_key_alone() -> None:
    together = block_masks(KEYS, (14, 14), 78)
    assert np.array_equal(block_masks(KEYS[::-7], (14, 14), 78), together[::-7])
    assert len(np.unique(together, axis=0)) > 0.98 * len(KEYS)
    assert block_masks(KEYS[:0], (14, 14), 78).shape == (0, 196)


def test_masks_are_blocks_not_speckles() -> None:
    grids = block_masks(KEYS, (14, 14), 78).reshape(-1, 14, 14)
    equal_neighbours = np.mean(grids[:, :, 1:] == grids[:, :, :-1])
    assert equal_neighbours > 0.85  # uniform masks at 40 % have 0.52
    full_blocks = sum(bool(_has_block(grid, 3, 3)) for grid in grids)
    assert full_blocks > 0.99 * len(grids)


def _has_block(grid: np.ndarray, height: int, width: int) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(grid, (height, width))
    return bool(windows.all(axis=(2, 3)).any())


def test_masks_cover_the_image_evenly_from_side_to_side() -> None:
    often = block_masks(stream(1, "even").bits(4000), (14, 14), 78).reshape(-1, 14, 14).mean(axis=0)
    assert np.abs(often - often[::-1]).max() < 0.05
    assert np.abs(often - often[:, ::-1]).max() < 0.05
    assert often.min() > 0.02


def test_grids_too_small_for_a_rectangle_are_masked_patch_by_patch() -> None:
    masks = block_masks(KEYS, (1, 5), 2)
    assert np.all(masks.sum(axis=1) == 2)
    assert np.abs(masks.mean(axis=0) - 0.4).max() < 0.1


def test_the_masks_of_sampler_version_1_never_change() -> None:
    blocks = np.packbits(block_masks(KEYS, (14, 14), 78)).tobytes().hex()
    ids = np.arange(500 * 64).reshape(500, 64) % 50
    texts = np.packbits(text_masks(KEYS, ids, 0.15, SPECIAL)).tobytes().hex()
    assert json_digest([blocks, texts]) == GOLDEN


GOLDEN = "73135dd041daede46505ee2aa4092a3c5f04916878a8c6cc9db05472c31dbed4"


@pytest.mark.parametrize("grid", [(65, 2), (0, 4)])
def test_an_impossible_grid_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="sides are 1 to 64"):
        block_masks(KEYS, grid, 0)


@settings(max_examples=60)
@given(st.integers(0, 60), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_text_masks_have_the_exact_count_and_spare_special_ids(length: int, share: float, seed: int) -> None:
    source = stream(seed, "ids")
    ids = source.bits(12 * length).reshape(12, length).astype(np.int64) % 7
    masks = text_masks(source.keys(np.arange(12)), ids, share, SPECIAL)
    assert not np.any(masks & (ids < 3))
    for row, mask in zip(ids, masks, strict=True):
        maskable = int((row >= 3).sum())
        assert mask.sum() == min(maskable, max(1, int(np.floor(share * maskable + 0.5))))


def test_the_only_word_of_a_caption_is_masked_and_an_empty_one_has_no_mask() -> None:
    ids = np.array([[0, 9, 2, 1, 1], [0, 2, 1, 1, 1]])
    assert text_masks(KEYS[:2], ids, 0.15, SPECIAL).tolist() == [[False, True, False, False, False], [False] * 5]


def test_every_word_is_masked_equally_often() -> None:
    keys = stream(2, "words").bits(4000)
    often = text_masks(keys, np.full((4000, 40), 9), 0.15, SPECIAL).mean(axis=0)
    assert np.abs(often - 0.15).max() < 0.03


def test_shares_become_counts_and_wrong_shares_are_refused() -> None:
    assert (Masks().patches((14, 14)), Masks().patches((16, 16))) == (78, 102)
    with pytest.raises(OrderError, match=r"masks\.text is 1\.5"):
        Masks(text=1.5)


def test_masked_ids_are_shown_eight_to_one_to_one_and_others_as_they_are() -> None:
    keys, ids = stream(3, "shown").bits(4000), np.full((4000, 40), 9)
    masks = text_masks(keys, ids, 0.5, SPECIAL)
    shown = shown_ids(keys, ids, masks, 99, (4, 24))
    assert np.array_equal(shown[~masks], ids[~masks])
    at_masks = shown[masks]
    assert np.mean(at_masks == 99) == pytest.approx(0.8, abs=0.005)
    assert np.mean(at_masks == 9) == pytest.approx(0.1 + 0.1 / 20, abs=0.005)
    counts = np.bincount(at_masks, minlength=24)[4:24]
    assert np.delete(counts, 5) == pytest.approx(np.full(19, 0.1 / 20 * masks.sum()), rel=0.15)
    assert np.array_equal(shown_ids(keys[:7], ids[:7], masks[:7], 99, (4, 24)), shown[:7])
