"""Pictures and strings as a model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imglish.errors import ImageError, TokenizerError
from imglish.model import ModelConfig
from imglish.model.config import make_config
from imglish.tokenize.preprocess import preprocess
from imglish.tokenize.text import EOS, PAD, TextTokenizer
from tests.tokenize.tokenize_helpers import picture, png, text_model

TOKENIZER = TextTokenizer(text_model())


def config(**fields: int) -> ModelConfig:
    return make_config("tiny", **{"image_size": 48, "vocabulary": TOKENIZER.vocabulary} | fields)


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), png(1), Image.fromarray(picture(1)), picture(1)]
    pixels = preprocess(config(), forms).pixels
    assert pixels is not None
    assert pixels.shape == (5, 3, 48, 48)
    assert pixels.dtype == torch.float32
    assert all(torch.equal(pixels[0], other) for other in pixels)
    assert -1 <= pixels.min() < pixels.max() <= 1


def test_transparent_pictures_lie_on_white() -> None:
    pixels = preprocess(config(), [Image.new("RGBA", (9, 7), (255, 0, 0, 0))]).pixels
    assert pixels is not None
    assert torch.all(pixels == 1)


def test_strings_are_padded_on_the_right() -> None:
    inputs = preprocess(config(), strings=["red", "a small red house"], tokenizer=TOKENIZER)
    assert inputs.pixels is None
    assert inputs.ids is not None
    assert inputs.padding_mask is not None
    short = TOKENIZER.encode("red").tolist()
    length = len(TOKENIZER.encode("a small red house"))
    assert inputs.ids.tolist()[0] == short + [PAD] * (length - len(short))
    assert inputs.padding_mask.tolist()[0] == [False] * len(short) + [True] * (length - len(short))
    assert not inputs.padding_mask[1].any()
    assert inputs.ids.dtype == torch.int64


def test_long_strings_are_cut_with_their_end_kept() -> None:
    inputs = preprocess(config(max_text=10), strings=["red house " * 50], tokenizer=TOKENIZER)
    assert inputs.ids is not None
    assert inputs.ids.shape == (1, 10)
    assert inputs.ids[0, -1] == EOS


def test_nothing_gives_empty_batches() -> None:
    inputs = preprocess(config(), [], [], TOKENIZER)
    assert inputs.pixels is not None
    assert inputs.ids is not None
    assert inputs.pixels.shape == (0, 3, 48, 48)
    assert inputs.ids.shape == (0, 0)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="not_image"):
        preprocess(config(), [b"no picture"])
    with pytest.raises(ImageError, match="bad_array"):
        preprocess(config(), [np.zeros((4, 4), np.uint8)])


def test_strings_need_the_models_own_tokenizer() -> None:
    with pytest.raises(TokenizerError, match="pass tokenizer="):
        preprocess(config(), strings=["red"])
    with pytest.raises(TokenizerError, match="<mask> is 331, the model's is 999"):
        preprocess(config(vocabulary=1000), strings=["red"], tokenizer=TOKENIZER)
