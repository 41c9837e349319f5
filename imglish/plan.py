"""Plan: what is done, what is to do, and what the shards will be like, without doing any of it.

    for line in plan(recipe): print(line)

Units come from a walk through the pipeline; numbers of samples and bytes from the landing that exists, or from
the sources' files when nothing has landed. The proposed number of shards is the one that makes a shard about
256 MB (facts: webdataset users and mosaicml-streaming settle between 64 MB and 1 GB); nothing adopts it silently.
"""

from __future__ import annotations

from collections.abc import Iterator

from imglish.ingest.land import land_units
from imglish.pipeline import NoEngine, Pipeline
from imglish.recipe import Recipe
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
