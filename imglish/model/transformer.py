"""The Multiway Transformer: images, texts and pairs in, features out, two heads for masked positions.

    features = model.encode_image(pixels, image_mask)                                [B, 1 + N, D]
    features = model.encode_text(ids, padding_mask, text_mask)                       [B, T, D]
    features = model.encode_pair(pixels, ids, padding_mask, image_mask, text_mask)   [B, 1 + N + T, D]
    features = model.encode({"image": Rows(...), "text": Rows(...), "pair": Rows(...)})    {kind: [B, S, D]}, one pass
    logits = model.predict({...})                           {"image/codes": [M, codes], "pair/words": [M, vocabulary]}

Features are those after the final norm; token 0 of an image or pair is cls. Pixels are float as `normalise` makes them,
ids int64, masks bool (padding_mask: True = pad; image_mask and text_mask: True = masked). `encode_*` have static
shapes, for `torch.compile` and exports; `encode` and `predict` do no work on padding. Suffixes of tensors as in
`imglish.model.layers`. The paper's block at its three undecided places follows VLMo, the same authors' earlier code:
an FFN norm per expert, one attention norm, no expert mixing below the fused layers; LayerScale is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from imglish.errors import ModelError
from imglish.model.config import Layout, ModelConfig, Preset, make_config
from imglish.model.embeddings import ImageEmbedding, TextEmbedding
from imglish.model.hub import HubFiles
from imglish.model.initialise import initialise
from imglish.model.layers import Layer, layer_norm, per_way, through
from imglish.model.route import HEADS, ORDER, TARGETS, Only, Route, Rows, by_way, make_route, masked_tokens, wanted
from imglish.records import Kind


class MultiwayTransformer(HubFiles):
    """See the module's docstring; `create` builds one from a preset."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.image_embedding = ImageEmbedding(config)
        self.text_embedding = TextEmbedding(config)
        lower = config.layers - config.fused_layers
        self.layers = nn.ModuleList(Layer(config, fused=number >= lower) for number in range(config.layers))
        self.norm = per_way(config, lambda: layer_norm(config, config.width)) if config.final_norm else nn.Identity()
        self.mim_head = nn.Linear(config.width, config.codes) if config.has_mim_head else None
        self.mlm_head = nn.Linear(config.width, config.vocabulary) if config.has_mlm_head else None

    def encode_image(
        self, pixels: Float[Tensor, "B 3 H W"], image_mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Pixels [B, 3, H, W], image_mask [B, N] -> [B, 1 + N, D]; ModelError on wrong shapes."""
        return self.encode({"image": Rows(pixels=pixels, image_mask=image_mask)}, pack=False)["image"]

    def encode_text(
        self,
        ids: Int64[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B T"] | None = None,
        text_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Ids, padding_mask and text_mask [B, T] -> [B, T, D]; features at pads mean nothing."""
        rows = Rows(ids=ids, padding_mask=padding_mask, text_mask=text_mask)
        return self.encode({"text": rows}, pack=False)["text"]

    def encode_pair(
        self,
        pixels: Float[Tensor, "B 3 H W"],
        ids: Int64[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B T"] | None = None,
        image_mask: Bool[Tensor, "B N"] | None = None,
        text_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Image and text as one row: cls, patches, then the text -> [B, 1 + N + T, D]."""
        return self.encode({"pair": Rows(pixels, ids, padding_mask, image_mask, text_mask)}, pack=False)["pair"]

    def encode(self, rows: Mapping[Kind, Rows], pack: bool = True) -> dict[Kind, Tensor]:
        """Features [B, S, D] by kind, all kinds in one pass.

        With `pack`, padded positions cost nothing outside attention and their features are 0; shapes inside then
        depend on the padding. ModelError on wrong shapes.
        """
        route = make_route(self.config, rows, pack)
        images, pair_images, pair_texts, texts = torch.split(self._run(rows, route, None), route.sizes)
        found: dict[Kind, Tensor] = {}
        if "image" in rows:
            found["image"] = torch.unflatten(images, 0, (route.images, -1))
        if route.pair_texts is not None:
            image = torch.unflatten(pair_images, 0, (route.pairs, -1))
            found["pair"] = torch.cat([image, route.pair_texts.spread(pair_texts)], dim=1)
        if route.texts is not None:
            found["text"] = route.texts.spread(texts)
        return found

    def predict(self, rows: Mapping[Kind, Rows]) -> dict[str, Tensor]:
        """Logits at masked positions, by kind and target, row by row: "image/codes", "pair/codes" [M, codes],
        "pair/words", "text/words" [M, vocabulary]; targets whose mask is not given are left out.

        One pass for all kinds, one product a head; the last layer works on masked positions alone. Equal to the heads
        on the features of `encode` there.
        """
        route = make_route(self.config, rows, pack=True)
        masked = masked_tokens(rows, route)
        places = list(masked.values())
        if not places:
            return {}
        sizes = [len(masked.get(name, ())) for name in TARGETS]
        x_MD = self._run(rows, route, Only(torch.cat(places), sizes))
        found: dict[str, Tensor] = {}
        for name, x in zip(("mim_head", "mlm_head"), torch.split(x_MD, [sum(sizes[:2]), sum(sizes[2:])]), strict=True):
            of_head = {target: len(places) for target, places in masked.items() if HEADS[target] == name}
            if of_head:
                logits = torch.split(self._head(name)(x), list(of_head.values()))
                found |= dict(zip(of_head, logits, strict=True))
        return found

    def _run(self, rows: Mapping[Kind, Rows], route: Route, only: Only | None) -> Tensor:
        """Features of the run [T, D], or of some of its tokens [U, D]."""
        x_TD = self._embed(rows, route)
        keep_L2T = _keep(rows, route, self.config.layers)
        for number, layer in enumerate(self.layers):
            last = number == self.config.layers - 1
            x_TD = layer(x_TD, route, None if keep_L2T is None else keep_L2T[number], only if last else None)
        return through(x_TD, by_way(route.sizes if only is None else only.sizes, False, route.sizes), self.norm)

    def _embed(self, rows: Mapping[Kind, Rows], route: Route) -> Tensor:
        """The run [T, D] before the first layer: one product for all images, one look-up for all texts."""
        parts = []
        pictures = [rows[kind] for kind in ORDER if kind in rows and kind != "text"]
        if pictures:
            parts.append(self.image_embedding(*_pictures(pictures, self.config.patches)).flatten(0, 1))
        texts = [(rows[kind], part) for kind, part in route.text_parts]
        if texts:
            ids = _joined([part.take(self._shown(found)) for found, part in texts])
            places = _joined([part.places(ids.device) for _, part in texts])
            x_RD = self.text_embedding(ids, places)
            if any(part.holds_pads for _, part in texts):
                x_RD = x_RD.masked_fill(torch.cat([part.pads(ids.device) for _, part in texts])[:, None], 0.0)
            parts.append(x_RD)
        return _joined(parts)

    def _shown(self, rows: Rows) -> Tensor:
        """What is seen of ids, [B, T]: `<mask>` at masked positions unless the rows say otherwise."""
        if rows.shown is not None:
            return rows.shown
        ids = wanted(rows.ids)
        return ids if rows.text_mask is None else ids.masked_fill(rows.text_mask, self.config.mask_id)

    def _head(self, name: str) -> nn.Module:
        head: nn.Module | None = getattr(self, name)
        if head is None:
            raise ModelError(f"the model has no {name}; create it with has_{name}=True")
        return head


def _pictures(rows: list[Rows], patches: int) -> tuple[Tensor, Tensor | None]:
    """Pixels and image masks of images and pairs as one batch."""
    pixels = [wanted(found.pixels) for found in rows]
    if all(found.image_mask is None for found in rows):
        return _joined(pixels), None
    masks = [
        pixels[0].new_zeros(len(found), patches, dtype=torch.bool) if found.image_mask is None else found.image_mask
        for found in rows
    ]
    return _joined(pixels), _joined(masks)


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _keep(rows: Mapping[Kind, Rows], route: Route, layers: int) -> Tensor | None:
    """Scales of branches by token, [L, 2, T]; None when all are kept."""
    found = [rows[kind] for kind in ORDER if kind in rows]
    some = next((each.keep for each in found if each.keep is not None), None)
    if some is None:
        return None
    scales = [some.new_ones(layers, 2, len(each)) if each.keep is None else each.keep for each in found]
    return torch.cat(scales, dim=2)[:, :, route.rows_of_tokens(some.device)]


def create(
    preset: Preset,
    layout: Layout = "shared",
    *,
    vocabulary: int | None = None,
    codes: int | None = None,
    image_size: int | None = None,
    patch: int | None = None,
    max_text: int | None = None,
    seed: int = 0,
    **overrides: Any,
) -> MultiwayTransformer:
    """A model with fresh parameters (see `imglish.model.initialise`), fp32, in training mode.

    None takes the default of `ModelConfig` or of the preset; `overrides` are any other fields of it. ModelError names
    a field that is unknown or does not fit. Under `torch.device("meta")` no memory is taken and nothing is drawn.
    """
    fields = {"vocabulary": vocabulary, "codes": codes, "image_size": image_size, "patch": patch, "max_text": max_text}
    config = make_config(preset, layout=layout, **fields, **overrides)
    model = MultiwayTransformer(config)
    initialise(model, config, seed)
    return model
