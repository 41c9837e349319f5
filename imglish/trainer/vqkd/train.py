"""Training a VQ-KD tokenizer (BEiT v2): an encoder whose codes let a decoder guess a teacher's features.

    fitted = train_vqkd(images, held_out, config, seed=0, root=".", folder=Path("corpus/vqkd/41aa…"))
    fitted.model                         bytes of a safetensors file that `imglish.tokenize.vqkd` reads
    fitted.scores["cosine"]              to the teacher, on the held-out images

A step: crops -> encoder -> unit vectors -> nearest code -> decoder -> cosine to the teacher's features, plus the mean
squared distance of vectors to their codes. Gradients pass the quantizer straight through; codes follow by a moving
average. Everything random is a function of (seed, epoch, step), so a killed run goes on from its newest checkpoint as
if nothing had happened. One process; on a GPU when there is one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from imglish.errors import Preempted, TrainError
from imglish.model import normalise
from imglish.recipe import VqkdConfig, content_fields
from imglish.seeds import stream
from imglish.shards.images import StoredImage
from imglish.tokenize.vqkd_file import write_vqkd
from imglish.tokenize.vqkd_network import VqkdNetwork, VqkdShape, nearest
from imglish.trainer import checkpoint
from imglish.trainer.metrics import MetricsLog
from imglish.trainer.run import check_identity
from imglish.trainer.signals import stop_signals
from imglish.trainer.vqkd.codebook import MovingCodebook
from imglish.trainer.vqkd.photos import Photos, Pixels, Targets
from imglish.trainer.vqkd.teachers import Teacher, open_teacher

Images = Iterable[tuple[bytes, StoredImage]]
Progress = Callable[[int, int, dict[str, Any]], None]
"""progress(step, steps, numbers of the step)."""

_INIT_DEVIATION = 0.02
"""Of weights at width 768 (BEiT v2); narrower networks get 0.02 x sqrt(768 / width), ours."""
_STANDARD_IMAGES = 256
"""Images whose features give mean and deviation of each channel."""


@dataclass(frozen=True)
class Fitted:
    """A trained tokenizer: its file, what was measured, and how the run ended."""

    model: bytes
    scores: dict[str, float]
    steps: int
    finished: bool


def train_vqkd(
    images: Images,
    held_out: Images,
    config: VqkdConfig,
    seed: int,
    root: str,
    folder: Path,
    progress: Progress | None = None,
) -> Fitted:
    """Train in `folder`, from its newest checkpoint if there is one; images are read only the first time.

    Raises TrainError when there are too few images, or the teacher's weights are missing; Preempted when a signal made
    it save and stop.
    """
    run = VqkdRun(images, held_out, config, seed, root, folder)
    run.start()
    finished = run.train(progress)
    return Fitted(run.model(), run.evaluate(), run.step, finished)


class VqkdRun:
    """One run: photographs, teacher, network, codebook, optimizer, and its folder."""

    def __init__(
        self, images: Images, held_out: Images, config: VqkdConfig, seed: int, root: str, folder: Path
    ) -> None:
        self.config, self.options, self.seed, self.folder = config, config.train, seed, folder
        torch.set_num_threads(self.options.threads or len(os.sched_getaffinity(0)))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.photos = _collected(folder / "train", images)
        self.held_out = _collected(folder / "held-out", held_out)
        self.steps_per_epoch = len(self.photos) // self.options.batch
        if not self.steps_per_epoch:
            raise TrainError(
                f"{len(self.photos)} images to train a tokenizer on, but a batch has {self.options.batch}; set "
                "tokenize.visual.train.batch lower or add images"
            )
        self.steps = self.options.epochs * self.steps_per_epoch
        weights = self.options.teacher_weights
        teacher = open_teacher(self.options.teacher, None if weights is None else Path(root, weights))
        self.grid = config.size // self.options.patch
        self.targets = Targets(teacher, self.grid, self.device)
        self.targets.remember(folder / "features", len(self.photos), config)
        self.network = VqkdNetwork(_shape(config, teacher, self.grid)).to(self.device)
        initialise(self.network, seed)
        o = self.options
        self.codebook = MovingCodebook(o.codes, o.dimension, o.decay, o.revive_after, self.device)
        self.standard = torch.stack([torch.zeros(teacher.features), torch.ones(teacher.features)]).to(self.device)
        self.optimizer = _optimizer(self.network, config)
        self.step = 0
        self.identity = {"visual": content_fields(config), "seed": seed, "images": len(self.photos)}

    def start(self) -> None:
        """Go to the newest checkpoint, or make what the first step needs."""
        found = checkpoint.latest(self.folder / "checkpoints")
        if found is None:
            if self.targets.teacher.standardise:
                self.standard.copy_(self._standard())
            return
        check_identity(self.identity, found.facts["identity"], found.path)
        checkpoint.load(found, self._tensors())
        self.step = found.step

    def train(self, progress: Progress | None) -> bool:
        """All steps that are left, or as many as `max_minutes` allows; True when all are done."""
        began, saved = time.monotonic(), self.step
        with closing(MetricsLog(self.folder, self.step, tensorboard=False)) as log, stop_signals() as stop:
            for numbers, view, pixels in self._batches():
                told = {"step": self.step + 1, "epoch": self.step // self.steps_per_epoch}
                told |= self._one_step(numbers, view, pixels)
                self.step += 1
                log.write(told)
                if progress is not None:
                    progress(self.step, self.steps, told)
                limit = self.options.max_minutes
                late = limit is not None and time.monotonic() - began >= 60 * limit
                if self.step % self.options.checkpoint_every == 0 or stop.received or late:
                    self._save()
                    saved = self.step
                if stop.received:
                    raise Preempted(
                        f"{stop.received} received: saved step {self.step}; run 'imglish fit' again to go on"
                    )
                if late:
                    break
        if saved != self.step:
            self._save()
        return self.step == self.steps

    def model(self) -> bytes:
        """The tokenizer's file as it is now."""
        state = self.network.state_dict() | {"quantize.embedding.weight": self.codebook.weight}
        tensors = {key: value.float().cpu().numpy() for key, value in state.items()}
        return write_vqkd(tensors, self.network.shape, self.config.size, self.config.precision)

    def evaluate(self) -> dict[str, float]:
        """On the held-out images: mean cosine to the teacher's (standardised) features, that of guessing the mean
        feature everywhere, to the plain features, and the share and perplexity of codes in use."""
        photos = self.held_out
        if not len(photos):
            return {}
        counts = np.zeros(self.options.codes, np.int64)
        sums = np.zeros(3)
        for start in range(0, len(photos), self.options.batch):
            numbers = range(start, min(len(photos), start + self.options.batch))
            pixels = self._crops(photos, numbers, 0)
            features = self.targets.compute(pixels).to(self.device)
            with torch.inference_mode():
                vectors = self.network.vectors(normalise(torch.from_numpy(pixels).to(self.device)))
                codes = nearest(vectors, self.codebook.weight)
                guess = self.network.decode(self.codebook.weight[codes])
            mean, std = self.standard
            for place, pair in enumerate(
                [(guess, (features - mean) / std), (guess * std + mean, features), (mean.expand_as(features), features)]
            ):
                sums[place] += float(functional.cosine_similarity(*pair, dim=-1).sum())
            counts += np.bincount(codes.cpu().numpy().reshape(-1), minlength=len(counts))
        cosine, plain, constant = (sums / counts.sum()).tolist()
        shares = counts[counts > 0] / counts.sum()
        return {
            "cosine": cosine,
            "cosine_plain": plain,
            "cosine_plain_of_the_mean": constant,
            "codes_used": float((counts > 0).mean()),
            "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
            "images": float(len(photos)),
        }

    def _one_step(self, numbers: Sequence[int], view: int, pixels: Pixels) -> dict[str, Any]:
        began = time.perf_counter()
        mean, std = self.standard
        target = (self.targets(pixels, numbers, view) - mean) / std
        images = normalise(torch.from_numpy(pixels).to(self.device))
        bf16 = self.options.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            vectors = self.network.vectors(images)
            if not self.codebook.started.item():
                self.codebook.start(vectors.detach(), self.options.kmeans_iterations, self.seed)
            codes = nearest(vectors.detach(), self.codebook.weight)
            chosen = self.codebook.weight[codes]
            guess = self.network.decode(vectors + (chosen - vectors).detach())
        distance = 1 - functional.cosine_similarity(guess.float(), target, dim=-1).mean()
        commitment = functional.mse_loss(chosen, vectors)
        rate = _learning_rate(self.step, self.steps, self.steps_per_epoch, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = distance + commitment
        if not math.isfinite(loss.item()):
            raise TrainError(f"step {self.step + 1}: the loss is not finite; lower tokenize.visual.train.learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        revived = self.codebook.update(vectors.detach(), codes, self.seed, self.step)
        seconds = time.perf_counter() - began
        return {
            "cosine": 1 - distance.item(),
            "commitment": commitment.item(),
            "codes_used": float((torch.bincount(codes.reshape(-1), minlength=self.options.codes) > 0).float().mean()),
            "revived": revived,
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": len(numbers) / seconds,
        }

    def _batches(self) -> Iterator[tuple[list[int], int, Pixels]]:
        """(image numbers, crop number, pixels) of the steps that are left, rendered one step ahead."""

        def made(step: int) -> tuple[list[int], int, Pixels]:
            epoch, place = divmod(step, self.steps_per_epoch)
            order = stream(self.seed, "vqkd order", epoch).permutation(len(self.photos))
            numbers = order[place * self.options.batch : (place + 1) * self.options.batch].tolist()
            view = epoch % self.options.views
            return numbers, view, self._crops(self.photos, numbers, view)

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(made, self.step) if self.step < self.steps else None
            while ahead is not None:
                batch = ahead.result()
                following = self.step + 1
                ahead = pool.submit(made, following) if following < self.steps else None
                yield batch

    def _crops(self, photos: Photos, numbers: Sequence[int], view: int) -> Pixels:
        return photos.crops(list(numbers), view, self.config.size, self.options.min_scale, self.seed)

    def _standard(self) -> Tensor:
        """Mean and deviation of every channel of the teacher's features, [2, F]."""
        numbers = stream(self.seed, "vqkd standard").permutation(len(self.photos))[:_STANDARD_IMAGES].tolist()
        found = [
            self.targets(self._crops(self.photos, part, 0), part, 0) for part in _parts(numbers, self.options.batch)
        ]
        features = torch.cat(found).flatten(0, 1)
        return torch.stack([features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)])

    def _tensors(self) -> dict[str, Any]:
        state = checkpoint.training_tensors(self.network, self.optimizer, self.device)
        return state | {"codebook": self.codebook.tensors(), "standard": self.standard}

    def _save(self) -> None:
        checkpoint.save(self.folder / "checkpoints", self.step, self._tensors(), {"identity": self.identity})


def initialise(network: VqkdNetwork, seed: int) -> None:
    """Weights normal, cut at two deviations; biases 0, norms 1; outputs of layer l divided by sqrt(2 l) (BEiT)."""
    generator = torch.Generator().manual_seed(stream(seed, "vqkd init").key >> 1)
    deviation = _INIT_DEVIATION * math.sqrt(768 / network.shape.width)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
        elif parameter.ndim > 1 and not name.startswith("quantize."):
            fresh = torch.empty(parameter.shape)
            nn.init.trunc_normal_(fresh, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
            parts = name.split(".")
            if parts[-2:] in (["proj", "weight"], ["fc2", "weight"]) and parts[1] == "blocks":
                fresh /= math.sqrt(2 * (int(parts[2]) + 1))
            parameter.data.copy_(fresh)


def _shape(config: VqkdConfig, teacher: Teacher, grid: int) -> VqkdShape:
    o = config.train
    if config.size % o.patch:
        raise TrainError(f"tokenize.visual.size {config.size} is not a multiple of train.patch {o.patch}")
    return VqkdShape(o.patch, o.width, o.depth, o.codes, o.dimension, grid, o.width, o.decoder_depth, teacher.features)


def _optimizer(network: nn.Module, config: VqkdConfig) -> torch.optim.AdamW:
    """AdamW; no decay on norms, biases, cls tokens and position tables. The codebook is not its business."""
    named = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    plain = ("cls_token", "pos_embed")
    decayed = [value for name, value in named if value.ndim > 1 and not name.endswith(plain)]
    others = [value for name, value in named if value.ndim <= 1 or name.endswith(plain)]
    groups = [
        {"params": decayed, "weight_decay": config.train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.train.learning_rate, betas=config.train.betas, fused=True)


def _learning_rate(step: int, steps: int, steps_per_epoch: int, config: VqkdConfig) -> float:
    o = config.train
    warmup = round(o.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return o.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return o.min_learning_rate + (o.learning_rate - o.min_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def _collected(path: Path, images: Images) -> Photos:
    try:
        return Photos.open(path)
    except FileNotFoundError:
        return Photos.collect(path, images)


def _parts(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
