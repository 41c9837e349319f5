"""What a training run takes: memory of a device, operations, time and cost, and what it reads from its corpus.

    for line in plan_training(recipe, terms=Terms("a100-40gb", world_size=256)): print(line)

The first part needs no corpus and no device; the second reads the manifest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from imglish.errors import ManifestError, RecipeError
from imglish.model import ModelConfig
from imglish.model.config import make_config
from imglish.recipe import CodebookConfig, Recipe, TrainConfig, VqkdConfig
from imglish.recipe_base import format_size
from imglish.recipe_train import pretrain_giant
from imglish.shards.forecast import KindForecast, forecast
from imglish.shards.loader import corpus_order
from imglish.shards.reader import Corpus, open_corpus
from imglish.trainer.mfu import DEVICES
from imglish.training_budget import Terms, implied_mfu, plan_budget

VLMO_LENGTHS = (196, 40)
"""Ids of a text and of a caption in VLMo, the authors' earlier model; BEiT-3 gives none."""


def plan_training(recipe: Recipe, manifest: str | Path | None = None, terms: Terms | None = None) -> Iterator[str]:
    """Lines for people on the recipe's run, on its own corpus by default; without one its reading is left out.

    RecipeError for an unknown device, ManifestError without the corpus that was asked for, OrderError for a batch that
    the ranks cannot share.
    """
    terms = terms or Terms()
    if terms.device not in DEVICES:
        raise RecipeError(f"--device {terms.device} is not known; there are {', '.join(DEVICES)}")
    try:
        corpus = open_corpus(str(manifest or f"{recipe.work}/manifest.json"))
    except ManifestError:
        if manifest is not None:
            raise
        corpus = None
    yield from _budget(recipe.train, _model(recipe, corpus), terms)
    if corpus is None:
        yield f"no corpus at {recipe.work} yet; what the run will read from it is left out"
        return
    yield ""
    yield from _reading(recipe, corpus, terms.world_size)


def _model(recipe: Recipe, corpus: Corpus | None) -> ModelConfig:
    """The model on its corpus; before there is one, on the vocabulary and grid that the recipe asks for."""
    train, visual = recipe.train, recipe.tokenize.visual
    fields = {"layout": train.model.layout, "max_text": max(train.text_length, train.caption_length)}
    preset = make_config(train.model.preset)
    if corpus is not None:
        text, codes = corpus.manifest.tokenizers.text, corpus.manifest.tokenizers.visual
        known = {"vocabulary": text.vocabulary, "mask_id": text.mask_id, "codes": codes.codes}
        return make_config(train.model.preset, **fields, **known, image_size=codes.grid[0] * preset.patch)
    grid = preset.grid
    if isinstance(visual, (CodebookConfig, VqkdConfig)):
        grid = visual.size // (visual.patch if isinstance(visual, CodebookConfig) else visual.train.patch)
    vocabulary = recipe.tokenize.text.vocabulary + 2
    return make_config(train.model.preset, **fields, vocabulary=vocabulary, image_size=grid * preset.patch)


def _budget(train: TrainConfig, model: ModelConfig, terms: Terms) -> Iterator[str]:
    budget = plan_budget(train, model, terms)
    devices = f"{terms.world_size} x {terms.device}" if terms.world_size > 1 else terms.device
    yield (
        f"{train.model.preset} ({train.model.layout}), {budget.parameters / 1e6:,.1f} M parameters, {train.precision}, "
        f"{train.steps:,} steps on {devices} at an MFU of {terms.mfu:.0%}"
    )
    yield f"{'a step, all devices':<40}{budget.operations / 1e12:>14,.2f} T operations, {budget.tokens:,} tokens"
    yield f"{'time of a step':<40}{budget.step_seconds:>14,.3f} s"
    yield f"{'time of the run':<40}{budget.seconds / 86400:>14,.2f} days"
    hours = f"{budget.device_hours:,.0f} device hours at {terms.price:g} each"
    yield f"{'cost':<40}{budget.cost:>14,.0f} ({hours})"
    room = DEVICES[terms.device].memory
    share = budget.memory_bytes / room
    parts = ", ".join(f"{name} {format_size(size)}" for name, size in budget.bytes.items())
    needed = f"{format_size(budget.memory_bytes):>14} of {format_size(room)} ({share:.0%})"
    yield f"{'memory of a device':<40}{needed}: {parts}"
    if share > 0.9:
        yield "does not fit: raise train.accumulate, or set train.activation_checkpointing or train.parallel=fsdp"
    if train.model.preset == "giant":
        paper, (text, caption) = make_config("giant"), VLMO_LENGTHS
        low = implied_mfu(pretrain_giant(caption_length=caption, text_length=text), paper, text)
        high = implied_mfu(pretrain_giant(), paper)
        yield f"the paper's run took two weeks on 256 x a100-40gb: an MFU of {high:.1%} with texts of 512 ids, of"
        yield f"{low:.1%} with texts of {text} and captions of {caption}"


def _reading(recipe: Recipe, corpus: Corpus, world_size: int) -> Iterator[str]:
    train = recipe.train
    order = corpus_order(corpus, train.batch, recipe.seed, train.exclusions, train.schedule, train.lanes, train.windows)
    kinds = forecast(corpus, order, world_size, train.steps)
    batch = " + ".join(f"{kind.batch:,} {kind.kind}" for kind in kinds)
    name = f"{corpus.manifest.name}@{corpus.manifest.version}"
    yield f"{name}: {train.steps:,} steps of {batch} on {world_size} {'rank' if world_size == 1 else 'ranks'}"
    yield f"{'':<40}" + "".join(f"{kind.kind:>18}" for kind in kinds)
    for title, cell in _TRAINING:
        yield f"{title:<40}" + "".join(f"{cell(kind):>18}" for kind in kinds)
    yield from _together(kinds)


def _together(kinds: list[KindForecast]) -> Iterator[str]:
    read, requests = sum(kind.first_bytes for kind in kinds), sum(kind.first_requests for kind in kinds)
    touched = max(1, sum(kind.first_shard_bytes for kind in kinds))
    cache = format_size(sum(kind.cache_bytes for kind in kinds))
    yield f"together: {cache} of cache on every rank; its first batch after a"
    yield (
        f"cold resume reads {format_size(read)} in {requests:,} requests, {read / touched:.1%} of the sections that it "
        "touches"
    )


_TRAINING: tuple[tuple[str, Callable[[KindForecast], str]], ...] = (
    ("rows of an epoch", lambda kind: f"{kind.rows:,}"),
    ("epochs of the run", lambda kind: f"{kind.epochs:,.2f}"),
    ("shards", lambda kind: f"{kind.shards:,}"),
    ("bytes read in an epoch, all ranks", lambda kind: format_size(kind.bytes)),
    ("requests in an epoch, all ranks", lambda kind: f"{kind.requests:,}"),
    ("lanes x rows of a window", lambda kind: f"{kind.lanes} x {kind.window:,}"),
    ("live shards of a rank", lambda kind: f"{kind.live_shards:,.0f}"),
    ("cache of a rank (two windows a lane)", lambda kind: format_size(kind.cache_bytes)),
    ("chance that batch-mates share a shard", lambda kind: f"{kind.share_chance:.3%}"),
    ("the same under a global shuffle", lambda kind: f"{kind.ideal_chance:.3%}"),
    ("first batch of a rank, cold", lambda kind: format_size(kind.first_bytes)),
)
