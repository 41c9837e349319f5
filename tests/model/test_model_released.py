"""Files in the released layout: names, shapes, counts, families, other image sizes, and what is refused."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imglish.errors import ModelError
from imglish.model import MultiwayTransformer, create, load_released, save_released
from imglish.model.config import ModelConfig, make_config
from imglish.model.released import Family, interpolate, released_shapes, task_shapes
from tests.model.torchscale_oracle import torchscale_beit3

FAMILIES: dict[Family, dict[str, bool]] = {
    "backbone": {},
    "pretraining": {"has_mim_head": True, "has_mlm_head": True},
    "retrieval": {},
    "imagenet": {"final_norm": False},
    "vqa": {"final_norm": False},
    "nlvr2": {},
    "captioning": {"has_mlm_head": True},
}
"""What of the model is in the files of a family."""


def config_of(preset: str, family: Family, image_size: int = 224) -> ModelConfig:
    parts = {"has_mim_head": False, "has_mlm_head": False, **FAMILIES[family]}
    return make_config(preset, layout="decoupled", image_size=image_size, **parts)


def millions(preset: str, family: Family, image_size: int = 224, vision: bool = False) -> float:
    """Parameters of a file, rounded as facts of the released files give them; `vision` counts that branch alone."""
    shapes = released_shapes(config_of(preset, family, image_size), family)
    seen = {k: s for k, s in shapes.items() if not vision or not (".B." in k or "text_embed" in k or "mask_token" in k)}
    return round(sum(math.prod(shape) for shape in seen.values()) / 1e6, 2)


@pytest.mark.parametrize(("preset", "tensors"), [("base", 491), ("large", 971)])
def test_names_and_shapes_are_those_of_torchscale(preset: str, tensors: int) -> None:
    with torch.device("meta"):
        theirs = torchscale_beit3(config_of(preset, "backbone")).state_dict()
    expected = {f"beit3.{name}": list(value.shape) for name, value in theirs.items()}
    assert released_shapes(config_of(preset, "backbone"), "backbone") == expected
    assert len(expected) == tensors
    assert len(released_shapes(config_of(preset, "pretraining"), "pretraining")) == tensors + 4


@pytest.mark.parametrize(
    ("family", "size", "vision", "base", "large"),
    [
        ("backbone", 224, False, 220.99, 672.70),
        ("pretraining", 224, False, 276.51, 746.71),
        ("retrieval", 224, False, 222.17, 674.80),
        ("imagenet", 224, True, 86.66, 304.57),
        ("vqa", 480, False, 228.11, 682.99),
        ("nlvr2", 224, False, 225.72, 681.11),
        ("captioning", 480, False, 270.75, 739.03),
    ],
)
def test_every_family_has_the_size_of_the_official_files(
    family: Family, size: int, vision: bool, base: float, large: float
) -> None:
    assert millions("base", family, size, vision) == base
    assert millions("large", family, size, vision) == large


def model_of(family: Family, image_size: int = 32) -> MultiwayTransformer:
    parts = {"has_mim_head": False, "has_mlm_head": False, **FAMILIES[family]}
    sizes = {"layers": 2, "width": 64, "ffn": 96, "heads": 1, "vocabulary": 300, "codes": 40, "max_text": 20}
    return create("tiny", "decoupled", image_size=image_size, **sizes, **parts)


def task_of(family: Family) -> dict[str, Tensor]:
    return {name: torch.rand(shape) for name, shape in task_shapes(family, 64).items()}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_file_of_every_family_comes_back_as_it_was(tmp_path: Path, family: Family) -> None:
    model, task = model_of(family), task_of(family)
    save_released(tmp_path / "first.pth", model, task)
    loaded = load_released(tmp_path / "first.pth")
    assert loaded.family == family
    assert loaded.model.config.final_norm is FAMILIES[family].get("final_norm", True)
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in model.state_dict().items())
    save_released(tmp_path / "second.pth", loaded.model, loaded.task)
    first, second = (torch.load(tmp_path / f"{n}.pth", weights_only=True)["model"] for n in ("first", "second"))
    assert first.keys() == second.keys() == released_shapes(model.config, family).keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("key", ["model", "module"])
def test_both_outer_keys_are_read_and_half_precision_becomes_single(tmp_path: Path, key: str) -> None:
    save_released(tmp_path / "a.pth", model_of("pretraining"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    torch.save({key: {name: value.half() for name, value in state.items()}}, tmp_path / "b.pth")
    model = load_released(tmp_path / "b.pth").model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_positions_for_another_size_are_those_of_the_official_loader(tmp_path: Path) -> None:
    with torch.no_grad():
        model = create("base", "decoupled", layers=1, vocabulary=300, codes=40)
    save_released(tmp_path / "224.pth", model)
    large = load_released(tmp_path / "224.pth", image_size=384).model
    table, before = large.image_embedding.positions, model.image_embedding.positions
    assert table.shape == (579, 768)
    assert torch.equal(table[:3], before[:3])
    square = before[3:].reshape(-1, 14, 14, 768).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, size=(24, 24), mode="bicubic", align_corners=False)
    assert torch.equal(table[3:], resized.permute(0, 2, 3, 1).flatten(1, 2)[0])
    assert torch.equal(large.text_embedding.positions, model.text_embedding.positions)
    assert large.encode_image(torch.zeros(1, 3, 384, 384)).shape == (1, 577, 768)
    save_released(tmp_path / "384.pth", large)
    again = load_released(tmp_path / "384.pth").model
    assert again.config.image_size == 384
    assert torch.equal(again.image_embedding.positions, table)
    assert torch.equal(interpolate(table, 24), table)


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


def put(name: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("beit3.encoder.layers.1.ffn.B.fc2.bias"), "1 missing: beit3.encoder.layers.1.ffn.B.fc2.bias"),
        (drop("mlm_head.bias"), r"1 missing: mlm_head\.bias"),
        (drop("beit3.text_embed.weight"), r"1 missing: beit3\.text_embed\.weight"),
        (put("surprise", 2), "1 extra: surprise"),
        (put("beit3.encoder.layers.0.ffn.A.fc2.weight", 64, 97), r"fc2\.weight is \[64, 97\], not \[64, 96\]"),
        (put("beit3.text_embed.weight", 300, 128), r"\d+ misshapen: .* is \[1024?, 64\]|misshapen"),
        (put("beit3.text_embed.weight", 300, 65), "width 65 is not a multiple of 64"),
        (put("beit3.encoder.embed_positions.A.weight", 8, 64), r"positions?.*A\.weight is \[8, 64\], not \[7, 64\]"),
        (put("beit3.vision_embed.proj.weight", 64), "must have 4 dimensions"),
        (lambda state: state.__setitem__("mlm_head.bias", "text"), "'mlm_head.bias' is no tensor of floats"),
        (lambda state: state.__setitem__("mlm_head.bias", torch.zeros(300, dtype=torch.int64)), "no tensor of floats"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_key(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    save_released(tmp_path / "a.pth", model_of("pretraining"))
    state = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    change(state)
    torch.save({"model": state}, tmp_path / "b.pth")
    with pytest.raises(ModelError, match=words) as caught:
        load_released(tmp_path / "b.pth")
    assert str(tmp_path / "b.pth") in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3, 1000, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    save_released(tmp_path / "a.pth", model_of("pretraining"))
    payload = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(payload[: int(kept * len(payload) if isinstance(kept, float) else kept)])
    with pytest.raises(ModelError, match=r"b\.pth: (no checkpoint|refused)"):
        load_released(tmp_path / "b.pth")


class Trap:
    """Unpickled by an unguarded reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, write: str) -> None:
    content, path = {"model": {"beit3.text_embed.weight": Trap(tmp_path / "sprung")}}, tmp_path / "trap.pth"
    if write == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ModelError, match=r"trap\.pth: refused"):
        load_released(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()  # so the trap works


@pytest.mark.parametrize("content", [[], {"state_dict": {}}, {"model": 3}])
def test_another_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="it is no released checkpoint"):
        load_released(tmp_path / "a.pth")


def test_a_missing_file_and_a_shared_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_released(tmp_path / "a.pth")
    with pytest.raises(ModelError, match="this model has the shared one"):
        save_released(tmp_path / "a.pth", create("tiny", vocabulary=50, codes=8, image_size=16))
    with pytest.raises(ModelError, match=r"1 missing: .*logit_scale"):
        task = {name: value for name, value in task_of("retrieval").items() if name != "logit_scale"}
        save_released(tmp_path / "a.pth", model_of("retrieval"), task)
    assert not list(tmp_path.iterdir())
