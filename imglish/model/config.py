"""What a model is: sizes, layout and the tables that tie it to its tokenizers.

    PRESETS["base"]                                        sizes of a preset
    make_config("base", vocabulary=8_000, image_size=128)  a whole ModelConfig, checked

Two layouts (they are different models): "shared" is the paper's, one self-attention for all ways; "decoupled" is
that of the released checkpoints, everything per way.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

from imglish.errors import ModelError

Layout = Literal["shared", "decoupled"]
Preset = Literal["tiny", "base", "large", "giant"]

RELEASED_VOCABULARY = 64_010
"""Rows of the released text embedding: 64,000 pieces, two special ids, eight dead rows."""
RELEASED_MASK_ID = 64_001
"""`<mask>` in the released vocabulary; in ours it is the last id."""


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
    init_range: float = 0.02
    """Parameters start uniform within plus and minus this (see `imglish.model.initialise`)."""
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
        if self.layout != "shared":
            raise ModelError(f"model.layout {self.layout!r} is not available; use 'shared', the paper's layout")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def patches(self) -> int:
        """Patches of an image, N."""
        return self.grid**2


PRESETS: dict[Preset, dict[str, Any]] = {
    # Ours, for two CPU cores: 6.5 M parameters without embeddings and heads. The range keeps giant's gain,
    # 0.02 x sqrt(1408 / 256).
    "tiny": {
        "layers": 4,
        "width": 256,
        "ffn": 1024,
        "heads": 4,
        "fused_layers": 2,
        "patch": 16,
        "init_range": 0.047,
    },
    # Sizes of the released base.
    "base": {"layers": 12, "width": 768, "ffn": 3072, "heads": 12, "fused_layers": 3, "patch": 16},
    # Sizes of the released large.
    "large": {"layers": 24, "width": 1024, "ffn": 4096, "heads": 16, "fused_layers": 3, "patch": 16},
    # Paper Table 2: 692 M vision + 692 M language + 52 M vision-language experts + 317 M attention.
    "giant": {"layers": 40, "width": 1408, "ffn": 6144, "heads": 16, "fused_layers": 3, "patch": 14},
}


def make_config(preset: str, **fields: Any) -> ModelConfig:
    """The config of a preset with some fields changed; None leaves a field as it is.

    `mask_id` follows `vocabulary` unless given: the last id, or `RELEASED_MASK_ID` in the released vocabulary.
    ModelError for an unknown preset or field, with the nearest known one.
    """
    if preset not in PRESETS:
        raise ModelError(f"unknown preset {preset!r}; {_nearest(preset, list(PRESETS))}")
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in fields:
        if name not in known:
            raise ModelError(f"unknown model field {name!r}; {_nearest(name, known)}")
    values = PRESETS[preset] | {name: value for name, value in fields.items() if value is not None}
    vocabulary = values.get("vocabulary", RELEASED_VOCABULARY)
    values.setdefault("mask_id", RELEASED_MASK_ID if vocabulary == RELEASED_VOCABULARY else vocabulary - 1)
    return ModelConfig(**values)


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
