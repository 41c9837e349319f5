"""Plan: what is done, what is to do, and what the shards or a training run will be like, without doing any of it.

    for line in plan(recipe): print(line)
    for line in plan_training(recipe, "corpus/manifest.json", world_size=8): print(line)

Units come from a walk through the pipeline; numbers of samples and bytes from the landing that exists, or from
the sources' files when nothing has landed. The proposed number of shards is the one that makes a shard about
256 MB (facts: webdataset users and mosaicml-streaming settle between 64 MB and 1 GB); nothing adopts it silently.
The numbers of a run are those of `imglish.shards.forecast`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from imglish.ingest.land import land_units
from imglish.pipeline import NoEngine, Pipeline
from imglish.recipe import Recipe
from imglish.shards.forecast import KindForecast, forecast
from imglish.shards.loader import corpus_order
from imglish.shards.reader import open_corpus
from imglish.stages import Receipt
from imglish.storage import Store

SHARD_BYTES = 256 << 20
"""Size of a shard that the proposal aims at."""


def plan(recipe: Recipe) -> Iterator[str]:
    """Lines for people."""
    store = Store(recipe.work)
    pipeline = Pipeline(recipe, NoEngine(), note=lambda text: None)
    watched, pending = pipeline.walk()
    receipts = [Receipt.from_json(store.read(path)) for path in sorted(watched.seen) if "/receipts/" in path]
    for stage in dict.fromkeys(receipt.stage for receipt in receipts):
        mine = [receipt for receipt in receipts if receipt.stage == stage]
        size = sum(output.bytes for receipt in mine for output in receipt.outputs.values())
        seconds = sum(float(receipt.run["seconds"]) for receipt in mine)
        yield f"{stage:<16} {len(mine):>7} units done {size / 1e6:>12,.1f} MB {seconds:>10,.1f} worker seconds"
    if pending is None:
        yield "nothing to do; the manifest is up to date"
    else:
        yield f"next             {pending}; the stages after it are planned when it is done"
    yield from _shards(recipe, receipts)


def plan_training(recipe: Recipe, manifest: str | Path | None = None, world_size: int = 1) -> Iterator[str]:
    """Lines for people on the recipe's run over a corpus, its own by default.

    ManifestError without a corpus, OrderError for a batch that `world_size` ranks cannot share.
    """
    corpus = open_corpus(str(manifest or f"{recipe.work}/manifest.json"))
    train = recipe.train
    order = corpus_order(corpus, train.batch, recipe.seed)
    kinds = forecast(corpus, order, world_size, train.steps)
    batch = " + ".join(f"{kind.batch:,} {kind.kind}" for kind in kinds)
    name = f"{corpus.manifest.name}@{corpus.manifest.version}"
    yield f"{name}: {train.steps:,} steps of {batch} on {world_size} {'rank' if world_size == 1 else 'ranks'}"
    yield f"{'':<40}" + "".join(f"{kind.kind:>18}" for kind in kinds)
    for title, cell in _TRAINING:
        yield f"{title:<40}" + "".join(f"{cell(kind):>18}" for kind in kinds)
    yield from _together(kinds)


def _together(kinds: list[KindForecast]) -> Iterator[str]:
    read = sum(kind.first_bytes for kind in kinds)
    touched = max(1, sum(kind.first_shard_bytes for kind in kinds))
    yield f"together: {_size(sum(kind.cache_bytes for kind in kinds))} of cache on every rank; its first batch after a"
    yield (
        f"cold resume reads {_size(read)} in {sum(kind.first_requests for kind in kinds):,} requests, "
        f"{read / touched:.1%} of the sections that it touches"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


_TRAINING: tuple[tuple[str, Callable[[KindForecast], str]], ...] = (
    ("rows of an epoch", lambda kind: f"{kind.rows:,}"),
    ("epochs of the run", lambda kind: f"{kind.epochs:,.2f}"),
    ("shards", lambda kind: f"{kind.shards:,}"),
    ("bytes read in an epoch, all ranks", lambda kind: _size(kind.bytes)),
    ("requests in an epoch, all ranks", lambda kind: f"{kind.requests:,}"),
    ("lanes x rows of a window", lambda kind: f"{kind.lanes} x {kind.window:,}"),
    ("live shards of a rank", lambda kind: f"{kind.live_shards:,.0f}"),
    ("cache of a rank (two windows a lane)", lambda kind: _size(kind.cache_bytes)),
    ("chance that batch-mates share a shard", lambda kind: f"{kind.share_chance:.3%}"),
    ("the same under a global shuffle", lambda kind: f"{kind.ideal_chance:.3%}"),
    ("first batch of a rank, cold", lambda kind: _size(kind.first_bytes)),
)


def _shards(recipe: Recipe, receipts: list[Receipt]) -> Iterator[str]:
    landed = [receipt for receipt in receipts if receipt.stage == "land"]
    if not landed:
        for source in recipe.source:
            yield f"source {source.name}: {len(land_units(recipe, source))} units"
        return
    size = sum(output.bytes for receipt in landed for output in receipt.outputs.values())
    share = recipe.decide.validation_share
    train = max(1, round(size * (1 - share) / SHARD_BYTES))
    validation = max(1, round(size * share / SHARD_BYTES))
    yield f"landing holds {size / 1e6:,.1f} MB; at most so much goes into shards (stored images are smaller)"
    yield f"proposed: pack.train_shards = {train}, pack.validation_shards = {validation} (256 MB each)"
    pack = recipe.pack
    yield f"recipe:   pack.train_shards = {pack.train_shards}, pack.validation_shards = {pack.validation_shards}"
