"""Where the tokens of a batch go: one run of tokens for all rows, in an order that keeps every way's tokens together.

    route = make_route(config, rows={"image": images, "pair": pairs, "text": texts}, pack=True)
    by_way(route.sizes, fused=False)      {"image": 3152, "text": 2080}: so many neighbours in the run take each way
    by_way(route.sizes, fused=True)       {"image": 1576, "pair": 2088, "text": 1568}

The run is: tokens of images, image tokens of pairs, text tokens of pairs, tokens of texts. So the tokens of a way are
neighbours, and its feed-forward network is one matrix product over them whatever the batch holds. Only attention sees
rows; it cuts them out of the run.

A route is made per batch and given to every layer as an argument: no module remembers one. With `pack`, padded text
positions are not in the run at all and cost nothing outside attention; without, shapes depend on shapes alone, which is
what `torch.compile` and CUDA graphs want.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from imglish.errors import ModelError
from imglish.model.config import ModelConfig
from imglish.records import Kind

ORDER: tuple[Kind, ...] = ("image", "pair", "text")
"""Kinds in the order of the run."""
HEADS = {"image/codes": "mim_head", "pair/codes": "mim_head", "pair/words": "mlm_head", "text/words": "mlm_head"}
"""What masked positions ask for, by kind and target, and the head that answers."""
TARGETS = tuple(HEADS)
"""One for each of the four parts of a run, in its order."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind as the model reads them: pixels of images, ids of texts, both of pairs.

    pixels float [B, 3, H, W] as `normalise` makes them, ids int64 [B, T], padding_mask bool [B, T] (True = pad; None:
    nothing is padded), image_mask bool [B, N] and text_mask bool [B, T] (True = masked). `shown` int64 [B, T] is what
    the model sees of ids; None is ids with `<mask>` at masked positions. `keep` float [layers, 2, B] scales the two
    residual branches of each row in each layer (stochastic depth); None keeps all.
    """

    pixels: Float[Tensor, "B 3 H W"] | None = None
    ids: Int64[Tensor, "B T"] | None = None
    padding_mask: Bool[Tensor, "B T"] | None = None
    image_mask: Bool[Tensor, "B N"] | None = None
    text_mask: Bool[Tensor, "B T"] | None = None
    keep: Float[Tensor, "L 2 B"] | None = None
    shown: Int64[Tensor, "B T"] | None = None

    @property
    def kind(self) -> Kind:
        """ModelError when there are neither pixels nor ids."""
        if self.pixels is None and self.ids is None:
            raise ModelError("rows have neither pixels nor ids; give one of them, or both for pairs")
        return "text" if self.pixels is None else "image" if self.ids is None else "pair"

    def __len__(self) -> int:
        first = self.pixels if self.pixels is not None else self.ids
        return 0 if first is None else len(first)


@dataclass(frozen=True)
class Texts:
    """The text tokens of one kind's rows as a part of the run."""

    rows: int
    length: int
    """Positions of a row, pads included, T."""
    padding: Tensor | None
    """bool [B, T], True = pad; None: nothing is padded."""
    real: Tensor | None
    """Which of the B * T positions are in the run, int64 [R], ascending; None: all."""

    @property
    def tokens(self) -> int:
        return self.rows * self.length if self.real is None else len(self.real)

    def take(self, x_BTx: Tensor) -> Tensor:
        """Rows [B, T, ...] to the run [R, ...]."""
        flat = x_BTx.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def spread(self, x_Rx: Tensor) -> Tensor:
        """The run [R, ...] to rows [B, T, ...], 0 at what is not in it."""
        if self.real is not None:
            x_Rx = x_Rx.new_zeros(self.rows * self.length, *x_Rx.shape[1:]).index_copy(0, self.real, x_Rx)
        return torch.unflatten(x_Rx, 0, (self.rows, self.length))

    def places(self, device: torch.device) -> Tensor:
        """The position of each token in its row, int64 [R]."""
        return self.take(torch.arange(self.length, device=device).repeat(self.rows, 1))

    @property
    def holds_pads(self) -> bool:
        """Whether pads are in the run."""
        return self.padding is not None and self.real is None

    def pads(self, device: torch.device) -> Tensor:
        """Which tokens are pads, bool [R]."""
        if self.padding is not None and self.real is None:
            return self.padding.flatten()
        return torch.zeros(self.tokens, dtype=torch.bool, device=device)

    def visible(self) -> Tensor | None:
        """bool [B, T]: what may be attended to. A row of pads only sees itself whole, so that it is finite."""
        if self.padding is None:
            return None
        return ~self.padding | self.padding.all(dim=1, keepdim=True)


@dataclass(frozen=True)
class Route:
    """See the module's docstring. `images` and `pairs` are numbers of rows, `image_length` is 1 + N."""

    image_length: int
    images: int
    pairs: int
    pair_texts: Texts | None
    texts: Texts | None

    @property
    def sizes(self) -> list[int]:
        """Tokens of images, image tokens of pairs, text tokens of pairs, tokens of texts."""
        texts = [0 if part is None else part.tokens for part in (self.pair_texts, self.texts)]
        return [self.images * self.image_length, self.pairs * self.image_length, *texts]

    @property
    def text_parts(self) -> list[tuple[Kind, Texts]]:
        """Those that are there, in the order of the run."""
        parts: list[tuple[Kind, Texts | None]] = [("pair", self.pair_texts), ("text", self.texts)]
        return [(kind, part) for kind, part in parts if part is not None]

    def rows_of_tokens(self, device: torch.device) -> Tensor:
        """The row of each token of the run, int64 [T], with rows counted through images, pairs and texts."""
        images, pairs = (torch.arange(n, device=device) for n in (self.images, self.pairs))
        found = [images.repeat_interleave(self.image_length), self.images + pairs.repeat_interleave(self.image_length)]
        for kind, part in self.text_parts:
            rows = torch.arange(part.rows, device=device).repeat_interleave(part.length)
            first = self.images if kind == "pair" else self.images + self.pairs
            found.append(first + part.take(torch.unflatten(rows, 0, (part.rows, part.length))))
        return torch.cat(found)


@dataclass(frozen=True)
class Only:
    """Some tokens of a run: their places, ascending, int64 [U], and how many are in each of its four parts."""

    index: Tensor
    sizes: list[int]


def by_way(sizes: list[int], fused: bool, run: list[int] | None = None) -> dict[str, int]:
    """Tokens of the four parts of a run to tokens by way, in the order of the run; the ways that have some.

    `fused` layers have a way for pairs; in others pairs go by modality. When `sizes` are those of chosen tokens, `run`
    are those of all: a way of the run from which none was chosen is there with 0 tokens, so that the parameters that
    get gradients follow from the kinds of a batch alone, and are the same on every rank.
    """
    ways = _ways(sizes, fused)
    present = ways if run is None else _ways(run, fused)
    return {way: tokens for way, tokens in ways.items() if present[way]}


def _ways(sizes: list[int], fused: bool) -> dict[str, int]:
    image, pair_image, pair_text, text = sizes
    if fused:
        return {"image": image, "pair": pair_image + pair_text, "text": text}
    return {"image": image + pair_image, "text": pair_text + text}


def masked_tokens(rows: Mapping[Kind, Rows], route: Route) -> dict[str, Tensor]:
    """Where in the run the masked positions of each target are, int64 [M], ascending; the masks that are given."""
    starts = dict(zip(TARGETS, itertools.accumulate([0, *route.sizes]), strict=False))
    found: dict[str, Tensor] = {}
    for kind in ("image", "pair"):
        mask = None if kind not in rows else rows[kind].image_mask
        if mask is not None:
            with_cls = functional.pad(mask, (1, 0))
            found[f"{kind}/codes"] = starts[f"{kind}/codes"] + with_cls.flatten().nonzero()[:, 0]
    for kind, part in route.text_parts:
        mask = rows[kind].text_mask
        if mask is not None:
            found[f"{kind}/words"] = starts[f"{kind}/words"] + part.take(mask).nonzero()[:, 0]
    return found


def wanted(tensor: Tensor | None) -> Tensor:
    """A tensor that the kind of rows promises."""
    if tensor is None:
        raise ModelError("rows lack pixels or ids that their kind has")
    return tensor


def make_route(config: ModelConfig, rows: Mapping[Kind, Rows], pack: bool) -> Route:
    """The route of a batch; ModelError names what has a wrong shape or kind."""
    for kind, found in rows.items():
        _check(config, kind, found)
    pairs = rows.get("pair")
    return Route(
        image_length=1 + config.patches,
        images=len(rows.get("image", ())),
        pairs=0 if pairs is None else len(pairs),
        pair_texts=_texts(pairs, pack),
        texts=_texts(rows.get("text"), pack),
    )


def _texts(rows: Rows | None, pack: bool) -> Texts | None:
    if rows is None or rows.ids is None:
        return None
    B, T = rows.ids.shape
    if not pack or rows.padding_mask is None:
        return Texts(B, T, rows.padding_mask, None)
    real = (~rows.padding_mask).flatten().nonzero()[:, 0]
    return Texts(B, T, None, None) if len(real) == B * T else Texts(B, T, rows.padding_mask, real)


def _check(config: ModelConfig, kind: Kind, rows: Rows) -> None:
    if not len(rows):
        raise ModelError(f"there are no {kind} rows; leave the kind out")
    if rows.kind != kind:
        raise ModelError(f"rows given as {kind!r} are of kind {rows.kind!r}")
    if rows.pixels is not None:
        side, shape = config.image_size, list(rows.pixels.shape)
        if shape[1:] != [3, side, side]:
            raise ModelError(f"pixels are {shape}; the model wants [B, 3, {side}, {side}]")
        wanted = (shape[0], config.patches)
        if rows.image_mask is not None and rows.image_mask.shape != wanted:
            raise ModelError(f"image_mask is {list(rows.image_mask.shape)}; the model wants {list(wanted)}")
    if rows.ids is not None:
        shape = list(rows.ids.shape)
        if len(shape) != 2 or shape[1] > config.max_text:
            raise ModelError(f"ids are {shape}; the model wants [B, T], T up to {config.max_text}")
        for name in ("padding_mask", "text_mask", "shown"):
            other = getattr(rows, name)
            if other is not None and list(other.shape) != shape:
                raise ModelError(f"{name} is {list(other.shape)} but ids are {shape}")
    if rows.pixels is not None and rows.ids is not None and len(rows.pixels) != len(rows.ids):
        raise ModelError(f"a pair batch has {len(rows.pixels)} images but {len(rows.ids)} texts")
    if rows.keep is not None and rows.keep.shape != (config.layers, 2, len(rows)):
        raise ModelError(f"keep is {list(rows.keep.shape)}; the model wants {[config.layers, 2, len(rows)]}")
