"""The recipe's training section, and the paper's recipe for each size.

    recipe = pretrain_giant()                              TrainConfig(batch=2048 each, steps=1_000_000, ...)
    TrainConfig(batch={"pair": 8, "text": 8}, steps=100)

A field marked *run* changes how a run is carried out and may differ when it is resumed; all others are *content*: a
checkpoint belongs to them. "Ours" marks what the paper leaves open.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from imglish.recipe_base import RUN, Section
from imglish.records import KINDS, Kind


class ModelConfig(Section):
    """The model to train."""

    preset: Literal["tiny", "base", "large", "giant"] = "tiny"
    """Size; see `imglish.model.config.PRESETS`."""
    layout: Literal["shared", "decoupled"] = "shared"
    """"shared" is the paper's block, "decoupled" that of the released checkpoints."""


class MaskConfig(Section):
    """Shares of masked positions (paper sections 2.2 and 2.3)."""

    image: float = Field(default=0.4, gt=0, lt=1)
    """Patches of an image, block-wise, in images and pairs."""
    text: float = Field(default=0.15, gt=0, lt=1)
    """Ids of text blocks."""
    caption: float = Field(default=0.5, gt=0, lt=1)
    """Ids of captions in pairs."""
    shown: Literal["mask", "80/10/10"] = "mask"
    """What stands at masked ids: `<mask>`, or by BERT's rule a random word at 10 % and the id itself at 10 % (ours: the
    paper does not say)."""


class WeightConfig(Section):
    """What a masked position weighs in the loss. Ours: the paper gives no weights."""

    image_codes: float = Field(default=1.0, ge=0)
    """Patches of images."""
    pair_codes: float = Field(default=1.0, ge=0)
    """Patches of pairs."""
    pair_words: float = Field(default=1.0, ge=0)
    """Words of captions."""
    text_words: float = Field(default=1.0, ge=0)
    """Words of text blocks."""


class TrainConfig(Section):
    """The training run."""

    model: ModelConfig = ModelConfig()
    masks: MaskConfig = MaskConfig()
    weights: WeightConfig = WeightConfig()
    batch: dict[Kind, int] = Field(default_factory=lambda: dict.fromkeys(KINDS, 8))
    """Samples of each kind in one global batch, whatever the number of ranks (paper: 2048 each)."""
    schedule: tuple[tuple[int, dict[Kind, int]], ...] = ()
    """Changes of the batch: pairs of a step, counted from 0, and the counts from there on."""
    steps: int = Field(default=1000, gt=0)
    """Optimizer steps (paper: 1M)."""
    text_length: int = Field(default=512, ge=8, le=512)
    """Ids in a row of the model: a block of 512 is cut into rows of this many; ours, the paper gives no length."""
    caption_length: int = Field(default=64, ge=4)
    """Ids of a caption at most; ours, the paper gives no length (BEiT-3's fine-tuning default)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak (paper Table 11: 1e-3)."""
    min_learning_rate: float = Field(default=1e-5, ge=0)
    """Floor of the cosine and of the cool-down (BEiT default; the paper gives none)."""
    warmup: int = Field(default=10_000, ge=0)
    """Linear warm-up steps (paper: 10k)."""
    rate: Literal["cosine", "constant", "wsd"] = "cosine"
    """After the warm-up: a cosine to the floor (paper), constant, or constant and then linearly down ("wsd")."""
    cooldown: float = Field(default=0.1, gt=0, le=1)
    """Share of `steps` in which "wsd" goes down."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer's rate over that of the layer above it; 1 is none (paper: none; 0.65 to 0.95 when fine-tuning)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW (paper Table 11)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW (paper Table 11)."""
    epsilon: float = Field(default=1e-6, gt=0)
    """AdamW (paper Table 11)."""
    clip: float = Field(default=3.0, gt=0)
    """Gradient norm (paper Table 11)."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth (paper Table 11)."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Share of the old value in a moving average of the parameters, which is exported; None keeps none (paper)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of forward and backward; master weights, their gradients and reductions are fp32. Ours: the paper
    does not say."""
    skip_non_finite: int = Field(default=0, ge=0)
    """Steps of a run whose loss or gradient may be not finite: they change nothing and are recorded; one more stops."""
    lanes: int = Field(default=64, ge=1)
    """Of the order (`imglish.shards.order`)."""
    windows: dict[Kind, int] | None = None
    """Rows of a window of the order, by kind; None is two shards' sections."""

    exclusions: Annotated[str | None, RUN] = None
    """Exclusions file of the loader. The loader's state holds what of it has been in force."""
    steps_to_skip: Annotated[tuple[int, ...], RUN] = ()
    """Steps, counted from 1, whose batch is passed over: for a batch that spoils a run. Steps that a checkpoint has
    behind it must stay as they were."""
    hard_stop: Annotated[int | None, RUN] = Field(default=None, ge=1)
    """Stop after this step; the schedule still runs over `steps`."""
    max_minutes: Annotated[float | None, RUN] = None
    """Stop early after this long; the schedule still runs over `steps`."""
    accumulate: Annotated[int, RUN] = Field(default=1, ge=1)
    """Parts in which a rank takes its share of a batch; it must divide that share of every kind."""
    parallel: Annotated[Literal["ddp", "fsdp"], RUN] = "ddp"
    """With more than one rank: whole copies of the model, or parameters, gradients and optimizer cut (FSDP2)."""
    activation_checkpointing: Annotated[bool, RUN] = False
    """Compute each layer again in the backward pass instead of keeping its activations."""
    compile: Annotated[bool, RUN] = False
    """`torch.compile` of each layer, for GPUs, where it has not been tried yet: numbers of tokens change from batch to
    batch, and torch 2.13's compiler for CPUs fails on that in bf16. Losses differ in their last digits."""
    timeout: Annotated[float, RUN] = Field(default=50.0, gt=0)
    """Seconds after which a rank that is not answered gives up."""
    checkpoint_every: Annotated[int, RUN] = Field(default=200, gt=0)
    """Steps between checkpoints, of which the newest two stay."""
    keep_every: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """A checkpoint at a multiple of this many steps is made and stays for good."""
    asynchronous: Annotated[bool, RUN] = False
    """Write checkpoints from a copy while training goes on."""
    log_every: Annotated[int, RUN] = Field(default=10, gt=0)
    """Steps between lines on the terminal; JSONL gets every step."""
    evaluate_every: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Steps between evaluations on the validation split; there is one at the end."""
    evaluate_samples: int = Field(default=512, gt=0)
    """Validation samples per kind, at most."""
    picture_every: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Steps between pictures of what is masked and predicted."""
    profile_at: Annotated[int | None, RUN] = Field(default=None, gt=0)
    """Step from which torch's profiler records `profile_steps` steps into profile/."""
    profile_steps: Annotated[int, RUN] = Field(default=3, gt=0)
    """Steps that the profiler records."""
    wandb: Annotated[str | None, RUN] = None
    """Project of Weights & Biases, where the package is installed; None sends nothing anywhere."""
    threads: Annotated[int | None, RUN] = None
    """CPU threads of the model, None for all cores; part of what makes losses repeat bit for bit."""
    loader_workers: Annotated[int, RUN] = Field(default=1, ge=0)
    """Loader threads."""
    loader_processes: Annotated[bool, RUN] = False
    """Processes instead of threads: for machines with many cores, where one interpreter lock is too narrow."""
    cache: Annotated[str | None, RUN] = None
    """Local folder for the windows of a corpus behind a URL, shared by all ranks of a machine; None asks per sample."""
    cache_gigabytes: Annotated[float, RUN] = Field(default=32.0, gt=0)
    """Most that the cache holds; `imglish plan --train` says what the windows need."""

    @model_validator(mode="after")
    def _warms_up_before_it_ends(self) -> TrainConfig:
        if self.rate == "wsd" and self.warmup + self.cooldown * self.steps > self.steps:
            raise ValueError(f"warmup {self.warmup} and cooldown {self.cooldown} take more than {self.steps} steps")
        return self


def pretrain_base(**changes: Any) -> TrainConfig:
    """The paper's recipe at the size of the released base, whose own recipe is unknown.

    Cost: 1.13 P operations a step; a million steps are 2,500 A100 hours at an MFU of 40 % (10 hours on 256).
    """
    return _pretrain("base", changes)


def pretrain_large(**changes: Any) -> TrainConfig:
    """The paper's recipe at the size of the released large, whose own recipe is unknown.

    Cost: 3.85 P operations a step; a million steps are 8,600 A100 hours at an MFU of 40 % (33 hours on 256).
    """
    return _pretrain("large", changes)


def pretrain_giant(**changes: Any) -> TrainConfig:
    """The paper's recipe (Table 11): 1 M steps of 2048 images, 2048 texts and 2048 pairs.

    Cost: 14.08 P operations a step; a million steps are 31,300 A100 hours at an MFU of 40 % (5.1 days on 256; the
    paper's run took two weeks).
    """
    return _pretrain("giant", changes | {"activation_checkpointing": changes.get("activation_checkpointing", True)})


def _pretrain(preset: Literal["base", "large", "giant"], changes: dict[str, Any]) -> TrainConfig:
    paper: dict[str, Any] = {
        "model": ModelConfig(preset=preset, layout="shared"),
        "batch": dict.fromkeys(KINDS, 2048),
        "steps": 1_000_000,
        "precision": "bf16",
        "parallel": "fsdp",
        "asynchronous": True,
        "checkpoint_every": 1000,
        "keep_every": 50_000,
    }
    return TrainConfig(**(paper | changes))
