"""Pictures as 64-bit perceptual hashes, and as small pictures that decide whether two are one.

    look = take_look(image)                       # of a decoded Pillow image: a few of its pixels
    hashes, keys = hash_looks([look, ...])        # uint64 [n]; distance(a, b) are the bits that differ, 0..64
    similarity(thumbnail(a), thumbnail(b))        # 0..1; re-encoded, resized and slightly cropped copies stay above 0.8

The hash is the DCT hash that ImageHash calls `phash`: grey, 32 x 32 by antialiased resize (Lanczos), two-dimensional
DCT-II, the signs of the 8 x 8 lowest frequencies against their median. Resize and transform are linear, so one matrix
for each side does both; pictures are thinned before, for speed. Like every original, a picture is first turned
upright and laid over white. A hash only proposes: flat pictures, screenshots and emoji share hashes without being
copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from imglish.shards.images import upright

LOOK_VERSION = 3
"""Of hash, pixel digest and thumbnail: part of every unit that reads them."""
_SIDE, _LOW = 32, 8
"""Sides of the picture that is transformed and of the corner that is kept (ImageHash: 8 and a factor of 4)."""
_LEAST, _LEAST_SMALL, _SMALL = 128, 80, 400
"""Least pixels of the shorter side that is thinned; of a picture whose sides are all shorter than `_SMALL`.

Large textures are up to 12 bits off ImageHash with 100 in place of 128. A small picture is decoded in the time that
128 take; both its sides are thinned alike, and photographs stay within 6 bits (benchmarks/results/dedup-2026-11-27.md).
"""
_MOST = 255
"""Most pixels of a thinned side."""
THUMBNAIL = 64
"""Side of a thumbnail, pixels."""
_DIGEST = 32
"""Bytes of a pixel digest, before the thumbnail in a sketch."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


class Thumbnail(NamedTuple):
    """A picture as luma uint8 [64, 64] and as the two differences of colour, uint8 [2, 32, 32] around 128 (JPEG's
    YCbCr)."""

    grey: U8
    colour: U8


class Look(NamedTuple):
    """Sides of a picture in pixels, and the picture thinned to at most 255 x 255: its sides, and its bytes as grey,
    uint8 [height, width], or as RGB, uint8 [height, width, 3]."""

    size: tuple[int, int]
    small: tuple[int, int]
    data: bytes

    def grey(self) -> U8:
        """Luma uint8 [height, width] of the thinned picture."""
        (width, height), seen = self.small, np.frombuffer(self.data, np.uint8)
        if len(seen) == width * height:
            return seen.reshape(height, width)
        return np.asarray(cv2.cvtColor(seen.reshape(height, width, 3), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def take_look(image: Image.Image) -> Look:
    """A few thousand pixels of a decoded original; what is made of them is made of many pictures at once.

    Between two decodings each call takes a multiple of its time in a loop of its own, since neither its code nor its
    data is in cache; so nothing is done here that can be done later on as few bytes.
    """
    plain = upright(image)
    small = _thinned(plain)
    if small.mode == "CMYK":
        small = small.convert("RGB")
    return Look(plain.size, small.size, small.tobytes())


class HashedLooks(NamedTuple):
    """Per picture its 64-bit hash, the first bit of the lowest frequency being the highest, and the key of its pixels:
    8 bytes, equal for equal pixels at equal size. Others may share a key: `pixel_digest` decides."""

    hashes: NDArray[np.uint64]
    keys: list[bytes]


def hash_looks(looks: Sequence[Look]) -> HashedLooks:
    """Hashes and keys of pictures, in their order."""
    corners, keys = np.empty((len(looks), _LOW, _LOW), np.float32), []
    for corner, look in zip(corners, looks, strict=True):
        grey = look.grey()
        keys.append(xxhash.xxh3_64_digest(grey.data, seed=look.size[0] << 32 | look.size[1]))
        _frequencies(grey, corner)
    low = np.rint(corners).reshape(-1, _LOW * _LOW)  # in whole numbers, so that flat pictures have none
    middle = np.partition(low, (31, 32), axis=1)[:, 31:33].mean(axis=1, keepdims=True)
    return HashedLooks(np.packbits(low > middle, axis=1).view(">u8").ravel().astype(np.uint64), keys)


def perceptual_hash(image: Image.Image) -> int:
    """The hash of one picture."""
    return int(hash_looks([take_look(image)]).hashes[0])


def pixel_digest(image: Image.Image) -> bytes:
    """SHA-256 over size and 8-bit pixels of a decoded original, upright and over white, before colour management."""
    plain = upright(image)
    rgb = plain if plain.mode == "CMYK" else plain.convert("RGB")
    return hashlib.sha256(f"{rgb.size}{rgb.mode}".encode() + rgb.tobytes()).digest()


def _thinned(plain: Image.Image) -> Image.Image:
    """Every n-th pixel of a row and every n-th row; sides still longer than `_MOST` are thinned further."""
    least = _LEAST_SMALL if max(plain.size) < _SMALL else _LEAST
    step = max(1, min(plain.size) // least)
    across, down = (max(step, -(-side // _MOST)) for side in plain.size)
    if across == down == 1:
        return plain
    return plain.resize((plain.width // across, plain.height // down), Image.Resampling.NEAREST)


def _frequencies(grey: U8, corner: F32) -> None:
    """Fill `corner` [8, 8] with the lowest frequencies of the picture at 32 x 32."""
    rows, columns = (_transform(side) for side in grey.shape)
    np.dot(rows @ grey.astype(np.float32), columns.T, out=corner)


@lru_cache(maxsize=4096)
def _transform(size: int) -> F32:
    """The matrix [8, size] that resizes `size` pixels to 32, as Pillow's LANCZOS does, and keeps low frequencies."""
    scale = size / _SIDE
    reach = 3 * max(1.0, scale)
    centre = (np.arange(_SIDE)[:, None] + 0.5) * scale
    place = np.arange(size)[None, :]
    inside = (place >= np.floor(centre - reach + 0.5)) & (place < np.floor(centre + reach + 0.5))
    x = (place + 0.5 - centre) / max(1.0, scale)
    weights = np.where(inside & (np.abs(x) < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    return np.asarray(_cosines() @ (weights / weights.sum(axis=1, keepdims=True)), dtype=np.float32)


@cache
def _cosines() -> F64:
    """The lowest rows of the DCT-II matrix, [8, 32]."""
    k, n = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.asarray(np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE)), dtype=np.float64)


def distance(left: int, right: int) -> int:
    """Bits in which two hashes differ."""
    return (left ^ right).bit_count()


def thumbnail(image: Image.Image) -> Thumbnail:
    """A decoded original as a picture of 64 x 64, whatever its shape."""
    rgb = upright(image).convert("RGB")
    small = rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=4.0).convert("YCbCr")
    pixels = np.asarray(small)
    colour = np.stack([np.asarray(small.getchannel(name).reduce(2)) for name in ("Cb", "Cr")])
    return Thumbnail(pixels[:, :, 0].copy(), colour)


def sketch(image: Image.Image) -> bytes:
    """What a comparison of decoded originals needs: the digest of all pixels, and the thumbnail."""
    small = thumbnail(image)
    return pixel_digest(image) + small.grey.tobytes() + small.colour.tobytes()


def equal_pixels(left: bytes | memoryview, right: bytes | memoryview) -> bool:
    """Whether two sketches are of the same pixels."""
    return left[:_DIGEST] == right[:_DIGEST]


def alike(left: bytes | memoryview, right: bytes | memoryview) -> float:
    """`similarity` of two sketches, 1 for equal pixels."""
    return 1.0 if equal_pixels(left, right) else similarity(*(_thumbnail(one) for one in (left, right)))


def _thumbnail(one: bytes | memoryview) -> Thumbnail:
    pixels = np.frombuffer(one[_DIGEST:], np.uint8)
    grey, colour = pixels[: THUMBNAIL**2], pixels[THUMBNAIL**2 :]
    return Thumbnail(grey.reshape(THUMBNAIL, THUMBNAIL), colour.reshape(2, THUMBNAIL // 2, THUMBNAIL // 2))


def similarity(left: Thumbnail, right: Thumbnail) -> float:
    """How alike two thumbnails are, at most 1: the lower of `grey_similarity` and `part_similarity`."""
    return min(grey_similarity(left.grey, right.grey), part_similarity(left, right))


def grey_similarity(left: U8, right: U8) -> float:
    """How alike two pictures of 64 x 64 are in their greys, at most 1, rounded to 1e-4.

    Both are smoothed (3 x 3), the second is matched in brightness and contrast, and cut into 8 x 8 blocks of 8 pixels.
    Each block takes the best of 25 shifts by up to two pixels, which follows a crop of 3 %, and says which share of
    what varies in it agrees: 1 - error / (variance + variance + 60), 60 being a noise of five grey levels. The mean
    of the blocks is the result. Of 478 photographs (docs/deduplication.md) copies have 0.8 and more but for a few
    crops, different ones 0.76 at most.
    """
    one, two = _smooth(left), _smooth(right)
    one -= one.mean()
    two -= two.mean()
    energy = float((two * two).sum())
    two *= min(2.0, max(0.5, float((one * two).sum()) / energy)) if energy > 0 else 1.0
    moved = _shifted(two, _SHIFT)
    spread = _variance(one) + _variance(moved) + _NOISE
    agreed = 1.0 - _block_means((one - moved) ** 2) / spread
    return round(float(agreed.max(axis=(0, 1)).mean()), 4)


def part_similarity(left: Thumbnail, right: Thumbnail) -> float:
    """How alike the most different parts of two pictures are, in colour and in brightness, at most 1, rounded to 1e-4.

    A part is an eighth by an eighth, the best of nine shifts by up to one pixel of 32, after the second picture is
    matched in brightness by a factor from 0.8 to 1.25. Its mean colour may differ by 8 levels of 255 and its mean grey
    by 24 (copies of photographs: about 8 and 26 at most, of crops); each further level costs 0.05 and 0.033. So flags
    and drawings of which one part differs are two, however small its share is.
    """
    grey, other = left.grey.astype(np.float64), right.grey.astype(np.float64)
    gain = min(1.25, max(0.8, float((grey * other).sum()) / max(1.0, float((other * other).sum()))))
    one, two = _halved(left), _halved(right)
    apart = np.abs(_block_means(one - _shifted(gain * two, 1)))
    colour = float(np.hypot(apart[:, :, 1], apart[:, :, 2]).min(axis=(0, 1)).max())
    brightness = float(apart[:, :, 0].min(axis=(0, 1)).max())
    worst = max((colour - _COLOUR_NOISE) / _COLOUR_SPAN, (brightness - _GREY_NOISE) / _GREY_SPAN)
    return round(min(1.0, 1.0 - worst), 4)


_SHIFT, _BLOCKS, _NOISE = 2, 8, 60.0
_COLOUR_NOISE, _COLOUR_SPAN = 8.0, 20.0
_GREY_NOISE, _GREY_SPAN = 24.0, 30.0


def _halved(picture: Thumbnail) -> F64:
    """Grey, and the two colours around 0: [3, 32, 32]."""
    side = THUMBNAIL // 2
    grey = picture.grey.reshape(1, side, 2, side, 2).mean((2, 4))
    return np.concatenate([grey, picture.colour.astype(np.float64) - 128.0])


def _smooth(picture: U8) -> F64:
    padded = np.pad(picture.astype(np.float64), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0, dtype=np.float64)


def _shifted(values: F64, reach: int) -> F64:
    """[..., side, side] moved by up to `reach` pixels: [2 * reach + 1, 2 * reach + 1, ..., side, side]."""
    edges = [(0, 0)] * (values.ndim - 2) + [(reach, reach)] * 2
    padded = np.pad(values, edges, mode="edge")
    side, steps = values.shape[-1], range(2 * reach + 1)
    return np.stack([np.stack([padded[..., y : y + side, x : x + side] for x in steps]) for y in steps])


def _block_means(values: F64) -> F64:
    """Means of 8 x 8 blocks: [..., side, side] to [..., 8, 8]."""
    means = np.repeat(np.eye(_BLOCKS), values.shape[-1] // _BLOCKS, axis=1) * (_BLOCKS / values.shape[-1])
    return np.asarray(means @ values @ means.T)


def _variance(values: F64) -> F64:
    return np.asarray(_block_means(values * values) - _block_means(values) ** 2)
