"""Pictures as 64-bit perceptual hashes, and as small grey pictures that decide whether two are one.

    look = take_look(image)                       # of a decoded Pillow image: hash, digest of its pixels
    distance(look.hash, other.hash)               # bits that differ, 0..64
    similarity(thumbnail(a), thumbnail(b))        # 0..1; re-encoded, resized and slightly cropped copies stay above 0.9

The hash is the DCT hash that ImageHash calls `phash`: grey, 32 x 32 by antialiased resize (thinned and averaged before,
for speed), two-dimensional DCT-II, the signs of the 8 x 8 lowest frequencies against their median. Like every original,
a picture is first turned upright and laid over white. A hash only proposes: flat pictures, screenshots and emoji share
hashes without being copies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from imglish.shards.images import upright

LOOK_VERSION = 1
"""Of hash, pixel digest and thumbnail: part of every unit that reads them."""
_SIDE, _LOW = 32, 8
"""Sides of the picture that is transformed and of the corner that is kept (ImageHash: 8 and a factor of 4)."""
THUMBNAIL = 64
"""Side of a thumbnail, pixels."""
_DIGEST = 32
"""Bytes of a pixel digest, before the thumbnail in a sketch."""

Thumbnail = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """`hash` 64 bits, row by row from the lowest frequency; `pixels` 8 bytes, equal for equal pixels at equal size."""

    hash: int
    pixels: bytes


def take_look(image: Image.Image) -> Look:
    """Hash and pixel key of a decoded original.

    Both are taken from a few thousand pixels, so that they cost little beside decoding. Other pictures may share a
    key: whoever finds equal keys compares `pixel_digest`.
    """
    plain = upright(image)
    small = _small(plain)
    return Look(_hash(small), xxhash.xxh3_64_digest(f"{plain.size}".encode() + small.tobytes()))


def perceptual_hash(image: Image.Image) -> int:
    """The hash alone."""
    return _hash(_small(upright(image)))


def pixel_digest(image: Image.Image) -> bytes:
    """SHA-256 over size and 8-bit pixels of a decoded original, upright and over white, before colour management."""
    plain = upright(image)
    rgb = plain if plain.mode == "CMYK" else plain.convert("RGB")
    return hashlib.sha256(f"{rgb.size}{rgb.mode}".encode() + rgb.tobytes()).digest()


def _small(plain: Image.Image) -> Image.Image:
    """Grey, 64 to 127 pixels a side unless it is smaller: of a large picture every n-th pixel, then averages of those.

    Short sides of 256 and more are thinned to 128 to 255 first: each of the 32 x 32 pixels that are transformed still
    stands for at least 16, and the hash costs 0.1 ms whatever the size.
    """
    step = min(plain.size) // 128
    if step > 1:
        plain = plain.resize((plain.width // step, plain.height // step), Image.Resampling.NEAREST)
    factors = (max(1, plain.width // 64), max(1, plain.height // 64))
    return (plain if factors == (1, 1) else plain.reduce(factors)).convert("L")


def _hash(small: Image.Image) -> int:
    pixels = np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    low = (_cosines() @ pixels @ _cosines().T).ravel()
    middle = np.partition(low, (31, 32))[31:33].mean()
    return int.from_bytes(np.packbits(low > middle).tobytes(), "big")


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of the DCT-II matrix, [8, 32], rounded so that every machine has the same."""
    k, n = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.asarray(np.round(np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE)), 9), dtype=np.float64)


def distance(left: int, right: int) -> int:
    """Bits in which two hashes differ."""
    return (left ^ right).bit_count()


def thumbnail(image: Image.Image) -> Thumbnail:
    """A decoded original as a grey picture of 64 x 64, whatever its shape."""
    small = upright(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=4.0)
    return np.asarray(small, dtype=np.uint8)


def sketch(image: Image.Image) -> bytes:
    """What a comparison of decoded originals needs: the digest of all pixels, and the thumbnail."""
    return pixel_digest(image) + thumbnail(image).tobytes()


def equal_pixels(left: bytes | memoryview, right: bytes | memoryview) -> bool:
    """Whether two sketches are of the same pixels."""
    return left[:_DIGEST] == right[:_DIGEST]


def alike(left: bytes | memoryview, right: bytes | memoryview) -> float:
    """`similarity` of two sketches, 1 for equal pixels."""
    return 1.0 if equal_pixels(left, right) else similarity(*(_thumbnail(one) for one in (left, right)))


def _thumbnail(one: bytes | memoryview) -> Thumbnail:
    return np.frombuffer(one[_DIGEST:], np.uint8).reshape(THUMBNAIL, THUMBNAIL)


def similarity(left: Thumbnail, right: Thumbnail) -> float:
    """How alike two thumbnails are, at most 1, rounded to 1e-4.

    Both are smoothed (3 x 3), the second is matched in brightness and contrast, and cut into 8 x 8 blocks of 8 pixels.
    Each block takes the best of 25 shifts by up to two pixels, which follows a crop of 3 %, and says which share of
    what varies in it agrees: 1 - error / (variance + variance + 60), 60 being a noise of five grey levels. The mean
    of the blocks is the result. On 542 photographs copies reached 0.72 (crop of a corner) and more, two different
    photographs 0.77 at most (benchmarks/results, docs/deduplication.md).
    """
    one, two = _smooth(left), _smooth(right)
    one -= one.mean()
    two -= two.mean()
    energy = float((two * two).sum())
    two *= min(2.0, max(0.5, float((one * two).sum()) / energy)) if energy > 0 else 1.0
    variance = _variance(one)
    padded = np.pad(two, _SHIFT, mode="edge")
    best = np.full(variance.shape, -1.0)
    for down in range(2 * _SHIFT + 1):
        for along in range(2 * _SHIFT + 1):
            moved = padded[down : down + THUMBNAIL, along : along + THUMBNAIL]
            error = _block_means((one - moved) ** 2)
            best = np.maximum(best, 1.0 - error / (variance + _variance(moved) + _NOISE))
    return round(float(best.mean()), 4)


_SHIFT, _BLOCK, _NOISE = 2, 8, 60.0


def _smooth(picture: Thumbnail) -> NDArray[np.float64]:
    padded = np.pad(picture.astype(np.float64), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0, dtype=np.float64)


def _block_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    side = THUMBNAIL // _BLOCK
    return np.asarray(values.reshape(side, _BLOCK, side, _BLOCK).mean((1, 3)))


def _variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _block_means(values * values) - _block_means(values) ** 2
