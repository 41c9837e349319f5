"""The kernels of matching beside their oracles: datasketch, ImageHash, and brute force."""

from __future__ import annotations

import io
from itertools import combinations

import imagehash
import numpy as np
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from imglish.ingest.match.looks import (
    distance,
    grey_similarity,
    hash_looks,
    perceptual_hash,
    pixel_digest,
    similarity,
    take_look,
    thumbnail,
)
from imglish.ingest.match.minhash import HASHES, band_keys, minhash
from imglish.ingest.match.pairs import ALL_PAIRS, FEW, block_keys, capped_pairs, near_pairs
from imglish.ingest.match.shingles import Shingles, as_set, containment, jaccard, shingles
from imglish.ingest.match.words import normal_digest, read_words, words_of
from tests.ingest.match_helpers import TRANSFORMS, changed, documents, jpeg, photographs, png

WORDS = st.lists(st.sampled_from("a b c d e f".split()), max_size=12)  # noqa: SIM905


def plain_runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))} if words else set()


def plain_jaccard(left: str, right: str) -> float:
    one, two = plain_runs(left, 5), plain_runs(right, 5)
    return len(one & two) / max(1, len(one | two))


@given(st.lists(WORDS, min_size=2, max_size=5), st.integers(1, 6))
def test_runs_are_those_of_a_loop_over_words(texts: list[list[str]], length: int) -> None:
    joined = [" ".join(words) for words in texts]
    batch = shingles(joined, length)
    for (i, left), (j, right) in combinations(enumerate(joined), 2):
        one, two = plain_runs(left, length), plain_runs(right, length)
        assert len(as_set(batch.of(i))) == len(one)
        assert jaccard(as_set(batch.of(i)), as_set(batch.of(j))) == len(one & two) / max(1, len(one | two))
        least = max(1, min(len(one), len(two)))
        assert containment(as_set(batch.of(i)), as_set(batch.of(j))) == len(one & two) / least


ALPHABET = (
    *"aAbBxyzZ  \t\n\x1c",
    *"\x85\xa0\u2003\u2028\u3000",  # white space
    *"\xdf\u0130\u03a3\u017f\u2167\xe9\xc9\u0436\u0416\u10a0\uab6a",  # which fold, some to more bytes
    *"\u0301\u0345\u09c7\u09be\uac00\u1100\u1161",  # which compose
    *"\u6771\u4eac\u3053\u0e44\u1000",  # words of their own
    *"\u201d\U0001f44d\ud800",
)


@given(st.lists(st.text(st.sampled_from(ALPHABET), max_size=40), max_size=5))
def test_words_are_those_of_the_definition_whatever_their_script(texts: list[str]) -> None:
    found, expected = read_words(texts), [words_of(text) for text in texts]
    assert [bytes(form).decode("utf-8", "surrogatepass") for form in found.forms] == [" ".join(w) for w in expected]
    assert np.diff(found.starts).tolist() == [len(words) for words in expected]
    hashes = dict(zip((word for words in expected for word in words), found.hashes.tolist(), strict=True))
    assert [hashes[word] for words in expected for word in words] == found.hashes.tolist()
    assert len(set(hashes.values())) == len(hashes)


def test_every_code_point_of_the_table_is_folded_and_parted_as_the_definition_does() -> None:
    for low in range(0, 0x4000, 4096):
        texts = [f"aA{chr(code)}B a{chr(code)}" for code in range(low, low + 4096)]
        forms = [bytes(form).decode("utf-8", "surrogatepass") for form in read_words(texts).forms]
        assert forms == [" ".join(words_of(text)) for text in texts]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 63, 64, 65, 2000])
def test_words_that_differ_in_one_byte_or_in_length_have_other_hashes(size: int) -> None:
    word = "x" * size
    words = [word, word + "x", word + "\0", "\0" + word, *(word[:n] + "y" + word[n + 1 :] for n in range(size))]
    found = read_words([" ".join(words), *words])
    assert len(set(found.hashes[: len(words)].tolist())) == len(words)
    assert (found.hashes[: len(words)] == found.hashes[len(words) :]).all()


def test_signatures_estimate_true_jaccard_as_well_as_datasketch_does() -> None:
    texts = [text for text in documents()[:30] for text in (text, changed(text, 40), changed(text, 15))]
    batch = shingles(texts, 5)
    ours = minhash(batch)
    theirs = [_datasketch(text) for text in texts]
    pairs = [(3 * n + a, 3 * n + b) for n in range(30) for a, b in ((0, 1), (0, 2), (1, 2))]
    true = np.array([plain_jaccard(texts[a], texts[b]) for a, b in pairs])
    estimate = np.array([np.mean(ours[a] == ours[b]) for a, b in pairs])
    other = np.array([theirs[a].jaccard(theirs[b]) for a, b in pairs])
    assert np.allclose(true, [jaccard(as_set(batch.of(a)), as_set(batch.of(b))) for a, b in pairs])
    expected = np.sqrt(np.mean(true * (1 - true) / HASHES))
    assert abs(np.mean(estimate - true)) < 3 * expected / np.sqrt(30)  # three pairs of a document are one draw
    assert np.sqrt(np.mean((estimate - true) ** 2)) < 1.25 * expected
    assert np.sqrt(np.mean((estimate - true) ** 2)) < 1.25 * max(expected, np.sqrt(np.mean((other - true) ** 2)))


def _datasketch(text: str) -> MinHash:
    found = MinHash(num_perm=HASHES, hashfunc=lambda data: xxhash.xxh64_intdigest(data) & 0xFFFFFFFF)
    found.update_batch([" ".join(run).encode() for run in plain_runs(text, 5)])
    return found


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32), st.sampled_from([2, 4, 20, 400]), st.sampled_from([0.5, 0.8]))
def test_estimates_of_random_sets_have_no_bias_and_at_most_the_error_of_independent_hashes(
    seed: int, size: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    common, sets = int(size * 2 * share / (1 + share)), []
    for _ in range(400):
        both = rng.integers(0, 2**64, common, dtype=np.uint64)
        sets += [np.concatenate([both, rng.integers(0, 2**64, size - common, dtype=np.uint64)]) for _ in "ab"]
    found = minhash(Shingles(np.concatenate(sets), np.arange(0, 801 * size, size)))
    estimate, true = (found[0::2] == found[1::2]).mean(1), common / (2 * size - common)
    error = np.sqrt(true * (1 - true) / HASHES)
    assert abs(estimate.mean() - true) <= 5 * error / np.sqrt(400)
    assert estimate.std() <= 1.15 * error  # less for small sets, whose places are shared out evenly


def test_a_signature_does_not_depend_on_its_batch() -> None:
    texts = [*documents()[:40], "", "one word", "x " * 70_000]
    whole = minhash(shingles(texts, 5))
    for number, text in enumerate(texts):
        assert (minhash(shingles([text], 5))[0] == whole[number]).all()
    assert (whole[40] == np.iinfo(np.uint32).max).all()


def test_signatures_and_hashes_are_those_of_the_version() -> None:
    signature = minhash(shingles(["the quick brown fox jumps over the lazy dog"], 5))
    assert signature[0, :3].tolist() == [3104370557, 3477848378, 2173325710]
    assert band_keys(minhash(shingles(["the quick brown fox"], 5)), 14, 8)[0, 0] == 13710359958310950665


def test_a_normal_form_folds_case_space_and_composition_and_nothing_else() -> None:
    same = ["Caf\u00e9  au lait", "cafe\u0301 AU\tlait\n", " CAF\u00c9 au lait"]
    forms = read_words([*same, "cafe au lait"]).forms
    assert len({normal_digest(form) for form in forms[:3]}) == 1
    assert normal_digest(forms[3]) != normal_digest(forms[0])
    assert words_of("東京は大きい city") == ["東", "京", "は", "大", "き", "い", "city"]


def test_bands_need_as_many_hashes_as_there_are() -> None:
    with pytest.raises(ValueError, match="15 bands of 8 need 120"):
        band_keys(minhash(shingles(["a"], 5)), 15, 8)


def test_hashes_are_those_of_imagehash_but_for_a_few_bits() -> None:
    bits = [distance(perceptual_hash(image), int(str(imagehash.phash(image)), 16)) for image in photographs().values()]
    assert max(bits) <= 6 and np.mean(bits) <= 3


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_changed_photograph_is_near_its_original(name: str) -> None:
    copies = {one: Image.open(io.BytesIO(TRANSFORMS[name](image))) for one, image in photographs().items()}
    near = [
        one for one, copy in copies.items() if distance(perceptual_hash(photographs()[one]), perceptual_hash(copy)) <= 8
    ]
    assert len(near) >= len(copies) - 3  # bricks, grass and gravel have no low frequencies to speak of
    assert {*copies} - {*near} <= {"brick", "grass", "gravel"}
    assert all(similarity(thumbnail(photographs()[one]), thumbnail(copy)) >= 0.8 for one, copy in copies.items())


def test_no_two_different_photographs_are_alike() -> None:
    small = {name: thumbnail(image) for name, image in photographs().items()}
    scores = {pair: grey_similarity(small[pair[0]].grey, small[pair[1]].grey) for pair in combinations(small, 2)}
    assert max(scores.values()) < 0.7
    assert max(grey_similarity(one.grey, one.grey[::-1].copy()) for one in small.values()) < 0.8


def _flag(*colours: str) -> Image.Image:
    """Three stripes."""
    flag = Image.new("RGB", (90, 60))
    for number, colour in enumerate(colours):
        flag.paste(colour, (0, 20 * number, 90, 20 * number + 20))
    return flag


def test_pictures_that_differ_in_colour_alone_are_two() -> None:
    austria, netherlands = _flag("#ed2939", "white", "#ed2939"), _flag("#ae1c28", "white", "#21468b")
    one, two = thumbnail(austria), thumbnail(netherlands)
    assert grey_similarity(one.grey, two.grey) > 0.9
    assert similarity(one, two) < 0.5
    assert similarity(one, thumbnail(Image.open(io.BytesIO(jpeg(austria, 60))))) > 0.95


def test_drawings_that_differ_in_one_small_part_are_two() -> None:
    keys = []
    for glyph in ("8", "#"):
        key = Image.new("RGB", (72, 72), "#3a8ef0")
        ImageDraw.Draw(key).text((24, 14), glyph, fill="white", font_size=40)
        keys.append(key)
    one, two = (thumbnail(key) for key in keys)
    assert similarity(one, two) < 0.8
    assert similarity(one, thumbnail(Image.open(io.BytesIO(jpeg(keys[0], 60))))) > 0.95


def test_a_face_of_another_colour_is_another_picture() -> None:
    faces = []
    for colour in ("#ffcc22", "#e0bb95"):
        face = Image.new("RGB", (72, 72), "white")
        pen = ImageDraw.Draw(face)
        pen.ellipse((4, 4, 68, 68), fill=colour)
        pen.ellipse((20, 24, 28, 32), fill="black")
        pen.ellipse((44, 24, 52, 32), fill="black")
        faces.append(thumbnail(face))
    assert grey_similarity(faces[0].grey, faces[1].grey) > 0.9 and similarity(*faces) < 0.5


def test_equal_pixels_are_equal_whatever_the_file() -> None:
    image = photographs()["coffee"]
    saved = [Image.open(io.BytesIO(data)) for data in (png(image), _webp(image))]
    hashed = hash_looks([take_look(one) for one in [image, *saved]])
    assert len(set(hashed.keys)) == 1 and len(set(hashed.hashes.tolist())) == 1
    assert len({pixel_digest(one) for one in [image, *saved]}) == 1
    assert pixel_digest(Image.open(io.BytesIO(jpeg(image)))) != pixel_digest(image)


def test_a_grey_picture_is_one_whatever_its_mode() -> None:
    grey = photographs()["coffee"].convert("L")
    hashed = hash_looks([take_look(grey.convert(mode)) for mode in ("L", "RGB", "CMYK")])
    assert hashed.keys[0] == hashed.keys[1]
    assert hashed.hashes[0] == hashed.hashes[1] and distance(*hashed.hashes[1:].tolist()) <= 2


def _webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True)
    return out.getvalue()


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=8))
def test_hashes_within_the_radius_share_a_key(value: int, flipped: set[int]) -> None:
    other = value
    for bit in flipped:
        other ^= 1 << bit
    keys = block_keys(np.array([value, other], dtype=np.uint64), 8)
    assert keys.shape == (2, 45) and (keys[0] == keys[1]).any()


@settings(deadline=None)
@given(st.lists(st.integers(1, ALL_PAIRS + 30), max_size=6))
def test_pairs_are_all_of_small_groups_and_the_first_few_of_large_ones(sizes: list[int]) -> None:
    found = capped_pairs(np.array(sizes, dtype=np.int64))
    expected: set[tuple[int, int]] = set()
    start = 0
    for size in sizes:
        few = FEW if size > ALL_PAIRS else size
        expected |= {(start + a, start + b) for a in range(few) for b in range(a + 1, size)}
        start += size
    pairs = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert set(pairs) == expected and len(pairs) == len(expected)
    assert found.capped == sum(size > ALL_PAIRS for size in sizes)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 200), max_size=5), st.integers(0, 2**32))
def test_near_pairs_are_those_of_brute_force(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    hashes = rng.integers(0, 2**64, total, dtype=np.uint64) >> np.uint64(44) << np.uint64(44)
    found = near_pairs(hashes, np.array(sizes, dtype=np.int64), 6)
    group = np.repeat(np.arange(len(sizes)), sizes)
    left, right = np.triu_indices(total, 1)
    close = (group[left] == group[right]) & (np.bitwise_count(hashes[left] ^ hashes[right]) <= 6)
    if found.capped == 0:
        assert set(zip(found.left.tolist(), found.right.tolist(), strict=True)) == set(
            zip(left[close].tolist(), right[close].tolist(), strict=True)
        )


def test_a_crowd_of_equal_hashes_is_capped() -> None:
    found = near_pairs(np.zeros(200, np.uint64), np.array([200]), 8)
    assert found.capped == 1 and len(found.left) == FEW * (FEW - 1) // 2 + FEW * (200 - FEW)
