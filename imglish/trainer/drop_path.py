"""Stochastic depth as numbers, so that it has no state to save.

    keep = keep_scales(rate=0.1, layers=12, rows=8, seed=0, step=7, kind="pair")     # float32 [12, 2, 8]

Each row drops each residual branch with a probability that rises linearly from 0 in the first layer to `rate` in the
last (released code); kept branches are scaled up so that the mean stays. Draws depend on (seed, step, kind) only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imglish.records import Kind
from imglish.seeds import stream, uniform


def keep_scales(rate: float, layers: int, rows: int, seed: int, step: int, kind: Kind) -> Tensor:
    """What a kind's `imglish.model.Rows` take as `keep`."""
    rates = np.linspace(0.0, rate, layers)[:, None, None]
    draws = uniform(stream(seed, "drop_path", step, kind).bits(layers * 2 * rows)).reshape(layers, 2, rows)
    return torch.from_numpy(np.where(draws >= rates, 1 / (1 - rates), 0.0).astype(np.float32))
