"""VQ-KD encoding written plainly in float64 from the published description, and files in the published layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image
from scipy.special import erf

from imglish.recipe import ViewConfig
from imglish.shards.views import draw_views, render

Array = NDArray[np.float64]


def photographs(count: int, size: int) -> NDArray[np.uint8]:
    """Crops of a real photograph (a portrait that matplotlib ships), uint8 [count, size, size, 3]."""
    path = Path(get_data_path(), "sample_data", "grace_hopper.jpg")
    whole = np.asarray(Image.open(path).convert("RGB"))
    ids = [bytes([n]) * 16 for n in range(count)]
    boxes = draw_views(ids, [(whole.shape[1], whole.shape[0])] * count, ViewConfig(count=1), seed=3)
    return np.stack([render(whole, box[0], size) for box in boxes])


def published(
    width: int = 64, depth: int = 2, decoder_depth: int = 1, codes: int = 32, dimension: int = 8, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random tensors under the names of a published file of these sizes, 14 x 14 positions, patches of 16."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.06) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    state: dict[str, torch.Tensor] = {}
    for name, channels, patch, blocks in (("encoder", 3, 16, depth), ("decoder", dimension, 1, decoder_depth)):
        state[f"{name}.cls_token"] = random(1, 1, width)
        state[f"{name}.pos_embed"] = random(1, 197, width, scale=0.3)
        state[f"{name}.patch_embed.proj.weight"] = random(width, channels, patch, patch)
        state[f"{name}.patch_embed.proj.bias"] = random(width)
        for block in range(blocks):
            for key, shape in {
                "attn.qkv.weight": (3 * width, width), "attn.q_bias": (width,), "attn.v_bias": (width,),
                "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
                "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
                "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            }.items():  # fmt: skip
                state[f"{name}.blocks.{block}.{key}"] = random(*shape)
            for norm in ("norm1", "norm2"):
                state[f"{name}.blocks.{block}.{norm}.weight"] = 1 + random(width)
                state[f"{name}.blocks.{block}.{norm}.bias"] = random(width)
        state[f"{name}.fc_norm.weight"], state[f"{name}.fc_norm.bias"] = 1 + random(width), random(width)
    for task, out in (("encode_task_layer", dimension), ("decode_task_layer", 512)):
        state[f"{task}.0.weight"], state[f"{task}.0.bias"] = random(width, width), random(width)
        state[f"{task}.2.weight"], state[f"{task}.2.bias"] = random(out, width, scale=0.3), random(out)
    book = torch.nn.functional.normalize(random(codes, dimension, scale=1.0), dim=1)
    state["quantize.embedding.weight"], state["quantize.embedding.embed_avg"] = book, book.clone()
    state["quantize.embedding.cluster_size"], state["quantize.cluster_size"] = torch.zeros(codes), torch.zeros(codes)
    state["quantize.embedding.initted"] = torch.ones(1)
    return state


def write_published(path: Path, state: Mapping[str, Any], top: str = "model") -> Path:
    """A file with the teacher's and scaling's tensors beside, as the published ones have them."""
    extra = {"teacher_model.visual.proj": torch.zeros(3, 3), "scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    torch.save({top: {**state, **extra}, "epoch": 99}, path)
    return path


def plain_distances(state: Mapping[str, torch.Tensor], images: NDArray[np.uint8]) -> Array:
    """Squared distance of every patch to every code, float64 [B, N, codes]."""
    t = {key: value.double().numpy() for key, value in state.items()}
    pixels = images.astype(np.float64) / 127.5 - 1.0
    weight = t["encoder.patch_embed.proj.weight"]
    width, patch = weight.shape[0], weight.shape[2]
    side = images.shape[1] // patch
    x = np.empty((len(images), side * side, width))
    for row in range(side):
        for column in range(side):
            part = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            x[:, row * side + column] = np.einsum("bijc,dcij->bd", part, weight, optimize=True)
    x += t["encoder.patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(t["encoder.cls_token"], len(x), axis=0), x], axis=1)
    x += _positions(t["encoder.pos_embed"][0], side)
    depth = sum(key.endswith("attn.q_bias") and key.startswith("encoder.") for key in t)
    for number in range(depth):
        prefix = f"encoder.blocks.{number}."
        b = {key.removeprefix(prefix): value for key, value in t.items() if key.startswith(prefix)}
        x = x + _attention(_norm(x, b["norm1.weight"], b["norm1.bias"]), b)
        h = _norm(x, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        x = x + (h * 0.5 * (1 + erf(h / math.sqrt(2)))) @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    x = _norm(x[:, 1:], t["encoder.fc_norm.weight"], t["encoder.fc_norm.bias"])
    z = np.tanh(x @ t["encode_task_layer.0.weight"].T + t["encode_task_layer.0.bias"])
    z = z @ t["encode_task_layer.2.weight"].T + t["encode_task_layer.2.bias"]
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    book = t["quantize.embedding.weight"]
    return np.asarray((z**2).sum(-1, keepdims=True) + (book**2).sum(-1) - 2 * z @ book.T)


def _norm(x: Array, weight: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-6) * weight + bias


def _attention(x: Array, b: Mapping[str, Array]) -> Array:
    B, S, D = x.shape
    heads = D // 64
    zeros = np.zeros(D)
    qkv = x @ b["attn.qkv.weight"].T + np.concatenate([b["attn.q_bias"], zeros, b["attn.v_bias"]])
    q, k, v = (part.reshape(B, S, heads, 64).transpose(0, 2, 1, 3) for part in np.split(qkv, 3, axis=2))
    scores = q @ k.transpose(0, 1, 3, 2) / 8.0
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(B, S, D) @ b["attn.proj.weight"].T + b["attn.proj.bias"]


def _positions(table: Array, side: int) -> Array:
    """Bicubic (a = -0.75) at scale (side + 0.1) / 14, as the published code resizes its table."""
    own = math.isqrt(len(table) - 1)
    if own == side:
        return table
    scale = (side + 0.1) / own
    matrix = np.zeros((side, own))
    for target in range(side):
        source = (target + 0.5) / scale - 0.5
        first = math.floor(source)
        for tap in range(first - 1, first + 3):
            distance = abs(source - tap)
            a = -0.75
            if distance <= 1:
                weight = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
            else:
                weight = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
            matrix[target, min(max(tap, 0), own - 1)] += weight
    grid = table[1:].reshape(own, own, -1)
    resized = np.einsum("ri,cj,ijd->rcd", matrix, matrix, grid, optimize=True)
    return np.concatenate([table[:1], resized.reshape(side * side, -1)])
