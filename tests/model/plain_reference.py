"""The shared layout written again, one token and one head at a time, from the paper's description; no code of ours.

Slow and plain on purpose: float64 numpy, parameters taken from a state dict by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def layer_norm(vector: Array, weights: Weights, name: str) -> Array:
    centred = vector - vector.mean()
    return centred / math.sqrt(float((centred**2).mean()) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(vector: Array, weights: Weights, name: str) -> Array:
    return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]


def gelu(vector: Array) -> Array:
    return np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in vector])


def expert(vector: Array, weights: Weights, name: str) -> Array:
    inner = linear(layer_norm(vector, weights, f"{name}.norm"), weights, f"{name}.fc1")
    return linear(gelu(inner), weights, f"{name}.fc2")


def attention(tokens: list[Array], visible: list[bool], heads: int, weights: Weights, name: str) -> list[Array]:
    width = len(tokens[0])
    size = width // heads
    normed = [layer_norm(token, weights, f"{name}.attention_norm") for token in tokens]
    joint = [linear(token, weights, f"{name}.attention.qkv") for token in normed]
    out = []
    for query in joint:
        mixed = np.zeros(width)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = [float(query[:width][part] @ key[width : 2 * width][part]) / math.sqrt(size) for key in joint]
            powers = [
                math.exp(score - max(scores)) if seen else 0.0 for score, seen in zip(scores, visible, strict=True)
            ]
            for power, key in zip(powers, joint, strict=True):
                mixed[part] += power / sum(powers) * key[2 * width :][part]
        out.append(linear(mixed, weights, f"{name}.attention.out"))
    return out


def image_tokens(pixels: Array, mask: list[bool], patch: int, weights: Weights) -> list[Array]:
    """cls and patches of one image [3, S, S], row by row."""
    name = "image_embedding"
    tokens = [weights[f"{name}.cls_token"][0, 0]]
    side = pixels.shape[1] // patch
    for number in range(side * side):
        top, left = number // side * patch, number % side * patch
        window = pixels[:, top : top + patch, left : left + patch]
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        seen = np.array([(kernel[channel] * window).sum() for channel in range(len(kernel))]) + bias
        tokens.append(weights[f"{name}.mask_token"][0, 0] if mask[number] else seen)
    return [token + weights[f"{name}.positions"][place] for place, token in enumerate(tokens)]


def text_tokens(ids: list[int], mask: list[bool], mask_id: int, weights: Weights) -> list[Array]:
    name = "text_embedding"
    shown = [mask_id if hidden else word for word, hidden in zip(ids, mask, strict=True)]
    return [weights[f"{name}.weight"][word] + weights[f"{name}.positions"][place] for place, word in enumerate(shown)]


def run(
    images: list[Array], texts: list[Array], visible: list[bool], config: dict[str, int], weights: Weights
) -> Array:
    """Features of one row: image tokens first, then text tokens; either list may be empty."""
    tokens = [*images, *texts]
    for number in range(config["layers"]):
        name = f"layers.{number}"
        attended = attention(tokens, visible, config["heads"], weights, name)
        tokens = [token + change for token, change in zip(tokens, attended, strict=True)]
        fused = images and texts and number >= config["layers"] - config["fused_layers"]
        ways = ["pair"] * len(tokens) if fused else ["image"] * len(images) + ["text"] * len(texts)
        tokens = [token + expert(token, weights, f"{name}.{way}") for token, way in zip(tokens, ways, strict=True)]
    return np.stack([layer_norm(token, weights, "norm") for token in tokens])
