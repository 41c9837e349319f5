"""Stochastic depth as numbers, so that it has no state to save.

    keep = keep_scales(rate=0.1, layers=12, numbers=np.arange(8), seed=0, step=7, kind="pair")     # float32 [12, 2, 8]

Each row drops each residual branch with a probability that rises linearly from 0 in the first layer to `rate` in the
last (released code); kept branches are scaled up so that the mean stays. Draws depend on (seed, step, kind) and the
row's number in the global batch only, so they are the same for any number of ranks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imglish.records import Kind
from imglish.seeds import draw, stream, uniform


def keep_scales(rate: float, layers: int, numbers: NDArray[np.int64], seed: int, step: int, kind: Kind) -> Tensor:
    """What a kind's `imglish.model.Rows` take as `keep`, for rows with these numbers."""
    rates = np.linspace(0.0, rate, layers)[:, None, None]
    keys = stream(seed, "drop_path", step, kind).keys(numbers)
    draws = uniform(draw(keys[None, :], np.arange(layers * 2)[:, None])).reshape(layers, 2, len(numbers))
    return torch.from_numpy(np.where(draws >= rates, 1 / (1 - rates), 0.0).astype(np.float32))
