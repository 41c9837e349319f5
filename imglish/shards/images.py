"""The stored image: what every original becomes before it enters a shard (DESIGN section 6).

    facts = probe(payload, max_pixels)            # annotate: size and type, or an ImageError with a reason
    stored = store_image(payload, config)         # tokenize and pack: the same bytes every time
    rgb = decode_jpeg(stored.jpeg)                # uint8 [H, W, 3]

An original is decoded by Pillow (first frame of an animation), turned upright by its EXIF orientation, laid over
white where transparent, 16-bit grey cut to its upper 8 bits, shrunk to the short side of the recipe by Pillow's
antialiased integer bicubic, converted to sRGB by its ICC profile (a profile that contradicts the picture is
ignored) and encoded by libjpeg-turbo as baseline 4:2:0 without any metadata. Bytes that already are such a JPEG
pass through unchanged.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms

from imglish.errors import ImageError
from imglish.recipe import StoredConfig
from imglish.shards.jpeg import plain_jpeg_size
from imglish.shards.safe_image import open_image

RGB = NDArray[np.uint8]
Seen = TypeVar("Seen")

CODEC = {
    "encoder": f"simplejpeg {simplejpeg.__version__} baseline 4:2:0 accurate-dct",
    "decoder": f"simplejpeg {simplejpeg.__version__} accurate-dct fancy-upsampling",
}
"""The one encoder and decoder (both libjpeg-turbo), named in the manifest."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by EXIF orientation (Exif 2.32, tag 0x0112)."""
_BROKEN_METADATA = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, struct.error)


@dataclass(frozen=True)
class ImageFacts:
    """An original as its header and decoder describe it: pixels as filed, before EXIF orientation."""

    width: int
    height: int
    format: str
    mode: str
    frames: int


@dataclass(frozen=True)
class StoredImage:
    """A stored image; `passthrough` says that the original's bytes were kept."""

    jpeg: bytes
    width: int
    height: int
    passthrough: bool


def probe(payload: bytes, max_pixels: int) -> ImageFacts:
    """Size and type of an image after a full decode of its first frame.

    Raises ImageError; its reasons are `imglish.shards.safe_image.REASONS`.
    """
    return probe_with(payload, max_pixels, lambda image: None)[0]


def probe_with(payload: bytes, max_pixels: int, see: Callable[[Image.Image], Seen]) -> tuple[ImageFacts, Seen]:
    """`probe`, and what `see` makes of the decoded picture, so that it is decoded once; ImageError as for `probe`."""
    with open_image(payload, max_pixels) as image:
        width, height = image.size
        frames = getattr(image, "n_frames", 1)
        facts = ImageFacts(width, height, image.format or "", image.mode, int(frames))
        return facts, see(image)


def store_image(payload: bytes, config: StoredConfig) -> StoredImage:
    """The stored JPEG of an original; ImageError as for `probe`."""
    plain = plain_jpeg_size(payload)
    if plain is not None and min(plain) <= config.short_side and plain[0] * plain[1] <= config.max_pixels:
        decode_jpeg(payload)
        return StoredImage(payload, *plain, passthrough=True)
    with open_image(payload, config.max_pixels) as image:
        rgb = _srgb(_shrink(_opaque(_upright(image)), config.short_side), image.info.get("icc_profile"))
        pixels = np.ascontiguousarray(np.asarray(rgb))
    jpeg = simplejpeg.encode_jpeg(pixels, config.quality, "RGB", "420", fastdct=False)
    return StoredImage(jpeg, pixels.shape[1], pixels.shape[0], passthrough=False)


def decode_jpeg(jpeg: bytes) -> RGB:
    """A stored JPEG as uint8 [H, W, 3] by the one decoder; ImageError `damaged` when it is not whole."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=False))
    except ValueError as error:
        raise ImageError("damaged", str(error)) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image as every original is taken: upright, over white, sRGB, mode RGB; size as it is."""
    return _srgb(_opaque(_upright(image)), image.info.get("icc_profile"))


def upright(image: Image.Image) -> Image.Image:
    """A decoded original turned by its EXIF orientation and laid over white, 8 bits: mode L, RGB or CMYK."""
    return _opaque(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN_METADATA:
        return image
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image) -> Image.Image:
    """The picture as L, RGB or CMYK, transparent parts over white."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65_535) >> 8
        return Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        return Image.composite(alpha.convert("RGB"), Image.new("RGB", alpha.size, "white"), alpha.getchannel("A"))
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Shrunk so that the short side is at most `short_side`, sides rounded half up; never enlarged."""
    width, height = image.size
    short = min(width, height)
    if short <= short_side:
        return image
    size = tuple((side * short_side * 2 + short) // (2 * short) for side in (width, height))
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            return _to_srgb(profile, image.mode).apply(image)
        except (ImageCms.PyCMSError, *_BROKEN_METADATA):
            return image.convert("RGB")
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Pictures share few profiles, and making the transform takes as long as decoding a picture."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
