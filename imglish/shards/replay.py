"""Which samples a step saw, from a manifest alone: no GPU, no picture, no run.

    order = corpus_order(corpus, batch={"pair": 8, "image": 8, "text": 8}, seed=0)      # as the run's Loader
    order = order_of_run("run/run.json", corpus)                                        # the same, from its record
    step = replay(corpus, order, step=81_237)
    step.digest                                 equals the `batch_digest` that the run logged for this step
    step.rows["pair"].ordinal, step.keys["pair"]
    print("\\n".join(to_lines(step)))

Steps count from 1 as in `metrics.jsonl`; step T takes the global batch at position T - 1. Rows and digest are
arithmetic, keys and what `details` adds are looked up as `imglish.shards.reads` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imglish.errors import OrderError, RecipeError
from imglish.records import KINDS, Kind
from imglish.shards.loader import corpus_order
from imglish.shards.occurrences import Occurrence
from imglish.shards.order import Order, Rows, batch_digest
from imglish.shards.reader import Corpus
from imglish.shards.reads import Visit, sample_keys, visits_of


@dataclass(frozen=True)
class ReplayedStep:
    """The global batch of one step. `visits` is None without details; a key is None where its shard is not there."""

    corpus: str
    data_digest: str
    seed: int
    step: int
    digest: str
    rows: Mapping[Kind, Rows]
    keys: Mapping[Kind, Sequence[str | None]]
    visits: Mapping[Kind, Sequence[Visit]] | None

    @property
    def position(self) -> int:
        return self.step - 1


def replay(corpus: Corpus, order: Order, step: int, details: bool = False) -> ReplayedStep:
    """The batch of a step, counted from 1; OrderError when there can be no such step."""
    if step < 1:
        raise OrderError(f"step is {step}; steps count from 1, as in metrics.jsonl")
    rows = order.rows(step - 1)
    manifest = corpus.manifest
    return ReplayedStep(
        corpus=f"{manifest.name}@{manifest.version}",
        data_digest=manifest.data_digest,
        seed=order.seed,
        step=step,
        digest=batch_digest(rows),
        rows=rows,
        keys={kind: sample_keys(corpus, kind, rows[kind]) for kind in rows},
        visits={kind: visits_of(corpus, kind, rows[kind]) for kind in rows} if details else None,
    )


def order_of_run(path: str | Path, corpus: Corpus) -> Order:
    """The order that a run's `run.json` describes; OrderError when it is none, or its run was on another corpus."""
    try:
        facts = json.loads(Path(path).read_bytes())
        identity, train = facts["identity"], facts["train"]
        digest, seed, batch = identity["data_digest"], identity["seed"], train["batch"]
    except OSError as error:
        raise OrderError(f"{path} cannot be read: {error.strerror}; give the run.json in the folder of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OrderError(f"{path} is no run.json: {error!r}; give the run.json in the folder of a run") from None
    here = corpus.manifest.data_digest
    if digest != here:
        raise OrderError(
            f"{path}: the run was on data_digest {str(digest)[:16]}... but this manifest has "
            f"{here[:16]}...; replay it on its own corpus, {facts.get('corpus')}"
        )
    more = {name: train[name] for name in ("exclusions", "schedule", "lanes", "windows") if name in train}
    return corpus_order(corpus, batch, seed, **more)


def parse_counts(text: str) -> dict[Kind, int]:
    """`pair=8,image=8,text=8` as a mapping; RecipeError when it is something else."""
    counts: dict[Kind, int] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if name not in KINDS or not equals or not number.isdecimal() or name in counts:
            raise RecipeError(f"{text!r}: {part!r} is not one of {', '.join(KINDS)} with a number, as pair=8,image=8")
        counts[name] = int(number)
    return counts


def parse_change(text: str) -> tuple[int, dict[Kind, int]]:
    """`1000:pair=16,text=8` as a change of a schedule; RecipeError when it is something else."""
    position, colon, counts = text.partition(":")
    if not colon or not position.strip().isdecimal():
        raise RecipeError(f"{text!r} is no change of the batch; write it as 1000:pair=16,image=16,text=16")
    return int(position), parse_counts(counts)


def to_json(replayed: ReplayedStep) -> dict[str, Any]:
    """Everything as JSON values, rows in batch order."""
    return {
        "corpus": replayed.corpus,
        "data_digest": replayed.data_digest,
        "seed": replayed.seed,
        "step": replayed.step,
        "position": replayed.position,
        "batch_digest": replayed.digest,
        "kinds": {kind: [_row_json(*facts) for facts in _each(replayed, kind)] for kind in replayed.rows},
    }


def to_lines(replayed: ReplayedStep) -> Iterator[str]:
    """The same for people: a head, a line per kind, then a line per row, its details indented below it."""
    yield f"{replayed.corpus}  data_digest {replayed.data_digest}"
    yield f"step {replayed.step}  position {replayed.position}  seed {replayed.seed}  batch_digest {replayed.digest}"
    for kind, rows in replayed.rows.items():
        epochs = " and ".join(str(epoch) for epoch in np.unique(rows.epoch).tolist())
        facts = f"{len(rows):>6} rows  epoch {epochs}  {len(np.unique(rows.ordinal))} shards"
        yield f"{kind:<6}{facts}  {int(rows.replaced.sum())} replaced"
    yield ""
    yield f"{'kind':<6}{'place':>6}{'epoch':>6}{'shard':>8}{'row':>8}  key"
    for kind in replayed.rows:
        for place, epoch, ordinal, row, replaced, key, visit in _each(replayed, kind):
            mark = "  (replaces an excluded row)" if replaced else ""
            yield f"{kind:<6}{place:>6}{epoch:>6}{ordinal:>8}{row:>8}  {key or '(its shard is not there)'}{mark}"
            if visit is not None:
                yield from (f"{'':<12}{line}" for line in _detail_lines(visit))


_Row = tuple[int, int, int, int, bool, "str | None", "Visit | None"]


def _each(replayed: ReplayedStep, kind: Kind) -> Iterator[_Row]:
    """Place, epoch, shard ordinal, row, replaced, key and details of every row."""
    rows = replayed.rows[kind]
    visits = [None] * len(rows) if replayed.visits is None else replayed.visits[kind]
    columns = (rows.epoch.tolist(), rows.ordinal.tolist(), rows.row.tolist(), rows.replaced.tolist())
    return zip(range(len(rows)), *columns, replayed.keys[kind], visits, strict=True)


def _row_json(
    place: int, epoch: int, ordinal: int, row: int, replaced: bool, key: str | None, visit: Visit | None
) -> dict[str, Any]:
    facts = {"place": place, "epoch": epoch, "shard": ordinal, "row": row, "key": key, "replaced": replaced}
    return facts if visit is None else {**facts, **asdict(visit)}


def _detail_lines(visit: Visit) -> Iterator[str]:
    for occurrence in visit.occurrences:
        yield _occurrence_line(occurrence)
    if visit.caption is not None:
        caption = visit.caption
        origin = f" from {caption.source}" if caption.source else ""
        yield f"caption {caption.number + 1} of {caption.of}{origin}: {_printable(caption.text)}"
    if visit.view is not None:
        x, y, width, height, flip = visit.view.box
        mirrored = ", mirrored" if flip else ""
        yield f"view {visit.view.number + 1} of {visit.view.of}: {width} x {height} at {x}, {y}{mirrored}"


def _occurrence_line(occurrence: Occurrence) -> str:
    parts = [f"source {occurrence.source}", f"row {occurrence.row}"]
    parts += [occurrence.url] if occurrence.url else []
    parts += [f"document {occurrence.document}"] if occurrence.document else []
    return _printable("  ".join(parts) + ("  (merged)" if occurrence.merged else ""))


def _printable(text: str) -> str:
    """Text of the web for a terminal: control characters are shown, not obeyed."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
