"""Reading the markers of a JPEG: is it already in the form in which we store images?

    plain_jpeg_size(payload)        (width, height), or None when it has to be encoded again

The stored form (DESIGN section 6) is: SOI, a bare JFIF APP0, tables, SOF0 with three 8-bit components sampled
4:2:0, one scan, EOI, nothing else. So no Exif, ICC, XMP, comments, thumbnails, progressive scans, and no bytes
behind the picture. Layout of markers: ITU-T T.81, annex B; JFIF 1.02.
"""

from __future__ import annotations

import re

_SOI, _EOI, _SOS, _SOF0, _APP0 = 0xD8, 0xD9, 0xDA, 0xC0, 0xE0
_TABLES = (0xDB, 0xC4, 0xDD)  # DQT, DHT, DRI
_JFIF_BYTES = 14  # APP0 without a thumbnail
_SAMPLING_420 = (0x22, 0x11, 0x11)
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)  # neither a stuffed zero nor a restart marker


def plain_jpeg_size(payload: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG in the stored form, or None. Entropy-coded data is not decoded here."""
    if payload[:4] != bytes((0xFF, _SOI, 0xFF, _APP0)) or payload[-2:] != bytes((0xFF, _EOI)):
        return None
    size: tuple[int, int] | None = None
    place = 2
    while True:
        if place + 4 > len(payload) or payload[place] != 0xFF:
            return None
        marker, length = payload[place + 1], int.from_bytes(payload[place + 2 : place + 4], "big")
        body = payload[place + 4 : place + 2 + length]
        place += 2 + length
        if length < 2 or place > len(payload):
            return None
        if marker == _SOS:
            return size if _one_scan(payload, place) and body[:1] == b"\x03" else None
        if marker == _SOF0 and size is None:
            size = _frame_size(body)
            if size is None:
                return None
        elif marker == _APP0 and place == 2 + 4 + _JFIF_BYTES:
            if body[:5] != b"JFIF\0" or body[-2:] != b"\0\0":
                return None
        elif marker not in _TABLES:
            return None


def _frame_size(body: bytes) -> tuple[int, int] | None:
    if len(body) != 15 or body[0] != 8 or body[5] != 3 or tuple(body[7::3]) != _SAMPLING_420:
        return None
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return (width, height) if width and height else None


def _one_scan(payload: bytes, start: int) -> bool:
    """Whether the first marker in the entropy-coded data is the EOI that ends the file."""
    found = _END_OF_SCAN.search(payload, start)
    return found is not None and found.start() == len(payload) - 2
