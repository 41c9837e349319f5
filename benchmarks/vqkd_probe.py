"""What codes know of classes: a linear probe on histograms of codes, VQ-KD against k-means.

    python -m benchmarks.vqkd_probe MODEL --train photos/train --test photos/test --fit photos --output note.json

MODEL is a trained tokenizer (`imglish fit visual`); `train` and `test` hold one folder of photographs per class. The
k-means tokenizer has as many codes and is fitted on the photographs of `fit`, which should be those that MODEL was
trained on. A photograph is one view, the largest centred square. The probe is multinomial logistic regression on
histograms (square root, l2, centred), its weight decay chosen by five folds of `train`. Codes in use are
counted on `test`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from imglish.recipe import CodebookConfig, StoredConfig
from imglish.shards.images import decode_jpeg, store_image
from imglish.shards.views import render
from imglish.tokenize.codebook import Codebook, CodebookFit
from imglish.tokenize.visual import VisualTokenizer, load_visual

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    for name in ("train", "test", "fit"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    vqkd = load_visual(given.model)
    config = CodebookConfig(size=vqkd.size, patch=vqkd.patch, codes=vqkd.codes)
    fit = CodebookFit(config, 0)
    for path in _files(given.fit):
        fit.add(_view(path, vqkd.size)[None])
    tokenizers: dict[str, VisualTokenizer] = {"vqkd": vqkd, "kmeans": Codebook.read(fit.finish(), "k-means")}
    sets = {name: _labelled(getattr(given, name), vqkd.size) for name in ("train", "test")}
    numbers: dict[str, Any] = {name: _probe(tokenizer, sets) for name, tokenizer in tokenizers.items()}
    numbers |= {name: len(labels) for name, (_, labels) in sets.items()}
    largest = np.bincount(sets["test"][1]).max()
    numbers["largest_class"] = float(largest / len(sets["test"][1]))
    print(json.dumps(numbers, indent=1))
    if given.output is not None:
        given.output.write_text(json.dumps(numbers, indent=1) + "\n")


def _probe(tokenizer: VisualTokenizer, sets: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> dict[str, Any]:
    codes = {name: _codes(tokenizer, views) for name, (views, _) in sets.items()}
    x = {name: _histograms(found, tokenizer.codes) for name, found in codes.items()}
    mean, deviation = x["train"].mean(dim=0), x["train"].std()
    x = {name: (found - mean) / deviation for name, found in x.items()}
    y = {name: torch.from_numpy(labels) for name, (_, labels) in sets.items()}
    folds = torch.arange(len(y["train"])) % 5
    order = torch.randperm(len(folds), generator=torch.Generator().manual_seed(0))
    folds = folds[order]

    def cross(decay: float) -> float:
        right = 0.0
        for fold in range(5):
            inside, outside = folds != fold, folds == fold
            right += _accuracy(x["train"][inside], y["train"][inside], x["train"][outside], y["train"][outside], decay)
        return right / 5

    decay = max(DECAYS, key=cross)
    used = np.bincount(codes["test"].reshape(-1), minlength=tokenizer.codes)
    shares = used[used > 0] / used.sum()
    return {
        "accuracy": _accuracy(x["train"], y["train"], x["test"], y["test"], decay),
        "accuracy_in_five_folds": cross(decay),
        "decay": decay,
        "codes": tokenizer.codes,
        "codes_used": float((used > 0).mean()),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def _accuracy(x: torch.Tensor, y: torch.Tensor, other: torch.Tensor, truth: torch.Tensor, decay: float) -> float:
    classes = int(max(y.max(), truth.max())) + 1
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ weight.t() + bias, y) + decay * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(((other @ weight.t() + bias).argmax(dim=1) == truth).float().mean())


def _codes(tokenizer: VisualTokenizer, views: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return np.concatenate([tokenizer.encode(views[start : start + 32]) for start in range(0, len(views), 32)])


def _histograms(codes: NDArray[np.uint16], size: int) -> torch.Tensor:
    counts = np.stack([np.bincount(row, minlength=size) for row in codes])
    return functional.normalize(torch.from_numpy(np.sqrt(counts)).float(), dim=1)


def _labelled(folder: Path, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(path, number) for number, name in enumerate(classes) for path in _files(folder / name)]
    return np.stack([_view(path, size) for path, _ in files]), np.array([number for _, number in files])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def _view(path: Path, size: int) -> NDArray[np.uint8]:
    rgb = decode_jpeg(store_image(path.read_bytes(), StoredConfig()).jpeg)
    height, width = rgb.shape[:2]
    side = min(height, width)
    return render(rgb, ((width - side) // 2, (height - side) // 2, side, side, 0), size)


if __name__ == "__main__":
    main()
