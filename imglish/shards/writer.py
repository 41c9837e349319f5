"""Writing a shard: samples in, one tar out, the same bytes for the same samples.

    facts = write_shard(file, pairs, images, documents, repeats={("pair", "00ff..."): 3})
    facts = write_stored(file, stored_pairs, stored_images, blocks)        # payloads that already are bytes

Samples come in ascending key order and are written as they come; only index rows (about 100 bytes a sample) and the
text ids of the shard are held. `facts` is what the manifest says about a shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.samples import U16, ImageSample, PairSample
from imglish.shards.text import pack_blocks


@dataclass(frozen=True)
class ShardFacts:
    """What a shard holds.

    `counts`: index rows of each kind, and their captions; `distinct`: different samples of each kind that have content,
    and their captions; `sections`: for each kind the byte range of its members and of its index rows, with the rows'
    CRC-32C; `starts`: int64 [documents], the place of every document's first id among the ids of the shard.
    """

    counts: dict[str, int]
    distinct: dict[str, int]
    sections: dict[str, dict[str, int]]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Stored:
    """A pair or image as it lies in a shard: payloads in the order of `format.FIELDS`; `rows` index rows point to it.

    All payloads of a tombstone are empty.
    """

    key: str
    payloads: Sequence[bytes]
    rows: int = 1

    @property
    def removed(self) -> bool:
        return not any(self.payloads)


def write_shard(
    file: BinaryIO,
    pairs: Iterable[PairSample],
    images: Iterable[ImageSample],
    documents: Sequence[U16],
    repeats: Mapping[tuple[Kind, str], int] | None = None,
) -> ShardFacts:
    """Write a whole shard from the file's current place, which must be its start.

    `repeats` gives the index rows of a (kind, key); 1 when absent. Raises ValueError when keys do not ascend, a caption
    is blank or a sample repeats less than once; OSError of the file passes through.
    """
    times = repeats or {}
    stored_pairs = (Stored(x.key, _pair_fields(x), times.get(("pair", x.key), 1)) for x in pairs)
    stored_images = (Stored(x.key, _image_fields(x), times.get(("image", x.key), 1)) for x in images)
    blocks, starts = pack_blocks(documents)
    return replace(write_stored(file, stored_pairs, stored_images, blocks), starts=starts)


def write_stored(file: BinaryIO, pairs: Iterable[Stored], images: Iterable[Stored], blocks: U16) -> ShardFacts:
    """`write_shard` of payloads and of blocks u16 [n, 512]; `starts` of the result is empty."""
    tar = _Tar(file)
    edges = [0]
    rows: dict[Kind, fmt.Rows] = {}
    distinct: dict[str, int] = dict.fromkeys((*KINDS, "captions"), 0)
    captions = _Count()
    samples: tuple[tuple[Kind, Iterable[Stored]], ...] = (("pair", pairs), ("image", images))
    for kind, stored in samples:
        rows[kind] = _write_samples(tar, kind, _counted(kind, stored, distinct, captions))
        edges.append(tar.place)
    rows["text"] = _write_blocks(tar, blocks)
    edges.append(tar.place)
    index = tar.member(fmt.INDEX_NAME, fmt.encode_index(rows))
    tar.end()
    distinct["text"] = int(np.count_nonzero(rows["text"]["flags"] == 0))
    counts: dict[str, int] = {kind: len(rows[kind]) for kind in KINDS}
    sections = _sections(rows, edges, index)
    nowhere = np.zeros(0, dtype=np.int64)
    return ShardFacts({**counts, "captions": captions.value}, distinct, sections, nowhere)


class _Count:
    value = 0


class _Tar:
    """Appends members and knows the place of the next one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.place = 0

    def member(self, name: str, payload: bytes) -> int:
        """Write one member; the offset of its payload."""
        offset = self.place + fmt.RECORD
        fill = fmt.padding(len(payload))
        self.file.write(fmt.header(name, len(payload)))
        self.file.write(payload)
        self.file.write(bytes(fill))
        self.place = offset + len(payload) + fill
        return offset

    def end(self) -> None:
        self.file.write(fmt.END)


def _counted(kind: Kind, samples: Iterable[Stored], distinct: dict[str, int], captions: _Count) -> Iterator[Stored]:
    for sample in samples:
        found = fmt.count_captions(sample.payloads[1]) if kind == "pair" else 0
        captions.value += found * sample.rows
        distinct["captions"] += found
        distinct[kind] += not sample.removed
        yield sample


def _pair_fields(sample: PairSample) -> Sequence[bytes]:
    text, ids = fmt.encode_captions(sample.captions), fmt.encode_u16(np.concatenate(sample.ids))
    return sample.jpeg, text, ids, fmt.encode_u16(sample.codes), fmt.encode_u16(sample.views)


def _image_fields(sample: ImageSample) -> Sequence[bytes]:
    return sample.jpeg, fmt.encode_u16(sample.codes), fmt.encode_u16(sample.views)


def _write_samples(tar: _Tar, kind: Kind, samples: Iterable[Stored]) -> fmt.Rows:
    """Members of one section in the order of `fmt.FIELDS`; their index rows."""
    rows: list[Any] = []
    last = ""
    for sample in samples:
        if sample.key <= last:
            raise ValueError(f"{kind} {sample.key} comes after {last}; keys must ascend")
        if sample.rows < 1:
            raise ValueError(f"{kind} {sample.key} has {sample.rows} index rows; a sample has at least one")
        last = sample.key
        ranges = [
            (tar.member(fmt.member_name(kind, sample.key, field), payload), len(payload), fmt.checksum(payload))
            for field, payload in zip(fmt.FIELDS[kind], sample.payloads, strict=True)
        ]
        row = (bytes.fromhex(sample.key), *ranges, fmt.TOMBSTONE if sample.removed else 0)
        rows += [row] * sample.rows
    return np.array(rows, dtype=fmt.INDEX_ROW[kind])


def _write_blocks(tar: _Tar, blocks: U16) -> fmt.Rows:
    rows = np.zeros(len(blocks), dtype=fmt.INDEX_ROW["text"])
    rows["flags"] = np.where(np.all(blocks == fmt.PAD, axis=1), fmt.TOMBSTONE, 0)
    for number, first in enumerate(range(0, len(blocks), fmt.MEMBER_BLOCKS)):
        payload = fmt.encode_u16(blocks[first : first + fmt.MEMBER_BLOCKS])
        offset = tar.member(fmt.text_member(number), payload)
        part = rows[first : first + fmt.MEMBER_BLOCKS]
        places = range(0, len(payload), fmt.BLOCK_BYTES)
        part["offset"] = offset + np.asarray(places, dtype=np.uint64)
        part["crc32c"] = [fmt.checksum(payload[place : place + fmt.BLOCK_BYTES]) for place in places]
    return rows


def _sections(rows: dict[Kind, fmt.Rows], edges: Sequence[int], index: int) -> dict[str, dict[str, int]]:
    sections: dict[str, dict[str, int]] = {}
    place = index + fmt.INDEX_HEADER.itemsize
    for number, kind in enumerate(KINDS):
        data = rows[kind].tobytes()
        sections[kind] = {
            "offset": edges[number],
            "bytes": edges[number + 1] - edges[number],
            "index_offset": place,
            "index_bytes": len(data),
            "index_crc32c": fmt.checksum(data),
        }
        place += len(data)
    return sections
