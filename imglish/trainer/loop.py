"""A training run, from the first step or from its newest checkpoint, on one process or on torchrun's.

    result = train("corpus/manifest.json", recipe.train, seed=0, out_dir="runs/first")

The folder of a run:

    run.json               what the run is and how it ended (`imglish.trainer.run`)
    metrics.jsonl          one record per step (`imglish.trainer.metrics`), also for TensorBoard
    checkpoints/           the newest whole ones, and those that stay (`imglish.trainer.checkpoint`)
    pictures/, profile/    where they are asked for; failed-batch-<step>.json where a step was not finite

Nothing random is kept between steps: batches, masks and stochastic depth are functions of (seed, step). So a run that
was killed and resumed has the losses of one that was not, bit for bit on the same kind of machine with as many threads
and ranks, and up to the order of float sums with others.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch

from imglish.digests import canonical_json
from imglish.errors import Preempted, TrainError
from imglish.recipe import TrainConfig
from imglish.records import KINDS
from imglish.shards.batches import Batch
from imglish.shards.cache import Cache
from imglish.shards.loader import Loader, validation_batches
from imglish.shards.masks import Masks
from imglish.shards.reader import open_corpus
from imglish.shards.replay import replay, to_json
from imglish.storage import Store
from imglish.trainer import checkpoint
from imglish.trainer.batches import split
from imglish.trainer.console import Progress
from imglish.trainer.evaluate import Evaluation, evaluate, validation_record
from imglish.trainer.losses import Objective
from imglish.trainer.metrics import MetricsLog, Profiler, peak_memory
from imglish.trainer.mfu import peak_of, utilisation
from imglish.trainer.optimizer import build_optimizer, update_average
from imglish.trainer.parallel import Place, gather_no_more, open_place, spread
from imglish.trainer.picture import Picture
from imglish.trainer.run import (
    RunResult,
    Status,
    build_model,
    check_identity,
    check_repeats,
    describe,
    run_facts,
    write_run,
)
from imglish.trainer.signals import Stop, stop_signals
from imglish.trainer.step import StepResult, train_step


def train(
    manifest: str | Path,
    config: TrainConfig,
    seed: int,
    out_dir: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    repeats: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train on a corpus until `config.steps` (or a limit of `config`), then evaluate on its validation split.

    Under torchrun every rank calls this and gets the same result. "auto" goes on from the newest whole checkpoint of
    `out_dir`, if there is one; "never" refuses if there is one. `repeats` are the facts of the run that this one has to
    repeat (`imglish.trainer.run.read_run`). Raises TrainError when the run cannot start or go on, Preempted (exit 75)
    when a signal made it save and stop.
    """
    with open_place(config) as place, closing(Trainer(str(manifest), config, seed, Path(out_dir), place)) as trainer:
        if repeats is not None:
            trainer.facts["repeats"] = check_repeats(trainer.facts, repeats)
        trainer.start(resume)
        return trainer.run(progress if place.leads else None)


class Trainer:
    """The parts of one run on one rank: corpus, loader, model, optimizer, and the run's folder."""

    def __init__(self, manifest: str, config: TrainConfig, seed: int, out_dir: Path, place: Place) -> None:
        torch.set_num_threads(config.threads or _cores())
        self.manifest, self.config, self.seed, self.out_dir, self.place = manifest, config, seed, out_dir, place
        cache = None if config.cache is None else Cache(config.cache, int(config.cache_gigabytes * 1e9))
        self.corpus = open_corpus(manifest, cache=cache)
        self.model = build_model(self.corpus.manifest, config, seed).to(place.device)
        self.objective = spread(Objective(self.model), config, place)
        self.optimizer = build_optimizer(self.model, config)
        named = self.model.named_parameters() if config.ema else ()
        self.average = {name: parameter.detach().clone() for name, parameter in named}
        self.rendering: dict[str, Any] = {
            "masks": Masks(**config.masks.model_dump()),
            "caption_length": config.caption_length,
            "image_size": self.model.config.image_size,
        }
        self.loader = Loader(
            self.corpus,
            batch=config.batch,
            seed=seed,
            rank=place.rank,
            world_size=place.world_size,
            workers=config.loader_workers,
            processes=config.loader_processes,
            exclusions=config.exclusions,
            schedule=config.schedule,
            lanes=config.lanes,
            windows=config.windows,
            **self.rendering,
        )
        self.identity = describe(self.corpus.manifest, config, seed, self.model.config)
        self.facts = run_facts(manifest, self.corpus.manifest, config, self.identity, place)
        self.peak = peak_of(self.facts["environment"]["device_name"], config.precision)
        keeps = config.keep_every, config.asynchronous
        self.checkpoints = checkpoint.Checkpoints(out_dir / "checkpoints", place, *keeps)
        self.profiler = Profiler(out_dir / "profile", place.rank, config.profile_at, config.profile_steps)
        self.step = 0
        self.starts: list[int] = []
        self.not_finite: list[int] = []
        self.loss: float | None = None
        self.log: MetricsLog | None = None

    def start(self, resume: Literal["auto", "never"]) -> None:
        """Go to the newest checkpoint if there is one, and say in `run.json` what is being run."""
        found = self._find()
        if found is not None and resume == "never":
            raise TrainError(f"{self.out_dir} holds a run at step {found.step}; resume it, or choose another folder")
        if found is not None:
            self._restore(found)
        self.starts.append(self.step)
        if self.place.leads:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            write_run(self.out_dir, self.facts, self.starts, None)
            self.log = MetricsLog(self.out_dir, self.step, wandb=self.config.wandb)

    def run(self, progress: Progress | None) -> RunResult:
        """All steps that are left; the result is also in `run.json`."""
        began = time.monotonic()
        saved, late = self.step if self.step else -1, False
        with stop_signals() as stop:
            while self.step < self._end() and not late:
                self.profiler.before(self.step + 1)
                stopped, late = self._one_step(stop, began, progress)
                if stopped or self._due(self.config.checkpoint_every) or self._due(self.config.keep_every):
                    self._save()
                    saved = self.step
                if stopped:
                    self.checkpoints.finish()
                    raise Preempted(
                        f"{stop.received or 'a signal to another rank was'} received: saved step {self.step} in "
                        f"{self.checkpoints.folder}; start the same command again to go on"
                    )
            self.profiler.before(self.step + 1)
            if saved != self.step:
                self._save()
            self.checkpoints.finish()
        return self._finish(time.monotonic() - began)

    def close(self) -> None:
        self.loader.close()
        self.profiler.close()
        if self.log is not None:
            self.log.close()

    def _end(self) -> int:
        return min(self.config.steps, self.config.hard_stop or self.config.steps)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _one_step(self, stop: Stop, began: float, progress: Progress | None) -> tuple[bool, bool]:
        """The next step, its record, what is to be seen of it; whether to stop, and whether the time is over."""
        started = time.perf_counter()
        if self.step + 1 in self.config.steps_to_skip:
            self.step += 1
            self.loader.position += 1
            self._tell({"step": self.step, "position": self.step - 1, "skipped": "asked"}, progress)
            return False, False
        batch = next(self.loader)
        waited = time.perf_counter() - started
        parts = split(batch, self.config.accumulate, self.place.rank, self.place.world_size)
        votes = (stop.received is not None, self._out_of_time(began))
        given = (self.model.config, self.config, self.place, self.seed, self.step, votes)
        result = train_step(self.objective, self.optimizer, parts, *given)
        self.step += 1
        if result.finite:
            self.loss = result.record["loss_nats"]
            if self.config.ema:
                update_average(self.average, self.model, self.config.ema)
        else:
            self._note_not_finite(batch, result)
        seconds = time.perf_counter() - started
        head = {"step": self.step, "position": batch.position, "batch_digest": batch.digest}
        record = head | result.record | ({} if result.finite else {"skipped": "not finite"})
        record |= self._measures(result, seconds, waited)
        if self._due(self.config.evaluate_every):
            record |= validation_record(self.evaluate())
        self._tell(record, progress)
        if self._due(self.config.picture_every):
            self._draw()
        return bool(result.votes[0]), bool(result.votes[1])

    def _measures(self, result: StepResult, seconds: float, waited: float) -> dict[str, float]:
        """Speeds and shares of the step, and how often each kind has been seen whole."""
        order = self.loader.order
        counts, seen = order.mixture.counts(self.step - 1), order.mixture.prefix(self.step)
        found: dict[str, float] = {f"epochs/{kind}": seen[kind] / one.count for kind, one in order.kinds.items()}
        found |= {"tokens": result.tokens, "seconds": seconds, "data_wait_seconds": waited}
        found |= {"samples_per_second": sum(counts.values()) / seconds, "tokens_per_second": result.tokens / seconds}
        found |= {"data_wait_share": waited / seconds, "peak_memory_bytes": peak_memory(self.place.device)}
        if self.peak is not None:
            found["mfu"] = utilisation(result.operations, seconds, self.peak, self.place.world_size)
        return found

    def _tell(self, record: dict[str, Any], progress: Progress | None) -> None:
        if self.log is not None:
            self.log.write(record)
        if progress is not None and "loss_nats" in record:
            progress(record)

    def _out_of_time(self, began: float) -> bool:
        return self.config.max_minutes is not None and time.monotonic() - began >= 60 * self.config.max_minutes

    def _note_not_finite(self, batch: Batch, result: StepResult) -> None:
        """Write down what the step saw; TrainError when there were too many such steps."""
        self.not_finite.append(self.step)
        path = self.out_dir / f"failed-batch-{self.step:08d}.json"
        if self.place.leads:
            receipt = to_json(replay(self.corpus, self.loader.order, batch.position + 1))
            numbers = {name: str(value) for name, value in result.record.items()}
            Store(self.out_dir).put_as(path.name, canonical_json({**receipt, "numbers": numbers}))
        if len(self.not_finite) > self.config.skip_non_finite:
            bad = [f"{name} {value}" for name, value in result.record.items() if not math.isfinite(value)]
            raise TrainError(
                f"step {self.step}: {', '.join(bad)}; the batch's samples are listed in {path}; lower "
                "train.learning_rate, raise train.warmup or use train.precision=fp32 and start in another folder, or "
                f"pass over it with train.steps_to_skip={sorted({*self.config.steps_to_skip, self.step})}"
            )

    def _tensors(self) -> dict[str, Any]:
        tensors = checkpoint.training_tensors(self.model, self.optimizer, self.place.device)
        return tensors | ({"average": self.average} if self.average else {})

    def _save(self) -> None:
        facts: dict[str, Any] = {"identity": self.identity, "loader": self.loader.state_dict(), "starts": self.starts}
        facts |= {"not_finite": self.not_finite, "passed_over": self._passed_over(self.step), "loss_nats": self.loss}
        self.checkpoints.save(self.step, self._tensors(), facts)

    def _passed_over(self, step: int) -> list[int]:
        return sorted(each for each in set(self.config.steps_to_skip) if each <= step)

    def _find(self) -> checkpoint.Checkpoint | None:
        """The newest whole checkpoint, found and checked by the leader for all ranks."""
        told: dict[str, Any] = {}
        if self.place.leads:
            try:
                newest = checkpoint.latest(self.checkpoints.folder)
                told = {} if newest is None else {"path": str(newest.path), "step": newest.step, "facts": newest.facts}
            except TrainError as error:
                told = {"error": str(error)}
        told = self.place.share("newest checkpoint", told)
        if "error" in told:
            raise TrainError(told["error"])
        return checkpoint.Checkpoint(Path(told["path"]), told["step"], told["facts"]) if told else None

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        there, parent = dict(found.facts["identity"]), self.corpus.manifest.parent
        if parent is not None and there["data_digest"] == parent.data_digest:  # re-issued after a removal
            there["data_digest"] = self.identity["data_digest"]
        there["steps_to_skip"] = found.facts["passed_over"]
        check_identity({**self.identity, "steps_to_skip": self._passed_over(found.step)}, there, found.path)
        checkpoint.load(found, self._tensors(), self.place)
        self.loader.load_state_dict(found.facts["loader"])
        self.step, self.starts, self.loss = found.step, list(found.facts["starts"]), found.facts["loss_nats"]
        self.not_finite = list(found.facts["not_finite"])

    def evaluate(self) -> Evaluation | None:
        """Scores on the validation split, None when it has none of the batch's kinds; every rank must call it."""
        corpus = open_corpus(self.manifest, split="validation")
        parts = self.place.world_size * self.config.accumulate  # every rank gets all, in what fits its memory
        wanted = {kind: -(-self.config.batch.get(kind, 0) // parts) for kind in KINDS if corpus.counts[kind]}
        if not any(wanted.values()):
            return None
        limit = self.config.evaluate_samples
        batches = validation_batches(corpus, batch=wanted, seed=self.seed, limit=limit, **self.rendering)
        told = self.config.text_length, self.place.device, self.config.precision
        found = evaluate(self.objective, batches, *told)
        gather_no_more(self.objective)
        return found

    def _draw(self) -> None:
        """A validation pair as the model sees and fills it; every rank takes part, the leader writes."""
        corpus = open_corpus(self.manifest, split="validation")
        if not corpus.counts["pair"]:
            return
        batch = next(validation_batches(corpus, batch={"pair": 1}, seed=self.seed, limit=1, **self.rendering))
        picture = Picture.of(self.objective, batch["pair"], self.config, self.place.device)
        gather_no_more(self.objective)
        if self.place.leads and self.log is not None:
            pixels = picture.save(self.out_dir / "pictures" / f"step-{self.step:08d}.png", corpus, self.manifest)
            self.log.picture(pixels, self.step)

    def _status(self) -> Status:
        if self.step == self.config.steps:
            return "finished"
        return "stopped" if self.step >= self._end() else "out of time"

    def _finish(self, seconds: float) -> RunResult:
        result = RunResult(
            status=self._status(),
            step=self.step,
            seconds=seconds,
            loss_nats=self.loss,
            evaluation=self.evaluate(),
            checkpoint=self.checkpoints.folder / f"step-{self.step:08d}",
            metrics=self.out_dir / "metrics.jsonl",
        )
        if self.place.leads:
            write_run(self.out_dir, self.facts, self.starts, result)
        return result


def _cores() -> int:
    """CPUs that this process may use; stages that ran before in this process may have left torch with one thread.

    Ranks of one machine share them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
