"""One layer of the shared layout: attention for all tokens, a feed-forward expert per way.

Tokens of a row are the image's first (cls, patches), then the text's. `split` says how many belong to the image:
all of them, none, or some in a pair. It is an argument of every call, never state of a module, so one model serves
the three kinds in any order.

Suffixes of tensors: B rows, S tokens of a row, D width, H heads, K channels of a head, N patches, T text ids, M masked
positions, P side of a patch in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from imglish.model.config import ModelConfig


class Attention(nn.Module):
    """Self-attention of all tokens of a row, one set of weights for all ways."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_BSD: Tensor, attend_B11S: Tensor | None) -> Tensor:
        """`attend_B11S` is True at tokens that may be looked at; None is all of them."""
        B, S, D = x_BSD.shape
        qkv = self.qkv(x_BSD).view(B, S, 3, self.heads, D // self.heads)
        q_BHSK, k_BHSK, v_BHSK = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHSK = attend(q_BHSK, k_BHSK, v_BHSK, attend_B11S)
        out: Tensor = self.out(mixed_BHSK.transpose(1, 2).reshape(B, S, D))
        return out


def attend(q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, attend_B11S: Tensor | None) -> Tensor:
    """Softmax attention with heads apart, [B, H, S, K].

    torch's fused kernel, except for bf16 on a CPU: there its backward is 4 times slower than three matrix products
    (64 rows of 64 tokens, 4 heads of 64: 48 ms against 11 ms on one core with AMX, torch 2.13).
    """
    if q_BHSK.device.type != "cpu" or q_BHSK.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=attend_B11S)
    scores_BHSS = (q_BHSK * q_BHSK.shape[-1] ** -0.5) @ k_BHSK.transpose(-1, -2)
    if attend_B11S is not None:
        scores_BHSS = scores_BHSS.masked_fill(~attend_B11S, -torch.inf)
    mixed_BHSK: Tensor = scores_BHSS.softmax(dim=-1, dtype=torch.bfloat16) @ v_BHSK
    return mixed_BHSK


class Expert(nn.Module):
    """One way's feed-forward network with its own pre-norm (norm per expert as in VLMo's code)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x_BSD))))
        return out


class Layer(nn.Module):
    """Pre-norm attention, then the expert of each token's way; `fused` layers send whole pairs through a third one."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.image = Expert(config)
        self.text = Expert(config)
        self.pair = Expert(config) if fused else None

    def forward(self, x_BSD: Tensor, split: int, attend_B11S: Tensor | None, keep_2B: Tensor | None) -> Tensor:
        """`keep_2B` scales the two branches of each row: 0 drops a branch (stochastic depth), None keeps all."""
        attended = self.attention(self.attention_norm(x_BSD), attend_B11S)
        x_BSD = x_BSD + (attended if keep_2B is None else keep_2B[0, :, None, None] * attended)
        routed = self._route(x_BSD, split)
        return x_BSD + (routed if keep_2B is None else keep_2B[1, :, None, None] * routed)

    def _route(self, x_BSD: Tensor, split: int) -> Tensor:
        if split == 0:
            out: Tensor = self.text(x_BSD)
        elif split == x_BSD.shape[1]:
            out = self.image(x_BSD)
        elif self.pair is not None:
            out = self.pair(x_BSD)
        else:
            out = torch.cat([self.image(x_BSD[:, :split]), self.text(x_BSD[:, split:])], dim=1)
        return out
