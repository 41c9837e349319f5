"""What a run needs before it starts: memory of a device, operations, time, cost.

    budget = plan_budget(train, model_config, Terms("a100-40gb", world_size=256, mfu=0.4, price=1.5))
    budget.memory_bytes, budget.seconds, budget.cost

Everything follows from shapes: every text row and caption is taken to be full, so real runs need a little less. Time is
operations over what the devices do at the given share of their peak (`imglish.trainer.mfu`); waiting for data and
checkpoints is not in it. Activations are counted as torch saves them for the backward pass with fused attention; what a
product needs while it runs, and what the allocator loses, comes on top (a tenth is a fair guess).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from imglish.model import ModelConfig, MultiwayTransformer
from imglish.model.operations import Work, step_operations
from imglish.recipe import TrainConfig
from imglish.records import Kind
from imglish.shards.format import BLOCK_IDS
from imglish.trainer.mfu import DEVICES, utilisation

WEEKS_2 = 14 * 86400
PAPER = ("a100-40gb", 256)
"""Devices of the paper's run, which took about two weeks (a maintainer, microsoft/unilm issue 930)."""


@dataclass(frozen=True)
class Terms:
    """Device by its name in `mfu.DEVICES`, ranks, share of the peak, price of a device for an hour."""

    device: str = "a100-40gb"
    world_size: int = 1
    mfu: float = 0.4
    price: float = 1.5


@dataclass(frozen=True)
class Budget:
    """Of one device: bytes by what they are for. Of all together: operations and tokens of a step, hours of devices."""

    parameters: int
    operations: float
    tokens: int
    bytes: Mapping[str, float]
    seconds: float
    """Of the whole run."""
    step_seconds: float
    device_hours: float
    cost: float

    @property
    def memory_bytes(self) -> float:
        return sum(self.bytes.values())


def planned_work(config: TrainConfig, model: ModelConfig, devices: int = 1, block: int = BLOCK_IDS) -> Work:
    """A part of a step: the batch at the end of the run over `devices`, every row full; a text has `block` ids."""
    batch = dict(config.schedule[-1][1]) if config.schedule else config.batch
    counts = {kind: count // devices for kind, count in batch.items()}
    length = min(block, config.text_length)
    texts = counts.get("text", 0) * (block // length)
    image = 1 + model.patches
    rows: dict[Kind, list[int]] = {"image": [image] * counts.get("image", 0), "text": [length] * texts}
    rows["pair"] = [image + config.caption_length] * counts.get("pair", 0)
    pictures = len(rows["image"]) + len(rows["pair"])
    words = round(config.masks.text * length) * texts
    words += round(config.masks.caption * (config.caption_length - 2)) * len(rows["pair"])
    return Work(rows, round(config.masks.image * model.patches) * pictures, words)


def plan_budget(config: TrainConfig, model: ModelConfig, terms: Terms) -> Budget:
    """Memory, operations, time and cost of `config.steps` steps."""
    device = DEVICES[terms.device]
    whole = planned_work(config, model)
    operations = step_operations(model, whole)
    step = operations / (terms.mfu * device.peak(config.precision) * terms.world_size)
    hours = config.steps * step * terms.world_size / 3600
    parts = terms.world_size * config.accumulate
    layers, others = parameter_counts(model)
    size = _state_bytes(config, layers, model.layers, others, terms.world_size)
    size["activations"] = activation_bytes(config, model, planned_work(config, model, parts))
    return Budget(
        layers + others, operations, whole.tokens, size, config.steps * step, step, hours, hours * terms.price
    )


def implied_mfu(config: TrainConfig, model: ModelConfig, block: int = BLOCK_IDS) -> float:
    """The share of the peak at which the paper's devices would have done this run in two weeks."""
    device, count = PAPER
    operations = config.steps * step_operations(model, planned_work(config, model, block=block))
    return utilisation(operations, WEEKS_2, DEVICES[device].bf16, count)


def parameter_counts(model: ModelConfig) -> tuple[int, int]:
    """Parameters in layers, and in all else."""
    with torch.device("meta"):
        made = MultiwayTransformer(model)
    layers = sum(parameter.numel() for parameter in made.layers.parameters())
    return layers, sum(parameter.numel() for parameter in made.parameters()) - layers


def _state_bytes(config: TrainConfig, layers: int, count: int, others: int, world_size: int) -> dict[str, float]:
    """Weights, gradients and moments in fp32, and copies in the compute type; `layers` are all parameters of `count`
    layers, `others` those outside."""
    all_of = layers + others
    cut = world_size if config.parallel == "fsdp" else 1
    size = {
        "weights": 4 * all_of / cut,
        "gradients": 4 * all_of / cut,
        "optimizer": 8 * all_of / cut,
        "average": 4 * all_of / cut if config.ema else 0,
    }
    compute = 2 if config.precision == "bf16" else 4
    if cut > 1:  # gathered: embeddings and heads, one layer at work and one on its way, and their gradients
        largest = layers / count
        size["gathered"] = 2 * compute * (others + 2 * largest)
    elif compute == 2:
        size["copies in bf16"] = 2 * all_of
    return {name: value for name, value in size.items() if value}


def activation_bytes(config: TrainConfig, model: ModelConfig, work: Work) -> float:
    """What torch saves for the backward pass of one part, weights apart."""
    c, r = (2 if config.precision == "bf16" else 4), 4  # of products, of the residual stream and norms
    D, F = model.width, model.ffn
    tokens, pairs, masked = work.tokens, sum(work.rows.get("pair", ())), work.codes + work.words
    alone = tokens == pairs
    joined = pairs > 0 or sum(map(bool, work.rows.values())) > 1
    # A norm: its input, two statistics. Queries, keys and values: the run's, and the pairs' own copy. Attention: its
    # output by rows and, where there are several parts, as a run; a number a head. Sub-LN: its input in fp32.
    attention = (r + c) * D * tokens + 8 * tokens + c * 3 * D * ((0 if alone else tokens) + pairs)
    attention += c * D * tokens + 4 * model.heads * tokens
    sub = (r * D + 8, r * F + 8) if model.decoupled else (0, 0)

    def after(chosen: int) -> float:
        """Output matrix and expert: their inputs, the second norm's input and statistics."""
        return chosen * (c * D * joined + sub[0] + (r + c) * D + 8 + 2 * c * F + sub[1])

    whole, last = attention + after(tokens), attention + after(masked) + r * D * masked
    ends = masked * (r * D + 8 + c * D) + 4 * (work.codes * model.codes + work.words * model.vocabulary)
    pictures = len(work.rows.get("image", ())) + len(work.rows.get("pair", ()))
    ends += c * 3 * model.patch**2 * model.patches * pictures
    if config.activation_checkpointing:
        return r * D * tokens * model.layers + max(whole, last) + ends
    return whole * (model.layers - 1) + last + ends
