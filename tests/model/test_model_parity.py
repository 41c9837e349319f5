"""The decoupled layout is the released model: features and gradients of torchscale 0.3.0 at base width and depth, fp32.

Weights are torchscale's own first values with every bias and LayerNorm moved away from 0 and 1, and pass through a file
in the released layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from imglish.model import MultiwayTransformer, Rows, load_released
from imglish.model.config import make_config
from imglish.model.released import to_released
from imglish.records import Kind
from tests.model.torchscale_oracle import torchscale_beit3

CONFIG = make_config("base", layout="decoupled", vocabulary=2000, max_text=62, image_size=96)
KINDS: tuple[Kind, ...] = ("image", "text", "pair")


@dataclass(frozen=True)
class Twins:
    ours: MultiwayTransformer
    theirs: nn.Module


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    theirs = torchscale_beit3(CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1 or parameter.shape[:2] == (1, 1):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    path: Path = tmp_path_factory.mktemp("released") / "backbone.pth"
    torch.save({"model": {f"beit3.{name}": value for name, value in theirs.state_dict().items()}}, path)
    return Twins(load_released(path).model, theirs)


def rows(kind: Kind, masks: bool) -> Rows:
    """Two rows: texts of 9 and 6 ids, padded to 11 with one pad in the middle of the second."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(2, 3, 96, 96, generator=generator) * 2 - 1
    ids = torch.randint(4, 1900, (2, 11), generator=generator)
    padding = torch.zeros(2, 11, dtype=torch.bool)
    padding[0, 9:] = padding[1, 6:] = padding[1, 2] = True
    image_mask = torch.rand(2, 36, generator=generator) < 0.4
    text_mask = (torch.rand(2, 11, generator=generator) < 0.5) & ~padding
    image, text = (pixels, image_mask if masks else None), (ids, padding, text_mask if masks else None)
    return Rows(
        pixels=image[0] if kind != "text" else None,
        image_mask=image[1] if kind != "text" else None,
        ids=text[0] if kind != "image" else None,
        padding_mask=text[1] if kind != "image" else None,
        text_mask=text[2] if kind != "image" else None,
    )


def ours(model: MultiwayTransformer, kind: Kind, given: Rows) -> Tensor:
    if kind == "image":
        return model.encode_image(given.pixels, given.image_mask)
    if kind == "text":
        return model.encode_text(given.ids, given.padding_mask, given.text_mask)
    return model.encode_pair(given.pixels, given.ids, given.padding_mask, given.image_mask, given.text_mask)


def theirs(model: nn.Module, given: Rows) -> Tensor:
    ids = given.ids
    if ids is not None and given.text_mask is not None:
        ids = ids.masked_fill(given.text_mask, CONFIG.mask_id)
    out = model(
        textual_tokens=ids,
        visual_tokens=given.pixels,
        text_padding_position=given.padding_mask,
        vision_masked_position=None if given.image_mask is None else given.image_mask.float(),
    )
    return out["encoder_out"]


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def weighed(features: Tensor) -> Tensor:
    """A loss that every feature has its own say in."""
    weights = torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(3))
    return (features * weights).sum()


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(float(value.norm()) for value in expected.values())
    released = to_released(CONFIG, found)
    for name, value in expected.items():
        other = released.pop(f"beit3.{name}", torch.zeros_like(value))
        assert (other - value).norm() <= 1e-4 * value.norm() + 1e-7 * largest, name
    assert not [name for name, value in released.items() if value.any()]


@pytest.mark.parametrize("masks", [False, True], ids=["seen", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_and_gradients_are_those_of_torchscale(twins: Twins, kind: Kind, masks: bool) -> None:
    given = rows(kind, masks)
    outs: dict[str, Tensor] = {}

    def run(name: str, features: Tensor) -> Tensor:
        outs[name] = features.detach()
        return weighed(features)

    found = gradients(twins.ours, lambda: run("ours", ours(twins.ours, kind, given)))
    expected = gradients(twins.theirs, lambda: run("theirs", theirs(twins.theirs, given)))
    assert (outs["ours"] - outs["theirs"]).abs().max() <= 2e-5
    assert_same_gradients(found, expected)


def test_one_pass_over_all_kinds_has_the_gradients_of_three_of_torchscale(twins: Twins) -> None:
    given = {kind: rows(kind, True) for kind in KINDS}

    def real(kind: Kind, features: Tensor) -> Tensor:
        """Features with those at pads taken out of the loss."""
        padding = given[kind].padding_mask
        if padding is None:
            return features
        seen = torch.zeros(2, features.shape[1] - padding.shape[1], dtype=torch.bool)
        return features.masked_fill(torch.cat([seen, padding], dim=1)[:, :, None], 0.0)

    together = twins.ours.encode(given)
    for kind in KINDS:
        apart = real(kind, theirs(twins.theirs, given[kind]))
        assert (together[kind] - apart).abs().max() <= 2e-5
    found = gradients(twins.ours, lambda: sum(weighed(out) for out in twins.ours.encode(given).values()))
    expected = gradients(
        twins.theirs, lambda: sum(weighed(real(kind, theirs(twins.theirs, given[kind]))) for kind in KINDS)
    )
    assert_same_gradients(found, expected)
