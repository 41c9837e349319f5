"""The official checkpoints of BEiT-3: reading, writing, other image sizes.

    released = load_released("beit3_base_patch16_224.pth")                    # .family, .model, .task
    released = load_released("beit3_base_patch16_224.pth", image_size=384)    # positions interpolated
    save_released("mine.pth", model)

A file is a dict with key `model` (or `module`) of tensors by name, `beit3.` before those of the backbone. It is read
with `weights_only`, so a pickle that would run code is refused, and strictly: a missing, extra or misshapen key is
named. Families differ in what surrounds the backbone; what belongs to a downstream task alone is handed back as tensors
under its released names. Names, shapes and interpolation follow torchscale and the official fine-tuning code
(microsoft/unilm, `beit3/utils.py`).
"""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from imglish.errors import ModelError
from imglish.model.config import RELEASED_MASK_ID, ModelConfig
from imglish.model.hub import compare, fill_strictly
from imglish.model.transformer import MultiwayTransformer

Family = Literal["pretraining", "retrieval", "imagenet", "vqa", "nlvr2", "captioning", "backbone"]

HEAD_CHANNELS = 64
"""Channels of an attention head in every released model."""
KEPT_POSITIONS = 3
"""Rows of the image position table that are not patches: two dead ones and cls."""
IMAGENET_PIXELS = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_deviation": (0.229, 0.224, 0.225)}
"""What the ImageNet models were fine-tuned with; all others with 0.5 and 0.5."""
_WAYS = {"image": "A", "text": "B"}


@dataclass(frozen=True)
class Released:
    """A file's contents: the model, and the tensors of its task by their released names."""

    family: Family
    model: MultiwayTransformer
    task: dict[str, Tensor]


def task_shapes(family: Family, width: int) -> dict[str, list[int]]:
    """Names and shapes of what a family has beside backbone and pretraining heads."""
    D = width
    if family == "retrieval":
        return {"vision_head.weight": [D, D], "language_head.weight": [D, D], "logit_scale": []}
    linears = {
        "imagenet": {"head": [1000, D]},
        "vqa": {"pooler.dense": [D, D], "head.0": [2 * D, D], "head.3": [3129, 2 * D]},
        "nlvr2": {"head.dense1": [2 * D, 4 * D], "head.dense2": [2, 2 * D]},
    }.get(family, {})
    norms = {
        "imagenet": {"fc_norm": D},
        "vqa": {"pooler.norm": D, "head.1": 2 * D},
        "nlvr2": {"head.norm1": 4 * D, "head.norm2": 2 * D},
    }.get(family, {})
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes | {f"{name}.{leaf}": [channels] for name, channels in norms.items() for leaf in ("weight", "bias")}


def released_names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our parameters of the decoupled layout to the released ones; several are ours cut along the first dimension."""
    names: dict[str, tuple[str, ...]] = {
        "text_embedding.weight": ("beit3.text_embed.weight",),
        "text_embedding.positions": ("beit3.encoder.embed_positions.B.weight",),
        "image_embedding.positions": ("beit3.encoder.embed_positions.A.weight",),
        "image_embedding.cls_token": ("beit3.vision_embed.cls_token",),
        "image_embedding.mask_token": ("beit3.vision_embed.mask_token",),
    }
    modules: dict[str, tuple[str, ...]] = {"image_embedding": ("beit3.vision_embed.proj",)}
    for way, X in _WAYS.items():
        if config.final_norm:
            modules[f"norm.{way}"] = (f"beit3.encoder.layer_norm.{X}",)
        for number in range(config.layers):
            modules |= _layer_names(f"layers.{number}", f"beit3.encoder.layers.{number}", way, X)
    heads = {"mim_head": config.has_mim_head, "mlm_head": config.has_mlm_head}
    modules |= {head: (head,) for head, there in heads.items() if there}
    for ours, theirs in modules.items():
        names |= {f"{ours}.{leaf}": tuple(f"{name}.{leaf}" for name in theirs) for leaf in ("weight", "bias")}
    return names


def _layer_names(ours: str, theirs: str, way: str, X: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{ours}.attention_norm.{way}": (f"{theirs}.self_attn_layer_norm.{X}",),
        f"{ours}.attention.qkv.{way}": tuple(f"{theirs}.self_attn.{part}_proj.{X}" for part in "qkv"),
        f"{ours}.attention.inner_norm.{way}": (f"{theirs}.self_attn.inner_attn_ln.{X}",),
        f"{ours}.attention.out.{way}": (f"{theirs}.self_attn.out_proj.{X}",),
        f"{ours}.{way}.norm": (f"{theirs}.final_layer_norm.{X}",),
        f"{ours}.{way}.fc1": (f"{theirs}.ffn.{X}.fc1",),
        f"{ours}.{way}.inner_norm": (f"{theirs}.ffn.{X}.ffn_layernorm",),
        f"{ours}.{way}.fc2": (f"{theirs}.ffn.{X}.fc2",),
    }


def to_released(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors (parameters, or their gradients) under the released names; those that are missing stay so."""
    found: dict[str, Tensor] = {}
    for ours, theirs in released_names(config).items():
        if ours in state:
            found |= dict(zip(theirs, state[ours].chunk(len(theirs)), strict=True))
    return found


def from_released(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under released names as ours, float32."""
    return {
        ours: torch.cat([state[name] for name in theirs]).float() if len(theirs) > 1 else state[theirs[0]].float()
        for ours, theirs in released_names(config).items()
    }


def released_shapes(config: ModelConfig, family: Family) -> dict[str, list[int]]:
    """Names and shapes of a file of a family; ModelError unless the layout is decoupled."""
    if not config.decoupled:
        raise ModelError("released files have the decoupled layout; this model has the shared one")
    with torch.device("meta"):
        state = to_released(config, MultiwayTransformer(config).state_dict())
    return {name: list(value.shape) for name, value in state.items()} | task_shapes(family, config.width)


def load_released(path: str | Path, image_size: int | None = None) -> Released:
    """Read an official file, or one in its layout; `image_size` (pixels) interpolates positions to another grid.

    ModelError for what is no such file: damaged, with code in its pickle, keys missing, extra or misshapen.
    """
    state = _read(path)
    family = _family(state)
    config = _config(state, family, path)
    compare(released_shapes(config, family), state, path)
    task = {name: state[name] for name in task_shapes(family, config.width)}
    ours = from_released(config, state)
    if image_size is not None:
        config = ModelConfig(**{**vars(config), "image_size": image_size})
        ours["image_embedding.positions"] = interpolate(ours["image_embedding.positions"], config.grid)
    with torch.device("meta"):
        model = MultiwayTransformer(config)
    fill_strictly(model, ours, path)
    return Released(family, model, task)


def save_released(path: str | Path, model: MultiwayTransformer, task: Mapping[str, Tensor] | None = None) -> None:
    """Write a model, and the tensors of its task, in the official layout; ModelError when they do not fit."""
    if not model.config.decoupled:
        raise ModelError("released files have the decoupled layout; this model has the shared one")
    parameters = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    state = to_released(model.config, parameters) | dict(task or {})
    compare(released_shapes(model.config, _family(state)), state, path)
    part = f"{path}.part"
    torch.save({"model": {name: value.clone() for name, value in state.items()}}, part)
    os.replace(part, path)


def interpolate(positions: Tensor, grid: int) -> Tensor:
    """An image position table [3 + N, D] for another number of patches a side, as the official loader does: the first
    three rows kept, the rest resized bicubically without antialiasing."""
    kept, patches = positions[:KEPT_POSITIONS], positions[KEPT_POSITIONS:]
    side = math.isqrt(len(patches))
    if side == grid:
        return positions
    square = patches.T.reshape(1, -1, side, side)
    resized = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([kept, resized[0].flatten(1).T])


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path}: refused, its pickle is damaged or holds more than tensors ({reason})") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path}: no checkpoint, or a damaged one ({reason}); fetch it again") from None
    state = next((content[key] for key in ("model", "module") if isinstance(content, dict) and key in content), None)
    if not isinstance(state, dict):
        raise ModelError(f"{path}: has no dict under 'model' or 'module'; it is no released checkpoint")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            raise ModelError(f"{path}: {name!r} is no tensor of floats; it is no released checkpoint")
    return state


def _family(state: Mapping[str, Tensor]) -> Family:
    """By a key that no other family has."""
    marks: dict[str, Family] = {
        "vision_head.weight": "retrieval",
        "fc_norm.weight": "imagenet",
        "pooler.dense.weight": "vqa",
        "head.dense1.weight": "nlvr2",
        "mim_head.weight": "pretraining",
        "mlm_head.weight": "captioning",
    }
    return next((family for key, family in marks.items() if key in state), "backbone")


def _config(state: Mapping[str, Tensor], family: Family, path: str | Path) -> ModelConfig:
    """The sizes that a file's own tensors have."""

    def shape(name: str, dimensions: int) -> list[int]:
        if name not in state:
            raise ModelError(f"{path} does not fit the model: 1 missing: {name}")
        if state[name].ndim != dimensions:
            raise ModelError(f"{path}: {name} is {list(state[name].shape)}; it must have {dimensions} dimensions")
        return list(state[name].shape)

    vocabulary, width = shape("beit3.text_embed.weight", 2)
    patch = shape("beit3.vision_embed.proj.weight", 4)[2]
    grid = math.isqrt(max(0, shape("beit3.encoder.embed_positions.A.weight", 2)[0] - KEPT_POSITIONS))
    layers = {found[1] for name in state if (found := re.match(r"beit3\.encoder\.layers\.(\d+)\.", name))}
    extra: dict[str, Any] = {f"has_{head}": f"{head}.weight" in state for head in ("mim_head", "mlm_head")}
    if family == "imagenet":
        extra |= IMAGENET_PIXELS
    if width % HEAD_CHANNELS:
        raise ModelError(f"{path}: width {width} is not a multiple of {HEAD_CHANNELS}, the channels of a head")
    return ModelConfig(
        layers=len(layers),
        width=width,
        ffn=shape("beit3.encoder.layers.0.ffn.A.fc1.weight", 2)[0],
        heads=width // HEAD_CHANNELS,
        fused_layers=0,
        patch=patch,
        image_size=grid * patch,
        vocabulary=vocabulary,
        mask_id=min(RELEASED_MASK_ID, vocabulary - 1),
        codes=shape("mim_head.weight", 2)[0] if extra["has_mim_head"] else 8192,
        max_text=shape("beit3.encoder.embed_positions.B.weight", 2)[0] - 2,
        layout="decoupled",
        final_norm="beit3.encoder.layer_norm.A.weight" in state or family not in ("imagenet", "vqa"),
        **extra,
    )
