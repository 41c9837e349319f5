"""Hostile and odd images: each gives a stored image or an ImageError with a reason."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from imglish.errors import ImageError
from imglish.recipe import StoredConfig
from imglish.shards.images import decode_jpeg, probe, store_image
from imglish.shards.jpeg import plain_jpeg_size
from imglish.shards.safe_image import REASONS
from tests.shards.corpus_helpers import picture

LIMIT = 100_000_000
CONFIG = StoredConfig()


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int = 300, height: int = 280) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8))


def claim_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header says another size, with a valid checksum."""
    chunk = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def reason(payload: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(ImageError) as probed:
        probe(payload, limit)
    with pytest.raises(ImageError) as stored:
        store_image(payload, StoredConfig(max_pixels=limit))
    assert probed.value.reason == stored.value.reason
    assert probed.value.reason in REASONS
    return probed.value.reason


def test_a_zero_byte_image_is_empty() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize("payload", [b"<html>not found</html>", b"\x89PNG", b"\xff\xd8\xff", bytes(100), b"GIF89a"])
def test_bytes_without_a_readable_header_are_no_image(payload: bytes) -> None:
    assert reason(payload) == "not_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_half_an_image_is_refused(format: str) -> None:
    payload = encode(noise(), format)
    assert reason(payload[: len(payload) // 2]) in ("truncated", "damaged", "not_image")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_that_lacks_its_last_part_is_truncated(format: str) -> None:
    payload = encode(noise(), format)
    assert reason(payload[:-2000]) == "truncated"


def test_an_image_that_claims_50000_squared_pixels_is_refused_before_decoding() -> None:
    assert reason(claim_size(picture(0), 50_000, 50_000)) == "too_many_pixels"
    assert reason(claim_size(picture(0), 12_000, 12_000)) == "too_many_pixels"


def test_a_side_that_jpeg_cannot_hold_is_too_long() -> None:
    assert reason(claim_size(picture(0), 70_000, 3)) == "too_long"


def test_the_pixel_limit_is_the_callers() -> None:
    assert reason(picture(0, 40, 30), limit=1199) == "too_many_pixels"
    assert probe(picture(0, 40, 30), 1200).width == 40


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_pixel_types_without_meaning_in_srgb_are_refused(mode: str) -> None:
    assert reason(encode(Image.new(mode, (20, 20)), "TIFF")) == "unsupported_mode"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.integers(0, 10**6), st.binary(max_size=12))
def test_damaged_bytes_never_raise_anything_else(format: str, place: int, patch: bytes) -> None:
    payload = bytearray(encode(noise(40, 30), format))
    place %= len(payload)
    payload[place : place + len(patch)] = patch
    try:
        stored = store_image(bytes(payload), StoredConfig(max_pixels=10_000))
    except ImageError as error:
        assert error.reason in REASONS
    else:
        assert decode_jpeg(stored.jpeg).shape == (stored.height, stored.width, 3)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
def test_every_pixel_type_becomes_a_plain_jpeg_that_passes_through_again(mode: str) -> None:
    grey = np.asarray(noise().convert("L"))
    made = {"I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257)}
    made["I"] = lambda: Image.fromarray(grey.astype(np.int32) * 257)
    image = made[mode]() if mode in made else noise().convert(mode)
    payload = encode(image, "TIFF" if mode in ("CMYK", "I") else "PNG")
    stored = store_image(payload, CONFIG)
    assert (stored.width, stored.height, stored.passthrough) == (274, 256, False)
    assert plain_jpeg_size(stored.jpeg) == (274, 256)
    again = store_image(stored.jpeg, CONFIG)
    assert again.passthrough
    assert again.jpeg == stored.jpeg == store_image(payload, CONFIG).jpeg


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    image = Image.fromarray(np.full((20, 20), 0x80FF, dtype=np.uint16))
    assert abs(int(decode_jpeg(store_image(encode(image), CONFIG).jpeg).mean()) - 0x80) <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_laid_over_white(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    payload = encode(image.quantize(4) if mode == "P" else image.convert(mode))
    assert decode_jpeg(store_image(payload, CONFIG).jpeg).min() == 255


def test_a_transparent_colour_of_an_opaque_type_is_laid_over_white() -> None:
    payload = encode(Image.new("RGB", (16, 16), (10, 20, 30)), transparency=(10, 20, 30))
    assert decode_jpeg(store_image(payload, CONFIG).jpeg).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3, 2)])
def test_small_images_are_never_enlarged(size: tuple[int, int]) -> None:
    stored = store_image(encode(Image.new("RGB", size)), CONFIG)
    assert (stored.width, stored.height) == size


def test_orientation_is_applied_and_metadata_is_gone() -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :40] = 255  # white left half; turned clockwise it is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "secret camera"
    payload = encode(Image.fromarray(pixels), "JPEG", exif=exif, comment=b"secret comment", subsampling="4:2:0")
    stored = store_image(payload, CONFIG)
    assert (stored.width, stored.height, stored.passthrough) == (40, 80, False)
    rgb = decode_jpeg(stored.jpeg)
    assert rgb[:30].min() > 240
    assert rgb[50:].max() < 15
    assert b"secret" not in stored.jpeg


def test_broken_exif_counts_as_upright() -> None:
    payload = encode(noise(20, 30), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    assert store_image(payload, CONFIG).height == 30


def test_an_icc_profile_is_converted_to_srgb_and_a_broken_one_is_ignored() -> None:
    grey = Image.new("RGB", (16, 16), (200, 30, 30))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode_jpeg(store_image(encode(grey), CONFIG).jpeg)
    for profile in (srgb, lab, b"nonsense"):
        found = decode_jpeg(store_image(encode(grey, icc_profile=profile), CONFIG).jpeg)
        assert np.abs(found.astype(int) - plain).max() <= 2


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"subsampling": "4:2:0"}, True),
        ({"subsampling": "4:4:4"}, False),
        ({"subsampling": "4:2:0", "progressive": True}, False),
        ({"subsampling": "4:2:0", "comment": b"x"}, False),
        ({"subsampling": "4:2:0", "icc_profile": b"profile"}, False),
        ({"subsampling": "4:2:0", "restart_marker_blocks": 4}, True),
    ],
)
def test_bytes_pass_through_only_in_the_stored_form(options: dict[str, Any], passes: bool) -> None:
    payload = encode(noise(300, 200), "JPEG", **options)
    stored = store_image(payload, CONFIG)
    assert stored.passthrough is passes
    assert (stored.jpeg == payload) is passes


def test_a_large_or_padded_or_grey_jpeg_does_not_pass_through() -> None:
    plain = encode(noise(300, 200), "JPEG", subsampling="4:2:0")
    assert not store_image(plain, StoredConfig(short_side=199)).passthrough
    assert not store_image(plain + b"\0", CONFIG).passthrough
    assert not store_image(plain + plain, CONFIG).passthrough
    assert not store_image(encode(noise().convert("L"), "JPEG"), CONFIG).passthrough


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    payload = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe(payload, LIMIT).frames == 2
    assert decode_jpeg(store_image(payload, CONFIG).jpeg)[..., 0].min() > 200


def test_warnings_of_pillow_stay_inside_while_threads_overlap() -> None:
    short = b"Exif\0\0MM\0*" + struct.pack(">IHHHII", 8, 1, 0x010F, 2, 1000, 9999) + bytes(4)
    payload = encode(noise(20, 30), "JPEG", exif=short)
    with pytest.warns(UserWarning, match="Skipping tag"):
        Image.open(io.BytesIO(payload)).getexif().get(0x010F)
    before = list(warnings.filters)
    sizes: list[int] = []

    def work() -> None:
        sizes.extend(store_image(payload, CONFIG).height for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [30] * 80
    assert list(warnings.filters) == before


def test_a_damaged_stored_image_is_an_image_error() -> None:
    jpeg = store_image(picture(0), CONFIG).jpeg
    with pytest.raises(ImageError, match="damaged"):
        decode_jpeg(jpeg[:100])
