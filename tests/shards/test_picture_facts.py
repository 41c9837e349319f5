"""Three whole numbers of a stored picture, against arithmetic one pixel at a time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import ImageError
from imglish.shards.picture_facts import picture_facts


def jpeg(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, "RGB", "420", fastdct=False)


def slow(data: bytes) -> tuple[int, int]:
    """Brightness and sharpness; the Laplacian reflects at the edges without repeating them, as OpenCV's does."""
    grey = simplejpeg.decode_jpeg(data, "GRAY", fastdct=False)[:, :, 0].astype(int)
    padded = np.pad(grey, 1, mode="reflect") if min(grey.shape) > 1 else np.pad(grey, 1, mode="edge")
    edges = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    values = [Fraction(int(value)) for value in edges.ravel()]
    mean = sum(values) / len(values)
    return int(grey.sum()) // grey.size, int(sum((value - mean) ** 2 for value in values) / len(values))


@given(st.integers(0, 2**32 - 1), st.integers(2, 24), st.integers(2, 24))
def test_facts_are_those_of_the_pixels(seed: int, width: int, height: int) -> None:
    data = jpeg(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))
    facts = picture_facts(data)
    assert (facts["brightness"], facts["sharpness"]) == slow(data)
    assert facts["bytes"] == len(data)


@pytest.mark.parametrize(("level", "brightness"), [(0, 0), (255, 255), (128, 128)])
def test_a_flat_picture_has_its_level_and_no_sharpness(level: int, brightness: int) -> None:
    facts = picture_facts(jpeg(np.full((40, 60, 3), level, np.uint8)))
    assert (facts["brightness"], facts["sharpness"]) == (brightness, 0)


def test_the_sharpest_pattern_is_within_reach() -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    assert picture_facts(jpeg(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)))["sharpness"] > 100_000


def test_a_damaged_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        picture_facts(b"\xff\xd8 nothing")
