"""Opening an image that somebody else made, without trusting a byte of it.

    with open_image(payload, max_pixels=100_000_000) as image: ...      # a fully decoded Pillow image

The size is read from the header and refused before any pixel is decoded; only raster formats whose decoders
are built for the web are tried; then the first frame is decoded whole, so a truncated file is found here.
Whatever Pillow raises becomes an ImageError with one of `REASONS`, and its warnings stay inside.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from imglish.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are tried; its JPEG opens MPO too, a JPEG with more pictures behind it."""

MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16L", "I;16B")
)
"""Pixel types with one agreed meaning as 8-bit sRGB; floats, Lab and HSV have none."""

MAX_SIDE = 65_500
"""Longest side in pixels: JPEG_MAX_DIMENSION of libjpeg's jmorecfg.h; also keeps view boxes inside u16."""

REASONS = {
    "empty": "no bytes",
    "not_image": "no known raster format, or a header that cannot be read",
    "too_many_pixels": "the header claims more pixels than the recipe allows",
    "too_long": f"a side is longer than {MAX_SIDE} pixels",
    "unsupported_mode": "a pixel type without an agreed meaning in sRGB, such as floats or Lab",
    "truncated": "the file ends before its picture does",
    "damaged": "the compressed data contradicts itself",
}
"""Vocabulary of `ImageError.reason`."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins let through on hostile input, found by reading and fuzzing them."""


@contextmanager
def open_image(payload: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The first frame, decoded; ImageError when the payload is not a safe, whole image.

    Errors of Pillow that the caller's own block meets become `damaged` too.
    """
    if not payload:
        raise ImageError("empty", "0 bytes")
    with _quiet_pillow():
        try:
            with _open(payload, max_pixels) as image:
                _load(image)
                yield image
        except _DECODER_ERRORS as error:
            raise ImageError("damaged", _words(error)) from error


def _open(payload: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(payload), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"{_words(error)}; the limit is {max_pixels}") from None
    except (UnidentifiedImageError, *_DECODER_ERRORS) as error:
        starts = payload[:12].hex(" ")
        raise ImageError("not_image", f"none of {', '.join(FORMATS)}; starts with {starts}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height} pixels; the limit is {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise ImageError("too_long", f"{width} x {height} pixels; the limit is {MAX_SIDE} a side")
    if min(width, height) < 1:
        raise ImageError("not_image", f"{width} x {height} pixels")
    if image.mode not in MODES:
        raise ImageError("unsupported_mode", f"pixel type {image.mode} of {image.format}")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", _words(error)) from None
    except _DECODER_ERRORS as error:
        text = _words(error)
        short = isinstance(error, EOFError) or "truncated" in text or "unexpected end" in text.lower()
        raise ImageError("truncated" if short else "damaged", text) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings while at least one thread is inside.

    `warnings.catch_warnings` saves and restores one global list, so threads that overlap would restore each
    other's; the first one in saves it and the last one out restores it.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
