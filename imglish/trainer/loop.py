"""A training run, from the first step or from its newest checkpoint.

    result = train("corpus/manifest.json", recipe.train, seed=0, out_dir="runs/first")

The folder of a run:

    run.json         what the run is and how it ended (`imglish.trainer.run`)
    metrics.jsonl    one record per step (`imglish.trainer.metrics`), also for TensorBoard
    checkpoints/     the newest whole ones (`imglish.trainer.checkpoint`)

Nothing random is kept between steps: batches, masks and stochastic depth are functions of (seed, step). So a run that
was killed and resumed has the losses of one that was not, bit for bit on the same kind of machine with as many threads.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch

from imglish.digests import canonical_json
from imglish.errors import Preempted, TrainError
from imglish.recipe import TrainConfig
from imglish.shards.batches import Batch
from imglish.shards.cache import Cache
from imglish.shards.loader import Loader, validation_batches
from imglish.shards.masks import Masks
from imglish.shards.reader import open_corpus
from imglish.storage import Store
from imglish.trainer import checkpoint
from imglish.trainer.console import Progress
from imglish.trainer.evaluate import Evaluation, evaluate
from imglish.trainer.metrics import MetricsLog
from imglish.trainer.optimizer import build_optimizer
from imglish.trainer.run import CAPTION_LENGTH, RunResult, build_model, check_identity, describe, run_facts, write_run
from imglish.trainer.signals import stop_signals
from imglish.trainer.step import train_step


def train(
    manifest: str | Path,
    config: TrainConfig,
    seed: int,
    out_dir: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    progress: Progress | None = None,
) -> RunResult:
    """Train on a corpus until `config.steps` (or `config.max_minutes`), then evaluate on its validation split.

    "auto" goes on from the newest whole checkpoint of `out_dir`, if there is one; "never" refuses if there is one.
    Raises TrainError when the run cannot start or go on, Preempted (exit 75) when a signal made it save and stop.
    """
    with closing(Trainer(str(manifest), config, seed, Path(out_dir))) as trainer:
        trainer.start(resume)
        return trainer.run(progress)


class Trainer:
    """The parts of one run on one process: corpus, loader, model, optimizer, and its folder."""

    def __init__(self, manifest: str, config: TrainConfig, seed: int, out_dir: Path) -> None:
        torch.set_num_threads(config.threads or _cores())
        self.manifest, self.config, self.seed, self.out_dir = manifest, config, seed, out_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cache = None if config.cache is None else Cache(config.cache, int(config.cache_gigabytes * 1e9))
        self.corpus = open_corpus(manifest, cache=cache)
        self.masks = Masks(**config.masks.model_dump())
        self.model = build_model(self.corpus.manifest, config, seed).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.loader = Loader(
            self.corpus,
            batch=config.batch,
            seed=seed,
            workers=config.loader_workers,
            processes=config.loader_processes,
            masks=self.masks,
            caption_length=CAPTION_LENGTH,
            image_size=self.model.config.image_size,
        )
        self.identity = describe(self.corpus.manifest, config, seed, self.model.config)
        self.facts = run_facts(manifest, self.corpus.manifest, config, self.identity, self.device)
        self.step = 0
        self.starts: list[int] = []
        self.last: dict[str, Any] = {}
        self.log: MetricsLog | None = None

    @property
    def checkpoints(self) -> Path:
        return self.out_dir / "checkpoints"

    def start(self, resume: Literal["auto", "never"]) -> None:
        """Go to the newest checkpoint if there is one, and say in `run.json` what is being run."""
        found = checkpoint.latest(self.checkpoints)
        if found is not None and resume == "never":
            raise TrainError(f"{self.out_dir} holds a run at step {found.step}; resume it, or choose another folder")
        if found is not None:
            self._restore(found)
        self.starts.append(self.step)
        self.out_dir.mkdir(parents=True, exist_ok=True)
        write_run(self.out_dir, self.facts, self.starts, None)
        self.log = MetricsLog(self.out_dir, self.step)

    def run(self, progress: Progress | None) -> RunResult:
        """All steps that are left; the result is also in `run.json`."""
        began = time.monotonic()
        saved = self.step if self.step else -1
        with stop_signals() as stop:
            while self.step < self.config.steps:
                self._one_step(progress)
                if self.step % self.config.checkpoint_every == 0 or stop.received:
                    self._save()
                    saved = self.step
                if stop.received:
                    raise Preempted(
                        f"{stop.received} received: saved step {self.step} in {self.checkpoints}; "
                        "start the same command again to go on"
                    )
                if self._out_of_time(began):
                    break
            if saved != self.step:
                self._save()
        return self._finish(time.monotonic() - began)

    def close(self) -> None:
        self.loader.close()
        if self.log is not None:
            self.log.close()

    def _one_step(self, progress: Progress | None) -> None:
        began = time.perf_counter()
        batch = next(self.loader)
        waited = time.perf_counter() - began
        try:
            numbers = train_step(self.model, self.optimizer, batch, self.config, self.seed, self.step, self.device)
        except TrainError as error:
            raise TrainError(f"{error}; {self._dump(batch)}") from error
        seconds = time.perf_counter() - began
        self.step += 1
        self.last = {
            "step": self.step,
            "position": batch.position,
            "batch_digest": batch.digest,
            **numbers,
            "seconds": seconds,
            "samples_per_second": sum(self.config.batch.values()) / seconds,
            "data_wait_share": waited / seconds,
        }
        if self.log is not None:
            self.log.write(self.last)
        if progress is not None:
            progress(self.last)

    def _out_of_time(self, began: float) -> bool:
        return self.config.max_minutes is not None and time.monotonic() - began >= 60 * self.config.max_minutes

    def _dump(self, batch: Batch) -> str:
        facts = {"step": self.step + 1, "position": batch.position, "digest": batch.digest, "keys": dict(batch.keys)}
        Store(self.out_dir).put_as("failed-batch.json", canonical_json(facts))
        return (
            f"the batch's samples are listed in {self.out_dir / 'failed-batch.json'}; lower train.learning_rate, raise "
            "train.warmup or use train.precision=fp32, and start in another folder"
        )

    def _tensors(self) -> dict[str, Any]:
        return checkpoint.training_tensors(self.model, self.optimizer, self.device)

    def _save(self) -> None:
        facts = {"identity": self.identity, "starts": self.starts, "last": self.last}
        loader = self.loader.state_dict()
        checkpoint.save(self.checkpoints, self.step, self._tensors(), {**facts, "loader": loader})

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        check_identity(self.identity, found.facts["identity"], found.path)
        checkpoint.load(found, self._tensors())
        self.loader.load_state_dict(found.facts["loader"])
        self.step, self.starts, self.last = found.step, list(found.facts["starts"]), dict(found.facts["last"])

    def _evaluate(self) -> Evaluation | None:
        corpus = open_corpus(self.manifest, split="validation")
        wanted = {kind: count for kind, count in self.config.batch.items() if count and corpus.counts[kind]}
        if not wanted:
            return None
        batches = validation_batches(
            corpus,
            batch=wanted,
            seed=self.seed,
            limit=self.config.evaluate_samples,
            masks=self.masks,
            caption_length=CAPTION_LENGTH,
            image_size=self.model.config.image_size,
        )
        return evaluate(self.model, batches, self.config.text_length, self.device, self.config.precision)

    def _finish(self, seconds: float) -> RunResult:
        result = RunResult(
            status="finished" if self.step == self.config.steps else "out of time",
            step=self.step,
            seconds=seconds,
            loss_nats=self.last["loss_nats"],
            evaluation=self._evaluate(),
            checkpoint=self.checkpoints / f"step-{self.step:08d}",
            metrics=self.out_dir / "metrics.jsonl",
        )
        write_run(self.out_dir, self.facts, self.starts, result)
        return result


def _cores() -> int:
    """CPUs that this process may use; stages that ran before in this process may have left torch with one thread."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
