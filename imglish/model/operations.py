"""Matrix operations of a training step, counted from shapes alone.

    step_operations(config, Work(rows={"image": [197] * 8}, codes=624, words=0))

Multiplications and additions both count, forward and backward together (the gradient of a product takes two products of
its size). Only what the task cannot do without is counted: real tokens, no padding; heads, the last layer's output
matrix and its experts at masked positions alone; no activation that is computed twice. This is the numerator of MFU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imglish.model.config import ModelConfig
from imglish.records import Kind


@dataclass(frozen=True)
class Work:
    """Real tokens of every row by kind (of a pair those of image and text together), masked codes and words."""

    rows: Mapping[Kind, Sequence[int]]
    codes: int
    words: int

    @property
    def tokens(self) -> int:
        return sum(sum(lengths) for lengths in self.rows.values())


def step_operations(config: ModelConfig, work: Work) -> float:
    """Operations of forward and backward of a step, the same for both layouts (a token takes one way)."""
    D, F, L = config.width, config.ffn, config.layers
    masked = work.codes + work.words
    inner = D * D + 2 * D * F  # output matrix and expert
    layers = 6.0 * (work.tokens * (3 * L * D * D + (L - 1) * inner) + masked * inner)
    attention = 12.0 * D * L * sum(n * n for lengths in work.rows.values() for n in lengths)
    heads = 6.0 * D * (work.codes * config.codes + work.words * config.vocabulary)
    pictures = sum(len(work.rows.get(kind, ())) for kind in ("image", "pair"))
    patches = 4.0 * 3 * config.patch**2 * D * config.patches * pictures  # pixels want no gradient
    return layers + attention + heads + patches
