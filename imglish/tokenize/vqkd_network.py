"""The network of a VQ-KD tokenizer (BEiT v2), with the parameter names of the published files.

    network = VqkdNetwork(shape_of(tensors))
    network.load_state_dict(tensors)
    vectors = network.vectors(normalise(images))          [B, N, 32], what the codebook is compared with
    codes = nearest(vectors, network.codebook)            [B, N]
    features = network.decode(network.codebook[codes])    [B, N, 512], the guess at the teacher's features

Encoder and decoder are plain pre-norm vision transformers: absolute positions, q and v biases but no k bias, one
LayerNorm over the patch tokens at the end, no relative positions, no LayerScale, epsilon 1e-6; heads have 64 channels.
On a grid that the positions were not trained for they are resized as the original code does it, bicubic with its
added 0.1 (16.1 / 14), which is not quite what a resize to 16 x 16 would give.

Suffixes of tensors: B rows, N patches, S tokens (cls and patches), D width, H heads, K channels of a head, Z dimension
of a code, M codes, F teacher features, G side of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 64
"""Channels of a head in every published file (768 / 12)."""
EPSILON = 1e-6
_MLP = 4


@dataclass(frozen=True)
class VqkdShape:
    """Sizes of a network; `grid` is the one that its position tables were made for."""

    patch: int
    width: int
    depth: int
    codes: int
    dimension: int
    grid: int
    decoder_width: int = 0
    decoder_depth: int = 0
    """0 when the file has no decoder, which encoding does not need."""
    features: int = 0
    """Length of a teacher's feature."""

    def encoder_keys(self) -> dict[str, tuple[int, ...]]:
        """Parameters that decide on codes, with their shapes."""
        keys = _trunk_keys("encoder", 3, self.patch, self.width, self.depth, self.grid)
        keys |= _head_keys("encode_task_layer", self.width, self.dimension)
        return keys | {"quantize.embedding.weight": (self.codes, self.dimension)}

    def decoder_keys(self) -> dict[str, tuple[int, ...]]:
        """Parameters of the decoder."""
        if not self.decoder_depth:
            return {}
        keys = _trunk_keys("decoder", self.dimension, 1, self.decoder_width, self.decoder_depth, self.grid)
        return keys | _head_keys("decode_task_layer", self.decoder_width, self.features)


class VqkdNetwork(nn.Module):
    """Encoder, codebook and, when its shape says so, decoder."""

    def __init__(self, shape: VqkdShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _Trunk(3, shape.patch, shape.width, shape.depth, shape.grid)
        self.encode_task_layer = _head(shape.width, shape.dimension)
        self.quantize = _Quantize(shape.codes, shape.dimension)
        self.decoder: _Trunk | None = None
        if shape.decoder_depth:
            self.decoder = _Trunk(shape.dimension, 1, shape.decoder_width, shape.decoder_depth, shape.grid)
            self.decode_task_layer = _head(shape.decoder_width, shape.features)

    @property
    def codebook(self) -> Tensor:
        """[M, Z]."""
        return self.quantize.embedding.weight

    def vectors(self, pixels_B3HW: Tensor) -> Tensor:
        """Normalised pixels to unit vectors, float32 [B, N, Z]; the head is float32 whatever the encoder's type."""
        patches_BND = self.encoder(pixels_B3HW.to(self.encoder.cls_token.dtype))
        with torch.autocast(pixels_B3HW.device.type, enabled=False):
            return functional.normalize(self.encode_task_layer(patches_BND.float()), dim=-1)

    def decode(self, vectors_BNZ: Tensor) -> Tensor:
        """Code vectors of a square grid to features, [B, N, F]; needs a decoder."""
        if self.decoder is None:
            raise ValueError("this network has no decoder")
        B, N, Z = vectors_BNZ.shape
        side = math.isqrt(N)
        map_BZGG = vectors_BNZ.transpose(1, 2).reshape(B, Z, side, side)
        features: Tensor = self.decode_task_layer(self.decoder(map_BZGG))
        return features


def nearest(vectors_BNZ: Tensor, codebook_MZ: Tensor) -> Tensor:
    """Code of each vector, int64 [B, N]: the smallest squared distance, ties to the lowest code.

    No state, no one-hot matrix (the original builds one of patches x codes even when it only encodes). `max` gives the
    first of equals as `argmax` does, in a third of its time on a CPU.
    """
    flat = vectors_BNZ.reshape(-1, vectors_BNZ.shape[-1])
    halves_M = codebook_MZ.square().sum(dim=1) / 2
    return torch.addmm(-halves_M, flat, codebook_MZ.t()).max(dim=1).indices.view(vectors_BNZ.shape[:-1])


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = functional.linear(x_BSD, self.qkv.weight, bias).view(B, S, 3, D // HEAD, HEAD)
        q_BHSK, k_BHSK, v_BHSK = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK)
        out: Tensor = self.proj(mixed_BHSK.transpose(1, 2).reshape(B, S, D))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP * width)
        self.fc2 = nn.Linear(_MLP * width, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x_BSD)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = _Mlp(width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attn(self.norm1(x_BSD))
        out: Tensor = x_BSD + self.mlp(self.norm2(x_BSD))
        return out


class _PatchEmbed(nn.Module):
    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)


class _Trunk(nn.Module):
    """A vision transformer over patches of a map; returns its patch tokens, [B, N, D]."""

    def __init__(self, channels: int, patch: int, width: int, depth: int, grid: int) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(channels, patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.blocks = nn.ModuleList([_Block(width) for _ in range(depth)])
        self.fc_norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        x_BDGG = self.patch_embed.proj(map_BCHW)
        side = x_BDGG.shape[-1]
        x_BND = x_BDGG.flatten(2).transpose(1, 2)
        x_BSD = torch.cat([self.cls_token.expand(len(x_BND), -1, -1), x_BND], dim=1) + self._positions(side)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        out: Tensor = self.fc_norm(x_BSD[:, 1:])
        return out

    def _positions(self, side: int) -> Tensor:
        """Position table for a grid of `side`, [1, 1 + side * side, D]."""
        own = math.isqrt(self.pos_embed.shape[1] - 1)
        if side == own:
            return self.pos_embed
        table_1DGG = self.pos_embed[:, 1:].float().reshape(1, own, own, -1).permute(0, 3, 1, 2)
        scale = (side + 0.1) / own
        resized = functional.interpolate(table_1DGG, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)], dim=1)


class _Embedding(nn.Module):
    def __init__(self, codes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(codes, dimension), requires_grad=False)


class _Quantize(nn.Module):
    def __init__(self, codes: int, dimension: int) -> None:
        super().__init__()
        self.embedding = _Embedding(codes, dimension)


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out))


def _trunk_keys(name: str, channels: int, patch: int, width: int, depth: int, grid: int) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
        "fc_norm.weight": (width,),
        "fc_norm.bias": (width,),
    }
    block: dict[str, tuple[int, ...]] = {
        **{f"{norm}.{leaf}": (width,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")},
        "attn.qkv.weight": (3 * width, width),
        "attn.q_bias": (width,),
        "attn.v_bias": (width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "mlp.fc1.weight": (_MLP * width, width),
        "mlp.fc1.bias": (_MLP * width,),
        "mlp.fc2.weight": (width, _MLP * width),
        "mlp.fc2.bias": (width,),
    }
    keys |= {f"blocks.{number}.{key}": shape for number in range(depth) for key, shape in block.items()}
    return {f"{name}.{key}": shape for key, shape in keys.items()}


def _head_keys(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.weight": (width, width),
        f"{name}.0.bias": (width,),
        f"{name}.2.weight": (out, width),
        f"{name}.2.bias": (out,),
    }
