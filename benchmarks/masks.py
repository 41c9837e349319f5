"""How fast masks are made: image masks and text rows a second of processor time, on one core.

python -m benchmarks.masks --output masks.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imglish.seeds import stream
from imglish.shards.masks import block_masks, shown_ids, text_masks

GRID, MASKED, IDS = (14, 14), 78, 512
BATCHES = (8, 64, 512, 4096)


def rate(rows: int, work: Callable[[], Any], repeats: int = 7) -> int:
    """Rows a second of the fastest of some repeats, processor time of this process."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        for _ in range(max(1, 1024 // rows)):
            work()
        best = min(best, (time.process_time() - began) / max(1, 1024 // rows))
    return round(rows / best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[int, int]] = {"image_masks": {}, "text_masks": {}, "shown_ids": {}}
    for rows in BATCHES:
        keys = stream(0, "benchmark").bits(rows)
        ids = 4 + (stream(0, "ids").bits(rows * IDS).reshape(rows, IDS) % np.uint64(1000)).astype(np.int64)
        masks = text_masks(keys, ids, 0.15, (0, 1, 2))
        assert np.all(block_masks(keys, GRID, MASKED).sum(axis=1) == MASKED)
        found["image_masks"][rows] = rate(rows, lambda keys=keys: block_masks(keys, GRID, MASKED))
        found["text_masks"][rows] = rate(rows, lambda keys=keys, ids=ids: text_masks(keys, ids, 0.15, (0, 1, 2)))
        found["shown_ids"][rows] = rate(
            rows, lambda keys=keys, ids=ids, masks=masks: shown_ids(keys, ids, masks, 1004, (4, 1004))
        )
    text = json.dumps({"benchmark": "masks", "date": time.strftime("%Y-%m-%d"), "rows_per_second_by_batch": found})
    print(text)
    if arguments.output:
        arguments.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
