"""The embedded visual tokenizer: a k-means codebook over what patches look like, fitted on the corpus.

    fit = CodebookFit(CodebookConfig(size=224, patch=16, codes=1024), seed=0)
    fit.add(images)                       uint8 [n, 224, 224, 3], as often as wanted
    tokenizer = Codebook.read(fit.finish(), "a name for errors")
    tokenizer.encode(images)              uint16 [n, 196]

A patch becomes 16 small integers: its lowest DCT frequencies, ten of luma and three of each chroma (YCoCg), in half
grey levels. Its code is the nearest codebook row. Neighbours share colour and shading, so codes can be learned from
context; the fit counts every distinct patch once, so the pure white third of a set of drawings gets one code.

All arithmetic is on integers below 2**24 held in float32, where sums are exact in any order. So codes and fits are the
same on every machine, at any thread count, in any batch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from imglish.digests import canonical_json, json_digest
from imglish.errors import TokenizerError
from imglish.recipe import CodebookConfig
from imglish.seeds import stream

FORMAT = "imglish-codebook/1"

_EXACT = 1 << 24
"""float32 holds every integer up to here."""

_COLOURS = np.array([[1, 2, 1], [2, 0, -2], [-1, 2, -1]])
"""Y, Co, Cg of RGB, times 4 (Malvar & Sullivan 2003); orthogonal, and chroma of grey is exactly 0."""

_FREQUENCIES = (10, 3, 3)
"""DCT coefficients of Y, Co, Cg, lowest first: all with u + v <= 3, and <= 1. More of them, or a companding of
contrast, changed usage and predictability of codes by a few per cent at most on emoji, screenshots and photographs."""

_STEPS = 2
"""Feature units in a grey level."""

_MAX_PATCH = 64
"""Beyond this side the integer DCT would be too coarse to stay exact."""

_POINTS_PER_CODE = 256
"""Distinct patches that Lloyd sees for a code at most (faiss `max_points_per_centroid`: 256)."""

_SEED_POINTS_PER_CODE = 8
"""Of those, how many k-means++ chooses from; it makes one pass over them per code."""

_COARSE = 8
"""Every 8th code bounds the distance to the nearest one; of 4, 8 and 16 the fastest on photographs and 8,192 codes."""

_TILE = 32
"""Patches whose scores are computed together; with 8,192 codes at most 1 MiB, half of a core's cache."""

_REACHES = 4
"""Groups of patches by reach. On photographs and 8,192 codes a tile then compares 28 % of the codes, not 44 %; with
eight groups tiles have unlike luma again (28 %), and a patch alone would need 17 %."""

Features = NDArray[np.float32]


class Codebook:
    """The `VisualTokenizer` of the codebook type.

    `codebook` is int16 [codes, 16], `size` and `patch` are pixels; row r of the grid is r-th from the top.
    """

    def __init__(self, codebook: NDArray[np.int16], size: int, patch: int) -> None:
        self.size, self.patch, self.codes = size, patch, len(codebook)
        self.grid = (size // patch, size // patch)
        self.codebook = codebook
        self._extractor = _Extractor(patch)
        self._search = _Search(codebook.astype(np.float32))
        self.digest = json_digest(
            {
                "format": FORMAT,
                "size": size,
                "patch": patch,
                "basis": _sha256(self._extractor.basis),
                "codebook": _sha256(codebook),
                "codes": self.codes,
            }
        )

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Codes of RGB images, uint8 [B, S, S, 3] -> uint16 [B, N], patches row by row; ties to the lowest code.

        Raises TokenizerError for another shape or dtype.
        """
        check_images(images, self.size)
        patches = self.grid[0] * self.grid[1]
        features = np.empty((len(images), patches, self.codebook.shape[1]), np.float32)
        for number, image in enumerate(images):
            features[number] = self._extractor(image)
        codes, _ = self._search(features.reshape(-1, features.shape[2]))
        return codes.astype(np.uint16).reshape(len(images), patches)

    def write(self) -> bytes:
        """The tokenizer as a safetensors file; equal tokenizers give equal bytes."""
        tensors = {"codebook": self.codebook, "basis": self._extractor.basis, "offset": self._extractor.offset}
        facts = {"format": FORMAT, "size": self.size, "patch": self.patch, "divisor": self._extractor.divisor}
        # One metadata entry only: safetensors writes several in the random order of a hash map.
        return bytes(save(tensors, {"imglish": canonical_json(facts).decode()}))

    @classmethod
    def read(cls, data: bytes, origin: str) -> Codebook:
        """A tokenizer from the bytes of its file; `origin` names it in errors.

        Raises TokenizerError when it is damaged, of another format, or made by another feature extractor.
        """
        facts = safetensors_facts(data, origin)
        try:
            tensors = load(data)
            made = cls(tensors["codebook"], int(facts["size"]), int(facts["patch"]))
            extractor = made._extractor
            same = np.array_equal(tensors["basis"], extractor.basis) and facts["divisor"] == extractor.divisor
            shape = made.codebook.dtype == np.int16 and made.codebook.shape[1:] == (len(extractor.basis),)
            ordered = shape and bool(np.all(np.diff(made.codebook[:, 0].astype(np.int64)) >= 0))
        except (KeyError, ValueError, SafetensorError) as error:
            raise TokenizerError(f"{origin}: not a whole {FORMAT} file ({error}); fit it again") from None
        if not (same and ordered and facts["format"] == FORMAT):
            raise TokenizerError(f"{origin}: made by another feature extractor than {FORMAT}; fit it again")
        return made


class CodebookFit:
    """Collects patches, then finds the codebook: k-means++ and Lloyd on one thread."""

    def __init__(self, config: CodebookConfig, seed: int) -> None:
        self.config = config
        self._stream = stream(seed, "codebook")
        self._extractor = _Extractor(config.patch)
        self._found: list[NDArray[np.int16]] = []

    def add(self, images: NDArray[np.uint8]) -> None:
        """Take the patches of uint8 [n, S, S, 3] images into account; their order does not matter."""
        check_images(images, self.config.size)
        for image in images:
            self._found.append(np.unique(self._extractor(image).astype(np.int16), axis=0))

    def finish(self) -> bytes:
        """The fitted tokenizer's file.

        Raises TokenizerError when there are fewer distinct patches than codes.
        """
        with threadpool_limits(1):
            points = self._points()
            centres = self._start(points)
            for _ in range(self.config.iterations):
                centres = _lloyd(points, centres)
        return Codebook(centres.astype(np.int16), self.config.size, self.config.patch).write()

    def _points(self) -> Features:
        """Distinct patches [n, 16] in ascending order, a seeded choice of them when there are many."""
        wanted = self.config.codes
        distinct = np.unique(np.concatenate(self._found), axis=0) if self._found else np.empty((0, 0), np.int16)
        if len(distinct) < wanted:
            raise TokenizerError(
                f"the corpus has only {len(distinct)} distinct patches, too few for {wanted} codes; "
                f"set tokenize.visual.codes to {len(distinct)} or less, or tokenize.visual.sample_images higher"
            )
        chosen = self._stream.permutation(len(distinct))[: wanted * _POINTS_PER_CODE]
        return distinct[np.sort(chosen)].astype(np.float32)

    def _start(self, points: Features) -> Features:
        """k-means++ (Arthur & Vassilvitskii 2007) in integers: all distinct, drawn by squared distance."""
        codes = self.config.codes
        order = stream(self._stream.key, "start").permutation(len(points))
        pool = points[np.sort(order[: codes * _SEED_POINTS_PER_CODE])]
        bits = stream(self._stream.key, "draws").bits(codes)
        norms = (pool * pool).sum(axis=1)
        chosen = [int(bits[0]) * len(pool) >> 64]
        nearest = np.full(len(pool), np.inf, np.float32)
        for number in range(1, codes):
            last = pool[chosen[-1]]
            np.minimum(nearest, norms - 2 * (pool @ last) + last @ last, out=nearest)
            edges = np.cumsum(nearest, dtype=np.int64)
            chosen.append(int(np.searchsorted(edges, int(bits[number]) * int(edges[-1]) >> 64, side="right")))
        return _sorted(pool[chosen])


class _Extractor:
    """Turns an image into features: float32 [N, 16] holding integers within +-256."""

    def __init__(self, patch: int) -> None:
        if patch > _MAX_PATCH:
            raise TokenizerError(f"patch {patch} is too large for a codebook tokenizer; at most {_MAX_PATCH}")
        # 255 times the sum of one row's absolute values must stay below 2**24 for exact sums.
        scale = (_EXACT // 255 - 3 * patch * patch) // (4 * patch * patch)
        self.patch = patch
        self.basis = _basis(patch, scale)
        self.divisor = 4 * scale * patch * patch // _STEPS
        self.offset = np.zeros(len(self.basis), np.int16)
        self.offset[0] = 128 * _STEPS
        self._matrix = np.ascontiguousarray(self.basis.T, np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> Features:
        p = self.patch
        rows, columns = image.shape[0] // p, image.shape[1] // p
        patches = image.reshape(rows, p, columns, p * 3).swapaxes(1, 2).astype(np.float32)
        sums = patches.reshape(rows * columns, p * p * 3) @ self._matrix
        features: Features = np.rint(sums / np.float32(self.divisor)) - self.offset.astype(np.float32)
        return features


def _basis(patch: int, scale: int) -> NDArray[np.int16]:
    """Rows of the integer DCT on YCoCg, int16 [16, 3 * patch**2], pixel by pixel with RGB innermost."""
    angles = (np.arange(patch) + 0.5) * np.pi / patch
    waves = [np.cos(order * angles) * (np.sqrt(2) if order else 1) for order in range(4)]
    rows = []
    for colour, count in zip(_COLOURS, _FREQUENCIES, strict=True):
        for _, v, u in sorted((u + v, v, u) for u in range(4) for v in range(4))[:count]:
            plane = np.rint(np.outer(waves[v], waves[u]) * scale)
            rows.append(np.multiply.outer(plane, colour).reshape(-1))
    return np.array(rows).astype(np.int16)


class _Search:
    """Exact nearest code: float32 codes [codes, 16] of integers, ascending by luma, their first column.

    Only codes whose luma alone is no farther than the nearest of every 8th code are compared. Patches are searched in
    tiles of like reach and like luma, because a tile compares what any of its patches has to.
    """

    def __init__(self, codebook: Features) -> None:
        self._luma = np.ascontiguousarray(codebook[:, 0])
        self._columns = _columns(codebook)
        self._coarse = np.ascontiguousarray(self._columns[:, ::_COARSE])

    def __call__(self, features: Features) -> tuple[NDArray[np.int64], Features]:
        """Code (ties to the lowest) and squared distance of each row of [n, 16]."""
        count = len(features)
        norms = (features * features).sum(axis=1)
        extended = np.hstack([features, np.ones((count, 1), np.float32)])
        scratch = np.empty(
            _TILE * len(self._luma) + _TILE * _COARSE, np.float32
        )  # fresh memory a tile costs a third more
        reach = np.sqrt(norms - self._bounds(extended, scratch))
        low, high = features[:, 0] - reach, features[:, 0] + reach
        order = _alike(reach, features[:, 0])
        extended = extended[order]
        starts = np.arange(0, count, _TILE)
        firsts = np.searchsorted(self._luma, np.minimum.reduceat(low[order], starts), side="left")
        lasts = np.searchsorted(self._luma, np.maximum.reduceat(high[order], starts), side="right")
        codes, scores = np.empty(count, np.int64), np.empty(count, np.float32)
        for start, first, last in zip(starts.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
            near = _product(extended[start : start + _TILE], self._columns[:, first:last], scratch)
            found = near.argmax(axis=1)
            rows = order[start : start + _TILE]
            codes[rows] = found + first
            scores[rows] = near[np.arange(len(rows)), found]
        return codes, norms - scores

    def _bounds(self, extended: Features, scratch: Features) -> Features:
        """The best score [n] among every 8th code."""
        found = np.empty(len(extended), np.float32)
        for start in range(0, len(extended), _TILE * _COARSE):
            tile = extended[start : start + _TILE * _COARSE]
            found[start : start + len(tile)] = _product(tile, self._coarse, scratch).max(axis=1)
        return found


def _product(rows: Features, columns: Features, scratch: Features) -> Features:
    """The matrix product, in memory that is there already."""
    shape = len(rows), columns.shape[1]
    return np.matmul(rows, columns, out=scratch[: shape[0] * shape[1]].reshape(shape))


def _alike(reach: Features, luma: Features) -> NDArray[np.int64]:
    """Rows in an order where neighbours have a like reach (by quarters) and luma."""
    by_reach = np.argsort(reach, kind="stable")
    groups = max(1, min(_REACHES, len(reach) // _TILE))
    parts = [part[np.argsort(luma[part], kind="stable")] for part in np.array_split(by_reach, groups)]
    return np.concatenate(parts)


def _columns(codebook: Features) -> Features:
    """[17, codes] such that (features, 1) @ columns = 2 x.c - c.c, which is largest for the nearest code."""
    return np.ascontiguousarray(np.vstack([2 * codebook.T, -(codebook * codebook).sum(axis=1)]))


def _sorted(centres: Features) -> Features:
    """Rows in ascending order, the first column first."""
    return np.asarray(centres[np.lexsort(centres.T[::-1])])


def _lloyd(points: Features, centres: Features) -> Features:
    """One iteration: rounded means of the assigned points; a code without any moves to the farthest points."""
    codes, distances = _Search(centres)(points)
    counts = np.bincount(codes, minlength=len(centres))
    sums = [np.bincount(codes, weights=column, minlength=len(centres)) for column in points.T]
    moved = np.rint(np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    dead = np.flatnonzero(counts == 0)
    moved[dead] = points[np.argsort(-distances, kind="stable")[: len(dead)]]
    return _sorted(moved)


def safetensors_facts(data: bytes, origin: str) -> dict[str, Any]:
    """The JSON object under the metadata key "imglish" of a safetensors file (8-byte length, then a JSON header)."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["imglish"])
    except (struct.error, ValueError, KeyError, TypeError):
        raise TokenizerError(f"{origin}: not a visual tokenizer of ours; fit it again") from None
    if not isinstance(facts, dict) or "format" not in facts:
        raise TokenizerError(f"{origin}: its header does not say which format it has; fit it again")
    return facts


def check_images(images: NDArray[np.uint8], size: int) -> None:
    """TokenizerError unless images are uint8 [B, size, size, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise TokenizerError(f"images are {images.dtype} {list(images.shape)}, not uint8 [B, {size}, {size}, 3]")


def _sha256(values: NDArray[Any]) -> str:
    return hashlib.sha256(values.astype("<i2").tobytes()).hexdigest()
