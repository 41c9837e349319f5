"""What a run is, on disk: `run.json`, and whether a checkpoint belongs to it.

`run.json` holds everything that is needed to repeat the run: the corpus by its digests, the training section of the
recipe, seed, model, versions and the numeric platform; and at the end the result.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import imglish.model
from imglish.digests import canonical_json, flatten, json_digest
from imglish.errors import TrainError
from imglish.model import ModelConfig, MultiwayTransformer
from imglish.recipe import TrainConfig, content_fields
from imglish.shards.manifest import Manifest
from imglish.stages import numeric_platform
from imglish.storage import Store
from imglish.trainer.evaluate import Evaluation
from imglish.trainer.parallel import Place

Status = Literal["finished", "out of time", "stopped"]
"""All of `steps` done, `max_minutes` over, or `hard_stop` reached."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `evaluation` is None when the corpus has no validation split."""

    status: Status
    step: int
    """Optimizer steps done."""
    seconds: float
    """Of this start, training only."""
    loss_nats: float | None
    """Of the last step that changed the model; None when there was none."""
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
        max_text=max(config.text_length, config.caption_length),
        seed=seed,
    )


def describe(manifest: Manifest, config: TrainConfig, seed: int, model: ModelConfig) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued; JSON values, nested by section."""
    return {
        "data_digest": manifest.data_digest,
        "recipe": json_digest(dict(manifest.recipe)),
        "tokenizers": {"text": manifest.tokenizers.text.digest, "visual": manifest.tokenizers.visual.digest},
        "seed": seed,
        "train": content_fields(config),
        "model": asdict(model),
    }


def check_identity(here: Mapping[str, Any], there: Mapping[str, Any], checkpoint: Path) -> None:
    """TrainError that names every field in which a checkpoint and this run differ, with both values."""
    found = differing(here, there)
    if found:
        raise TrainError(
            f"checkpoint {checkpoint} belongs to another run: {'; '.join(found)}; restore these, or start in another "
            "folder"
        )


def run_facts(
    manifest_path: str, manifest: Manifest, config: TrainConfig, identity: Mapping[str, Any], place: Place
) -> dict[str, Any]:
    """What `run.json` says of a run from its start."""
    corpus: dict[str, Any] = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "manifest": manifest_path,
    }
    corpus |= {"counts": dict(manifest.counts["train"]), "sources": dict(manifest.sources)}
    train = config.model_dump(mode="json")
    return {
        "format": 1,
        "corpus": corpus,
        "identity": dict(identity),
        "train": train,
        "environment": environment(place),
    }


def write_run(out_dir: Path, facts: Mapping[str, Any], starts: list[int], result: RunResult | None) -> None:
    """Write `run.json` in one step; `starts` are the steps at which the run was started and resumed."""
    told = {**facts, "starts": starts, "result": None if result is None else result.to_json()}
    Store(out_dir).put_as("run.json", canonical_json(told))


def read_run(path: Path) -> tuple[dict[str, Any], TrainConfig, int]:
    """What `--from-run` repeats: the facts of a `run.json`, its training section and seed.

    A run that ended before its last step is repeated up to there. TrainError when the file is no `run.json`.
    """
    try:
        facts = json.loads(path.read_bytes())
        config = TrainConfig.model_validate_json(json.dumps(facts["train"]))
        seed, ended = int(facts["identity"]["seed"]), facts["result"]
        facts["corpus"]["manifest"], facts["environment"]
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}; give the run.json in the folder of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{path} is no run.json: {error!r}; give the run.json in the folder of a run") from None
    if ended is not None and ended["status"] != "finished":
        config = config.model_copy(update={"hard_stop": ended["step"]})
    return facts, config.model_copy(update={"max_minutes": None}), seed


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Every field in which two nested mappings differ, as "name was A and is B" (`there` was, `here` is)."""
    mine, other = (flatten(json.loads(canonical_json(dict(given)))) for given in (here, there))
    names = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
    return [f"{name} was {other.get(name)!r} and is {mine.get(name)!r}" for name in names]


def check_repeats(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says of the run that this one repeats, and in what the machines differ, on which the last bits of
    losses depend. TrainError when corpus, recipe or model are others."""
    found = differing(here["identity"], there["identity"])
    if found:
        raise TrainError(f"this is not what the run was: {'; '.join(found)}; give its corpus with --manifest")
    return {"starts": there["starts"], "differs": differing(here["environment"], there["environment"])}


def environment(place: Place) -> dict[str, Any]:
    """What decides on the last bits of a loss: versions, device, threads, vector features, ranks."""
    device = place.device
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
        "world_size": place.world_size,
    }
