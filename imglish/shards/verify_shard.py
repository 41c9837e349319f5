"""Where a shard is damaged: every byte of it is a header, a payload, padding, an index row or the end.

for sample, field, problem in check_shard(data, ordinal, shard, codes): ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.index_repair import repeated, rows_by_headers
from imglish.shards.manifest import Section, Shard
from imglish.shards.verify_members import I64, member_faults, member_places

Place = tuple[str | None, str | None, str]
"""Sample, field, problem."""
_LISTED = 20
"""Differing index rows that are named one by one when the index is damaged."""
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


def _check_section(data: bytes, kind: Kind, ordinal: int, rows: fmt.Rows, shard: Shard, codes: int) -> Iterator[Place]:
    section = shard.sections[kind]
    if kind == "text":
        yield from _check_blocks(data, ordinal, rows, section)
        content = int(np.count_nonzero(rows["flags"] == 0))
    else:
        firsts = fmt.first_rows(kind, rows)
        yield from _check_repeats(kind, rows, firsts)
        yield from _check_samples(data, kind, rows[firsts], section, codes)
        content = int(np.count_nonzero(rows[firsts]["flags"] == 0))
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


def _check_samples(data: bytes, kind: Kind, rows: fmt.Rows, section: Section, codes: int) -> Iterator[Place]:
    """Members of different samples: places, headers, padding, checksums; then what each row says of itself."""
    fields = fmt.FIELDS[kind]
    sizes = np.stack([rows[field]["length"].astype(np.int64) for field in fields], axis=1).reshape(-1)
    places, end = member_places(section.offset, sizes)
    if end != section.offset + section.bytes:
        yield None, kind, f"members end at byte {end} but the section at {section.offset + section.bytes}"
        return
    keys = [bytes(key).hex() for key in rows["key"]]
    names = [fmt.member_name(kind, key, field) for key in keys for field in fields]
    faults = list(member_faults(data, names, places, sizes))
    said = np.stack([rows[field]["offset"].astype(np.int64) for field in fields], axis=1).reshape(-1)
    starts = places + fmt.RECORD
    wrong = np.flatnonzero(said != starts)
    faults += [(int(n), f"the index says byte {said[n]}, it starts at {starts[n]}") for n in wrong]
    sums = np.stack([rows[field]["crc32c"] for field in fields], axis=1).reshape(-1)
    faults += [(n, "crc32c does not match the index") for n in _bad_sums(data, starts, sizes, sums)]
    for number, problem in sorted(faults):
        yield fmt.PREFIX[kind] + keys[number // len(fields)], fields[number % len(fields)], problem
    for key, lengths, flags in zip(keys, sizes.reshape(-1, len(fields)), rows["flags"], strict=True):
        yield from _check_lengths(kind, key, lengths.tolist(), int(flags), codes)


def _bad_sums(data: bytes, starts: I64, sizes: I64, sums: NDArray[np.uint32]) -> Iterator[int]:
    """Numbers of the payloads whose CRC-32C is another."""
    view = memoryview(data)
    for number, (start, size, said) in enumerate(zip(starts.tolist(), sizes.tolist(), sums.tolist(), strict=True)):
        if fmt.checksum(view[start : start + size]) != said:
            yield number


def _check_lengths(kind: Kind, key: str, lengths: Sequence[int], flags: int, codes: int) -> Iterator[Place]:
    """A sample is a tombstone exactly when nothing is left of it, and has N codes a view."""
    removed = not any(lengths)
    if flags != (fmt.TOMBSTONE if removed else 0):
        problem = f"flags are {flags} but its members are {'empty' if removed else 'not empty'}"
        yield fmt.PREFIX[kind] + key, "flags", problem
    filled, views = lengths[-2:]
    if views % (2 * fmt.VIEW_FIELDS) or filled != views // fmt.VIEW_FIELDS * codes:
        problem = f"{filled} bytes of codes for {views} bytes of views, {codes} codes a view"
        yield fmt.PREFIX[kind] + key, "codes", problem


def _check_blocks(data: bytes, ordinal: int, rows: fmt.Rows, section: Section) -> Iterator[Place]:
    whole = fmt.MEMBER_BLOCKS
    blocks = np.array([min(whole, len(rows) - first) for first in range(0, len(rows), whole)], dtype=np.int64)
    sizes = blocks * fmt.BLOCK_BYTES
    places, end = member_places(section.offset, sizes)
    if end != section.offset + section.bytes:
        yield None, "text", f"members end at byte {end} but the section at {section.offset + section.bytes}"
        return
    names = [fmt.text_member(number) for number in range(len(sizes))]
    for number, problem in member_faults(data, names, places, sizes):
        yield names[number].partition(".")[0], "ids", problem
    starts = np.repeat(places + fmt.RECORD, blocks) + np.arange(len(rows)) % whole * fmt.BLOCK_BYTES
    empty = np.array([data[start : start + fmt.BLOCK_BYTES] == _PADS for start in starts.tolist()], dtype=np.bool_)
    faults = [(int(n), "ids", "the index gives another place") for n in np.flatnonzero(rows["offset"] != starts)]
    widths = np.full(len(rows), fmt.BLOCK_BYTES, dtype=np.int64)
    bad = _bad_sums(data, starts, widths, rows["crc32c"])
    faults += [(n, "ids", "crc32c does not match the index") for n in bad]
    odd = np.flatnonzero(rows["flags"] != np.where(empty, fmt.TOMBSTONE, 0))
    faults += [(int(n), "flags", f"flags are {rows['flags'][n]}, which its content contradicts") for n in odd]
    for number, field, problem in sorted(faults):
        yield fmt.block_key(ordinal, number), field, problem


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
