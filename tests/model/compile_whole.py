"""Compile each of the model's three calls as one graph, forward and backward, in both layouts; an error if one breaks.

python -m tests.model.compile_whole
"""

from __future__ import annotations

import torch

from imglish.model import create

SIZES = {"width": 24, "ffn": 40, "heads": 3, "patch": 4, "vocabulary": 50, "codes": 16, "image_size": 8, "max_text": 12}


def main() -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(2, 3, 8, 8, generator=generator)
    ids = torch.tensor([[0, 7, 8, 9, 2], [0, 10, 2, 1, 1]])
    image_mask, text_mask = torch.rand(2, 4, generator=generator) < 0.4, ids == 8
    calls = {
        "encode_image": (pixels, image_mask),
        "encode_text": (ids, ids == 1, text_mask),
        "encode_pair": (pixels, ids, ids == 1, image_mask, text_mask),
    }
    for layout in ("shared", "decoupled"):
        model = create("tiny", layout, layers=2, **SIZES)
        for name, arguments in calls.items():
            torch.compiler.reset()
            call = getattr(model, name)
            out = torch.compile(call, fullgraph=True, backend="eager")(*arguments)
            torch.testing.assert_close(out, call(*arguments))
            out.sum().backward()


if __name__ == "__main__":
    main()
