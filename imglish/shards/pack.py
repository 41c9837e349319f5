"""Pack: tokenized records into shards, in rounds over id ranges, rewriting only what changed.

    receipts = pack(store, engine, recipe, inputs, {"text": ..., "visual": ...}, progress)    # in manifest order

1. A light pass per landing file (`pack-rows`) digests its members, images and documents, row by row, without payloads.
2. A shard's unit id is the digest of its sorted row digests (`pack-units`) and of pack's parameters; shards with a
   receipt stay.
3. The others are packed round by round: the engine's shuffle brings a shard's rows together, one reduce sorts them by
   (kind, record id, occurrence) and writes the tar. A crash loses at most the shards of one round that have no receipt.

Every shard of the recipe exists, also one that nothing fell into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imglish.errors import StageError
from imglish.recipe import Recipe
from imglish.shards.format import FORMAT_VERSION
from imglish.shards.pack_load import DigestRows, LoadRows, shards_of
from imglish.shards.pack_units import ShardRows, shard_rows
from imglish.shards.pack_write import ShardUnit, WriteShard
from imglish.shards.placement import Placement, Slot
from imglish.stages import Engine, Progress, Receipt, Unit, find_receipts, run_map, spans_of
from imglish.storage import Output, Store

VERSION = 2
"""Version of this stage; a change to what it writes raises it."""
ROWS_VERSION = 2
"""Version of the light pass."""
RECEIPTS = "tables"
PIECE_ROWS = 1024
"""Occurrences of a round that are loaded together, a second or two of decoding and about 60 MB; of small landing files
several, whose cells would be many and hold a row or two each."""


@dataclass(frozen=True)
class PackInput:
    """One landing file and the three tables that tokenize made from it."""

    landing: Output
    members: Output
    documents: Output
    images: Output

    def paths(self) -> dict[str, str]:
        names = ("landing", "members", "documents", "images")
        return {name: getattr(self, name).path for name in names}


def pack(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    inputs: Sequence[PackInput],
    tokenizer_digests: Mapping[str, str],
    progress: Progress | None = None,
) -> list[Receipt]:
    """Write every shard that has no receipt; all receipts in the order of the manifest.

    A receipt has outputs `shard` and `metadata`, counts of samples, captions and what happened to them, and in `notes`
    what `manifest.build_manifest` needs. StageError when tables and landing disagree, StorageError when the disk is
    full; finished shards are kept in both cases.
    """
    if not inputs:
        raise StageError("pack: there is no landing file; check that the recipe's sources have rows")
    placement = Placement(recipe.pack.train_shards, recipe.pack.validation_shards, recipe.pack.layout)
    digested = digest_inputs(store, engine, placement, inputs, progress)
    held = shard_rows(store, RECEIPTS, engine, placement, digested, progress)
    units = _units(recipe, placement, held, tokenizer_digests)
    found = find_receipts(store, RECEIPTS, "pack", [todo.unit for todo in units.values()])
    done = {n: found[todo.unit] for n, todo in units.items() if todo.unit in found}
    _advance(progress, done, units)
    for ordinals in placement.rounds(recipe.pack.rounds):
        todo = {n: units[n] for n in ordinals if n not in done}
        write = WriteShard(
            store, RECEIPTS, todo, recipe.pack.max_captions, recipe.pack.max_caption_ids, recipe.pack.repeat
        )
        load = LoadRows(store, placement, recipe.tokenize.stored, sorted(todo))
        for receipt in _round(engine, load, write, inputs, digested):
            done[int(receipt.notes["bucket"])] = receipt
            _advance(progress, done, units)
    missing = sorted(set(units) - set(done))
    if missing:
        raise StageError(f"pack: the engine returned no receipt for shards {missing}; run the same command again")
    return [done[n] for n in sorted(done)]


def digest_inputs(
    store: Store, engine: Engine, placement: Placement, inputs: Sequence[PackInput], progress: Progress | None = None
) -> list[Receipt]:
    """The light pass: receipts of `DigestRows` for every landing file."""
    params = {"train": placement.train, "validation": placement.validation, "layout": placement.layout}
    units = [
        Unit(
            "pack-rows",
            ROWS_VERSION,
            params,
            [one.members.sha256, one.images.sha256, one.documents.sha256],
            one.paths(),
        )
        for one in inputs
    ]
    return run_map(store, RECEIPTS, engine, DigestRows(store, RECEIPTS, placement), units, progress)


def _units(
    recipe: Recipe, placement: Placement, held: Mapping[int, ShardRows], tokenizer_digests: Mapping[str, str]
) -> dict[int, ShardUnit]:
    """Every shard's unit: parameters, and the digest of its sorted row digests."""
    found: dict[int, ShardUnit] = {}
    for slot in placement.slots():
        params = _params(recipe, placement, slot, tokenizer_digests)
        rows, digest = held[slot.ordinal]
        found[slot.ordinal] = ShardUnit(Unit("pack", VERSION, params, [digest]).id, slot, rows)
    return found


def _params(recipe: Recipe, placement: Placement, slot: Slot, tokenizer_digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "layout": placement.layout,
        "ordinal": slot.ordinal,
        "split": slot.split,
        "kind": slot.kind,
        "number": slot.number,
        "of": slot.of,
        "max_captions": recipe.pack.max_captions,
        "max_caption_ids": recipe.pack.max_caption_ids,
        "repeat": recipe.pack.repeat,
        "tokenizers": dict(tokenizer_digests),
    }


def _round(
    engine: Engine, load: LoadRows, write: WriteShard, inputs: Sequence[PackInput], digested: Sequence[Receipt]
) -> Any:
    """Receipts of the shards of one round; only landing files that give rows to them are read."""
    todo = sorted(write.units)
    if todo:
        giving = [one for one, receipt in zip(inputs, digested, strict=True) if shards_of(receipt)[todo].any()]
        giving = giving or [inputs[0]]
        expected = [-(-one.members.rows * len(todo) // len(load.placement)) for one in giving]
        spans = spans_of(expected, PIECE_ROWS)
        pieces = [{"files": [one.paths() for one in giving[first:end]]} for first, end in spans]
        yield from engine.group(load, pieces, todo, write)


def _advance(progress: Progress | None, done: Mapping[int, Receipt], units: Mapping[int, ShardUnit]) -> None:
    if progress is not None:
        progress("pack", len(done), len(units))
