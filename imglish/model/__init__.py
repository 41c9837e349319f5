"""The Multiway Transformer of BEiT-3: images, texts and pairs through one model.

    model = create("tiny", vocabulary=8_000, codes=512, image_size=128, seed=0)
    features = model.encode_pair(normalise(images), ids, padding_mask)     # [B, 1 + N + T, D]

The model takes arrays only; `imglish.tokenize` turns images and strings into them. docs/model.md says more.
"""

from imglish.model.config import PRESETS, ModelConfig, Preset
from imglish.model.pixels import normalise
from imglish.model.pooling import pool
from imglish.model.released import Released, load_released, save_released
from imglish.model.route import Rows
from imglish.model.transformer import MultiwayTransformer, create

__all__ = [
    "PRESETS",
    "ModelConfig",
    "MultiwayTransformer",
    "Preset",
    "Released",
    "Rows",
    "create",
    "load_released",
    "normalise",
    "pool",
    "save_released",
]
