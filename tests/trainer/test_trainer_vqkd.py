"""Training a VQ-KD tokenizer: resume, codebook, teachers, the file it makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from imglish.errors import TrainError
from imglish.recipe import StoredConfig, VqkdConfig
from imglish.shards.images import StoredImage, store_image
from imglish.tokenize.visual import read_visual
from imglish.tokenize.vqkd_network import nearest
from imglish.trainer.metrics import read_metrics
from imglish.trainer.vqkd.codebook import MovingCodebook
from imglish.trainer.vqkd.teachers import open_teacher
from imglish.trainer.vqkd.train import Fitted, train_vqkd
from tests.pipeline.corpora import drawing


def dino_state(width: int = 64, layers: int = 2, grid: int = 14) -> dict[str, torch.Tensor]:
    """Random weights under DINO's names."""
    generator = torch.Generator().manual_seed(5)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for n in range(layers):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width)}
        for name, shape in {**linear, "mlp.fc2": (width, 4 * width)}.items():
            shapes |= {f"blocks.{n}.{name}.weight": shape, f"blocks.{n}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{n}.{name}.weight": (width,), f"blocks.{n}.{name}.bias": (width,)}
    return {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.save(dino_state(), tmp_path / "teacher.pth")
    return tmp_path


def config(**train: Any) -> VqkdConfig:
    settings: dict[str, Any] = {
        "teacher": "dino", "teacher_weights": "teacher.pth", "patch": 8, "width": 64, "depth": 1, "decoder_depth": 1,
        "dimension": 4, "codes": 16, "batch": 8, "views": 2, "epochs": 3, "warmup_epochs": 1, "learning_rate": 2e-3,
        "revive_after": 3, "threads": 1, "min_scale": 0.5,
    }  # fmt: skip
    return VqkdConfig(type="vqkd", size=32, train={**settings, **train})  # type: ignore[arg-type]


def images(first: int, count: int) -> Iterator[tuple[bytes, StoredImage]]:
    for number in range(first, first + count):
        yield number.to_bytes(16, "big"), store_image(drawing(number), StoredConfig(short_side=48))


def fit(root: Path, folder: str, **train: Any) -> Fitted:
    return train_vqkd(images(0, 20), images(50, 4), config(**train), 0, str(root), root / folder)


def test_a_run_stopped_after_every_step_makes_the_same_tokenizer_as_an_unbroken_one(root: Path) -> None:
    whole = fit(root, "whole")
    for step in range(1, 7):
        broken = fit(root, "broken", max_minutes=0.0)
        assert (broken.steps, broken.finished) == (step, step == 6)
    assert broken.model == whole.model
    assert broken.scores == whole.scores

    def losses(folder: str) -> list[float]:
        return [record["cosine"] for record in read_metrics(root / folder / "metrics.jsonl")]

    assert losses("broken") == losses("whole")
    assert len(losses("whole")) == 6


def test_the_teachers_features_are_kept_on_disk_when_they_are_small_enough(root: Path) -> None:
    kept, computed = fit(root, "kept"), fit(root, "computed", remember_gigabytes=0.0)
    assert (root / "kept" / "features").exists()
    assert not (root / "computed" / "features").exists()
    assert abs(kept.scores["cosine"] - computed.scores["cosine"]) < 0.01


def test_the_trained_file_loads_like_the_published_tokenizer(root: Path) -> None:
    fitted = fit(root, "run")
    tokenizer = read_visual(fitted.model, "trained")
    assert (tokenizer.grid, tokenizer.codes, tokenizer.patch, tokenizer.size) == ((4, 4), 16, 8, 32)
    codes = tokenizer.encode(np.zeros((2, 32, 32, 3), np.uint8))
    assert codes.shape == (2, 16)
    assert 0 < fitted.scores["codes_used"] <= 1
    assert fitted.scores["images"] == 4


def test_training_brings_the_decoder_nearer_to_the_teacher(root: Path) -> None:
    first = fit(root, "short", max_minutes=0.0)
    longer = fit(root, "long", epochs=30)
    assert longer.scores["cosine"] > first.scores["cosine"] + 0.1


def test_a_run_with_other_settings_does_not_go_on_from_a_checkpoint(root: Path) -> None:
    fit(root, "run", max_minutes=0.0)
    with pytest.raises(TrainError, match=r"visual\.train\.decay was 0\.99 and is 0\.5"):
        fit(root, "run", decay=0.5)


def test_too_few_images_and_missing_teachers_are_said_so(root: Path) -> None:
    with pytest.raises(TrainError, match="20 images to train a tokenizer on, but a batch has 64"):
        fit(root, "few", batch=64)
    with pytest.raises(TrainError, match=r"no teacher weights at .*other\.pth"):
        fit(root, "lost", teacher_weights="other.pth")
    with pytest.raises(TrainError, match="'resnet': use clip, dino, efficientnet-lite0"):
        open_teacher("resnet", None)
    with pytest.raises(TrainError, match=r"clip needs tokenize\.visual\.train\.teacher_weights"):
        open_teacher("clip", None)
    with pytest.raises(TrainError, match=r"lacks 'conv1\.weight', so it is no state dict of a clip ViT"):
        open_teacher("clip", root / "teacher.pth")


def test_the_codebook_follows_the_mean_direction_of_its_patches() -> None:
    book = MovingCodebook(3, 2, decay=0.5, revive_after=2, device=torch.device("cpu"))
    book.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    vectors = functional.normalize(torch.tensor([[[1.0, 0.2], [1.0, -0.1], [0.1, 1.0]]]), dim=-1)
    codes = nearest(vectors, book.weight)
    assert codes.tolist() == [[0, 0, 1]]
    mean = functional.normalize(vectors[0, :2].mean(dim=0), dim=0)
    assert book.update(vectors, codes, seed=0, step=0) == 0
    assert torch.allclose(book.weight[0], functional.normalize(0.5 * torch.tensor([1.0, 0.0]) + 0.5 * mean, dim=0))
    assert book.weight[2].tolist() == [-1.0, 0.0], "a code without patches keeps its place"
    assert book.update(vectors, codes, seed=0, step=1) == 1
    assert any(torch.equal(book.weight[2], vector) for vector in vectors[0]), "until it was left out long enough"


def test_kmeans_starts_the_codebook_in_the_clusters_of_the_first_batch() -> None:
    centres = functional.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    noise = 0.02 * torch.randn(400, 6, generator=torch.Generator().manual_seed(2))
    vectors = functional.normalize(centres.repeat(50, 1) + noise, dim=1)[None]
    book = MovingCodebook(24, 6, decay=0.9, revive_after=9, device=torch.device("cpu"))
    book.start(vectors, iterations=10, seed=0)
    assert (vectors[0] @ book.weight.t()).max(dim=1).values.min() > 0.95
    assert torch.allclose(book.weight.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("grid", [14, 4])
def test_vit_teachers_equal_torchs_own_layers(root: Path, grid: int) -> None:
    """CLIP's names come from torch's MultiheadAttention; DINO's are renamed to it here."""
    state = dino_state()
    teacher = open_teacher("dino", root / "teacher.pth")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 16 * grid, 16 * grid, 3), dtype=np.uint8))
    found = teacher(pixels, grid)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    x = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)
    x = torch.cat([state["cls_token"].expand(2, -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    table = state["pos_embed"]
    if grid != 14:
        map_ = table[:, 1:].reshape(1, 14, 14, 64).permute(0, 3, 1, 2)
        small = functional.interpolate(map_, size=(grid, grid), mode="bicubic")
        table = torch.cat([table[:, :1], small.flatten(2).transpose(1, 2)], dim=1)
    x = x + table
    for n in range(2):
        b = {key.removeprefix(f"blocks.{n}."): v for key, v in state.items() if key.startswith(f"blocks.{n}.")}
        attention = nn.MultiheadAttention(64, 1, batch_first=True)
        names = {"in_proj_weight": "attn.qkv.weight", "in_proj_bias": "attn.qkv.bias"}
        names |= {"out_proj.weight": "attn.proj.weight", "out_proj.bias": "attn.proj.bias"}
        attention.load_state_dict({mine: b[theirs] for mine, theirs in names.items()})
        h = functional.layer_norm(x, (64,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        x = x + attention(h, h, h, need_weights=False)[0]
        h = functional.layer_norm(x, (64,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        h = functional.gelu(functional.linear(h, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + functional.linear(h, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    x = functional.layer_norm(x, (64,), state["norm.weight"], state["norm.bias"], 1e-6)
    assert found.shape == (2, grid * grid, 64)
    assert torch.allclose(found, x[:, 1:], atol=1e-4)


def test_clip_weights_are_read_by_their_published_names(tmp_path: Path) -> None:
    dino = dino_state()
    clip = {"visual.conv1.weight": dino["patch_embed.proj.weight"], "visual.class_embedding": dino["cls_token"][0, 0]}
    clip |= {"visual.positional_embedding": dino["pos_embed"][0], "visual.proj": torch.eye(64)[:, :32]}
    for leaf in ("weight", "bias"):
        clip |= {f"visual.ln_pre.{leaf}": dino[f"norm.{leaf}"], f"visual.ln_post.{leaf}": dino[f"norm.{leaf}"]}
        for n in range(2):
            names = {"norm1": "ln_1", "attn.proj": "attn.out_proj", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc"}
            for theirs, ours in {**names, "mlp.fc2": "mlp.c_proj"}.items():
                clip[f"visual.transformer.resblocks.{n}.{ours}.{leaf}"] = dino[f"blocks.{n}.{theirs}.{leaf}"]
            clip[f"visual.transformer.resblocks.{n}.attn.in_proj_{leaf}"] = dino[f"blocks.{n}.attn.qkv.{leaf}"]
    torch.save(clip | {"logit_scale": torch.ones(())}, tmp_path / "clip.pth")
    teacher = open_teacher("clip", tmp_path / "clip.pth")
    features = teacher(torch.zeros(1, 224, 224, 3, dtype=torch.uint8), 14)
    assert (teacher.features, tuple(features.shape)) == (32, (1, 196, 32))
    assert torch.isfinite(features).all()
