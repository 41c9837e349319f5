"""Our own files: safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imglish.errors import ModelError
from imglish.model import MultiwayTransformer, create
from imglish.model.config import Layout


def small(layout: Layout = "shared") -> MultiwayTransformer:
    return create("tiny", layout, vocabulary=50, codes=8, image_size=32, max_text=12, pixel_mean=(0.4, 0.5, 0.6))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("layout", ["shared", "decoupled"])
def test_a_saved_model_comes_back_with_config_and_every_bit(tmp_path: Path, layout: Layout) -> None:
    model = small(layout)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = MultiwayTransformer.from_pretrained(tmp_path)
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(again.encode_image(torch.ones(1, 3, 32, 32)), model.encode_image(torch.ones(1, 3, 32, 32)))


def test_parameters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["norm.weight"] = torch.zeros(7)
    state["spare"] = state.pop("norm.bias")
    save_file(state, tmp_path / "model.safetensors")
    message = r"model\.safetensors does not fit .* 1 missing: norm\.bias; 1 extra: spare; 1 misshapen: norm\.weight is"
    with pytest.raises(ModelError, match=message):
        MultiwayTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widht": 3}, "config.json: unknown model field 'widht'; did you mean 'width'"),
        ({"layers": "3"}, r"config\.json: layers: Input should be a valid integer"),
        ({"width": 100}, r"config\.json: model\.width 100 is not a multiple"),
        ({"layout": "other"}, r"config\.json: layout"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    small().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | change))
    with pytest.raises(ModelError, match=words):
        MultiwayTransformer.from_pretrained(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    payload = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(payload[:-9])
    with pytest.raises(ModelError, match="no safetensors file of a model"):
        MultiwayTransformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: no config of a model"):
        MultiwayTransformer.from_pretrained(tmp_path)
