"""What a run on the demo corpus learned, and what the loop costs beside the model.

    python -m benchmarks.training learned demo/corpus/run             loss curves by kind; captions with other pictures
    python -m benchmarks.training overhead demo/corpus/manifest.json  milliseconds of a step outside the model

"learned" reads metrics.jsonl, and evaluates the newest checkpoint on the validation split twice: with every pair's own
picture and with that of the pair before it.

"overhead" runs the tiny model and takes from each step the time in forward, backward (which adds gradients up) and
optimizer (norm and clipping included); what is left is reading, moving, counting, logging. Processor milliseconds are
those of the loop's thread, and do not grow when other programs hold the cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from imglish.export import export
from imglish.model import MultiwayTransformer
from imglish.recipe import TrainConfig
from imglish.shards.loader import validation_batches
from imglish.shards.masks import Masks
from imglish.shards.reader import open_corpus
from imglish.trainer import step as step_module
from imglish.trainer.evaluate import evaluate, with_other_images
from imglish.trainer.loop import Trainer
from imglish.trainer.losses import NAMES, Objective
from imglish.trainer.metrics import read_metrics
from imglish.trainer.parallel import Place
from imglish.trainer.run import read_run

CPU = torch.device("cpu")
SMOOTHED = 20
"""Steps over which a point of a curve is the mean."""


def learned(run: Path) -> dict[str, Any]:
    """Loss and accuracy by kind along the run, and captions with own and other pictures."""
    records = [record for record in read_metrics(run / "metrics.jsonl") if "skipped" not in record]
    last = len(records)
    points = [SMOOTHED, *[last * part // 10 for part in range(1, 11)]]
    curve = []
    for point in points:
        part = records[max(0, point - SMOOTHED) : point]
        means = {
            f"{what}/{name}": round(statistics.fmean(record[f"{what}/{name}"] for record in part), 4)
            for what in ("loss_nats", "accuracy")
            for name in NAMES
        }
        curve.append({"step": point, **means})
    return {"curve": curve, "captions": image_use(run)}


def image_use(run: Path) -> dict[str, Any]:
    """Masked words of validation captions: cross-entropy and accuracy with own and with other pictures."""
    facts, config, seed = read_run(run / "run.json")
    with tempfile.TemporaryDirectory() as folder:
        export(run, Path(folder))
        objective = Objective(MultiwayTransformer.from_pretrained(folder))
    corpus = open_corpus(facts["corpus"]["manifest"], split="validation")
    batches = list(
        validation_batches(
            corpus,
            batch={"pair": 16},
            seed=seed,
            masks=Masks(**config.masks.model_dump()),
            caption_length=config.caption_length,
            image_size=objective.model.config.image_size,
        )
    )
    found = {}
    for name, given in (("own", batches), ("other", list(with_other_images(batches)))):
        score = evaluate(objective, given, config.text_length, CPU)["pair/words"]
        found[name] = {
            "positions": score.positions,
            "cross_entropy_nats": score.cross_entropy_nats,
            "accuracy": score.accuracy,
        }
    return found


def overhead(manifest: str, steps: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a step of the tiny model: whole, waiting for data, outside forward, backward and optimizer."""
    config = TrainConfig(
        batch={"pair": 8, "image": 8, "text": 8},
        steps=steps + 10,
        text_length=16,
        drop_path=0.1,
        threads=threads,
        checkpoint_every=10**6,
    )
    spent, computed = [0.0], [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*given: Any, **named: Any) -> Any:
            began, thread_began = time.perf_counter(), time.thread_time()
            try:
                return call(*given, **named)
            finally:
                spent[0] += time.perf_counter() - began
                computed[0] += time.thread_time() - thread_began

        return measured

    whole, outside, outside_cpu, waits = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(0, 1, CPU)
        with closing(Trainer(manifest, config, 0, Path(folder), place)) as trainer, _patched(trainer, timed):
            trainer.start("never")
            stop: Any = type("Never", (), {"received": None})()
            for number in range(steps + 10):
                spent[0], computed[0], began, thread_began = 0.0, 0.0, time.perf_counter(), time.thread_time()
                trainer._one_step(stop, 0.0, None)
                if number >= 10:
                    whole.append(1e3 * (time.perf_counter() - began))
                    outside.append(whole[-1] - 1e3 * spent[0])
                    outside_cpu.append(1e3 * (time.thread_time() - thread_began - computed[0]))
        waits = [1e3 * record["data_wait_seconds"] for record in read_metrics(Path(folder) / "metrics.jsonl")][10:]
    names = {"step_ms": whole, "outside_the_model_ms": outside, "outside_the_model_processor_ms": outside_cpu}
    names["waiting_for_data_ms"] = waits
    return {name: _summary(values) for name, values in names.items()} | {"steps": steps, "threads": threads}


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "mean": round(statistics.fmean(values), 2),
        "median": round(statistics.median(values), 2),
        "p95": round(ordered[int(0.95 * len(ordered))], 2),
    }


class _patched:  # noqa: N801 - reads as what it does
    """Forward, backward and the optimizer's functions, timed."""

    def __init__(self, trainer: Trainer, timed: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        nn = torch.nn.utils
        self.places = [
            (trainer.objective, "forward"),
            (torch.autograd, "backward"),
            (trainer.optimizer, "step"),
            (trainer.optimizer, "zero_grad"),
            (step_module, "gradient_norm"),
            (nn, "clip_grads_with_norm_"),
        ]
        self.timed = timed

    def __enter__(self) -> None:
        self.before = [getattr(owner, name) for owner, name in self.places]
        for (owner, name), call in zip(self.places, self.before, strict=True):
            setattr(owner, name, self.timed(call))

    def __exit__(self, *_: object) -> None:
        for (owner, name), call in zip(self.places, self.before, strict=True):
            setattr(owner, name, call)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A Markdown table of the curve, and of the captions."""
    yield "| step | " + " | ".join(f"{name}: nats, accuracy" for name in NAMES) + " |"
    yield "|---" * 5 + "|"
    for point in found["curve"]:
        cells = [f"{point[f'loss_nats/{name}']:.3f}, {point[f'accuracy/{name}']:.1%}" for name in NAMES]
        yield f"| {point['step']} | " + " | ".join(cells) + " |"
    yield ""
    for name, score in found["captions"].items():
        yield (
            f"captions with their {name} pictures: {score['cross_entropy_nats']:.4f} nats, {score['accuracy']:.2%} of "
            f"{score['positions']:,} masked words"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["learned", "overhead"])
    parser.add_argument("path", help="folder of a run; manifest.json of a corpus")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = learned(Path(given.path)) if given.what == "learned" else overhead(given.path, given.steps, given.threads)
    print("\n".join(lines(found)) if given.what == "learned" else json.dumps(found, indent=2))
    if given.output:
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
