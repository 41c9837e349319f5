"""`imglish fit visual` for a VQ-KD tokenizer: from landing to a file in `models/` and its entry for the lock.

    entry = train_on_corpus(store, recipe, files, progress, note)
    entry["digest"], entry["path"]

The run lies in `vqkd/<id>` of the build folder, by what it is trained on and how; the same command goes on with it, and
another selection of images or another setting starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from imglish.digests import canonical_json, json_digest
from imglish.errors import TrainError
from imglish.recipe import Recipe, VqkdConfig, content_fields
from imglish.stages import Progress
from imglish.storage import Store
from imglish.tokenize.fit import chosen_images, put_visual
from imglish.tokenize.select import Selected
from imglish.tokenize.tasks import IMAGE_VERSIONS
from imglish.trainer.vqkd.train import train_vqkd

STAGE = "train-vqkd"


def train_on_corpus(
    store: Store,
    recipe: Recipe,
    files: Sequence[Selected],
    progress: Progress | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train, or go on training, and return {digest, type, codes, size, patch, grid, scores, path, bytes}.

    A run that `max_minutes` ended gives the tokenizer as it is; the next command goes on from there.
    """
    config = recipe.tokenize.visual
    if not isinstance(config, VqkdConfig):
        raise TrainError(f"tokenize.visual.type is {config.type}; only a vqkd tokenizer is trained")
    paths = [file.paths() for file, _ in files]
    stored, options, seed = recipe.tokenize.stored, config.train, recipe.seed
    made_of = {
        "visual": content_fields(config),
        "stored": content_fields(stored),
        "seed": seed,
        "versions": IMAGE_VERSIONS,
        "inputs": [digests["fit-visual"] for _, digests in files],
    }
    folder = store.path(f"vqkd/{json_digest(made_of)[:32]}")

    def advance(step: int, steps: int, numbers: dict[str, Any]) -> None:
        if progress is not None:
            progress(STAGE, step, steps)
        if step % 50 == 0 or step == steps:
            note(
                f"step {step}: cosine {numbers['cosine']:.4f}, {numbers['codes_used']:.1%} of the codes in the batch, "
                f"{numbers['images_per_second']:.1f} images/s"
            )

    fitted = train_vqkd(
        chosen_images(store, paths, stored, options.sample_images, seed),
        chosen_images(store, paths, stored, options.evaluate_images, seed, "validation"),
        config,
        seed,
        recipe.root,
        folder,
        advance,
    )
    output, notes = put_visual(store, fitted.model, config.type)
    note(f"step {fitted.steps}, held out: " + ", ".join(f"{name} {value:.4g}" for name, value in fitted.scores.items()))
    entry = {**notes, "path": output.path, "bytes": output.bytes, "scores": fitted.scores, "steps": fitted.steps}
    Store(folder).put_as("result.json", canonical_json(entry))
    return entry
