"""Reading a corpus by sample number, one byte range at a time.

    corpus = open_corpus("corpus/manifest.json")          # or any fsspec URL; split="train" by default
    corpus.counts                                         # {"pair": n, "image": n, "text": n, "captions": n}
    corpus["pair"][0].captions                            # samples in manifest order
    corpus.read("image", ordinal=2, row=17)               # by place, as the loader asks

Index rows are fetched once per shard and kind, a sample is one range, and every field's CRC-32C is checked the first
time it is touched: on a mismatch the range is fetched once more, then a ShardError names shard, sample and field. A
Corpus may be shared by threads, and pickled to other processes, which fetch their own index rows.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imglish.errors import ManifestError, ShardError
from imglish.records import KINDS, SPLITS, Kind, Split
from imglish.shards import format as fmt
from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.ranges import join, parent, read_range
from imglish.shards.samples import U16, ImageSample, PairSample, TextSample

Sample = PairSample | ImageSample | TextSample
SampleT = TypeVar("SampleT", PairSample, ImageSample, TextSample)

RUN_BYTES = 8 << 20
"""Longest range of one request for text blocks."""
GAP_BYTES = 64 << 10
"""Blocks nearer than this are fetched by one range."""


def open_corpus(path: str, split: Split = "train") -> Corpus:
    """A corpus by its manifest; ManifestError when that is damaged or too new."""
    if split not in SPLITS:
        raise ManifestError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    text = str(path)
    return Corpus(load_manifest(text), parent(text), split)


class Corpus:
    """One split of a corpus. Mapping-like by kind; each value is a sequence of samples."""

    def __init__(self, manifest: Manifest, base: str, split: Split) -> None:
        self.manifest = manifest
        self.base = base
        self.split = split
        self.counts: Mapping[str, int] = {name: manifest.counts[split][name] for name in (*KINDS, "captions")}
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._index: dict[tuple[Kind, int], fmt.Rows] = {}
        self._checked: dict[tuple[Kind, int], NDArray[np.bool_]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "base": self.base, "split": self.split, "counts": self.counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

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

    def index(self, kind: Kind, ordinal: int) -> fmt.Rows:
        """Index rows of one kind in one shard, dtype `format.INDEX_ROW[kind]`; fetched once."""
        place = (kind, ordinal)
        rows = self._index.get(place)
        if rows is None:
            rows = self._fetch_index(kind, ordinal)
            with self._lock:
                rows = self._index.setdefault(place, rows)
                self._checked.setdefault(place, np.zeros(len(rows), dtype=np.bool_))
        return rows

    @overload
    def read(self, kind: Literal["pair"], ordinal: int, row: int) -> PairSample: ...
    @overload
    def read(self, kind: Literal["image"], ordinal: int, row: int) -> ImageSample: ...
    @overload
    def read(self, kind: Literal["text"], ordinal: int, row: int) -> TextSample: ...
    def read(self, kind: Kind, ordinal: int, row: int) -> Sample:
        """One sample by shard ordinal and index row; ShardError when it is damaged."""
        if kind == "text":
            return TextSample(fmt.block_key(ordinal, row), self.read_blocks(ordinal, [row])[0])
        entry = self.index(kind, ordinal)[row]
        key = bytes(entry["key"]).hex()
        fields = self._fields(kind, ordinal, row, entry, key)
        views = fmt.decode_u16(fields["views"]).reshape(-1, fmt.VIEW_FIELDS)
        codes = fmt.decode_u16(fields["codes"]).reshape(len(views), -1) if len(views) else views
        if kind == "image":
            return ImageSample(key, fields["jpg"], views, codes)
        captions = fmt.decode_captions(fields["txt"])
        ids = fmt.split_captions(fmt.decode_u16(fields["ids"]))
        return PairSample(key, fields["jpg"], captions, ids, views, codes)

    def read_blocks(self, ordinal: int, rows: ArrayLike) -> U16:
        """Text blocks of one shard, u16 [n, 512] in the order of `rows` (which may repeat)."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        index = self.index("text", ordinal)
        blocks = np.empty((len(wanted), fmt.BLOCK_IDS), dtype="<u2")
        offsets = index["offset"][wanted].astype(np.int64)
        order = np.argsort(offsets, kind="stable")
        for run in _runs(offsets[order], order):
            self._read_run(ordinal, index, wanted[run], blocks, run)
        return blocks.astype(np.uint16, copy=False)

    def _read_run(
        self, ordinal: int, index: fmt.Rows, wanted: NDArray[np.int64], blocks: U16, places: NDArray[np.int64]
    ) -> None:
        """Fetch neighbouring blocks by one range and put block `wanted[i]` at `blocks[places[i]]`."""
        offsets = index["offset"][wanted].astype(np.int64)
        start, end = int(offsets[0]), int(offsets[-1]) + fmt.BLOCK_BYTES
        checked = self._checked["text", ordinal]
        fresh = [i for i, row in enumerate(wanted) if not checked[row]]

        def damaged(data: bytes) -> str | None:
            view = memoryview(data)
            for i in fresh:
                block = view[offsets[i] - start : offsets[i] - start + fmt.BLOCK_BYTES]
                if fmt.checksum(block) != index["crc32c"][wanted[i]]:
                    return f"sample {fmt.block_key(ordinal, wanted[i])}, field ids"
            return None

        data = self._range(ordinal, start, end, damaged)
        checked[wanted] = True
        for i, place in enumerate(places):
            blocks[place] = np.frombuffer(data, "<u2", fmt.BLOCK_IDS, int(offsets[i]) - start)

    def _fields(self, kind: Kind, ordinal: int, row: int, entry: Any, key: str) -> dict[str, bytes]:
        """The payloads of a sample by field, through one range."""
        spans = {field: (int(entry[field]["offset"]), int(entry[field]["length"])) for field in fmt.FIELDS[kind]}
        start = min(offset for offset, _ in spans.values())
        end = max(offset + length for offset, length in spans.values())
        checked = self._checked[kind, ordinal]

        def cut(data: bytes) -> dict[str, bytes]:
            return {field: data[at - start : at - start + length] for field, (at, length) in spans.items()}

        def damaged(data: bytes) -> str | None:
            if checked[row]:
                return None
            for field, payload in cut(data).items():
                if fmt.checksum(payload) != entry[field]["crc32c"]:
                    return f"sample {fmt.PREFIX[kind]}{key}, field {field}"
            return None

        data = self._range(ordinal, start, end, damaged)
        checked[row] = True
        return cut(data)

    def _fetch_index(self, kind: Kind, ordinal: int) -> fmt.Rows:
        section = self.manifest.shards[ordinal].sections[kind]

        def damaged(data: bytes) -> str | None:
            return None if fmt.checksum(data) == section.index_crc32c else f"index rows of kind {kind}"

        start = section.index_offset
        return fmt.decode_rows(kind, self._range(ordinal, start, start + section.index_bytes, damaged))

    def _range(self, ordinal: int, start: int, end: int, damaged: Callable[[bytes], str | None]) -> bytes:
        """A range of a shard that passes its check, fetched at most twice."""
        shard = self.manifest.shards[ordinal]
        url = join(self.base, shard.path)
        if end > shard.bytes:
            raise ShardError(f"{url}: bytes up to {end} wanted but the manifest says {shard.bytes}")
        problem: str | None = None
        for _ in range(2):
            data = read_range(url, start, end - start)
            problem = damaged(data)
            if problem is None:
                return data
        raise ShardError(
            f"shard {ordinal} ({url}): {problem}: crc32c does not match the index, twice; "
            "find every damaged sample with 'imglish verify' and rebuild or download this shard again"
        )


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
