"""Where a shard is damaged: every byte of it is a header, a payload, padding, an index row or the end.

for sample, field, problem in check_shard(data, ordinal, shard, codes): ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.shards import format as fmt
from imglish.shards.checksums import Data, joined_blocks, joined_members, joined_runs, wrong_pieces
from imglish.shards.index_repair import repeated, rows_by_headers
from imglish.shards.manifest import Section, Shard
from imglish.shards.verify_members import I64, member_faults, member_places
from imglish.shards.verify_pass import FileBytes, Passed, pass_over

Place = tuple[str | None, str | None, str]
"""Sample, field, problem."""
_LISTED = 20
"""Differing index rows that are named one by one when the index is damaged."""
_PADS = fmt.encode_u16(np.full(fmt.BLOCK_IDS, fmt.PAD, dtype=np.uint16))


def check_shard(
    data: Data | FileBytes,
    ordinal: int,
    shard: Shard,
    codes: int,
    tombstones: Collection[tuple[Kind, int]] = (),
    passed: Passed | None = None,
) -> Iterator[Place]:
    """Faults in a shard's bytes: sample, field, problem.

    `codes` is N of the tokenizer whose codes are in the tar; `tombstones` are the (kind, row) that the manifest lists;
    `passed` is what a pass over the bytes found; it is made here when it is not given.
    """
    if bad := list(_bad_ranges(data, shard)):
        yield from bad
        return
    rows: dict[Kind, fmt.Rows] = {}
    damaged = False
    for kind in KINDS:
        section = shard.sections[kind]
        raw = data[section.index_offset : section.index_offset + section.index_bytes]
        rows[kind] = fmt.decode_rows(kind, raw)
        if fmt.checksum(raw) != section.index_crc32c:
            damaged = True
            made = rows_by_headers(_whole(data), kind, section.offset, section.offset + section.bytes)
            yield from _index_differences(kind, ordinal, rows[kind], made)
    if not damaged:
        passed = passed or pass_over([_whole(data)], data, shard)
        for kind, found in zip(KINDS, passed.sections, strict=True):
            yield from _check_section(data, kind, ordinal, rows[kind], shard, codes, found)
        yield from _check_captions(*passed.captions, shard)
        yield from _check_tombstones(ordinal, rows, tombstones)
        yield from _check_tail(data, shard)


def _whole(data: Data | FileBytes) -> memoryview:
    return memoryview(data[0 : len(data)])


def _bad_ranges(data: Data | FileBytes, shard: Shard) -> Iterator[Place]:
    """Counts and ranges in the manifest that cannot be true of any shard of this length."""
    place = 0
    for kind in KINDS:
        section = shard.sections[kind]
        if section.offset != place or section.index_bytes != shard.counts[kind] * fmt.INDEX_ROW[kind].itemsize:
            yield None, kind, "the manifest's section range or count does not fit its neighbours"
        place += section.bytes
    if place > len(data) or max(s.index_offset + s.index_bytes for s in shard.sections.values()) > len(data):
        yield None, None, f"the manifest's sections reach beyond its {len(data)} bytes"


def _check_section(
    data: Data | FileBytes, kind: Kind, ordinal: int, rows: fmt.Rows, shard: Shard, codes: int, found: int
) -> Iterator[Place]:
    """`found` is the CRC-32C of the section's bytes."""
    section = shard.sections[kind]
    if kind == "text":
        yield from _check_blocks(data, ordinal, rows, section, found)
        content = int(np.count_nonzero(rows["flags"] == 0))
    else:
        firsts = fmt.first_rows(kind, rows)
        yield from _check_repeats(kind, rows, firsts)
        yield from _check_samples(data, kind, rows if len(firsts) == len(rows) else rows[firsts], section, codes, found)
        content = int(np.count_nonzero(rows[firsts]["flags"] == 0))
    if content != shard.distinct[kind]:
        yield None, kind, f"{content} different samples but the manifest says {shard.distinct[kind]}"


def _check_repeats(kind: Kind, rows: fmt.Rows, firsts: NDArray[np.int64]) -> Iterator[Place]:
    """Rows of one sample are equal, and samples come in ascending order."""
    if len(firsts) < len(rows):
        originals = rows[np.repeat(firsts, np.diff(np.append(firsts, len(rows))))]
        for row in np.flatnonzero(rows != originals):
            names = [name for name in rows.dtype.names or () if rows[row][name] != originals[row][name]]
            problem = f"index row {row} repeats the row before it with another {names[0]}"
            yield _sample(kind, rows[row]), names[0], problem
    keys = np.ascontiguousarray(rows["key"][firsts]).view("S16")  # compared byte by byte, zeros at the end too
    for place in np.flatnonzero(keys[:-1] >= keys[1:]) + 1:
        before = _key(rows[firsts[place - 1]])
        yield _sample(kind, rows[firsts[place]]), "key", f"it comes after {before}; keys must ascend"


def _check_samples(
    data: Data | FileBytes, kind: Kind, rows: fmt.Rows, section: Section, codes: int, found: int
) -> Iterator[Place]:
    """Members of different samples: places, headers, padding, checksums; then what each row says of itself."""
    fields = fmt.FIELDS[kind]
    sizes = _by_member(rows, kind, "length")
    places, end = member_places(section.offset, sizes)
    if end != section.offset + section.bytes:
        yield None, kind, f"members end at byte {end} but the section at {section.offset + section.bytes}"
        return
    faults: list[tuple[int, str]] = []
    if found != _indexed(kind, rows, sizes.reshape(-1, len(fields))):
        data = _whole(data)
        faults += member_faults(data, fmt.member_names(kind, fmt.hex_keys(rows)), places, sizes)
        sums = _by_member(rows, kind, "crc32c").astype(np.uint32)
        bad = wrong_pieces(data, places + fmt.RECORD, sizes, sums)
        faults += [(int(n), "crc32c does not match the index") for n in bad]
    said, starts = _by_member(rows, kind, "offset"), places + fmt.RECORD
    wrong = np.flatnonzero(said != starts)
    faults += [(int(n), f"the index says byte {said[n]}, it starts at {starts[n]}") for n in wrong]
    for number, problem in sorted(faults):
        yield _sample(kind, rows[number // len(fields)]), fields[number % len(fields)], problem
    yield from _check_lengths(kind, rows, sizes.reshape(-1, len(fields)), codes)


def _indexed(kind: Kind, rows: fmt.Rows, sizes: I64) -> int:
    """The CRC-32C of a section's bytes, headers and padding included, that its index rows ask for."""
    sums = _by_member(rows, kind, "crc32c").astype(np.uint32).reshape(sizes.shape)
    steps = fmt.RECORD + sizes + -sizes % fmt.RECORD
    return joined_runs(joined_members(fmt.header_sums(kind, rows, sizes), sums, sizes), steps.sum(axis=1))


def _by_member(rows: fmt.Rows, kind: Kind, part: str) -> I64:
    """One number of every field of every row, in the order of the members."""
    return np.stack([rows[field][part].astype(np.int64) for field in fmt.FIELDS[kind]], axis=1).reshape(-1)


def _check_lengths(kind: Kind, rows: fmt.Rows, sizes: I64, codes: int) -> Iterator[Place]:
    """A sample is a tombstone exactly when nothing is left of it, and has N codes a view."""
    removed = np.isin(sizes.sum(axis=1), [0])
    for row in np.flatnonzero(rows["flags"] != np.where(removed, fmt.TOMBSTONE, 0)):
        content = "empty" if removed[row] else "not empty"
        yield _sample(kind, rows[row]), "flags", f"flags are {rows['flags'][row]} but its members are {content}"
    filled, views = sizes[:, -2], sizes[:, -1]
    bad = (views % (2 * fmt.VIEW_FIELDS) != 0) | (filled != views // fmt.VIEW_FIELDS * codes)
    for row in np.flatnonzero(bad):
        problem = f"{filled[row]} bytes of codes for {views[row]} bytes of views, {codes} codes a view"
        yield _sample(kind, rows[row]), "codes", problem


def _check_blocks(
    data: Data | FileBytes, ordinal: int, rows: fmt.Rows, section: Section, found: int
) -> Iterator[Place]:
    whole = fmt.MEMBER_BLOCKS
    blocks = np.minimum(whole, len(rows) - np.arange(0, len(rows), whole))
    sizes = blocks * fmt.BLOCK_BYTES
    places, end = member_places(section.offset, sizes)
    if end != section.offset + section.bytes:
        yield None, "text", f"members end at byte {end} but the section at {section.offset + section.bytes}"
        return
    starts = np.repeat(places + fmt.RECORD, blocks) + np.arange(len(rows)) % whole * fmt.BLOCK_BYTES
    faults = [(int(n), "ids", "the index gives another place") for n in np.flatnonzero(rows["offset"] != starts)]
    names = np.array([fmt.text_member(number) for number in range(len(sizes))], dtype="S")
    if found != _indexed_text(rows, names, sizes):
        data = _whole(data)
        for number, problem in member_faults(data, names, places, sizes):
            yield fmt.text_member(number).partition(".")[0], "ids", problem
        bad = wrong_pieces(data, starts, np.full(len(rows), fmt.BLOCK_BYTES), rows["crc32c"])
        faults += [(int(n), "ids", "crc32c does not match the index") for n in bad]
    odd = np.flatnonzero(rows["flags"] != np.where(_removed(data, starts, rows), fmt.TOMBSTONE, 0))
    faults += [(int(n), "flags", f"flags are {rows['flags'][n]}, which its content contradicts") for n in odd]
    for number, field, problem in sorted(faults):
        yield fmt.block_key(ordinal, number), field, problem


def _indexed_text(rows: fmt.Rows, names: NDArray[np.bytes_], sizes: I64) -> int:
    """The same of a text section."""
    if not len(rows):
        return 0
    heads = np.array([fmt.checksum(header.tobytes()) for header in fmt.headers(names, sizes)], dtype=np.uint32)
    sums = joined_blocks(rows["crc32c"], fmt.BLOCK_BYTES, fmt.MEMBER_BLOCKS)
    return joined_runs(joined_members(heads[:, None], sums[:, None], sizes[:, None]), fmt.RECORD + sizes)


def _removed(data: Data | FileBytes, starts: I64, rows: fmt.Rows) -> NDArray[np.bool_]:
    """Which blocks hold nothing but `<pad>`; only those whose checksum says so are looked at."""
    removed = np.isin(rows["crc32c"], [fmt.checksum(_PADS)])
    for number in np.flatnonzero(removed):
        removed[number] = data[starts[number] : starts[number] + fmt.BLOCK_BYTES] == _PADS
    return removed


def _check_captions(found: int, different: int, shard: Shard) -> Iterator[Place]:
    """The numbers of captions in the manifest, with and without repeats."""
    if found != shard.counts["captions"]:
        yield None, "captions", f"{found} captions but the manifest says {shard.counts['captions']}"
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
    return f"{fmt.PREFIX[kind]}{_key(row)}"


def _key(row: Any) -> str:
    return bytes(row["key"]).hex()


def _check_tail(data: Data | FileBytes, shard: Shard) -> Iterator[Place]:
    """The index member's header, head and padding, the place of its rows, and the end of the archive."""
    tail = sum(section.bytes for section in shard.sections.values())
    head = fmt.encode_index_head(shard.counts)
    rows = [shard.sections[kind] for kind in KINDS]
    size = len(head) + sum(section.index_bytes for section in rows)
    end = tail + fmt.RECORD + size
    place = end - size + len(head)
    for section in rows:
        if section.index_offset != place:
            yield fmt.INDEX_NAME, "rows", f"the manifest says that rows begin at {section.index_offset}, not {place}"
        place += section.index_bytes
    parts = (
        ("header", tail, fmt.header(fmt.INDEX_NAME, size)),
        ("rows", tail + fmt.RECORD, head),
        ("padding", end, bytes(fmt.padding(size))),
    )
    for field, start, expected in parts:
        if data[start : start + len(expected)] != expected:
            yield fmt.INDEX_NAME, field, "not what the index rows ask for"
    if data[end + fmt.padding(size) :] != fmt.END:
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
