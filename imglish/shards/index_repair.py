"""Index rows made again from the tar headers of a section, to say where a damaged index is damaged."""

from __future__ import annotations

import numpy as np

from imglish.records import Kind
from imglish.shards import format as fmt
from imglish.shards.checksums import Data

_Member = tuple[str, int, int]
"""Name, offset of the payload, size."""


def rows_by_headers(data: Data, kind: Kind, place: int, end: int) -> fmt.Rows | None:
    """One index row for each sample between two places of a shard; None when a header is damaged."""
    members = _members(data, place, end)
    if members is None:
        return None
    if kind == "text":
        return _blocks(data, members)
    width = len(fmt.FIELDS[kind])
    if len(members) % width:
        return None
    rows = []
    for first in range(0, len(members), width):
        key = members[first][0].removeprefix(fmt.PREFIX[kind]).partition(".")[0]
        mine = members[first : first + width]
        ranges = [(at, size, fmt.checksum(data[at : at + size])) for _, at, size in mine]
        rows.append((bytes.fromhex(key), *ranges, 0 if any(size for _, _, size in mine) else fmt.TOMBSTONE))
    return np.array(rows, dtype=fmt.INDEX_ROW[kind])


def repeated(kind: Kind, found: fmt.Rows, made: fmt.Rows) -> fmt.Rows | None:
    """The made rows, each as often as in a damaged index, in its order; None when that cannot be told.

    A damaged row is recognised by its key, or by the place of its first field when the key is what was damaged.
    """
    if kind == "text":
        return made if len(made) == len(found) else None
    field = fmt.FIELDS[kind][0]
    by_key = {bytes(key): number for number, key in enumerate(made["key"])}
    by_place = {int(place): number for number, place in enumerate(made[field]["offset"])}
    numbers = [by_key.get(bytes(row["key"]), by_place.get(int(row[field]["offset"]))) for row in found]
    known = [number for number in numbers if number is not None]
    if len(known) < len(found) or sorted(known) != known or set(known) != set(range(len(made))):
        return None
    return made[known]


def _members(data: Data, place: int, end: int) -> list[_Member] | None:
    members: list[_Member] = []
    while place < end:
        head = bytes(data[place : place + fmt.RECORD])
        name, size = head[:100].rstrip(b"\0"), head[124:135]
        if not name.isascii() or not size.isdigit() or head != fmt.header(name.decode(), int(size, 8)):
            return None
        members.append((name.decode(), place + fmt.RECORD, int(size, 8)))
        place += fmt.RECORD + int(size, 8) + fmt.padding(int(size, 8))
    return members


def _blocks(data: Data, members: list[_Member]) -> fmt.Rows:
    pads = fmt.encode_u16(np.full(fmt.BLOCK_IDS, fmt.PAD, dtype=np.uint16))
    spots = [offset + at for _, offset, size in members for at in range(0, size, fmt.BLOCK_BYTES)]
    blocks = [data[at : at + fmt.BLOCK_BYTES] for at in spots]
    rows = [
        (at, fmt.checksum(block), fmt.TOMBSTONE if block == pads else 0)
        for at, block in zip(spots, blocks, strict=True)
    ]
    return np.array(rows, dtype=fmt.INDEX_ROW["text"])
