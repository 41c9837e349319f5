"""Shard format, version 1, byte by byte: tar headers, member names, sections, index rows, field encodings.

    p/<key>.jpg .txt .ids .codes .views      pairs, ascending key (record id in hex)
    i/<key>.jpg .codes .views                images
    t000000.ids ...                          text, 256 blocks of 512 ids a member
    __meta__/index                           fixed-width rows, then two zero records

`docs/format.md` is the same for readers in other languages. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from crc32c import crc32c as _crc32c
from numpy.typing import NDArray

from imglish.records import KINDS, Kind
from imglish.shards.checksums import change_sums
from imglish.shards.samples import U16

FORMAT_VERSION = 1
RECORD = 512
"""Bytes of a tar record; headers and payloads start on its multiples (POSIX.1-1988 ustar)."""
END = bytes(2 * RECORD)
"""End of archive: two zero records."""
BLOCK_IDS = 512
"""Ids of a text block."""
BLOCK_BYTES = 2 * BLOCK_IDS
MEMBER_BLOCKS = 256
"""Blocks of a text member; the last may hold fewer."""
BOS, PAD = 0, 1
"""Ids of `<s>`, which starts every caption and document, and of `<pad>`, which fills the last block."""
VIEW_FIELDS = 5
"""x, y, w, h, flip."""
TOMBSTONE = 1
"""Flag of a row whose content was removed."""

FIELDS: dict[Kind, tuple[str, ...]] = {
    "pair": ("jpg", "txt", "ids", "codes", "views"),
    "image": ("jpg", "codes", "views"),
    "text": ("ids",),
}
"""Members of a sample in the order of the tar."""
PREFIX = {"pair": "p/", "image": "i/", "text": "t"}
INDEX_NAME = "__meta__/index"
INDEX_MAGIC = b"imglish\x01"
INDEX_HEADER = np.dtype([("magic", "S8"), *((kind, "<u8") for kind in KINDS)])
"""Head of the index member: magic with the format version, then the rows of each kind."""

_RANGE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc32c", "<u4")])


def _row(kind: Kind) -> np.dtype[np.void]:
    if kind == "text":
        return np.dtype([("offset", "<u8"), ("crc32c", "<u4"), ("flags", "<u4")])
    return np.dtype([("key", "V16"), *((field, _RANGE) for field in FIELDS[kind]), ("flags", "<u4")])


INDEX_ROW: dict[Kind, np.dtype[np.void]] = {kind: _row(kind) for kind in KINDS}
"""Index rows: 100 bytes for a pair, 68 for an image, 16 for a text block; packed, little-endian."""

Rows = NDArray[np.void]


def checksum(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of a field or block."""
    return int(_crc32c(data))


_OWNER = b"0000644\0" + b"0000000\0" * 2
_NO_TIME = b"\0" + b"0" * 11 + b"\0"
_USTAR = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_OWNER) + sum(_NO_TIME) + sum(_USTAR) + sum(b" " * 8)
"""What the constant parts of a header add to its checksum, whose own field counts as blanks."""


def header(name: str, size: int) -> bytes:
    """The USTAR header of a regular file: mode 0644, owner 0, mtime 0, so that equal content is equal bytes."""
    encoded = name.encode("ascii")
    if len(encoded) > 100 or not 0 <= size < 8**11:
        raise ValueError(f"member {name!r} of {size} bytes does not fit a ustar header")
    octal = b"%011o" % size
    total = _FIXED_SUM + sum(encoded) + sum(octal)
    return b"%b%b%b%b%06o\0 %b" % (encoded.ljust(100, b"\0"), _OWNER, octal, _NO_TIME, total, _USTAR)


TEMPLATE = header("", 0)
"""What all headers have in common, with an empty name and no size."""


def headers(names: NDArray[np.bytes_], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Many headers at once, uint8 [n, 512]; each is what `header` returns. `names` has dtype S, at most S100."""
    found = np.empty((len(names), RECORD), dtype=np.uint8)
    found[:] = np.frombuffer(TEMPLATE, np.uint8)
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), names.itemsize)
    found[:, : names.itemsize] = letters
    found[:, NUMBERS] = header_numbers(letters.sum(axis=1, dtype=np.int64), sizes)
    return found


NUMBERS = np.concatenate([np.arange(124, 135), np.arange(148, 154)])
"""Places of the digits of size and checksum in a header."""


def header_numbers(letters: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The digits u8 [n, 17] that stand at NUMBERS; `letters` are the sums of the bytes of the names."""
    digits = _octal(sizes)[:, 1:]
    total = letters + digits.sum(axis=1, dtype=np.int64) + _FIXED_SUM
    return np.concatenate([digits, _octal(total)[:, 6:]], axis=1)


def header_sums(kind: Kind, rows: Rows, sizes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """CRC-32C u32 [n, fields] of the headers of pairs or images, from keys and sizes int64 [n, fields].

    A header is TEMPLATE with some bytes changed, and changes at different places are joined by xor (`change_sums`): so
    every byte of a key and every few digits of a number take one look into a table.
    """
    start, fields = PREFIX[kind].encode("ascii"), FIELDS[kind]
    keys = np.ascontiguousarray(rows["key"]).view(np.uint8).reshape(-1, 16)
    of_keys, letters = np.zeros(len(rows), dtype=np.uint32), _HEX_LETTERS[keys].sum(axis=1)
    for byte in range(16):
        of_keys ^= _hex_changes(len(start) + 2 * byte)[keys[:, byte]]
    ends = [f".{field}".encode("ascii") for field in fields]
    of_names = [_name_change(start, 0) ^ _name_change(end, len(start) + 32) for end in ends]
    counted = letters[:, None] + np.array([_FIXED_SUM + sum(start) + sum(end) for end in ends])
    counted += sum(_DIGIT_LETTERS[sizes >> shift & 0o7777] for shift in (24, 12, 0)) - ord("0")  # a size has 11 digits
    numbers = _number_changes(sizes, _SIZE_DIGITS) ^ _number_changes(counted, _SUM_DIGITS)
    return np.uint32(checksum(TEMPLATE)) ^ of_keys[:, None] ^ np.array(of_names, dtype=np.uint32) ^ numbers


_SIZE_DIGITS = ((24, 3, 124), (12, 4, 127), (0, 4, 131))
_SUM_DIGITS = ((12, 2, 148), (0, 4, 150))
"""Octal digits taken at once: by how many bits they are shifted, how many they are, and the place of the first."""


def _number_changes(values: NDArray[np.int64], digits: Sequence[tuple[int, int, int]]) -> NDArray[np.uint32]:
    changes = [_digit_changes(count, place)[values >> shift & 8**count - 1] for shift, count, place in digits]
    return np.asarray(np.bitwise_xor.reduce(changes))


@cache
def _digit_changes(count: int, place: int) -> NDArray[np.uint32]:
    """What `count` digits do to a header's checksum, by their value."""
    digits = _OCTAL.view(np.uint8).reshape(-1, 4)[: 8**count, 4 - count :]
    return change_sums(digits, place + np.arange(count), TEMPLATE)


@cache
def _hex_changes(place: int) -> NDArray[np.uint32]:
    """What the two letters of a byte do, by the byte."""
    return change_sums(_HEX.view(np.uint8).reshape(-1, 2), place + np.arange(2), TEMPLATE)


@cache
def _name_change(part: bytes, place: int) -> int:
    return int(change_sums(np.frombuffer(part, np.uint8), place + np.arange(len(part)), TEMPLATE))


def _octal(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Twelve octal digits of each value, uint8 [n, 12]."""
    parts = values[:, None] >> np.array([24, 12, 0]) & 0o7777
    return np.asarray(_OCTAL[parts].view(np.uint8).reshape(-1, 12))


_OCTAL = np.array([f"{number:04o}" for number in range(0o10000)], dtype="S4")
_DIGIT_LETTERS = _OCTAL.view(np.uint8).reshape(-1, 4).sum(axis=1, dtype=np.int64)


def hex_keys(rows: Rows) -> NDArray[np.bytes_]:
    """The keys of index rows in hex, S32 [n]."""
    keys = np.ascontiguousarray(rows["key"]).view(np.uint8).reshape(-1, 16)
    return _HEX[keys].view("S32").reshape(-1)


def member_names(kind: Kind, keys: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Names of all members of pairs or images in the order of a tar, S [n * fields]."""
    ends = [f".{field}".encode("ascii") for field in FIELDS[kind]]
    start = PREFIX[kind].encode("ascii")
    width = len(start) + keys.itemsize
    names = np.zeros((len(keys), len(ends), width + max(map(len, ends))), dtype=np.uint8)
    names[:, :, : len(start)] = np.frombuffer(start, np.uint8)
    names[:, :, len(start) : width] = keys.view(np.uint8).reshape(-1, 1, keys.itemsize)
    for number, end in enumerate(ends):
        names[:, number, width : width + len(end)] = np.frombuffer(end, np.uint8)
    return names.view(f"S{names.shape[2]}").reshape(-1)


_HEX = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2")
_HEX_LETTERS = _HEX.view(np.uint8).reshape(-1, 2).sum(axis=1, dtype=np.int64)


def padding(size: int) -> int:
    """Zero bytes behind a payload of `size` bytes."""
    return -size % RECORD


def member_name(kind: Kind, key: str, field: str) -> str:
    """Name of a member; the key of a text member is its number in 6 digits."""
    return f"{PREFIX[kind]}{key}.{field}"


def text_member(number: int) -> str:
    """Name of text member `number`."""
    return member_name("text", f"{number:06d}", "ids")


def block_key(ordinal: int, block: int) -> str:
    """Key of a text block: shard ordinal in the manifest and number in the shard."""
    return f"{ordinal:06d}/{block}"


def fold(caption: str) -> str:
    """A caption on one line: runs of Unicode whitespace become one space, none at the ends."""
    return " ".join(caption.split())


def encode_captions(captions: Sequence[str]) -> bytes:
    """The `.txt` member: folded captions in UTF-8, joined by newlines. ValueError when one is blank."""
    lines = [fold(caption) for caption in captions]
    if not all(lines):
        raise ValueError("a caption is blank")
    return "\n".join(lines).encode()


def decode_captions(data: bytes) -> list[str]:
    """Captions of a `.txt` member; none for the empty member of a tombstone."""
    return data.decode().split("\n") if data else []


def count_captions(data: bytes) -> int:
    """Captions of a `.txt` member."""
    return data.count(b"\n") + 1 if data else 0


def encode_u16(values: U16) -> bytes:
    """Ids, codes or views as raw little-endian u16."""
    return np.ascontiguousarray(values, dtype="<u2").tobytes()


def decode_u16(data: bytes) -> U16:
    """Raw little-endian u16 as a flat read-only array."""
    return np.frombuffer(data, dtype="<u2").astype(np.uint16, copy=False)


def split_captions(ids: U16) -> list[U16]:
    """One array per caption: each starts at `<s>`."""
    starts = np.flatnonzero(ids == BOS)
    return np.split(ids, starts[1:]) if len(ids) else []


def first_rows(kind: Kind, rows: Rows) -> NDArray[np.int64]:
    """Where each different sample starts, int64 [samples]: a repeat is a row with the key of the row before it."""
    if kind == "text":
        return np.arange(len(rows))
    keys = np.ascontiguousarray(rows["key"])
    return np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])


def encode_index(rows: dict[Kind, Rows]) -> bytes:
    """The payload of the index member."""
    head = encode_index_head({kind: len(rows[kind]) for kind in KINDS})
    return head + b"".join(rows[kind].tobytes() for kind in KINDS)


def encode_index_head(counts: Mapping[str, int]) -> bytes:
    """What stands before the rows of the index member: magic and the numbers of rows."""
    head = np.zeros((), INDEX_HEADER)
    head["magic"] = INDEX_MAGIC
    for kind in KINDS:
        head[kind] = counts[kind]
    return head.tobytes()


def decode_rows(kind: Kind, data: bytes | memoryview) -> Rows:
    """Index rows of one kind; ValueError when the bytes are not whole rows."""
    return np.frombuffer(data, INDEX_ROW[kind])
