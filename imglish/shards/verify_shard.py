"""Where a shard is damaged: every byte of it is a header, a payload, padding, an index row or the end.

for sample, field, problem in check_shard(data, ordinal, shard, codes): ...
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.index_repair import repeated, rows_by_headers
from imglish.shards.manifest import Shard

Place = tuple[str | None, str | None, str]
"""Sample, field, problem."""
_LISTED = 20
"""Differing index rows that are named one by one when the index is damaged."""
_ZEROS = bytes(fmt.RECORD)
_PADS = fmt.encode_u16(np.full(fmt.BLOCK_IDS, fmt.PAD, dtype=np.uint16))


def check_shard(
    data: bytes, ordinal: int, shard: Shard, codes: int, tombstones: Collection[tuple[Kind, int]] = ()
) -> Iterator[Place]:
    """Faults in a shard's bytes: sample, field, problem.

    `codes` is N of the tokenizer whose codes are in the tar; `tombstones` are the (kind, row) that the manifest lists.
    """
    if list(_bad_ranges(data, shard)):
        yield from _bad_ranges(data, shard)
        return
    rows: dict[Kind, fmt.Rows] = {}
    damaged = False
    for kind in KINDS:
        section = shard.sections[kind]
        raw = data[section.index_offset : section.index_offset + section.index_bytes]
        rows[kind] = fmt.decode_rows(kind, raw)
        if fmt.checksum(raw) != section.index_crc32c:
            damaged = True
            made = rows_by_headers(data, kind, section.offset, section.offset + section.bytes)
            yield from _index_differences(kind, ordinal, rows[kind], made)
    if not damaged:
        for kind in KINDS:
            yield from _check_section(data, kind, ordinal, rows[kind], shard, codes)
        yield from _check_captions(data, rows["pair"], shard)
        yield from _check_tombstones(ordinal, rows, tombstones)
        yield from _check_tail(data, shard, rows)


def _bad_ranges(data: bytes, shard: Shard) -> Iterator[Place]:
    """Counts and ranges in the manifest that cannot be true of any shard of this length."""
    place = 0
    for kind in KINDS:
        section = shard.sections[kind]
        if section.offset != place or section.index_bytes != shard.counts[kind] * fmt.INDEX_ROW[kind].itemsize:
            yield None, kind, "the manifest's section range or count does not fit its neighbours"
        place += section.bytes
    if place > len(data) or max(s.index_offset + s.index_bytes for s in shard.sections.values()) > len(data):
        yield None, None, f"the manifest's sections reach beyond its {len(data)} bytes"


class _Members:
    """Checks members one after another against what they must be."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data, self.place, self.end = data, start, end
        self.view = memoryview(data)

    def check(self, sample: str, field: str, name: str, size: int) -> Iterator[Place]:
        """Header and padding of the member at the current place; moves behind it."""
        start = self.place + fmt.RECORD
        if self.data[self.place : start] != fmt.header(name, size):
            yield sample, field, "its tar header is not that of this member"
        fill = fmt.padding(size)
        if self.data[start + size : start + size + fill] != _ZEROS[:fill]:
            yield sample, field, "its padding is not zero"
        self.place = start + size + fill


def _check_section(data: bytes, kind: Kind, ordinal: int, rows: fmt.Rows, shard: Shard, codes: int) -> Iterator[Place]:
    section = shard.sections[kind]
    members = _Members(data, section.offset, section.offset + section.bytes)
    if kind == "text":
        yield from _check_blocks(members, ordinal, rows)
        content = int(np.count_nonzero(rows["flags"] == 0))
    else:
        firsts = fmt.first_rows(kind, rows)
        yield from _check_repeats(kind, rows, firsts)
        for row in rows[firsts].tolist():
            yield from _check_sample(members, kind, row, codes)
        content = int(np.count_nonzero(rows[firsts]["flags"] == 0))
    if members.place != members.end:
        yield None, kind, f"members end at byte {members.place} but the section at {members.end}"
    if content != shard.distinct[kind]:
        yield None, kind, f"{content} different samples but the manifest says {shard.distinct[kind]}"


def _check_repeats(kind: Kind, rows: fmt.Rows, firsts: NDArray[np.int64]) -> Iterator[Place]:
    """Rows of one sample are equal, and samples come in ascending order."""
    originals = rows[np.repeat(firsts, np.diff(np.append(firsts, len(rows))))]
    for row in np.flatnonzero(rows != originals):
        names = [name for name in rows.dtype.names or () if rows[row][name] != originals[row][name]]
        yield _sample(kind, rows[row]), names[0], f"index row {row} repeats the row before it with another {names[0]}"
    keys = [bytes(key) for key in rows["key"][firsts]]
    for left, right in pairwise(keys):
        if left >= right:
            yield f"{fmt.PREFIX[kind]}{right.hex()}", "key", f"it comes after {left.hex()}; keys must ascend"


def _check_sample(members: _Members, kind: Kind, row: tuple[Any, ...], codes: int) -> Iterator[Place]:
    key = bytes(row[0]).hex()
    sample = f"{fmt.PREFIX[kind]}{key}"
    for field, (offset, length, crc32c) in zip(fmt.FIELDS[kind], row[1:-1], strict=True):
        start = members.place + fmt.RECORD
        if offset != start:
            yield sample, field, f"the index says byte {offset}, it starts at {start}"
        if fmt.checksum(members.view[start : start + length]) != crc32c:
            yield sample, field, "crc32c does not match the index"
        yield from members.check(sample, field, fmt.member_name(kind, key, field), length)
    removed = not any(length for _, length, _ in row[1:-1])
    if row[-1] != (fmt.TOMBSTONE if removed else 0):
        yield sample, "flags", f"flags are {row[-1]} but its members are {'empty' if removed else 'not empty'}"
    lengths = dict(zip(fmt.FIELDS[kind], (length for _, length, _ in row[1:-1]), strict=True))
    views, filled = lengths["views"], lengths["codes"]
    if views % (2 * fmt.VIEW_FIELDS) or filled != views // fmt.VIEW_FIELDS * codes:
        yield sample, "codes", f"{filled} bytes of codes for {views} bytes of views, {codes} codes a view"


def _check_blocks(members: _Members, ordinal: int, rows: fmt.Rows) -> Iterator[Place]:
    for number in range(math.ceil(len(rows) / fmt.MEMBER_BLOCKS)):
        first = number * fmt.MEMBER_BLOCKS
        part = rows[first : first + fmt.MEMBER_BLOCKS].tolist()
        place = members.place + fmt.RECORD
        name = f"{fmt.PREFIX['text']}{number:06d}"
        yield from members.check(name, "ids", fmt.text_member(number), len(part) * fmt.BLOCK_BYTES)
        for block, (offset, crc32c, flags) in enumerate(part, first):
            sample = fmt.block_key(ordinal, block)
            if offset != place:
                yield sample, "ids", f"the index says byte {offset}, it starts at {place}"
            ids = members.data[place : place + fmt.BLOCK_BYTES]
            if fmt.checksum(ids) != crc32c:
                yield sample, "ids", "crc32c does not match the index"
            if flags != (fmt.TOMBSTONE if ids == _PADS else 0):
                yield sample, "flags", f"flags are {flags} but it {'has no' if ids == _PADS else 'has'} content"
            place += fmt.BLOCK_BYTES


def _check_captions(data: bytes, rows: fmt.Rows, shard: Shard) -> Iterator[Place]:
    """The numbers of captions in the manifest, with and without repeats."""
    spans = [(int(span["offset"]), int(span["length"])) for span in rows["txt"]]
    found = [fmt.count_captions(data[offset : offset + length]) for offset, length in spans]
    if sum(found) != shard.counts["captions"]:
        yield None, "captions", f"{sum(found)} captions but the manifest says {shard.counts['captions']}"
    different = sum(found[row] for row in fmt.first_rows("pair", rows))
    if different != shard.distinct.get("captions", different):
        yield None, "captions", f"{different} different ones but the manifest says {shard.distinct['captions']}"


def _check_tombstones(
    ordinal: int, rows: dict[Kind, fmt.Rows], tombstones: Collection[tuple[Kind, int]]
) -> Iterator[Place]:
    """Flagged rows are exactly those that the manifest lists."""
    flagged = {(kind, int(row)) for kind in KINDS for row in np.flatnonzero(rows[kind]["flags"] & fmt.TOMBSTONE)}
    for kind, row in sorted(flagged ^ set(tombstones)):
        sample = fmt.block_key(ordinal, row) if kind == "text" else _sample(kind, rows[kind][row])
        where = "in its index row but not in the manifest" if (kind, row) in flagged else "only in the manifest"
        yield sample, "flags", f"row {row} has a tombstone {where}"


def _sample(kind: Kind, row: Any) -> str:
    return f"{fmt.PREFIX[kind]}{bytes(row['key']).hex()}"


def _check_tail(data: bytes, shard: Shard, rows: dict[Kind, fmt.Rows]) -> Iterator[Place]:
    """The index member's header, head and padding, and the end of the archive."""
    tail = sum(section.bytes for section in shard.sections.values())
    payload = fmt.encode_index(rows)
    parts = (
        ("header", fmt.header(fmt.INDEX_NAME, len(payload))),
        ("rows", payload),
        ("padding", bytes(fmt.padding(len(payload)))),
    )
    for field, expected in parts:
        if data[tail : tail + len(expected)] != expected:
            yield fmt.INDEX_NAME, field, "not what the index rows ask for"
        tail += len(expected)
    if data[tail:] != fmt.END:
        yield None, "end", "the archive does not end in two zero records"


def _index_differences(kind: Kind, ordinal: int, found: fmt.Rows, made: fmt.Rows | None) -> Iterator[Place]:
    """Index rows that differ from those made again from the members."""
    made = None if made is None else repeated(kind, found, made)
    if made is None:
        yield fmt.INDEX_NAME, kind, "index rows are damaged, and so are the members that could tell how"
        return
    differing = np.flatnonzero(found != made)[:_LISTED]
    for number in differing:
        names = [name for name in fmt.INDEX_ROW[kind].names or () if found[number][name] != made[number][name]]
        key = fmt.block_key(ordinal, number) if kind == "text" else bytes(made[number]["key"]).hex()
        sample = key if kind == "text" else fmt.PREFIX[kind] + key
        yield sample, names[0] if len(names) == 1 else None, f"its index row is damaged: {', '.join(names)}"
    if not len(differing):
        yield fmt.INDEX_NAME, kind, "index rows do not match their crc32c in the manifest"
