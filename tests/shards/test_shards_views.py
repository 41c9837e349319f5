"""Views: drawn inside their image from seed and record id alone, rendered by one function."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.recipe import StoredConfig, ViewConfig
from imglish.shards.images import decode_jpeg, store_image
from imglish.shards.views import draw_views, render
from tests.shards.corpus_helpers import picture

sides = st.integers(1, 65_500)


def ids(count: int) -> list[bytes]:
    return [hashlib.blake2b(bytes([i % 256, i // 256]), digest_size=16).digest() for i in range(count)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=20), st.integers(0, 2**31), st.floats(1, 20))
def test_every_box_lies_inside_its_image(sizes: list[tuple[int, int]], seed: int, ratio: float) -> None:
    config = ViewConfig(count=3, min_scale=0.01, max_ratio=ratio)
    views = draw_views(ids(len(sizes)), sizes, config, seed).astype(np.int64)
    assert views.shape == (len(sizes), 3, 5)
    x, y, width, height, flip = np.moveaxis(views, 2, 0)
    size = np.array(sizes)
    assert (width >= 1).all() and (height >= 1).all()
    assert (x + width <= size[:, :1]).all() and (y + height <= size[:, 1:]).all()
    assert np.isin(flip, (0, 1)).all()


def test_a_view_depends_on_seed_and_record_alone() -> None:
    names = ids(10)
    sizes = [(300 + i, 256) for i in range(10)]
    config = ViewConfig()
    together = draw_views(names, sizes, config, seed=1)
    alone = [draw_views([name], [size], config, seed=1)[0] for name, size in zip(names, sizes, strict=True)]
    assert (together == np.stack(alone)).all()
    assert (draw_views(names, sizes, config, seed=2) != together).any()
    assert draw_views([], [], config, seed=1).shape == (0, 4, 5)


def test_boxes_follow_the_distribution_of_random_resized_crop() -> None:
    views = draw_views(ids(3000), [(400, 300)] * 3000, ViewConfig(), seed=0).reshape(-1, 5).astype(float)
    area, ratio = views[:, 2] * views[:, 3] / 120_000, views[:, 2] / views[:, 3]
    generator = np.random.default_rng(0)
    share = generator.uniform(0.2, 1, 100_000)
    aspect = np.exp(generator.uniform(-1, 1, 100_000) * np.log(4 / 3))
    fits = (share * aspect <= 400 / 300) & (share / aspect <= 300 / 400)
    assert abs(area.mean() - share[fits].mean()) < 0.01
    assert abs(ratio.mean() - aspect[fits].mean()) < 0.01
    assert abs(np.quantile(area, 0.9) - np.quantile(share[fits], 0.9)) < 0.02
    assert abs(views[:, 4].mean() - 0.5) < 0.02


def test_no_flips_when_the_recipe_says_so() -> None:
    assert not draw_views(ids(50), [(9, 9)] * 50, ViewConfig(flip=False), seed=0)[..., 4].any()


def test_views_of_a_record_never_change() -> None:
    views = draw_views(ids(3), [(341, 256), (256, 341), (1, 1)], ViewConfig(), seed=0)
    assert hashlib.sha256(views.astype("<u2").tobytes()).hexdigest()[:16] == "e577da0c98a22f7e"


def test_jpeg_and_pixels_render_the_same() -> None:
    jpeg = store_image(picture(3, 90, 70), StoredConfig()).jpeg
    rgb = decode_jpeg(jpeg)
    for view in draw_views(ids(1), [(90, 70)], ViewConfig(), seed=0)[0]:
        assert (render(jpeg, view, 32) == render(rgb, view, 32)).all()


def test_a_flip_mirrors_the_same_pixels_and_a_full_box_keeps_them() -> None:
    rgb = decode_jpeg(store_image(picture(3, 64, 64), StoredConfig()).jpeg)
    assert (render(rgb, (0, 0, 64, 64, 0), 64) == rgb).all()
    assert (render(rgb, (0, 0, 64, 64, 1), 64) == rgb[:, ::-1]).all()
    expected = cv2.resize(np.ascontiguousarray(rgb[5:45, 10:60]), (32, 32), interpolation=cv2.INTER_CUBIC)
    assert (render(rgb, (10, 5, 50, 40, 0), 32) == expected).all()


@pytest.mark.parametrize("view", [(0, 0, 65, 64, 0), (1, 0, 64, 64, 0), (0, 60, 5, 5, 0), (0, 0, 0, 5, 0)])
def test_a_box_outside_the_image_is_refused(view: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not lie in an image of 64 x 64"):
        render(np.zeros((64, 64, 3), np.uint8), view, 32)
