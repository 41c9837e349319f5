"""One layer: pre-norm attention, then the feed-forward expert of each token's way.

The two layouts differ in which modules exist once and which once per way (`PerWay`), and in LayerNorms before the
output matrices (sub-LN, decoupled only). `each_way` is the one place where tokens are routed: it sends each way's
neighbours in the run (`imglish.model.route`) through that way's modules.

Suffixes of tensors: B rows, S tokens of a row, T tokens of the run or ids of a text, U chosen tokens of the run, L
layers, D width, E three times D, F channels in an expert, H heads, K channels of a head, N patches, R real text tokens,
M masked positions, P side of a patch in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from imglish.model.config import ModelConfig
from imglish.model.route import Only, Route, Texts, by_way


class PerWay(nn.Module):
    """A copy of a module for each way, `image` and `text`; called through `through`."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.image = make()
        self.text = make()


def each_way(x_TD: Tensor, ways: Mapping[str, int], call: Callable[[str, Tensor], Tensor]) -> Tensor:
    """`call(way, tokens)` for each way's neighbours in the run [T, D], joined again.

    `ways` are numbers of tokens in the order of the run. A way that is not there is not called, so its parameters get
    no gradient.
    """
    used = ways or {"text": 0}
    if len(used) == 1:
        return call(next(iter(used)), x_TD)
    parts = torch.split(x_TD, list(used.values()))
    return torch.cat([call(way, part) for way, part in zip(used, parts, strict=True)])


def through(x_TD: Tensor, ways: Mapping[str, int], *modules: nn.Module) -> Tensor:
    """Tokens [T, D] through modules, one after another: of a `PerWay` through the copy of their way."""
    if any(isinstance(module, PerWay) for module in modules):
        return each_way(x_TD, ways, lambda way, part: _chain(part, way, modules))
    return _chain(x_TD, "", modules)


def _chain(x_TD: Tensor, way: str, modules: Iterable[nn.Module]) -> Tensor:
    for module in modules:
        x_TD = (getattr(module, way) if isinstance(module, PerWay) else module)(x_TD)
    return x_TD


def per_way(config: ModelConfig, make: Callable[[], nn.Module]) -> nn.Module:
    """A module as the layout wants it: one for all ways (shared) or one each (decoupled)."""
    return PerWay(make) if config.decoupled else make()


def layer_norm(config: ModelConfig, channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=config.norm_epsilon)


class Attention(nn.Module):
    """Self-attention among the tokens of each row: the weights, and what mixes queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.width
        self.heads = config.heads
        self.qkv = per_way(config, lambda: nn.Linear(D, 3 * D))
        self.inner_norm = per_way(config, lambda: layer_norm(config, D)) if config.decoupled else nn.Identity()
        self.out = per_way(config, lambda: nn.Linear(D, D))

    def mix(self, qkv_T3D: Float[Tensor, "T E"], route: Route) -> Float[Tensor, "T D"]:
        """Queries, keys and values of the run to mixed values of the run; rows are cut out kind by kind."""
        images, pair_images, pair_texts, texts = torch.split(qkv_T3D, route.sizes)
        outs: list[Tensor] = []
        if route.images:
            outs.append(self._rows(torch.unflatten(images, 0, (route.images, -1)), None).flatten(0, 1))
        if route.pairs and route.pair_texts is not None:
            outs += self._pairs(torch.unflatten(pair_images, 0, (route.pairs, -1)), pair_texts, route.pair_texts)
        if route.texts is not None and route.texts.tokens:
            rows = self._rows(route.texts.spread(texts), route.texts.visible())
            outs.append(route.texts.take(rows))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _pairs(self, image_BS3D: Tensor, text_R3D: Tensor, texts: Texts) -> list[Tensor]:
        length, visible = image_BS3D.shape[1], texts.visible()
        if visible is not None:
            visible = torch.cat([visible.new_ones(texts.rows, length), visible], dim=1)
        rows = self._rows(torch.cat([image_BS3D, texts.spread(text_R3D)], dim=1), visible)
        image, text = torch.split(rows, [length, texts.length], dim=1)
        return [image.flatten(0, 1), texts.take(text)]

    def _rows(self, qkv_BS3D: Float[Tensor, "B S E"], visible_BS: Bool[Tensor, "B S"] | None) -> Float[Tensor, "B S D"]:
        q_BHSK, k_BHSK, v_BHSK = torch.unflatten(qkv_BS3D, 2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(q_BHSK, k_BHSK, v_BHSK, None if visible_BS is None else visible_BS[:, None, None, :])
        return mixed.transpose(1, 2).flatten(2)


def attend(
    q_BHSK: Float[Tensor, "B H S K"],
    k_BHSK: Float[Tensor, "B H S K"],
    v_BHSK: Float[Tensor, "B H S K"],
    visible_B11S: Bool[Tensor, "B 1 1 S"] | None,
) -> Float[Tensor, "B H S K"]:
    """Softmax attention with heads apart; `visible_B11S` is True at tokens that may be looked at, None is all.

    torch's fused kernel, except for bf16 on a CPU: there its backward is 4 times slower than three matrix products
    (64 rows of 64 tokens, 4 heads of 64: 48 ms against 11 ms on one core with AMX, torch 2.13; without AMX the whole
    step of two base layers takes 5.7 s with the kernel, 5.6 s with it in fp32, 5.1 s with products).
    """
    if q_BHSK.device.type != "cpu" or q_BHSK.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=visible_B11S)
    scores_BHSS = (q_BHSK * q_BHSK.shape[-1] ** -0.5) @ k_BHSK.transpose(-1, -2)
    if visible_B11S is not None:
        scores_BHSS = scores_BHSS.masked_fill(~visible_B11S, -torch.inf)
    mixed_BHSK: Tensor = scores_BHSS.softmax(dim=-1, dtype=torch.bfloat16) @ v_BHSK
    return mixed_BHSK


class Expert(nn.Module):
    """One way's feed-forward network with its own pre-norm (as in the released code, and in VLMo's)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = layer_norm(config, config.width)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.inner_norm = layer_norm(config, config.ffn) if config.decoupled else nn.Identity()
        self.fc2 = nn.Linear(config.ffn, config.width)

    def forward(self, x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        out: Tensor = self.fc2(self.inner_norm(functional.gelu(self.fc1(self.norm(x_TD)))))
        return out


class Layer(nn.Module):
    """Attention and experts; `fused` layers send whole pairs through a third expert."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        self.attention_norm = per_way(config, lambda: layer_norm(config, config.width))
        self.attention = Attention(config)
        self.image = Expert(config)
        self.text = Expert(config)
        self.pair = Expert(config) if fused else None

    def forward(
        self,
        x_TD: Float[Tensor, "T D"],
        route: Route,
        keep_2T: Float[Tensor, "2 T"] | None = None,
        only: Only | None = None,
    ) -> Float[Tensor, "U D"]:
        """`keep_2T` scales the two branches of each token. With `only`, what comes out are those tokens alone (U of
        T): all are attended to, but output matrix and experts work on the chosen ones."""
        qkv_T3D = through(x_TD, by_way(route.sizes, False), self.attention_norm, self.attention.qkv)
        mixed_TD, sizes = self.attention.mix(qkv_T3D, route), route.sizes
        if only is not None:
            x_TD, mixed_TD = x_TD.index_select(0, only.index), mixed_TD.index_select(0, only.index)
            sizes, keep_2T = only.sizes, None if keep_2T is None else keep_2T[:, only.index]
        attended = through(mixed_TD, by_way(sizes, False, route.sizes), self.attention.inner_norm, self.attention.out)
        x_TD = x_TD + (attended if keep_2T is None else keep_2T[0, :, None] * attended)
        ways = by_way(sizes, self.pair is not None, route.sizes)
        routed = each_way(x_TD, ways, lambda way, part: getattr(self, way)(part))
        return x_TD + (routed if keep_2T is None else keep_2T[1, :, None] * routed)
