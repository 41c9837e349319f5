"""What a model is: sizes, layout and the tables that tie it to its tokenizers.

    PRESETS["base"]                                        sizes of a preset
    make_config("base", vocabulary=8_000, image_size=128)  a whole ModelConfig, checked

Two layouts (they are different models): "shared" is the paper's, one self-attention for all ways and an expert for
pairs in the top layers; "decoupled" is that of the released checkpoints, everything per way, a second LayerNorm before
each output matrix, no expert for pairs.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from imglish.errors import ModelError

Layout = Literal["shared", "decoupled"]
Preset = Literal["tiny", "base", "large", "giant"]

RELEASED_VOCABULARY = 64_010
"""Rows of the released text embedding: 64,000 pieces, two special ids, eight dead rows."""
RELEASED_MASK_ID = 64_001
"""`<mask>` in the released vocabulary; in ours it is the last id."""


HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides on a model's parameters; ModelError when fields disagree."""

    layers: int
    width: int
    """Channels of a token, D."""
    ffn: int
    """Channels inside a feed-forward expert, F."""
    heads: int
    fused_layers: int
    """Top layers that have the vision-language expert for pairs (paper: 3)."""
    patch: int
    """Side of a patch, pixels."""
    image_size: int = 224
    """Side of the image, pixels."""
    vocabulary: int = RELEASED_VOCABULARY
    """Rows of the text embedding and of the MLM head."""
    mask_id: int = RELEASED_MASK_ID
    """Text id that stands at masked positions."""
    codes: int = 8192
    """Size of the visual codebook, and of the MIM head."""
    max_text: int = 1022
    """Longest text, ids (the released table has 1,024 rows, two of them never used)."""
    layout: Layout = "shared"
    final_norm: bool = True
    """A LayerNorm after the last layer; the released ImageNet and VQA models have none."""
    has_mim_head: bool = True
    """A Linear that predicts codes; of the released files only those of masked pretraining have it."""
    has_mlm_head: bool = True
    """A Linear that predicts words; the released files of masked pretraining and captioning have it."""
    init_range: float = 0.02
    """Parameters start uniform within plus and minus this (see `imglish.model.initialise`)."""
    pixel_mean: tuple[float, float, float] = HALF
    """Of pixels in [0, 1], per channel, as the model was trained."""
    pixel_deviation: tuple[float, float, float] = HALF
    norm_epsilon: float = 1e-5
    """Of every LayerNorm (released code)."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "ffn", "heads", "patch", "image_size", "vocabulary", "codes", "max_text"):
            if getattr(self, name) < 1:
                raise ModelError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ModelError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if self.image_size % self.patch:
            raise ModelError(f"model.image_size {self.image_size} is not a multiple of model.patch {self.patch}")
        if not 0 <= self.fused_layers <= self.layers:
            raise ModelError(f"model.fused_layers is {self.fused_layers}; the model has {self.layers} layers")
        if not 0 <= self.mask_id < self.vocabulary:
            raise ModelError(f"model.mask_id {self.mask_id} is outside the vocabulary of {self.vocabulary} ids")
        if self.layout not in ("shared", "decoupled"):
            raise ModelError(f"model.layout is {self.layout!r}; it is 'shared' (paper) or 'decoupled' (released)")
        if self.decoupled and self.fused_layers:
            raise ModelError(
                f"model.fused_layers is {self.fused_layers}; the decoupled layout has no expert for pairs, so it is 0"
            )

    @property
    def decoupled(self) -> bool:
        return self.layout == "decoupled"

    @property
    def first_position(self) -> int:
        """Row of a position table that the first token uses: 2 in the released layout, whose rows 0 and 1 are dead."""
        return 2 if self.decoupled else 0

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def patches(self) -> int:
        """Patches of an image, N."""
        return self.grid**2


PRESETS: dict[Preset, dict[str, Any]] = {
    "tiny": {
        "layers": 3,
        "width": 192,
        "ffn": 768,
        "heads": 6,
        "fused_layers": 1,
        "patch": 16,
        "init_range": 0.08,
    },
    "base": {"layers": 12, "width": 768, "ffn": 3072, "heads": 12, "fused_layers": 3, "patch": 16},
    "large": {"layers": 24, "width": 1024, "ffn": 4096, "heads": 16, "fused_layers": 3, "patch": 16},
    "giant": {"layers": 40, "width": 1408, "ffn": 6144, "heads": 16, "fused_layers": 3, "patch": 14},
}
"""Sizes by name. Millions of parameters with the released vocabulary and codebook:

| preset | layers, shared | decoupled | embeddings | heads | all, shared | decoupled | source of the sizes |
|---|---|---|---|---|---|---|---|
| tiny | 2.5 | 2.7 | 12.7 | 13.9 | 29.1 | 29.3 | ours, for minutes on two cores; the demo's vocabulary leaves 3.4 |
| base | 155.9 | 170.3 | 50.7 | 55.5 | 262.1 | 276.5 | released base; the paper has none |
| large | 529.0 | 605.1 | 67.6 | 74.0 | 670.6 | 746.7 | released large; the paper has none |
| giant | 1754.4 | 2021.2 | 92.8 | 101.7 | 1948.9 | 2215.7 | paper, Table 2 |

Memory: fp32 training takes 16 bytes a parameter (weights, gradients, two moments) beside activations: 0.5, 4.4, 12 and
31 to 36 GB. Cost: forward and backward take 2, 105, 368 and 1,601 G matrix operations for an image of 224 pixels (a
text of 196 ids 2, 104, 366, 1,213), heads left out, whatever the layout. "tiny" has few layers, many heads and a wide
first range because a masked model otherwise spends its first minutes learning to look at a word's neighbours.
"""


def make_config(preset: str, **fields: Any) -> ModelConfig:
    """The config of a preset with some fields changed; None leaves a field as it is.

    `mask_id` follows `vocabulary` unless given: the last id, or `RELEASED_MASK_ID` in the released vocabulary. The
    decoupled layout has no fused layers.
    ModelError for an unknown preset or field, with the nearest known one.
    """
    if preset not in PRESETS:
        raise ModelError(f"unknown preset {preset!r}; {_nearest(preset, list(PRESETS))}")
    check_fields(fields)
    given = {name: value for name, value in fields.items() if value is not None}
    values = PRESETS[preset] | ({"fused_layers": 0} if given.get("layout") == "decoupled" else {}) | given
    vocabulary = values.get("vocabulary", RELEASED_VOCABULARY)
    values.setdefault("mask_id", RELEASED_MASK_ID if vocabulary == RELEASED_VOCABULARY else vocabulary - 1)
    return ModelConfig(**values)


def check_fields(names: Iterable[str]) -> None:
    """ModelError for a name that is no field of ModelConfig, with the nearest that is."""
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in names:
        if name not in known:
            raise ModelError(f"unknown model field {name!r}; {_nearest(name, known)}")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
