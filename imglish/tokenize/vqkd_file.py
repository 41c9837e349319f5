"""Files of VQ-KD tokenizers: the published `.pth` layout, and ours, which has the same names.

    tensors, shape = read_published("vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth")
    data = write_vqkd(tensors, shape, size=224, precision="fp32")      a safetensors file
    tensors, shape, facts = parse_vqkd(data, "models/41aa….safetensors")

A published file is a dictionary with the key `model` or `state_dict`. Parameters of the loss, the teacher and its
scaling are dropped, as is the quantizer's bookkeeping, which encoding does not need; everything else must be there
with its shape, finite, and nothing more. Only `torch.load(weights_only=True)` opens such a file: it runs no code.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from imglish.digests import canonical_json
from imglish.errors import TokenizerError
from imglish.tokenize.codebook import safetensors_facts
from imglish.tokenize.visual import VQKD_FORMAT as FORMAT
from imglish.tokenize.vqkd_network import HEAD, VqkdShape

MAX_CODES = 1 << 16
"""Codes travel as u16."""
_DROPPED = ("loss", "teacher", "scaling")
_BOOKKEEPING = (
    "quantize.cluster_size",
    "quantize.embedding.cluster_size",
    "quantize.embedding.embed_avg",
    "quantize.embedding.initted",
)

Tensors = dict[str, NDArray[np.float32]]


def read_published(path: str | Path) -> tuple[Tensors, VqkdShape]:
    """Tensors and sizes of a `.pth` file in the published layout.

    Raises TokenizerError that names the file and the key: not such a file, cut off, a key too few or too many, another
    shape, a value that is not finite.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TokenizerError(f"tokenize.visual.weights: no file at {path}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, BadZipFile, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else "it ends early"
        raise TokenizerError(
            f"{path}: cannot be read as a VQ-KD file ({why}); it is cut off or no such file, download it again"
        ) from None
    state = found.get("model", found.get("state_dict")) if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping):
        raise TokenizerError(f"{path}: has neither the key 'model' nor 'state_dict', so it is no VQ-KD file")
    kept = {str(key): value for key, value in state.items() if not str(key).startswith(_DROPPED)}
    odd = next((key for key, value in kept.items() if not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise TokenizerError(f"{path}: {odd} is no tensor, so it is no VQ-KD file")
    return _checked({key: value.float().numpy() for key, value in kept.items()}, str(path))


def write_vqkd(tensors: Mapping[str, NDArray[np.float32]], shape: VqkdShape, size: int, precision: str) -> bytes:
    """A safetensors file of encoder, codebook and decoder; equal tokenizers give equal bytes."""
    wanted = sorted({**shape.encoder_keys(), **shape.decoder_keys()})
    facts = {"format": FORMAT, "size": size, "precision": precision}
    # One metadata entry only: safetensors writes several in the random order of a hash map.
    kept = {key: np.ascontiguousarray(tensors[key], np.float32) for key in wanted}
    return bytes(save(kept, {"imglish": canonical_json(facts).decode()}))


def parse_vqkd(data: bytes, origin: str) -> tuple[Tensors, VqkdShape, dict[str, Any]]:
    """Tensors, sizes and facts {format, size, precision} of the bytes of one of our files; TokenizerError as above."""
    facts = safetensors_facts(data, origin)
    if facts["format"] != FORMAT:
        raise TokenizerError(f"{origin}: its format is {facts['format']}, not {FORMAT}")
    try:
        found = load(data)
    except (SafetensorError, ValueError) as error:
        raise TokenizerError(f"{origin}: not a whole {FORMAT} file ({error}); fit it again") from None
    tensors, shape = _checked(found, origin)
    return tensors, shape, facts


def _checked(tensors: Mapping[str, Any], origin: str) -> tuple[Tensors, VqkdShape]:
    shape = _shape_of(tensors, origin)
    wanted = {**shape.encoder_keys(), **shape.decoder_keys()}
    missing = [key for key in wanted if key not in tensors]
    more = [key for key in tensors if key not in wanted and key not in _BOOKKEEPING]
    if missing or more:
        said = [f"lacks {_some(missing)}"] if missing else []
        said += [f"has {_some(more)}, which a VQ-KD network does not"] if more else []
        raise TokenizerError(f"{origin}: {' and '.join(said)}; give a whole file of the published layout")
    for key, expected in wanted.items():
        value = tensors[key]
        if tuple(value.shape) != expected:
            raise TokenizerError(
                f"{origin}: {key} is {list(value.shape)}, but the other sizes ask for {list(expected)}"
            )
        if not np.isfinite(value).all():
            raise TokenizerError(f"{origin}: {key} has values that are not finite; download or train it again")
    return {key: np.asarray(tensors[key], np.float32) for key in wanted}, shape


def _shape_of(tensors: Mapping[str, Any], origin: str) -> VqkdShape:
    """Sizes, from the tensors that show them."""

    def dimensions(key: str, count: int) -> tuple[int, ...]:
        if key not in tensors:
            raise TokenizerError(f"{origin}: lacks {key}, so it is no VQ-KD file or a part of one")
        found = tuple(tensors[key].shape)
        if len(found) != count:
            raise TokenizerError(f"{origin}: {key} is {list(found)}, not of {count} dimensions")
        return found

    codes, dimension = dimensions("quantize.embedding.weight", 2)
    width, _, patch, _ = dimensions("encoder.patch_embed.proj.weight", 4)
    positions = dimensions("encoder.pos_embed", 3)[1] - 1
    grid = math.isqrt(max(0, positions))
    if grid * grid != positions:
        raise TokenizerError(f"{origin}: encoder.pos_embed has {positions} patches, which is no square grid")
    if codes > MAX_CODES:
        raise TokenizerError(f"{origin}: {codes} codes, but codes are u16: at most {MAX_CODES}")
    if width % HEAD:
        raise TokenizerError(f"{origin}: width {width} is no multiple of {HEAD}, the channels of a head")
    decoder = {}
    if any(key.startswith(("decoder.", "decode_task_layer.")) for key in tensors):
        decoder = {
            "decoder_width": dimensions("decoder.cls_token", 3)[2],
            "decoder_depth": _depth(tensors, "decoder"),
            "features": dimensions("decode_task_layer.2.weight", 2)[0],
        }
    return VqkdShape(patch, width, _depth(tensors, "encoder"), codes, dimension, grid, **decoder)


def _depth(tensors: Mapping[str, Any], trunk: str) -> int:
    numbers = [
        int(key.split(".")[2]) for key in tensors if key.startswith(f"{trunk}.blocks.") and key.split(".")[2].isdigit()
    ]
    return max(numbers, default=0) + 1


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
