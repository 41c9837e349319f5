"""A trained model for others: safetensors, config, and a card that says what it was made of.

    export(Path("corpus/run"), Path("model"))        # the newest checkpoint; or a path of one of its checkpoints

The checkpoint is checked against its digests before it is read, as for a resume; it may have been saved by any number
of ranks. What is written is read by `MultiwayTransformer.from_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from imglish.errors import TrainError
from imglish.model import ModelConfig, MultiwayTransformer, save_released
from imglish.trainer import checkpoint
from imglish.trainer.run import read_run

RELEASED = "beit3_released_layout.pth"


def export(run: Path, output: Path, average: bool = False, released: bool = False) -> list[Path]:
    """Write the model of a run's newest checkpoint, or of the checkpoint `run`; the paths of the files.

    `average` takes the moving average of the parameters, `released` also writes a .pth under the official names
    (decoupled layout only). TrainError when there is no checkpoint or it has no average, ModelError for the layout.
    """
    run = run.resolve()
    chosen = run.name.startswith("step-") and run.is_dir()
    found = checkpoint.open_checkpoint(run) if chosen else checkpoint.latest(run / "checkpoints")
    if found is None:
        raise TrainError(f"{run} holds no checkpoint; give the folder of a run, or one of its checkpoints")
    facts, train, _ = read_run(found.path.parent.parent / "run.json")
    config = TypeAdapter(ModelConfig).validate_json(json.dumps(facts["identity"]["model"]))
    with torch.device("cpu"):
        model = MultiwayTransformer(config)
    if average and train.ema is None:
        raise TrainError(f"{run} keeps no moving average of its parameters; leave out --average, or set train.ema")
    checkpoint.load(found, {"average" if average else "model": model.state_dict()})
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    (output / "README.md").write_text(card(facts, found.step, average), encoding="utf-8")
    paths = [output / name for name in ("model.safetensors", "config.json", "README.md")]
    if released:
        save_released(output / RELEASED, model)
        paths.append(output / RELEASED)
    return paths


def card(facts: Mapping[str, Any], step: int, average: bool) -> str:
    """The model card of a run, from its `run.json`."""
    identity, train, corpus = facts["identity"], facts["train"], facts["corpus"]
    model, result = identity["model"], facts["result"]
    scored = result is not None and result["step"] == step and not average  # what was scored is what is written
    sources = [f"| {name} | {licence} |" for name, licence in _licences(corpus["sources"])]
    scores = [
        f"| {name} | {score['positions']:,} | {score['cross_entropy_nats']:.3f} | "
        f"{score['unigram_entropy_nats']:.3f} | {score['accuracy']:.1%} |"
        for name, score in ((result["evaluation"] if scored else None) or {}).items()
    ]
    return _CARD.format(
        layout=model["layout"],
        layers=model["layers"],
        width=model["width"],
        step=step,
        steps=train["steps"],
        average=", moving average of the parameters" if average else "",
        batch=", ".join(f"{count} {kind}" for kind, count in train["batch"].items()),
        seed=identity["seed"],
        name=f"{corpus['name']}@{corpus['version']}",
        digest=corpus["digest"],
        data_digest=identity["data_digest"],
        text=identity["tokenizers"]["text"],
        visual=identity["tokenizers"]["visual"],
        counts=", ".join(f"{count:,} {kind}" for kind, count in corpus["counts"].items()),
        sources="\n".join(sources) or "| (none named) | |",
        scores="\n".join(scores) or "| (these weights were not evaluated) | | | | |",
    )


def _licences(sources: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and licences of sources; those of a merged corpus are by part."""
    for name, facts in sorted(sources.items()):
        if any(isinstance(value, Mapping) for value in facts.values()):
            yield from _licences(facts, f"{prefix}{name}/")
        else:
            yield prefix + name, facts.get("licence") or "not stated"


_CARD = """---
library_name: imglish
tags: [beit3, multiway-transformer]
---

A Multiway Transformer (BEiT-3) in the {layout} layout: {layers} layers of width {width}, pretrained with Imglish by
masked data modelling. Step {step} of {steps}{average}; a batch of {batch}; seed {seed}.

```python
from imglish.model import MultiwayTransformer

model = MultiwayTransformer.from_pretrained("this-repository-or-folder")
```

## Data

{name}: {counts}.

| what | digest |
|---|---|
| manifest | `{digest}` |
| data | `{data_digest}` |
| text tokenizer | `{text}` |
| visual tokenizer | `{visual}` |

| source | licence |
|---|---|
{sources}

The licence of the weights is for you to choose and to write here; the licences above are those of the data, as its
recipe states them. Where one is not stated, ask its owners.

## Validation split, masked positions

| | positions | cross-entropy, nats | unigram entropy | accuracy |
|---|---|---|---|---|
{scores}
"""
