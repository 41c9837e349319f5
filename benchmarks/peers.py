"""The other loaders, in an environment of their own: this file imports nothing of Imglish.

    python peers.py write FOLDER SHARDS              # FOLDER/samples.npz -> FOLDER/webdataset, /mds, /litdata
    python peers.py read FOLDER webdataset documented 10

Samples are pairs: JPEG bytes, 196 codes, caption ids. `documented` is what each project's documentation shows: Pillow,
torchvision's RandomResizedCrop and ToTensor, so float32. `ours` gives it the decoder and resizer of Imglish: simplejpeg
and OpenCV, uint8. Both with `torch.utils.data.DataLoader`, two worker processes, batches of 128. The clock runs inside
an epoch, from its ninth batch to about its last: starting workers is not counted. Workers end their batches at about
the same time, so only whole rounds of all workers are.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
WORKERS = 2
SIZE = 224
WARM_BATCHES = 8
"""Batches of an epoch that are not timed: a DataLoader's queues hold four."""
SHUFFLE = 1000
"""Samples of webdataset's shuffle buffer, as in its README."""
CHUNK_BYTES = 64 << 20

Sample = dict[str, Any]


def load_samples(folder: Path) -> list[Sample]:
    """Samples as written by `benchmarks.loader`: key, jpg, codes u16 [196], ids u16 [n]."""
    with np.load(folder / "samples.npz") as file:
        ends, data = file["jpg_ends"], file["jpg"].tobytes()
        id_ends, ids, codes, keys = file["id_ends"], file["ids"], file["codes"], file["keys"]
    starts, id_starts = np.concatenate([[0], ends[:-1]]), np.concatenate([[0], id_ends[:-1]])
    return [
        {
            "key": str(keys[i]),
            "jpg": data[starts[i] : ends[i]],
            "codes": codes[i],
            "ids": ids[id_starts[i] : id_ends[i]],
        }
        for i in range(len(keys))
    ]


def documented() -> Callable[[bytes], Any]:
    """Pillow and torchvision: float32 [3, 224, 224]."""
    from PIL import Image
    from torchvision import transforms

    augment = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    return lambda jpg: augment(Image.open(io.BytesIO(jpg)).convert("RGB"))


def ours() -> Callable[[bytes], Any]:
    """simplejpeg and OpenCV with the options of Imglish: uint8 [224, 224, 3]."""
    import cv2
    import simplejpeg
    import torch

    cv2.setNumThreads(1)

    def render(jpg: bytes) -> Any:
        rgb = simplejpeg.decode_jpeg(jpg, "RGB", fastdct=False, fastupsample=False)
        height, width = rgb.shape[:2]
        x, y, w, h = box(width, height)
        pixels = cv2.resize(rgb[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        return torch.from_numpy(cv2.flip(pixels, 1) if np.random.random() < 0.5 else pixels)

    return render


def box(width: int, height: int) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop in plain numbers, with the scale of our views (0.2 to 1)."""
    for _ in range(10):
        area = width * height * np.random.uniform(0.2, 1)
        ratio = np.exp(np.random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return np.random.randint(width - w + 1), np.random.randint(height - h + 1), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


RENDERERS = {"documented": documented, "ours": ours}


class Render:
    """A renderer that is made in the worker that first uses it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made: Callable[[bytes], Any] | None = None

    def __call__(self, jpg: bytes) -> Any:
        if self.made is None:
            self.made = RENDERERS[self.name]()
        return self.made(jpg)


def padded(ids: Any) -> Any:
    """Caption ids as int64 [64], filled with 1."""
    row = np.ones(64, dtype=np.int64)
    row[: len(ids)] = ids[:64]
    return row


def write_webdataset(samples: list[Sample], folder: Path, shards: int) -> None:
    import webdataset

    folder.mkdir()
    for number in range(shards):
        with webdataset.TarWriter(str(folder / f"{number:06d}.tar")) as sink:
            for sample in samples[number::shards]:
                arrays = {"codes.npy": sample["codes"], "ids.npy": sample["ids"]}
                sink.write({"__key__": sample["key"], "jpg": sample["jpg"], **arrays})


def write_mds(samples: list[Sample], folder: Path, shards: int) -> None:
    from streaming import MDSWriter

    columns = {"jpg": "bytes", "codes": "ndarray:uint16:196", "ids": "ndarray:uint16"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as out:
        for sample in samples:
            out.write({name: sample[name] for name in columns})


def write_litdata(samples: list[Sample], folder: Path, shards: int) -> None:
    import litdata

    litdata.optimize(
        fn=_litdata_sample,
        inputs=samples,
        output_dir=str(folder),
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
        verbose=False,
    )


def _litdata_sample(sample: Sample) -> Sample:
    return {name: sample[name] for name in ("jpg", "codes", "ids")}


def read_webdataset(folder: Path, render: Render) -> Iterable[Any]:
    import webdataset
    from torch.utils.data import DataLoader

    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls))
        .shuffle(SHUFFLE)
        .decode(webdataset.handle_extension("jpg", render))
        .to_tuple("jpg", "codes.npy", "ids.npy")
        .map_tuple(lambda image: image, lambda codes: codes.astype(np.int64), padded)
        .batched(BATCH)
    )
    return DataLoader(dataset, batch_size=None, num_workers=WORKERS)


def read_mds(folder: Path, render: Render) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Pairs(StreamingDataset):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return render(sample["jpg"]), sample["codes"].astype(np.int64), padded(sample["ids"])

    clean_stale_shared_memory()
    dataset = Pairs(local=str(folder), shuffle=True, batch_size=BATCH)
    return DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, drop_last=True)


def read_litdata(folder: Path, render: Render) -> Iterable[Any]:
    import litdata

    class Pairs(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return render(sample["jpg"]), np.asarray(sample["codes"]).astype(np.int64), padded(sample["ids"])

    dataset = Pairs(str(folder), shuffle=True, drop_last=True)
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, drop_last=True)


PEERS: dict[str, tuple[str, Callable[..., None], Callable[..., Iterable[Any]]]] = {
    "webdataset": ("webdataset", write_webdataset, read_webdataset),
    "mosaicml-streaming": ("mds", write_mds, read_mds),
    "litdata": ("litdata", write_litdata, read_litdata),
}
"""Name of the package: folder, writer, reader."""


def write(folder: Path, shards: int) -> dict[str, Any]:
    """Write every format; seconds per peer, or the error of one that cannot."""
    samples = load_samples(folder)
    found: dict[str, Any] = {}
    for name, (place, writer, _) in PEERS.items():
        shutil.rmtree(folder / place, ignore_errors=True)
        began = time.perf_counter()
        try:
            writer(samples, folder / place, shards)
            found[name] = round(time.perf_counter() - began, 3)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
            found[name] = f"{type(error).__name__}: {error}"
    return found


def read(folder: Path, name: str, renderer: str, seconds: float) -> dict[str, Any]:
    """Samples per second of one peer."""
    place, _, reader = PEERS[name]
    loader = reader(folder / place, Render(renderer))
    samples, spent, facts = 0, 0.0, ""
    while spent < seconds:
        timed = _timed_epoch(iter(loader), seconds - spent)
        samples, spent, facts = samples + timed[0], spent + timed[1], timed[2]
    return {"samples_per_second": samples / spent, "batch": facts}


def _timed_epoch(batches: Iterator[Any], seconds: float) -> tuple[int, float, str]:
    """(samples, seconds, what a batch is) between the ninth batch and the last round, or until the time is up."""
    samples, began, last, facts = 0, 0.0, 0.0, ""
    for number, (images, codes, ids) in enumerate(batches):
        now = time.perf_counter()
        if number == WARM_BATCHES:
            began, facts = now, f"{images.dtype} {list(images.shape)}, codes {list(codes.shape)}, ids {list(ids.shape)}"
        elif number > WARM_BATCHES and (number - WARM_BATCHES) % WORKERS == 0:
            samples, last = (number - WARM_BATCHES) * len(images), now
            if now - began > seconds:
                break
    if not samples:
        raise RuntimeError(f"an epoch has no more than {WARM_BATCHES} batches; give more samples")
    return samples, last - began, facts


def write_tars(folder: Path, repeats: int) -> dict[str, Any]:
    """Samples per second of webdataset's TarWriter on the fields of Imglish, all given as bytes."""
    import webdataset

    samples = load_samples(folder)
    text, views = b"a caption of about sixty characters, as captions are on average", bytes(40)
    rates = []
    for _ in range(repeats):
        target = folder / "writer.tar"
        began = time.perf_counter()
        with webdataset.TarWriter(str(target)) as sink:
            for sample in samples:
                fields = {"txt": text, "ids": sample["ids"].tobytes(), "codes": np.tile(sample["codes"], 4).tobytes()}
                sink.write({"__key__": f"p/{sample['key']}", "jpg": sample["jpg"], **fields, "views": views})
        rates.append(len(samples) / (time.perf_counter() - began))
        target.unlink()
    return {"samples_per_second": sorted(rates)[len(rates) // 2]}


def versions() -> dict[str, Any]:
    """Of everything that decides on speed; None when it is not there."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {}
    for name in (*PEERS, "torch", "torchvision", "pillow", "simplejpeg", "opencv-python-headless", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    """Print one JSON value on the last line of standard output."""
    command, *words = sys.argv[1:]
    if command == "write":
        result = write(Path(words[0]), int(words[1]))
    elif command == "read":
        result = read(Path(words[0]), words[1], words[2], float(words[3]))
    elif command == "write-tars":
        result = write_tars(Path(words[0]), int(words[1]))
    else:
        result = versions()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
