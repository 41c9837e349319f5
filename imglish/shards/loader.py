"""Batches for training, from any position, the same for any number of ranks and workers.

    with Loader(corpus, batch={"pair": 8, "image": 8, "text": 8}, seed=0, rank=0, world_size=1) as loader:
        for batch in loader:            # endless; stop when the run is over
            batch["pair"].images, batch.keys["pair"], batch.digest
            state = loader.state_dict() # JSON, below 1 KB

Each step is computed whole by one worker, a thread or a process, from its position alone. `position` counts batches
handed out, so the state taken after a batch resumes with the next one. A corpus behind a URL has its windows fetched
ahead into the cache. `validation_batches` goes once through a split instead.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, cast

from imglish.errors import OrderError, SampleError
from imglish.records import KINDS, Kind
from imglish.shards.batches import CAPTION_LENGTH, Batch, Collator
from imglish.shards.exclusions import Exclusion, Exclusions
from imglish.shards.masks import Masks
from imglish.shards.mixture import Mixture, Schedule
from imglish.shards.order import LANES, SAMPLER_VERSION, Order, batch_digest, manifest_rows
from imglish.shards.prefetch import Prefetch
from imglish.shards.reader import Corpus
from imglish.shards.windows import FetchAhead

BATCH: Mapping[Kind, int] = MappingProxyType({"pair": 8, "image": 8, "text": 8})
MASKS = Masks()


def corpus_order(
    corpus: Corpus,
    batch: Mapping[Kind, int] = BATCH,
    seed: int = 0,
    exclusions: Exclusions | str | Path | None = None,
    schedule: Schedule | None = None,
    lanes: int = LANES,
    windows: Mapping[Kind, int] | None = None,
) -> Order:
    """The order of a run on a corpus, as the loader, replay and the planner take it; arguments as in `Loader`."""
    if isinstance(exclusions, (str, Path)):
        exclusions = Exclusions.load(exclusions)
    sections = {kind: corpus.sections(kind) for kind in KINDS}
    lines = exclusions.lines if exclusions is not None else ()
    return Order(sections, batch, seed, lanes, windows, schedule, Exclusions(lines, corpus.tombstones()))


@dataclass(frozen=True)
class Step:
    """The work of one step on one rank: a pure, picklable function of the position."""

    collator: Collator
    order: Order
    rank: int
    world_size: int

    def __call__(self, position: int) -> Batch:
        rows = self.order.rows(position)
        shares = {kind: whole.share(self.rank, self.world_size) for kind, whole in rows.items()}
        replaced = sum(int(whole.replaced.sum()) for whole in rows.values())
        try:
            return self.collator(position, shares, batch_digest(rows), replaced)
        except SampleError as error:
            line = Exclusion(position, cast(Kind, error.kind), error.shard, error.row).to_json()
            message = f"{error}; or go on without it: add this line to the exclusions file and resume\n{line}"
            raise SampleError(message, error.kind, error.shard, error.row) from error


class Loader(Iterator[Batch]):
    """One rank's endless iterator of batches, from `position`.

    `batch` is the global batch, rows per kind; `schedule` changes it at later positions. `workers` threads read ahead
    (0: none), or as many processes when `processes`: threads are faster, as decoding does not hold the interpreter's
    lock, and processes are for machines with so many cores that the lock counts. `exclusions` is a file or an
    `Exclusions`. `lanes` and `windows` (rows per kind) are explained in `imglish.shards.order`, `caption_length`,
    `text_length` and `image_size` in `batches.Collator`.

    Raises OrderError for an impossible batch or rank; while iterating, SampleError when a sample is damaged, with the
    line that would exclude it, ShardError when a shard is or cannot be read, WorkerError when a process is gone.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch: Mapping[Kind, int] = BATCH,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        masks: Masks = MASKS,
        exclusions: Exclusions | str | Path | None = None,
        schedule: Schedule | None = None,
        lanes: int = LANES,
        windows: Mapping[Kind, int] | None = None,
        caption_length: int = CAPTION_LENGTH,
        text_length: int | None = None,
        image_size: int | None = None,
        processes: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise OrderError(f"rank {rank} of {world_size}: ranks count from 0 to {world_size - 1}")
        if workers < 0:
            raise OrderError(f"workers is {workers}; it is a number of threads, or 0 to work without any")
        self.corpus = corpus
        self.order = corpus_order(corpus, batch, seed, exclusions, schedule, lanes, windows)
        self.order.mixture.check_world(world_size)
        self.position = 0
        self._collator = Collator(corpus, masks, caption_length, text_length, image_size)
        self._steps = Prefetch(Step(self._collator, self.order, rank, world_size), workers, processes)
        self._ahead: FetchAhead | None = None
        if not corpus.files.local and corpus.files.cache is not None:
            self._ahead = FetchAhead(corpus, self.order, rank, world_size)
            weakref.finalize(self, self._ahead.close)
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise OrderError("this loader is closed; make a new one and load the state into it")
        batch = self._steps.get(self.position)
        self.position += 1
        if self._ahead is not None:  # not before the first batch: it must not queue behind whole windows
            self._ahead.advance(self.position)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What a loader needs to go on behind the last batch handed out; JSON values, the same on every rank."""
        return {
            **self._identity(),
            "exclusions": self.order.exclusions.digest(self.position),
            "position": self.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, at any rank, world size and worker count.

        A state of the manifest that this one was re-issued from, after a removal, fits too: from its position on the
        removed rows are replaced. OrderError names every field in which the state's run and this loader differ.
        """
        position = state.get("position")
        if type(position) is not int or position < 0:
            raise OrderError(f"the loader's state has position {position!r}; it is no state of a loader")
        here = {**self._identity(), "exclusions": self.order.exclusions.digest(position), "position": position}
        issued_from = self.corpus.manifest.parent
        if issued_from is not None and state.get("data_digest") == issued_from.data_digest:
            here["data_digest"] = issued_from.data_digest
        differing = [name for name in sorted(here.keys() | state.keys()) if here.get(name) != state.get(name)]
        if differing:
            details = "; ".join(f"{name} was {state.get(name)!r} and is {here.get(name)!r}" for name in differing)
            raise OrderError(f"the state belongs to another run: {details}; make the loader as it was, or start anew")
        self.position = position

    def close(self) -> None:
        """End the workers; the state can still be taken."""
        self._closed = True
        if self._ahead is not None:
            self._ahead.close()
        self._steps.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a state to fit, position and exclusions apart."""
        order, collator = self.order, self._collator
        return {
            "data_digest": self.corpus.manifest.data_digest,
            "split": self.corpus.split,
            "sampler": SAMPLER_VERSION,
            "seed": order.seed,
            "lanes": order.lanes,
            "windows": dict(order.windows),
            "schedule": order.mixture.to_json(),
            "masks": asdict(collator.masks),
            "caption_length": collator.caption_length,
            "text_length": collator.text_length,
            "image_size": collator.image_size,
        }


def validation_batches(
    corpus: Corpus,
    batch: Mapping[Kind, int] = BATCH,
    seed: int = 0,
    limit: int | None = None,
    masks: Masks = MASKS,
    caption_length: int = CAPTION_LENGTH,
    text_length: int | None = None,
    image_size: int | None = None,
) -> Iterator[Batch]:
    """Every sample of a split once, in manifest order, with masks, views and captions that never change.

    At most `limit` samples of each kind (shards are fair samples of the corpus, so the first ones are too); a removed
    one is left out and changes nothing for the others. Batches
    have up to `batch[kind]` samples; a kind that has run out is absent.
    """
    collator = Collator(corpus, masks, caption_length, text_length, image_size)
    counts = Mixture(batch).counts(0)
    gone = Exclusions(tombstones=corpus.tombstones())
    whole = {
        kind: manifest_rows(corpus.sections(kind), seed, kind, limit, gone) for kind, count in counts.items() if count
    }
    position = 0
    while any(position * counts[kind] < len(rows) for kind, rows in whole.items()):
        parts = {kind: rows.part(position * counts[kind], counts[kind]) for kind, rows in whole.items()}
        present = {kind: rows for kind, rows in parts.items() if len(rows)}
        yield collator(position, present, batch_digest(present), replaced=0)
        position += 1
