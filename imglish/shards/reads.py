"""Who the rows of a batch are, without their pictures: keys from the index; sources, captions, views on request.

    keys = sample_keys(corpus, "pair", rows)          ["9f3c...", None, ...]; None where the shard is not there
    visits = visits_of(corpus, "pair", rows)          with occurrences, caption and view of each row

A key costs one range of a hundred bytes: its index row. The caption and the view cost one more, the members behind
the picture; occurrences cost the metadata table of each shard that is touched. So a corpus whose tars are far away, or
gone, can still be asked what a step saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imglish.errors import ShardError
from imglish.records import Kind
from imglish.seeds import below, draw
from imglish.shards import format as fmt
from imglish.shards.manifest import Section
from imglish.shards.occurrences import Occurrence, block_occurrences, sample_occurrences
from imglish.shards.order import Rows
from imglish.shards.ranges import is_local, join, local_path, read_range
from imglish.shards.reader import Corpus

T = TypeVar("T")

REMOTE_READERS = 32
"""Small ranges asked for at once when shards are behind a URL; ours: 4,096 rows of 50 ms each take 7 s."""
_BEHIND_PICTURE: dict[Kind, tuple[str, ...]] = {"pair": ("txt", "views"), "image": ("views",)}
_WAY_OUT = "find every damaged sample with 'imglish verify' and rebuild or download this shard again"


@dataclass(frozen=True)
class Caption:
    """Caption `number` of `of`; `source` is where it came from, None when the metadata is not there."""

    number: int
    of: int
    text: str
    source: str | None


@dataclass(frozen=True)
class View:
    """View `number` of `of`; `box` is x, y, width, height, flip in pixels of the stored image."""

    number: int
    of: int
    box: tuple[int, ...]


@dataclass(frozen=True)
class Visit:
    """What a batch saw of one sample.

    `occurrences` are those of a picture, the survivor first, or of the documents that reach into a text block, in
    their order. `caption` is None but for pairs, `view` is None for text; both are None for a tombstone and where a
    local shard is missing.
    """

    occurrences: Sequence[Occurrence]
    caption: Caption | None = None
    view: View | None = None


def sample_keys(corpus: Corpus, kind: Kind, rows: Rows) -> list[str | None]:
    """Keys in batch order; those of pictures are None where a local shard is missing. ShardError for a damaged row."""
    if kind == "text":
        return [fmt.block_key(ordinal, row) for ordinal, row in _places(rows)]
    return [_key(entry) for entry in _index_rows(corpus, kind, rows)]


def visits_of(corpus: Corpus, kind: Kind, rows: Rows) -> list[Visit]:
    """What the batch saw of every row, in batch order; ShardError names what is damaged."""
    if kind == "text":
        found = _by_shard(rows, lambda ordinal, places: block_occurrences(corpus, ordinal, rows.row[places].tolist()))
        return [Visit(occurrences) for occurrences in found]
    entries = _index_rows(corpus, kind, rows)
    keys = [_key(entry) for entry in entries]
    occurrences = _by_shard(
        rows, lambda ordinal, places: sample_occurrences(corpus, kind, ordinal, [keys[place] for place in places])
    )

    def visit(place: int) -> Visit:
        return _visit(corpus, kind, rows, place, entries[place], occurrences[place])

    return _spread(corpus, visit, len(rows))


def _visit(corpus: Corpus, kind: Kind, rows: Rows, place: int, entry: Any, occurrences: Sequence[Occurrence]) -> Visit:
    """Caption and view are chosen as `batches.Collator` chooses them."""
    if entry is None or entry["flags"] & fmt.TOMBSTONE:
        return Visit(occurrences)
    payloads = _payloads(corpus, kind, int(rows.ordinal[place]), int(rows.row[place]), entry)
    boxes = fmt.decode_u16(payloads["views"]).reshape(-1, fmt.VIEW_FIELDS)
    chosen = int(below(draw(rows.view[place], 0), len(boxes))[0])
    view = View(chosen, len(boxes), tuple(boxes[chosen].tolist()))
    if kind == "image":
        return Visit(occurrences, None, view)
    captions = fmt.decode_captions(payloads["txt"])
    number = int(rows.caption[place]) % len(captions)
    return Visit(occurrences, Caption(number, len(captions), captions[number], _origin(occurrences, number)), view)


def _origin(occurrences: Sequence[Occurrence], caption: int) -> str | None:
    """The source of a caption: captions stand in the order of the occurrences that brought them."""
    for occurrence in occurrences:
        caption -= occurrence.captions
        if caption < 0:
            return occurrence.source
    return None


def _index_rows(corpus: Corpus, kind: Kind, rows: Rows) -> list[Any]:
    """One index row each; None where a local shard is missing. ShardError for a row that cannot be right."""
    width = fmt.INDEX_ROW[kind].itemsize
    places = _places(rows)
    shards = {ordinal: corpus.manifest.shards[ordinal] for ordinal, _ in places}
    urls = {ordinal: join(corpus.base, shard.path) for ordinal, shard in shards.items()}
    starts = {ordinal: shard.sections[kind].index_offset for ordinal, shard in shards.items()}
    there = {ordinal for ordinal, url in urls.items() if not is_local(url) or local_path(url).exists()}
    present = [place for place, (ordinal, _) in enumerate(places) if ordinal in there]

    def read(number: int) -> bytes:
        ordinal, row = places[present[number]]
        return read_range(urls[ordinal], starts[ordinal] + row * width, width)

    entries = fmt.decode_rows(kind, b"".join(_spread(corpus, read, len(present))))
    sections = [shards[places[place][0]].sections[kind] for place in present]
    for number in np.flatnonzero(~_fit(entries, kind, sections))[:1]:
        ordinal, row = places[present[number]]
        raise ShardError(
            f"shard {ordinal} ({shards[ordinal].path}): index row {row} of kind {kind} is damaged; {_WAY_OUT}"
        )
    found: list[Any] = [None] * len(places)
    for place, entry in zip(present, entries, strict=True):
        found[place] = entry
    return found


def _fit(entries: fmt.Rows, kind: Kind, sections: Sequence[Section]) -> NDArray[np.bool_]:
    """Whether the members stand in their section as a tar puts them, which is all that rows alone can prove."""
    place = first = entries[fmt.FIELDS[kind][0]]["offset"].astype(np.int64)
    fits = first >= np.array([section.offset + fmt.RECORD for section in sections])
    for field in fmt.FIELDS[kind]:
        fits &= entries[field]["offset"] == place
        lengths = entries[field]["length"].astype(np.int64)
        place = place + lengths + -lengths % fmt.RECORD + fmt.RECORD
    ends = np.array([section.offset + section.bytes for section in sections])
    return np.asarray(fits & (place - fmt.RECORD <= ends))


def _payloads(corpus: Corpus, kind: Kind, ordinal: int, row: int, entry: Any) -> dict[str, bytes]:
    """The small members behind the picture through one range, checked; fetched at most twice."""
    shard, fields = corpus.manifest.shards[ordinal], _BEHIND_PICTURE[kind]
    start = int(entry[fields[0]]["offset"])
    end = int(entry[fields[-1]]["offset"]) + int(entry[fields[-1]]["length"])
    wrong: list[str] = []
    for _ in range(2):
        data = read_range(join(corpus.base, shard.path), start, end - start)
        found = {name: data[int(entry[name]["offset"]) - start :][: int(entry[name]["length"])] for name in fields}
        wrong = [name for name in fields if fmt.checksum(found[name]) != entry[name]["crc32c"]]
        if not wrong:
            return found
    raise ShardError(
        f"shard {ordinal} ({shard.path}): {kind} row {row}: sample {fmt.PREFIX[kind]}{_key(entry)}, field {wrong[0]}: "
        f"crc32c does not match the index, twice; {_WAY_OUT}"
    )


def _key(entry: Any) -> str | None:
    return None if entry is None else bytes(entry["key"]).hex()


def _by_shard(rows: Rows, work: Callable[[int, list[int]], Sequence[T]]) -> list[T]:
    """Results in batch order of `work(ordinal, places)`, called once per shard with the places of its rows."""
    found: dict[int, T] = {}
    for ordinal, places in _shards_of(rows):
        found |= zip(places, work(ordinal, places), strict=True)
    return [found[place] for place in range(len(rows))]


def _shards_of(rows: Rows) -> Iterator[tuple[int, list[int]]]:
    by_ordinal = np.argsort(rows.ordinal, kind="stable")
    ordinals, starts = np.unique(rows.ordinal[by_ordinal], return_index=True)
    for ordinal, places in zip(ordinals.tolist(), np.split(by_ordinal, starts[1:]), strict=True):
        yield ordinal, places.tolist()


def _spread(corpus: Corpus, work: Callable[[int], T], count: int) -> list[T]:
    """`work` for range(count), many at once when every call waits for the network."""
    if is_local(corpus.base):
        return [work(place) for place in range(count)]
    with ThreadPoolExecutor(REMOTE_READERS) as pool:
        return list(pool.map(work, range(count)))


def _places(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.ordinal.tolist(), rows.row.tolist(), strict=True))
