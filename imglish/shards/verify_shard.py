"""Where a shard is damaged: every byte of it is a header, a payload, padding, an index row or the end.

for sample, field, problem in check_shard(data, ordinal, shard, codes): ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.manifest import Shard

Place = tuple[str | None, str | None, str]
"""Sample, field, problem."""
_LISTED = 20
"""Differing index rows that are named one by one when the index is damaged."""


def check_shard(data: bytes, ordinal: int, shard: Shard, codes: int) -> Iterator[Place]:
    """Faults in a shard's bytes: sample, field, problem. `codes` is N, the codes of one view."""
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
            made = _rows_by_headers(data, kind, section.offset, section.offset + section.bytes)
            yield from _index_differences(kind, ordinal, rows[kind], made)
    if not damaged:
        for kind in KINDS:
            section = shard.sections[kind]
            members = _Members(data, section.offset, section.offset + section.bytes)
            yield from _check_section(members, kind, ordinal, rows[kind], codes)
            yield from _check_captions(data, kind, rows[kind], shard)
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

    def check(self, sample: str, field: str, name: str, size: int) -> Iterator[Place]:
        """Header and padding of the member at the current place; moves behind it."""
        start = self.place + fmt.RECORD
        if self.data[self.place : start] != fmt.header(name, size):
            yield sample, field, "its tar header is not that of this member"
        fill = fmt.padding(size)
        if self.data[start + size : start + size + fill] != bytes(fill):
            yield sample, field, "its padding is not zero"
        self.place = start + size + fill


def _check_section(members: _Members, kind: Kind, ordinal: int, rows: fmt.Rows, codes: int) -> Iterator[Place]:
    if kind == "text":
        yield from _check_blocks(members, ordinal, rows)
    else:
        for row in rows:
            yield from _check_sample(members, kind, row, codes)
    if members.place != members.end:
        yield None, kind, f"members end at byte {members.place} but the section at {members.end}"


def _check_sample(members: _Members, kind: Kind, row: Any, codes: int) -> Iterator[Place]:
    key = bytes(row["key"]).hex()
    sample = f"{fmt.PREFIX[kind]}{key}"
    for field in fmt.FIELDS[kind]:
        offset, length, crc32c = (int(value) for value in row[field])
        if offset != members.place + fmt.RECORD:
            yield sample, field, f"the index says byte {offset}, it starts at {members.place + fmt.RECORD}"
        payload = members.data[members.place + fmt.RECORD : members.place + fmt.RECORD + length]
        yield from members.check(sample, field, fmt.member_name(kind, key, field), length)
        if fmt.checksum(payload) != crc32c:
            yield sample, field, "crc32c does not match the index"
    views, filled = int(row["views"]["length"]), int(row["codes"]["length"])
    if views % (2 * fmt.VIEW_FIELDS) or filled != views // fmt.VIEW_FIELDS * codes:
        yield sample, "codes", f"{filled} bytes of codes for {views} bytes of views, {codes} codes a view"


def _check_blocks(members: _Members, ordinal: int, rows: fmt.Rows) -> Iterator[Place]:
    for number in range(math.ceil(len(rows) / fmt.MEMBER_BLOCKS)):
        first = number * fmt.MEMBER_BLOCKS
        part = rows[first : first + fmt.MEMBER_BLOCKS]
        start = members.place + fmt.RECORD
        name = f"{fmt.PREFIX['text']}{number:06d}"
        yield from members.check(name, "ids", fmt.text_member(number), len(part) * fmt.BLOCK_BYTES)
        for i, row in enumerate(part):
            place = start + i * fmt.BLOCK_BYTES
            sample = fmt.block_key(ordinal, first + i)
            if int(row["offset"]) != place:
                yield sample, "ids", f"the index says byte {int(row['offset'])}, it starts at {place}"
            if fmt.checksum(members.data[place : place + fmt.BLOCK_BYTES]) != int(row["crc32c"]):
                yield sample, "ids", "crc32c does not match the index"


def _check_captions(data: bytes, kind: Kind, rows: fmt.Rows, shard: Shard) -> Iterator[Place]:
    """The number of captions in the manifest."""
    if kind != "pair":
        return
    spans = ((int(row["txt"]["offset"]), int(row["txt"]["length"])) for row in rows)
    found = sum(data.count(b"\n", offset, offset + length) + (length > 0) for offset, length in spans)
    if found != shard.counts["captions"]:
        yield None, "captions", f"{found} captions but the manifest says {shard.counts['captions']}"


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
    if made is None or len(made) != len(found):
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


def _rows_by_headers(data: bytes, kind: Kind, place: int, end: int) -> fmt.Rows | None:
    """Index rows made by walking the tar headers of a section; None when a header is damaged."""
    members: list[tuple[str, int, int]] = []
    while place < end:
        head = data[place : place + fmt.RECORD]
        name, size = head[:100].rstrip(b"\0"), head[124:135]
        if not name.isascii() or not size.isdigit() or head != fmt.header(name.decode(), int(size, 8)):
            return None
        members.append((name.decode(), place + fmt.RECORD, int(size, 8)))
        place += fmt.RECORD + int(size, 8) + fmt.padding(int(size, 8))
    if kind == "text":
        spots = [offset + at for _, offset, size in members for at in range(0, size, fmt.BLOCK_BYTES)]
        blocks = [(at, fmt.checksum(data[at : at + fmt.BLOCK_BYTES]), 0) for at in spots]
        return np.array(blocks, dtype=fmt.INDEX_ROW[kind])
    width = len(fmt.FIELDS[kind])
    if len(members) % width:
        return None
    rows = []
    for first in range(0, len(members), width):
        key = members[first][0].removeprefix(fmt.PREFIX[kind]).partition(".")[0]
        ranges = [(at, size, fmt.checksum(data[at : at + size])) for _, at, size in members[first : first + width]]
        rows.append((bytes.fromhex(key), *ranges, 0))
    return np.array(rows, dtype=fmt.INDEX_ROW[kind])
