"""Quality: a classifier of texts, trained on good and bad ones; logistic regression over hashed runs of words.

    model = fit_quality(good, bad)              # texts
    model.scores(["A text.", ...])              # float64 [n]: the probability of "good"
    model.to_bytes(), QualityModel.from_bytes(data)

The kind of model is fastText's (Joulin et al. 2017), by which DCLM, Dolma and others choose text: words and pairs of
neighbours, hashed into 2^18 numbers, one weight each. A text's vector holds 1 for each number that occurs, scaled to
length 1, so that its length says nothing. SciPy's L-BFGS minimises the loss, both classes with equal weight: no draw,
one thread, the same model from the same texts in the same order. The file is safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from imglish.digests import canonical_json
from imglish.errors import ModelError
from imglish.ingest.match.words import U64, read_words
from imglish.ingest.measures.phrases import words_of
from imglish.seeds import mix

VERSION = 1
"""Of words, hashes and vectors; it stands in the file."""
BITS = 18
"""Numbers of a vector: 2^18. Two runs in one number blur a little; 1 MB of weights."""
MOST_WORDS = 20_000
"""Words of a text that are looked at, from its beginning."""
PENALTY = 1e-4
"""Of half the squared weights; see `benchmarks/results/scorers-2026-11-26.md` for others."""
_STEPS = 200
_ODD = np.uint64(0x9E3779B97F4A7C15)
Floats = NDArray[np.float64]


def vectors(texts: Sequence[str]) -> csr_array:
    """Float64 [texts, 2^BITS] of length 1, or 0 for a text without a word."""
    words = read_words([" ".join(words_of(text)[:MOST_WORDS]) for text in texts])
    found = [_numbers(words.hashes[low:high]) for low, high in pairwise(words.starts.tolist())]
    sizes = np.array([len(mine) for mine in found], np.int64)
    values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return csr_array((values, np.concatenate([np.zeros(0, np.int64), *found]), ends), shape=(len(texts), 1 << BITS))


def _numbers(hashes: U64) -> NDArray[np.int64]:
    words = mix(hashes) if len(hashes) else hashes
    pairs = mix(words[:-1] * _ODD + words[1:]) if len(words) > 1 else words[:0]
    return np.unique((np.concatenate([words, pairs]) >> np.uint64(64 - BITS)).astype(np.int64))


@dataclass(frozen=True)
class QualityModel:
    """Weights float32 [2^BITS] and a bias."""

    weights: NDArray[np.float32]
    bias: float

    def scores(self, texts: Sequence[str]) -> Floats:
        """The probability of "good" for each text, to 1e-6."""
        return np.asarray(np.round(expit(vectors(texts) @ self.weights.astype(np.float64) + self.bias), 6))

    def to_bytes(self) -> bytes:
        """Safetensors; one entry of metadata, since their order in the file is not fixed."""
        about = canonical_json({"format": "imglish-quality", "version": VERSION, "bits": BITS}).decode()
        bias: NDArray[Any] = np.array([self.bias], np.float64)
        tensors: dict[str, NDArray[Any]] = {"weights": self.weights, "bias": bias}
        return save(tensors, metadata={"config": about})

    @classmethod
    def from_bytes(cls, data: bytes) -> QualityModel:
        """ModelError for what `to_bytes` of this version did not write."""
        try:
            tensors = load(data)
            weights, bias = tensors["weights"], tensors["bias"]
            about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["config"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"not a quality classifier: {type(error).__name__}: {error}") from None
        if about != {"format": "imglish-quality", "version": VERSION, "bits": BITS} or weights.shape != (1 << BITS,):
            raise ModelError(f"a quality classifier of {about}, and this is version {VERSION}; fit it anew")
        return cls(weights, float(bias[0]))


def fit_quality(good: Sequence[str], bad: Sequence[str]) -> QualityModel:
    """The classifier of two lists of texts, each with at least one."""
    rows = vectors([*good, *bad])
    sign = np.concatenate([np.ones(len(good)), -np.ones(len(bad))])
    share = np.concatenate([np.full(len(good), 0.5 / len(good)), np.full(len(bad), 0.5 / len(bad))])

    def loss(point: Floats) -> tuple[float, Floats]:
        weights, margin = point[:-1], sign * (rows @ point[:-1] + point[-1])
        slope = -share * sign * expit(-margin)
        value = float(share @ np.logaddexp(0, -margin) + PENALTY / 2 * (weights @ weights))
        return value, np.append(rows.T @ slope + PENALTY * weights, slope.sum())

    start = np.zeros((1 << BITS) + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "maxcor": 10}).x
    return QualityModel(found[:-1].astype(np.float32), float(found[-1]))


def auc(good: Floats, bad: Floats) -> float:
    """Area under the ROC curve: how often a good one has the higher score, ties by half."""
    both = np.sort(bad)
    below = np.searchsorted(both, good, side="left") + np.searchsorted(both, good, side="right")
    return float(below.sum() / 2 / max(1, len(good) * len(bad)))
