"""The codebook of a VQ-KD run: unit vectors that follow the patches by a moving average (BEiT v2).

    codebook = MovingCodebook(codes=8192, dimension=32, decay=0.99, revive_after=100)
    codebook.start(vectors, iterations=10, seed=0)         cosine k-means on the first batch
    codes = nearest(vectors, codebook.weight)
    codebook.update(vectors, codes, seed=0, step=1)

Each step blends a code with the mean direction of the patches that took it, and makes it a unit vector again; codes
that no patch took keep their place. One that is left out for `revive_after` steps in a row moves to a patch of the
batch: ours, in BEiT v2 a dead code stays dead.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from imglish.seeds import stream
from imglish.tokenize.vqkd_network import nearest


class MovingCodebook:
    """`weight` [M, Z]; `idle` [M] counts steps since a code was last taken; `usage` [M] averages patches per step."""

    def __init__(self, codes: int, dimension: int, decay: float, revive_after: int, device: torch.device) -> None:
        self.decay, self.revive_after = decay, revive_after
        self.weight = torch.zeros(codes, dimension, device=device)
        self.idle = torch.zeros(codes, dtype=torch.int64, device=device)
        self.usage = torch.zeros(codes, device=device)
        self.started = torch.zeros(1, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"weight": self.weight, "idle": self.idle, "usage": self.usage, "started": self.started}

    def start(self, vectors: Tensor, iterations: int, seed: int) -> None:
        """Begin with cosine k-means over unit vectors [B, N, Z]."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        self.weight.copy_(flat[self._picks(len(flat), len(self.weight), seed, "start")])
        for _ in range(iterations):
            means, counts = self._means(flat, nearest(flat, self.weight))
            self.weight.copy_(torch.where(counts[:, None] > 0, means, self.weight))
        self.started.fill_(1.0)

    def update(self, vectors: Tensor, codes: Tensor, seed: int, step: int) -> int:
        """Follow one batch: unit vectors [B, N, Z] and their codes [B, N]. Returns the number of revived codes."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        means, counts = self._means(flat, codes.reshape(-1))
        taken = counts > 0
        blended = functional.normalize(self.decay * self.weight + (1 - self.decay) * means, dim=1)
        self.weight.copy_(torch.where(taken[:, None], blended, self.weight))
        self.usage.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.idle.add_(1).masked_fill_(taken, 0)
        dead = torch.nonzero(self.idle >= self.revive_after).flatten()
        if len(dead):
            self.weight[dead] = flat[self._picks(len(flat), len(dead), seed, f"revive {step}")]
            self.idle[dead] = 0
        return len(dead)

    def _means(self, flat: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean direction of the vectors of each code [M, Z], and how many there are [M]."""
        counts = torch.bincount(codes, minlength=len(self.weight)).float()
        sums = torch.zeros_like(self.weight).index_add_(0, codes, flat)
        return functional.normalize(sums, dim=1), counts

    def _picks(self, available: int, wanted: int, seed: int, purpose: str) -> Tensor:
        """`wanted` numbers below `available`, different ones as far as there are enough."""
        order = stream(seed, "vqkd codebook", purpose).permutation(available)
        return torch.from_numpy(np.resize(order, wanted)).to(self.weight.device)
