"""The VQ-KD tokenizer of BEiT v2: what the released BEiT-3 models were trained to predict.

    tokenizer = Vqkd.read(data, "models/41aa….safetensors")
    tokenizer.encode(images)              uint8 [B, 224, 224, 3] -> uint16 [B, 196]
    data = adopt("vqkd_encoder_base_….pth", size=256, precision="fp32")    our file of a published one, 16 x 16 codes

Only the encoder and the codebook work, and encoding is a pure argmin. Pixels are uint8 and always become
x / 127.5 - 1. The original code takes floats, guesses from the maximum of a *batch* whether they are in [0, 1] or
[0, 255], and multiplies by 255 in the first case: a batch of almost black images in [0, 255] gets other codes there
than the same images in brighter company. uint8 leaves nothing to guess.

fp32 is the published tokenizer. bf16 runs the encoder in bfloat16, the head and the comparison with the codebook in
float32; some codes differ, so its digest is another one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imglish.digests import json_digest
from imglish.errors import TokenizerError
from imglish.model import normalise
from imglish.tokenize.codebook import check_images
from imglish.tokenize.visual import VQKD_FORMAT as FORMAT
from imglish.tokenize.vqkd_file import Tensors, parse_vqkd, read_published, write_vqkd
from imglish.tokenize.vqkd_network import EPSILON, HEAD, VqkdNetwork, VqkdShape, nearest

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Vqkd:
    """The `VisualTokenizer` of the vqkd type.

    `size` is the side of a view in pixels; a grid other than the network's own gets resized positions. `run_on` says
    where and on how many threads it encodes.
    """

    def __init__(self, tensors: Tensors, shape: VqkdShape, size: int, precision: str, origin: str = "vqkd") -> None:
        if size % shape.patch or precision not in _TYPES:
            raise TokenizerError(
                f"{origin}: patches of {shape.patch} do not fill a view of {size} pixels at {precision}; set "
                f"tokenize.visual.size to a multiple of {shape.patch} and precision to fp32 or bf16"
            )
        self.size, self.patch, self.codes, self.precision = size, shape.patch, shape.codes, precision
        self.grid = (size // shape.patch, size // shape.patch)
        self.digest = _digest(tensors, shape, size, precision)
        self.network = VqkdNetwork(shape).eval().requires_grad_(False)
        self.network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
        self.network.encoder.to(_TYPES[precision])
        self.device = torch.device("cpu")
        self.threads: int | None = None

    @classmethod
    def read(cls, data: bytes, origin: str) -> Vqkd:
        """A tokenizer from the bytes of our file; TokenizerError when it is damaged or something else."""
        tensors, shape, facts = parse_vqkd(data, origin)
        try:
            return cls(tensors, shape, int(facts["size"]), str(facts["precision"]), origin)
        except KeyError as error:
            raise TokenizerError(f"{origin}: its header lacks {error}; fit it again") from None

    def run_on(self, device: str, threads: int | None) -> Vqkd:
        """Encode there from now on; TokenizerError when this machine has no such device."""
        if device == "cuda" and not torch.cuda.is_available():
            raise TokenizerError("tokenize.visual.device is cuda, but torch finds no GPU here; use cpu")
        self.device, self.threads = torch.device(device), threads
        self.network.to(self.device)
        return self

    @property
    def accelerator(self) -> str | None:
        """Name of the GPU it works on."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Codes of RGB images, uint8 [B, S, S, 3] -> uint16 [B, N], patches row by row; ties to the lowest code.

        The codes of an image may change in near-ties with its slot and the number of images, so batches have fixed
        shapes. Raises TokenizerError for another shape or dtype.
        """
        check_images(images, self.size)
        with _threads(self.threads), torch.inference_mode():
            pixels = normalise(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
            codes = nearest(self.network.vectors(pixels), self.network.codebook)
            return np.asarray(codes.cpu().numpy().astype(np.uint16))

    def features(self, codes: NDArray[np.uint16]) -> NDArray[np.float32] | None:
        """What the decoder makes of codes [B, N]: float32 [B, N, F], or None when the file has no decoder."""
        if self.network.decoder is None:
            return None
        with _threads(self.threads), torch.inference_mode():
            chosen = self.network.codebook[torch.from_numpy(codes.astype(np.int64)).to(self.device)]
            return np.asarray(self.network.decode(chosen).float().cpu().numpy())


class _threads:  # noqa: N801 - reads as a verb
    """torch's threads for a while; None leaves them."""

    def __init__(self, count: int | None) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.count is not None and self.count != self.before:
            torch.set_num_threads(self.count)

    def __exit__(self, *failure: object) -> None:
        if torch.get_num_threads() != self.before:
            torch.set_num_threads(self.before)


def adopt(path: str | Path, size: int, precision: str) -> bytes:
    """Our file of a published `.pth`, or of another file of ours with this size and precision."""
    if str(path).endswith(".safetensors"):
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise TokenizerError(f"tokenize.visual.weights: {path} cannot be read ({error.strerror})") from None
        tensors, shape, _ = parse_vqkd(data, str(path))
    else:
        tensors, shape = read_published(path)
    return write_vqkd(tensors, shape, size, precision)


def _digest(tensors: Tensors, shape: VqkdShape, size: int, precision: str) -> str:
    """SHA-256 (hex) over what decides on codes; the decoder does not."""
    weights = {
        key: hashlib.sha256(tensors[key].astype("<f4", copy=False).tobytes()).hexdigest()
        for key in shape.encoder_keys()
    }
    facts = {"format": FORMAT, "size": size, "precision": precision, "head": HEAD, "epsilon": EPSILON}
    return json_digest({**facts, "weights": weights})
