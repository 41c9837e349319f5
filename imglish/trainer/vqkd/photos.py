"""What a VQ-KD run looks at: stored images in one file, crops of them by epoch, and the teacher's features of those.

    photos = Photos.collect(folder / "train", images)      once; later Photos.open(folder / "train")
    pixels = photos.crops([3, 1, 4], epoch=7)              uint8 [3, S, S, 3]

Crop e of an image is a function of (seed, record id, e), so a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from imglish.errors import TrainError
from imglish.recipe import ViewConfig, VqkdConfig
from imglish.seeds import stream
from imglish.shards.images import StoredImage, decode_jpeg
from imglish.shards.views import draw_views, render
from imglish.storage import Store

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Photos:
    """Stored JPEGs one after another in `path`, with record ids, sizes (width, height) and ends of each."""

    path: Path
    ids: NDArray[Any]
    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def collect(cls, path: Path, images: Iterable[tuple[bytes, StoredImage]]) -> Photos:
        """Write the file and its table; the table last, so that a half-written file is collected again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ids, sizes, ends = [], [], []
        with path.with_suffix(".jpegs").open("wb") as file:
            for record, image in images:
                file.write(image.jpeg)
                ids.append(np.frombuffer(record, np.uint8))
                sizes.append((image.width, image.height))
                ends.append(file.tell())
        table = np.zeros(len(ids), [("id", np.uint8, 16), ("size", np.int64, 2), ("end", np.int64)])
        if ids:
            table["id"], table["size"], table["end"] = np.array(ids), np.array(sizes), np.array(ends)
        Store(path.parent).put_as(path.with_suffix(".table").name, table.tobytes())
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Photos:
        """Photographs that `collect` wrote; FileNotFoundError when it did not finish."""
        dtype = [("id", np.uint8, 16), ("size", np.int64, 2), ("end", np.int64)]
        table = np.frombuffer(path.with_suffix(".table").read_bytes(), dtype)
        return cls(path.with_suffix(".jpegs"), table["id"], table["size"], table["end"])

    def __len__(self) -> int:
        return len(self.ids)

    def crops(self, numbers: Sequence[int], epoch: int, size: int, min_scale: float, seed: int) -> Pixels:
        """Crop `epoch` of each of these images, uint8 [n, size, size, 3]."""
        views = ViewConfig(count=1, min_scale=min_scale)
        key = stream(seed, "vqkd crops", epoch).key
        boxes = draw_views([self.ids[n].tobytes() for n in numbers], self.sizes[list(numbers)], views, key)
        out = np.empty((len(numbers), size, size, 3), np.uint8)
        with self.path.open("rb") as file:
            for place, number in enumerate(numbers):
                start = int(self.ends[number - 1]) if number else 0
                file.seek(start)
                render(decode_jpeg(file.read(int(self.ends[number]) - start)), boxes[place, 0], size, out[place])
        return out


class Targets:
    """The teacher's features of crops: computed, and kept in a file of float16 when that is small enough. They pass
    through float16 either way."""

    def __init__(self, teacher: Any, grid: int, device: torch.device) -> None:
        self.teacher, self.grid, self.device = teacher.to(device), grid, device
        self._kept: NDArray[np.float16] | None = None
        self._done: NDArray[np.uint8] | None = None

    def remember(self, path: Path, images: int, config: VqkdConfig) -> None:
        """Keep features in `path` if those of all crops fit into `remember_gigabytes`."""
        views = min(config.train.views, config.train.epochs)
        shape = (views, images, self.grid**2, int(self.teacher.features))
        if 2 * np.prod(shape, dtype=np.int64) > config.train.remember_gigabytes * 1e9:
            return
        marks = path.with_suffix(".done")
        mode: Literal["r+", "w+"] = "r+" if path.exists() and marks.exists() else "w+"
        try:
            self._kept = np.memmap(path, np.float16, mode, shape=shape)
            self._done = np.memmap(marks, np.uint8, mode, shape=shape[:2])
        except (OSError, ValueError) as error:
            raise TrainError(
                f"{path}: cannot keep the teacher's features ({error}); set remember_gigabytes=0"
            ) from None

    def __call__(self, pixels: Pixels, numbers: Sequence[int], view: int) -> torch.Tensor:
        """float32 [B, N, F] of these crops, which are crop `view` of images `numbers`."""
        if self._kept is None or self._done is None:
            return self.compute(pixels).to(self.device)
        rows = np.asarray(numbers)
        missing = np.flatnonzero(self._done[view, rows] == 0)
        if len(missing):
            self._kept[view, rows[missing]] = self.compute(pixels[missing]).half().cpu().numpy()
            self._done[view, rows[missing]] = 1
        return torch.from_numpy(self._kept[view, rows].astype(np.float32)).to(self.device)

    def compute(self, pixels: Pixels) -> torch.Tensor:
        """float32 [B, N, F], rounded to float16."""
        with torch.inference_mode():
            found = self.teacher(torch.from_numpy(pixels).to(self.device), self.grid)
        rounded: torch.Tensor = found.half().float().clone()
        return rounded
