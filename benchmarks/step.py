"""Forward and backward of masked data modelling on 8 images, 8 texts and 8 pairs: ours beside torchscale's BEiT3.

    python -m benchmarks.step --precision bf16 --rounds 2 --output step-bf16.json
    python -m benchmarks.step --precision bf16 --device cuda --size giant         on a GPU

Both have the same weights (the decoupled layout, torchscale's own first values) and the same batch: images of 224
pixels with 78 of 196 patches masked, texts of 196 ids with 29 masked, pairs with 64 ids of which 31 are masked; nothing
is padded unless `--padded`, which cuts every second text by half. Both must come to the same loss. Contenders:

- imglish: `predict`, one pass for the three kinds, heads and last layer on masked positions;
- torchscale: three forwards, plain heads, that is one Linear on all positions of a side, the loss on masked ones;
- torchscale-masked: the same with heads on masked positions only, as its fine-tuning code does for captions;
- imglish-compiled: layers through `torch.compile`.

Each runs in a process of its own, in turns, round by round; peak memory is that process's. The floor is the count of
matrix operations over the matrix rate measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imglish.model import ModelConfig, MultiwayTransformer, Rows
from imglish.model.config import make_config
from imglish.model.initialise import initialise
from imglish.model.released import from_released
from imglish.records import Kind
from tests.model.torchscale_oracle import torchscale_beit3

ROWS, TEXT, CAPTION = 8, 196, 64
MASKED = {"image": 78, "text": 29, "caption": 31}
THREADS = 2
CONTENDERS = ("torchscale", "torchscale-masked", "imglish", "imglish-compiled")


def spread(length: int, masked: int) -> Tensor:
    """`masked` of `length` positions True, evenly, never the first; [ROWS, length]."""
    mask = torch.zeros(ROWS, length, dtype=torch.bool)
    mask[:, torch.linspace(1, length - 2, masked).long()] = True
    return mask


def make_batch(config: ModelConfig, padded: bool, device: str) -> tuple[dict[Kind, Rows], Tensor]:
    """The rows of each kind and the codes [ROWS, N] of all pictures."""
    generator = torch.Generator().manual_seed(0)
    side, patches = config.image_size, config.patches
    pixels = torch.rand(2, ROWS, 3, side, side, generator=generator).to(device) * 2 - 1
    codes = torch.randint(0, config.codes, (ROWS, patches), generator=generator).to(device)
    image_mask = spread(patches, MASKED["image"] * patches // 196).to(device)

    def text(length: int, masked: int) -> dict[str, Tensor]:
        ids = torch.randint(4, 64_000, (ROWS, length), generator=generator)
        padding, mask = torch.zeros(ROWS, length, dtype=torch.bool), spread(length, masked)
        if padded:
            padding[::2, length // 2 :] = True
        parts = {"ids": ids.masked_fill(padding, 1), "text_mask": mask & ~padding, "padding_mask": padding}
        return {name: value.to(device) for name, value in parts.items()}

    rows: dict[Kind, Rows] = {
        "image": Rows(pixels[0], image_mask=image_mask),
        "text": Rows(**text(TEXT, MASKED["text"])),
        "pair": Rows(pixels[1], image_mask=image_mask, **text(CAPTION, MASKED["caption"])),
    }
    return rows, codes


class Torchscale(nn.Module):
    """torchscale's encoder and two plain Linears."""

    def __init__(self, config: ModelConfig, masked_heads: bool) -> None:
        super().__init__()
        self.config, self.masked_heads = config, masked_heads
        self.beit3 = torchscale_beit3(config)
        self.mim_head = nn.Linear(config.width, config.codes)
        self.mlm_head = nn.Linear(config.width, config.vocabulary)

    def losses(self, rows: dict[Kind, Rows], codes: Tensor) -> list[Tensor]:
        return [loss for kind in rows for loss in self._of(rows[kind], codes)]

    def _of(self, rows: Rows, codes: Tensor) -> list[Tensor]:
        features = self.beit3(
            textual_tokens=None if rows.ids is None else rows.ids.masked_fill(rows.text_mask, self.config.mask_id),
            visual_tokens=rows.pixels,
            text_padding_position=rows.padding_mask,
            vision_masked_position=rows.image_mask,
        )["encoder_out"]
        found = []
        if rows.image_mask is not None:
            patches = features[:, 1 : 1 + codes.shape[1]]
            found.append(self._loss(self.mim_head, patches, rows.image_mask, codes))
        if rows.ids is not None:
            words = features[:, features.shape[1] - rows.ids.shape[1] :]
            found.append(self._loss(self.mlm_head, words, rows.text_mask, rows.ids))
        return found

    def _loss(self, head: nn.Module, features: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = head(features[mask]) if self.masked_heads else head(features)[mask]
        return functional.cross_entropy(logits.float(), labels[mask], reduction="sum")


class Ours(nn.Module):
    """The weights of a `Torchscale` in our model."""

    def __init__(self, twin: Torchscale) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = MultiwayTransformer(twin.config)
        self.model.load_state_dict(from_released(twin.config, twin.state_dict()), assign=True)
        self.model.requires_grad_()

    def losses(self, rows: dict[Kind, Rows], codes: Tensor) -> list[Tensor]:
        found = []
        for name, logits in self.model.predict(rows).items():
            given = rows["image" if name.startswith("image") else "pair" if name.startswith("pair") else "text"]
            labels = codes[given.image_mask] if name.endswith("codes") else given.ids[given.text_mask]
            found.append(functional.cross_entropy(logits.float(), labels, reduction="sum"))
        return found


def contender(name: str, config: ModelConfig, device: str) -> Torchscale | Ours:
    torch.manual_seed(0)
    theirs = Torchscale(config, masked_heads=name == "torchscale-masked")
    initialise(theirs.mim_head, config, 1)
    initialise(theirs.mlm_head, config, 2)
    if name.startswith("torchscale"):
        return theirs.to(device)
    ours = Ours(theirs).to(device)
    if name == "imglish-compiled":
        for layer in ours.model.layers:
            layer.compile()
    return ours


def measure(name: str, config: ModelConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and processor seconds of each timed step, the loss, and the peak memory of this process (GPU: of the
    device)."""
    torch.set_num_threads(THREADS)
    model = contender(name, config, arguments.device)
    rows, codes = make_batch(config, arguments.padded, arguments.device)
    seconds, processor_seconds, loss = [], [], 0.0
    for number in range(arguments.warm + arguments.steps):
        model.zero_grad(set_to_none=True)
        began, processor_began = time.perf_counter(), time.process_time()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            total = torch.stack(model.losses(rows, codes)).sum()
        total.backward()
        loss = total.item()
        if number >= arguments.warm:
            seconds.append(time.perf_counter() - began)
            processor_seconds.append(time.process_time() - processor_began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "processor_seconds": processor_seconds, "loss": loss, "peak_bytes": peak}


def matrix_operations(config: ModelConfig, rows: dict[Kind, Rows]) -> dict[str, float]:
    """Multiplications and additions of one step, forward and backward, that the task cannot do without.

    Every Linear costs 2 operations a weight and token forward and 4 backward; attention 4 D a pair of tokens and
    layer forward, twice that backward. The last layer's output matrix and experts, and the heads, are counted at masked
    positions only.
    """
    D, F, L = config.width, config.ffn, config.layers
    lengths = [n for kind, given in rows.items() for n in _lengths(config, kind, given)]
    masked = {"codes": 0, "words": 0}
    for given in rows.values():
        masked["codes"] += 0 if given.image_mask is None else int(given.image_mask.sum())
        masked["words"] += 0 if given.text_mask is None else int(given.text_mask.sum())
    tokens, chosen = sum(lengths), sum(masked.values())
    inner = D * D + 2 * D * F
    return {
        "layers": 6.0 * (tokens * (L * 3 * D * D + (L - 1) * inner) + chosen * inner),
        "attention": 12.0 * D * L * sum(n * n for n in lengths),
        "heads": 6.0 * D * (masked["codes"] * config.codes + masked["words"] * config.vocabulary),
        "patches": 4.0 * 3 * config.patch**2 * D * config.patches * 2 * ROWS,
    }


def _lengths(config: ModelConfig, kind: Kind, rows: Rows) -> list[int]:
    image = 0 if kind == "text" else 1 + config.patches
    texts = [0] * ROWS if rows.padding_mask is None else (~rows.padding_mask).sum(dim=1).tolist()
    return [image + text for text in texts]


def matrix_rate(config: ModelConfig, precision: str, device: str) -> float:
    """Operations a second of the fastest product: images' tokens through fc1, forward and both products backward."""
    torch.set_num_threads(THREADS)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokens = 2 * ROWS * (1 + config.patches)
    x, w = torch.randn(tokens, config.width), torch.randn(config.ffn, config.width)
    x, w, g = (value.to(device, dtype) for value in (x, w, torch.randn(tokens, config.ffn)))
    products: list[Callable[[Tensor], Tensor]] = [
        lambda out: torch.mm(x, w.T, out=out),
        lambda out: torch.mm(g, w, out=out),
        lambda out: torch.mm(g.T, x, out=out),
    ]
    operations = 2.0 * tokens * config.width * config.ffn
    best = 0.0
    for product in products:
        out = product(torch.empty(0, device=device, dtype=dtype))
        for _ in range(8):
            began = time.perf_counter()
            product(out)
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, operations / (time.perf_counter() - began))
    return best


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All contenders in turns, each in its own process, and the floor."""
    config = make_config(arguments.size, layout="decoupled")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contenders}
    rates = [matrix_rate(config, arguments.precision, arguments.device)]
    for _ in range(arguments.rounds):
        for name in arguments.contenders:
            command = [sys.executable, "-m", "benchmarks.step", "--one", name, *sys.argv[1:]]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
        rates.append(matrix_rate(config, arguments.precision, arguments.device))
    operations = matrix_operations(config, make_batch(config, arguments.padded, "cpu")[0])
    found = {name: summary(runs[name]) for name in runs}
    floor = sum(operations.values()) / max(rates)
    for name, numbers in found.items():
        numbers["samples_per_second_over_torchscale"] = _ratio(found, name, "torchscale")
        numbers["share_of_floor"] = floor / numbers["seconds"]
    return {
        "benchmark": "step",
        "date": time.strftime("%Y-%m-%d"),
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("one", "output")},
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": THREADS},
        "operations": operations,
        "matrix_rates": rates,
        "floor_seconds": floor,
        "contenders": found,
        "runs": runs,
    }


def _ratio(found: dict[str, dict[str, Any]], name: str, base: str) -> float | None:
    return found[base]["seconds"] / found[name]["seconds"] if base in found else None


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest step of all rounds (what the others add is the machine's), and the largest peak.

    Processor seconds of all threads tell more where other programs hold the cores.
    """
    seconds = [second for run in runs for second in run["seconds"]]
    return {
        "seconds": min(seconds),
        "processor_seconds": min(second for run in runs for second in run["processor_seconds"]),
        "samples_per_second": 3 * ROWS / min(seconds),
        "peak_gib": round(max(run["peak_bytes"] for run in runs) / 2**30, 3),
        "loss": runs[0]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=["tiny", "base", "large", "giant"], default="base")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["torchscale", "imglish"])
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=CONTENDERS, help="measure one contender in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, make_config(arguments.size, layout="decoupled"), arguments)))
        return
    text = json.dumps(compare(arguments), indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
