from pathlib import Path

import pytest
import torch

from imglish.errors import ModelError, TrainError
from imglish.export import export
from imglish.model import MultiwayTransformer
from imglish.trainer import train
from tests.trainer.trainer_helpers import config, corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


def test_an_exported_model_is_the_trained_one_with_a_card(manifest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(manifest, config(steps=4, checkpoint_every=2, ema=0.9), 5, run)
    paths = export(run, tmp_path / "model")
    assert [path.name for path in paths] == ["model.safetensors", "config.json", "README.md"]
    newest = MultiwayTransformer.from_pretrained(tmp_path / "model").state_dict()
    export(run / "checkpoints" / "step-00000002", tmp_path / "before")
    before = MultiwayTransformer.from_pretrained(tmp_path / "before").state_dict()
    export(run, tmp_path / "average", average=True)
    average = MultiwayTransformer.from_pretrained(tmp_path / "average").state_dict()
    for other in (before, average):
        assert not torch.equal(newest["mlm_head.weight"], other["mlm_head.weight"])
    text = (tmp_path / "model" / "README.md").read_text()
    for part in ("small@1", "Step 4 of 4", "| drawn | not stated |", "1" * 64, "6 pair", "pair/words"):
        assert part in text, part
    for other in ("before", "average"):
        text = (tmp_path / other / "README.md").read_text()
        assert "these weights were not evaluated" in text and "pair/words" not in text


def test_a_decoupled_model_is_exported_under_the_official_names(manifest: Path, tmp_path: Path) -> None:
    settings = {"steps": 1, "model": {"preset": "tiny", "layout": "decoupled"}}
    train(manifest, config(**settings), 5, tmp_path / "run")
    *_, path = export(tmp_path / "run", tmp_path / "model", released=True)
    ours = MultiwayTransformer.from_pretrained(tmp_path / "model").state_dict()
    raw = torch.load(path, weights_only=True)["model"]
    assert torch.equal(raw["mlm_head.weight"], ours["mlm_head.weight"])
    assert "beit3.encoder.layers.0.self_attn.q_proj.A.weight" in raw


def test_what_cannot_be_exported_says_why(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="holds no checkpoint"):
        export(tmp_path, tmp_path / "model")
    train(manifest, config(steps=1), 5, tmp_path / "run")
    with pytest.raises(TrainError, match="step-00000009 holds no checkpoint"):
        export(tmp_path / "run" / "checkpoints" / "step-00000009", tmp_path / "model")
    with pytest.raises(TrainError, match="keeps no moving average"):
        export(tmp_path / "run", tmp_path / "model", average=True)
    with pytest.raises(ModelError, match="shared"):
        export(tmp_path / "run", tmp_path / "model", released=True)
    part = next((tmp_path / "run" / "checkpoints" / "step-00000001").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(TrainError, match="is torn"):
        export(tmp_path / "run", tmp_path / "model")
    train(manifest, config(steps=1), 5, tmp_path / "other")
    (tmp_path / "other" / "run.json").unlink()
    with pytest.raises(TrainError, match=r"run\.json cannot be read"):
        export(tmp_path / "other", tmp_path / "model")
