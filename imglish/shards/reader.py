"""Reading a corpus by sample number, one byte range at a time.

    corpus = open_corpus("corpus/manifest.json")          # or any fsspec URL; split="train" by default
    corpus.counts                                         # {"pair": n, "image": n, "text": n, "captions": n}
    corpus["pair"][0].captions                            # samples in manifest order
    corpus.read("image", ordinal=2, row=17)               # by place

Index rows are fetched once per shard and kind, a sample is one range, and every field's CRC-32C is checked whenever it
is read: on a mismatch the range is fetched once more, from the original rather than the cache, then a SampleError names
shard, sample and field. Codes come from the active slab of a section where there is one. A Corpus may be shared by
threads, and pickled to other processes, which fetch their own index rows.
"""

from __future__ import annotations

import bisect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imglish.errors import ManifestError, SampleError, ShardError
from imglish.records import KINDS, SPLITS, Kind, Split
from imglish.shards import format as fmt
from imglish.shards.cache import Cache
from imglish.shards.exclusions import Exclusion
from imglish.shards.files import File, Files, Read
from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.ranges import RETRY, Retry, parent
from imglish.shards.recent import Recent
from imglish.shards.samples import U16, ImageSample, PairSample, TextSample
from imglish.shards.sidecar import Sidecars

Sample = PairSample | ImageSample | TextSample
SampleT = TypeVar("SampleT", PairSample, ImageSample, TextSample)
T = TypeVar("T")
R = TypeVar("R")

RUN_BYTES = 8 << 20
"""Longest range of one request for text blocks."""
GAP_BYTES = 64 << 10
"""Blocks nearer than this are fetched by one range."""
INDEX_BYTES = 128 << 20
"""Index rows held in memory; 128 live shards of a large corpus have about 0.5 MB each (DESIGN's scale)."""
REMOTE_REQUESTS = 32
"""Ranges of one batch that are asked for at once when shards are behind a URL (ours: hides 50 ms of latency)."""

WAY_OUT = "find every damaged sample with 'imglish verify' and rebuild or download this shard again"


Fault = tuple[int | None, str]
"""The row that is damaged (None: the index) and what of it."""


class Members(NamedTuple):
    """A pair or image as it lies in the shard: `fields` are the payloads by field, checked; empty in a tombstone."""

    key: str
    fields: Mapping[str, bytes]


_NOTHING = Members("", {})


def open_corpus(path: str, split: Split = "train", cache: Cache | None = None, retry: Retry = RETRY) -> Corpus:
    """A corpus by its manifest; ManifestError when that is damaged or too new.

    Give remote corpora a `cache`; without one every range is a request. `retry` is for requests that fail.
    """
    if split not in SPLITS:
        raise ManifestError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    text = str(path)
    return Corpus(load_manifest(text), parent(text), split, cache, retry)


class Corpus:
    """One split of a corpus. Mapping-like by kind; each value is a sequence of samples."""

    def __init__(
        self, manifest: Manifest, base: str, split: Split, cache: Cache | None = None, retry: Retry = RETRY
    ) -> None:
        self.manifest = manifest
        self.base = base
        self.split = split
        self.files = Files(base, cache, retry)
        self.counts: Mapping[str, int] = {name: manifest.counts[split][name] for name in (*KINDS, "captions")}
        self._start()

    def _start(self) -> None:
        self._shards = [File(shard.path, shard.sha256, shard.bytes) for shard in self.manifest.shards]
        self._sidecars = Sidecars(self.manifest, self.files)
        self._lock = threading.Lock()
        self._index: Recent[tuple[Kind, int], fmt.Rows] = Recent(INDEX_BYTES)
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("manifest", "base", "split", "files", "counts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @overload
    def __getitem__(self, kind: Literal["pair"]) -> Samples[PairSample]: ...
    @overload
    def __getitem__(self, kind: Literal["image"]) -> Samples[ImageSample]: ...
    @overload
    def __getitem__(self, kind: Literal["text"]) -> Samples[TextSample]: ...
    def __getitem__(self, kind: Kind) -> Any:
        if kind not in KINDS:
            raise KeyError(f"{kind!r} is not one of {', '.join(KINDS)}")
        return Samples(self, kind)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"<Corpus {self.manifest.name}@{self.manifest.version} {self.split}: {counts}>"

    def sections(self, kind: Kind) -> list[tuple[int, int]]:
        """(shard ordinal, index rows) of the split's shards that hold this kind, in manifest order."""
        shards = enumerate(self.manifest.shards)
        found = [(ordinal, shard.counts[kind]) for ordinal, shard in shards if shard.split == self.split]
        return [(ordinal, rows) for ordinal, rows in found if rows]

    def tombstones(self) -> list[Exclusion]:
        """The split's rows whose content was removed, as exclusions from the first batch on."""
        shards, stones = self.manifest.shards, self.manifest.tombstones
        mine = [stone for stone in stones if shards[stone["shard"]].split == self.split]
        return [Exclusion(0, stone["kind"], stone["shard"], stone["row"]) for stone in mine]

    def index(self, kind: Kind, ordinal: int) -> fmt.Rows:
        """Index rows of one kind in one shard, dtype `format.INDEX_ROW[kind]`; fetched once, the latest are held."""
        return self._index.get((kind, ordinal), lambda: self._fetch_index(kind, ordinal), lambda rows: rows.nbytes)

    @overload
    def read(self, kind: Literal["pair"], ordinal: int, row: int) -> PairSample: ...
    @overload
    def read(self, kind: Literal["image"], ordinal: int, row: int) -> ImageSample: ...
    @overload
    def read(self, kind: Literal["text"], ordinal: int, row: int) -> TextSample: ...
    def read(self, kind: Kind, ordinal: int, row: int) -> Sample:
        """One sample by shard ordinal and index row; ShardError when it is damaged. A tombstone's fields are empty."""
        if kind == "text":
            return TextSample(fmt.block_key(ordinal, row), self.read_blocks(ordinal, [row])[0])
        key, fields = self.members(kind, ordinal, row)
        views = fmt.decode_u16(fields["views"]).reshape(-1, fmt.VIEW_FIELDS)
        codes = fmt.decode_u16(fields["codes"]).reshape(len(views), -1) if len(views) else views
        if kind == "image":
            return ImageSample(key, fields["jpg"], views, codes)
        captions = fmt.decode_captions(fields["txt"])
        ids = fmt.split_captions(fmt.decode_u16(fields["ids"]))
        return PairSample(key, fields["jpg"], captions, ids, views, codes)

    def members(self, kind: Kind, ordinal: int, row: int) -> Members:
        """The payloads of a pair or image, through one range (two where a slab has the codes)."""
        entry = self.index(kind, ordinal)[row].item()
        return self._members(kind, ordinal, row, entry, partial(self.files.read, self._shards[ordinal]))

    def members_of(self, kind: Kind, ordinals: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[Members]:
        """`members` of many rows, in their order; local shards are opened once each, remote ones asked at once."""
        if not self.files.local:
            wanted = zip(ordinals.tolist(), rows.tolist(), strict=True)
            return self.map(lambda place: self.members(kind, *place), wanted)
        found: list[Members] = [_NOTHING] * len(rows)
        for ordinal in np.unique(ordinals).tolist():
            places = np.flatnonzero(ordinals == ordinal)
            entries = self.index(kind, ordinal)[rows[places]].tolist()
            with self.files.opened(self._shards[ordinal]) as read:
                for place, row, entry in zip(places.tolist(), rows[places].tolist(), entries, strict=True):
                    found[place] = self._members(kind, ordinal, row, entry, read)
        return iter(found)

    def _members(self, kind: Kind, ordinal: int, row: int, entry: Any, read: Read) -> Members:
        raw_key, *spans, _ = entry
        key = raw_key.hex()
        start, end = spans[0][0], spans[-1][0] + spans[-1][1]
        fields: dict[str, bytes] = {}

        def check(data: bytes) -> Fault | None:
            for field, (at, length, crc32c) in zip(fmt.FIELDS[kind], spans, strict=True):
                fields[field] = payload = data[at - start : at - start + length]
                if fmt.checksum(payload) != crc32c:
                    return row, f"sample {fmt.PREFIX[kind]}{key}, field {field}"
            return None

        self._range(kind, ordinal, (start, end), check, read)
        if fields["jpg"] and self._sidecars.holds(kind, ordinal):
            fields["codes"] = self._sidecars.codes(kind, ordinal, row)
        return Members(key, fields)

    def read_blocks(self, ordinal: int, rows: ArrayLike) -> U16:
        """Text blocks of one shard, u16 [n, 512] in the order of `rows` (which may repeat)."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        return self.blocks(np.full(len(wanted), ordinal), wanted)

    def blocks(self, ordinals: NDArray[np.int64], rows: NDArray[np.int64]) -> U16:
        """Text blocks by shard ordinal and row, u16 [n, 512]; neighbours through one range."""
        found = np.empty((len(rows), fmt.BLOCK_IDS), dtype="<u2")
        runs: list[tuple[int, NDArray[np.int64]]] = []
        shards = np.unique(ordinals).tolist()
        for ordinal, index in zip(shards, self.map(lambda one: self.index("text", one), shards), strict=True):
            places = np.flatnonzero(ordinals == ordinal)
            offsets = index["offset"][rows[places]].astype(np.int64)
            by_offset = np.argsort(offsets, kind="stable")
            runs += [(ordinal, run) for run in _runs(offsets[by_offset], places[by_offset])]
        for _ in self.map(lambda run: self._read_run(run[0], rows[run[1]], found, run[1]), runs):
            pass
        return found.astype(np.uint16, copy=False)

    def spans(self, kind: Kind, ordinal: int, first: int, end: int) -> Iterator[tuple[File, int, int]]:
        """The ranges that hold index rows [first, end) of a kind: of the shard, and of its slab."""
        rows = self.index(kind, ordinal)[first:end]
        if kind == "text":
            yield self._shards[ordinal], int(rows["offset"].min()), int(rows["offset"].max()) + fmt.BLOCK_BYTES
            return
        low, high = rows[fmt.FIELDS[kind][0]], rows[fmt.FIELDS[kind][-1]]
        yield self._shards[ordinal], int(low["offset"].min()), int((high["offset"] + high["length"]).max())
        yield from self._sidecars.spans(kind, ordinal, first, end)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`work` of every item, in order: one after another for local files, many requests at once for remote ones."""
        if self.files.local:
            return map(work, items)
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(REMOTE_REQUESTS, thread_name_prefix="imglish-requests")
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        return self._pool.map(work, items)

    def _read_run(self, ordinal: int, rows: NDArray[np.int64], blocks: U16, places: NDArray[np.int64]) -> None:
        """Fetch neighbouring blocks by one range and put block `rows[i]` at `blocks[places[i]]`."""
        entries = self.index("text", ordinal)[rows]
        offsets = entries["offset"].astype(np.int64)
        start, end = int(offsets[0]), int(offsets[-1]) + fmt.BLOCK_BYTES

        def check(data: bytes) -> Fault | None:
            view = memoryview(data)
            for at, crc32c, row in zip((offsets - start).tolist(), entries["crc32c"].tolist(), rows, strict=True):
                if fmt.checksum(view[at : at + fmt.BLOCK_BYTES]) != crc32c:
                    return int(row), f"sample {fmt.block_key(ordinal, row)}, field ids"
            return None

        data = self._range("text", ordinal, (start, end), check)
        for at, place in zip((offsets - start).tolist(), places, strict=True):
            blocks[place] = np.frombuffer(data, "<u2", fmt.BLOCK_IDS, at)

    def _fetch_index(self, kind: Kind, ordinal: int) -> fmt.Rows:
        section = self.manifest.shards[ordinal].sections[kind]

        def check(data: bytes) -> Fault | None:
            return None if fmt.checksum(data) == section.index_crc32c else (None, f"index rows of kind {kind}")

        span = (section.index_offset, section.index_offset + section.index_bytes)
        return fmt.decode_rows(kind, self._range(kind, ordinal, span, check, keep=True))

    def _range(
        self,
        kind: Kind,
        ordinal: int,
        span: tuple[int, int],
        check: Callable[[bytes], Fault | None],
        read: Read | None = None,
        keep: bool = False,
    ) -> bytes:
        """Bytes (start, end) of a shard that pass a check, fetched at most twice."""
        file = self._shards[ordinal]
        read = read or partial(self.files.read, file)
        data = read(*span, keep=keep)
        if check(data) is None:
            return data
        data = read(*span, fresh=True, keep=keep)
        fault = check(data)
        if fault is None:
            return data
        row, what = fault
        message = (
            f"shard {ordinal} ({self.files.url(file)}): {what}: crc32c does not match the index, twice"
            f"{self.files.why(file)}; {WAY_OUT}"
        )
        raise ShardError(message) if row is None else SampleError(message, kind, ordinal, row)


class Samples(Sequence[SampleT], Generic[SampleT]):
    """The samples of one kind in manifest order; a sample is read when it is asked for."""

    def __init__(self, corpus: Corpus, kind: Kind) -> None:
        self.corpus = corpus
        self.kind = kind
        self._sections = corpus.sections(kind)
        self._ends = list(accumulate(rows for _, rows in self._sections))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, number: int) -> SampleT: ...
    @overload
    def __getitem__(self, number: slice) -> list[SampleT]: ...
    def __getitem__(self, number: int | slice) -> SampleT | list[SampleT]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        place = number + len(self) if number < 0 else number
        if not 0 <= place < len(self):
            raise IndexError(f"{self.kind} {number} of {len(self)}")
        section = bisect.bisect_right(self._ends, place)
        ordinal, rows = self._sections[section]
        sample: Any = self.corpus.read(self.kind, ordinal, place - (self._ends[section] - rows))
        return sample  # type: ignore[no-any-return]


def _runs(offsets: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """`order` cut where neighbouring offsets (ascending) lie far apart or a range grows too long."""
    first = 0
    for i in range(1, len(offsets) + 1):
        far = i == len(offsets) or offsets[i] - offsets[i - 1] > fmt.BLOCK_BYTES + GAP_BYTES
        if far or offsets[i] - offsets[first] > RUN_BYTES:
            yield order[first:i]
            first = i
