"""What a run is, on disk: `run.json`, and whether a checkpoint belongs to it.

`run.json` holds everything that is needed to repeat the run: the corpus by its digests, the training section of the
recipe, seed, model, versions and the numeric platform; and at the end the result.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import imglish.model
from imglish.digests import canonical_json
from imglish.errors import TrainError
from imglish.model import ModelConfig, MultiwayTransformer
from imglish.recipe import TrainConfig, content_fields
from imglish.shards.manifest import Manifest
from imglish.stages import numeric_platform
from imglish.storage import Store
from imglish.trainer.evaluate import Evaluation

CAPTION_LENGTH = 64
"""Ids of a caption that the model sees; ours (BEiT-3's fine-tuning default)."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `evaluation` is None when the corpus has no validation split."""

    status: Literal["finished", "out of time"]
    step: int
    """Optimizer steps done."""
    seconds: float
    """Of this start, training only."""
    loss_nats: float
    """Of the last step."""
    evaluation: Evaluation | None
    checkpoint: Path
    metrics: Path

    def to_json(self) -> dict[str, Any]:
        facts = {"status": self.status, "step": self.step, "seconds": self.seconds, "loss_nats": self.loss_nats}
        scores = None if self.evaluation is None else {k: v.to_json() for k, v in self.evaluation.items()}
        return {**facts, "evaluation": scores, "checkpoint": self.checkpoint.name}


def build_model(manifest: Manifest, config: TrainConfig, seed: int) -> MultiwayTransformer:
    """The model that fits a corpus: its vocabulary, codebook and code grid; the patch is the preset's.

    The image size is grid x patch, at which the loader renders the views. TrainError for a grid that is not square.
    """
    text, visual = manifest.tokenizers.text, manifest.tokenizers.visual
    rows, columns = visual.grid
    if rows != columns:
        raise TrainError(f"the corpus has codes on a {rows} x {columns} grid; the model takes square grids only")
    return imglish.model.create(
        config.model.preset,
        config.model.layout,
        vocabulary=text.vocabulary,
        mask_id=text.mask_id,
        codes=visual.codes,
        image_size=rows * imglish.model.PRESETS[config.model.preset]["patch"],
        max_text=max(config.text_length, CAPTION_LENGTH),
        seed=seed,
    )


def describe(manifest: Manifest, config: TrainConfig, seed: int, model: ModelConfig) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued; JSON values, nested by section."""
    return {
        "data_digest": manifest.data_digest,
        "tokenizers": {"text": manifest.tokenizers.text.digest, "visual": manifest.tokenizers.visual.digest},
        "seed": seed,
        "train": content_fields(config),
        "model": asdict(model),
    }


def check_identity(here: Mapping[str, Any], there: Mapping[str, Any], checkpoint: Path) -> None:
    """TrainError that names every field in which a checkpoint and this run differ, with both values."""
    mine, other = _flat(here), _flat(there)
    names = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
    if names:
        details = "; ".join(f"{name} was {other.get(name)!r} and is {mine.get(name)!r}" for name in names)
        raise TrainError(
            f"checkpoint {checkpoint} belongs to another run: {details}; restore these, or start in another folder"
        )


def run_facts(
    manifest_path: str, manifest: Manifest, config: TrainConfig, identity: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """What `run.json` says of a run from its start."""
    corpus = {"name": manifest.name, "version": manifest.version, "digest": manifest.digest, "manifest": manifest_path}
    train = config.model_dump(mode="json")
    return {
        "format": 1,
        "corpus": corpus,
        "identity": dict(identity),
        "train": train,
        "environment": environment(device),
    }


def write_run(out_dir: Path, facts: Mapping[str, Any], starts: list[int], result: RunResult | None) -> None:
    """Write `run.json` in one step; `starts` are the steps at which the run was started and resumed."""
    told = {**facts, "starts": starts, "result": None if result is None else result.to_json()}
    Store(out_dir).put_as("run.json", canonical_json(told))


def environment(device: torch.device) -> dict[str, Any]:
    """What decides on the last bits of a loss: versions, device, threads, vector features."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "imglish": version("imglish"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": numeric_platform(),
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "world_size": 1,
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{name}.{key}" if name else str(key))
    return found
