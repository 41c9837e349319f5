"""Writing a shard: samples in, one tar out, the same bytes for the same samples.

    facts = write_shard(file, pairs, images, documents)

Samples come in ascending key order and are written as they come; only index rows (about 100 bytes a sample) and the
text ids of the shard are held. `facts` is what the manifest says about a shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

    `counts`: index rows of each kind, and captions; `distinct`: samples of each kind; `sections`: for each kind the
    byte range of its members and of its index rows, with the rows' CRC-32C; `starts`: int64 [documents], the place of
    every document's first id among the ids of the shard.
    """

    counts: dict[str, int]
    distinct: dict[str, int]
    sections: dict[str, dict[str, int]]
    starts: NDArray[np.int64]


def write_shard(
    file: BinaryIO, pairs: Iterable[PairSample], images: Iterable[ImageSample], documents: Sequence[U16]
) -> ShardFacts:
    """Write a whole shard from the file's current place, which must be its start.

    Raises ValueError when keys do not ascend or a caption is blank; OSError of the file passes through.
    """
    tar = _Tar(file)
    edges = [0]
    rows: dict[Kind, fmt.Rows] = {}
    captions = _Count()
    rows["pair"] = _write_samples(tar, "pair", ((sample.key, _pair_fields(sample, captions)) for sample in pairs))
    edges.append(tar.place)
    rows["image"] = _write_samples(tar, "image", ((sample.key, _image_fields(sample)) for sample in images))
    edges.append(tar.place)
    blocks, starts = pack_blocks(documents)
    rows["text"] = _write_blocks(tar, blocks)
    edges.append(tar.place)
    index = tar.member(fmt.INDEX_NAME, fmt.encode_index(rows))
    tar.end()
    counts: dict[str, int] = {kind: len(rows[kind]) for kind in KINDS}
    sections = _sections(rows, edges, index)
    return ShardFacts({**counts, "captions": captions.value}, counts, sections, starts)


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


def _pair_fields(sample: PairSample, captions: _Count) -> Sequence[bytes]:
    captions.value += len(sample.captions)
    text, ids = fmt.encode_captions(sample.captions), fmt.encode_u16(np.concatenate(sample.ids))
    return sample.jpeg, text, ids, fmt.encode_u16(sample.codes), fmt.encode_u16(sample.views)


def _image_fields(sample: ImageSample) -> Sequence[bytes]:
    return sample.jpeg, fmt.encode_u16(sample.codes), fmt.encode_u16(sample.views)


def _write_samples(tar: _Tar, kind: Kind, samples: Iterable[tuple[str, Sequence[bytes]]]) -> fmt.Rows:
    """Members of one section in the order of `fmt.FIELDS`; their index rows."""
    rows: list[Any] = []
    last = ""
    for key, payloads in samples:
        if key <= last:
            raise ValueError(f"{kind} {key} comes after {last}; keys must ascend")
        last = key
        ranges = [
            (tar.member(fmt.member_name(kind, key, field), payload), len(payload), fmt.checksum(payload))
            for field, payload in zip(fmt.FIELDS[kind], payloads, strict=True)
        ]
        rows.append((bytes.fromhex(key), *ranges, 0))
    return np.array(rows, dtype=fmt.INDEX_ROW[kind])


def _write_blocks(tar: _Tar, blocks: U16) -> fmt.Rows:
    rows = np.zeros(len(blocks), dtype=fmt.INDEX_ROW["text"])
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
