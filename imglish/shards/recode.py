"""Coding the images of a finished corpus with another visual tokenizer, one unit per shard.

    manifest = recode("corpus/manifest.json", tokenizer, engine)       # slabs beside the tars, tokenizer active

Nothing is fetched, stored images and views stay as they are, and no tar is touched: what changes is which codes a
model learns. Images are rendered by `views.render` in index order and coded in batches of one shape; a slot belongs to
a view for good (those of removed samples and of a last, short batch are zeros), so a shard's codes depend on nothing
else. A second run finds the receipts of finished shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from imglish.shards import format as fmt
from imglish.shards.images import CODEC, decode_jpeg
from imglish.shards.manifest import Manifest, Slab, VisualTokenizer, load_manifest
from imglish.shards.samples import U16
from imglish.shards.slabs import PICTURED, use_codes, write_slab
from imglish.shards.views import render
from imglish.shards.whole import WholeShard
from imglish.shards.writer import Stored
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, run_map
from imglish.storage import Output, Store

STAGE = "recode"
VERSION = 1
FOLDER = "tables"


class Encoder(Protocol):
    """A visual tokenizer as `imglish.tokenize.visual` has them; picklable."""

    @property
    def digest(self) -> str: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def codes(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def patch(self) -> int: ...
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """RGB uint8 [B, S, S, 3] -> uint16 [B, N]."""
        ...


def recode(
    manifest_path: str,
    encoder: Encoder,
    engine: Engine,
    type: str = "codebook",
    model: str | None = None,
    batch: int = 32,
    progress: Progress | None = None,
) -> Manifest:
    """Write slabs of `encoder`'s codes for every shard and replace the manifest by one in which they are active.

    `type` and `model` (a path in the corpus) are what the manifest says about the tokenizer; `batch` is the number of
    views in one encode. Receipts are kept in `tables` beside the manifest.
    """
    path = str(manifest_path)
    store, name = Store(path.rpartition("/")[0] or "."), path.rpartition("/")[2]
    manifest = load_manifest(path)
    facts = {field: getattr(encoder, field) for field in ("digest", "codes", "size", "patch", "grid")}
    tokenizer = VisualTokenizer(type=type, path=model, **facts)
    versions = {"decoder": CODEC["decoder"], "opencv": cv2.__version__}
    params = {"tokenizer": encoder.digest, "batch": batch, "versions": versions}
    shards = manifest.shards
    units = [
        Unit(STAGE, VERSION, {**params, "ordinal": n}, [shard.sha256], {"manifest": name})
        for n, shard in enumerate(shards)
    ]
    task = RecodeShard(store, encoder, tokenizer)
    receipts = run_map(store, FOLDER, engine, task, units, progress)
    slabs: list[Slab] = [slab for receipt in receipts for slab in receipt.notes["slabs"]]
    new = use_codes(store, manifest, tokenizer, slabs)
    store.put_as(name, new.to_json())
    return new


@dataclass(frozen=True)
class RecodeShard:
    """A task: the slabs of one shard."""

    store: Store
    encoder: Encoder
    tokenizer: VisualTokenizer

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        ordinal = unit.params["ordinal"]
        shard = load_manifest(self.store.url(unit.spec["manifest"])).shards[ordinal]
        whole = WholeShard.read(self.store.root, shard)
        slabs = []
        for kind in PICTURED:
            if shard.counts[kind]:
                codes = _codes(self.encoder, whole.stored(kind), unit.params["batch"])
                slabs.append(write_slab(self.store, ordinal, shard, kind, self.tokenizer, codes))
        outputs = {str(slab["kind"]): _output(slab) for slab in slabs}
        return commit(outputs, {"rows": sum(slab["rows"] for slab in slabs)}, {"slabs": slabs})


def _codes(encoder: Encoder, samples: Iterable[Stored], batch: int) -> Iterator[U16]:
    """Codes u16 [K, N] of every index row of a section."""
    held = list(samples)
    views = next((len(_views(sample)) for sample in held if not sample.removed), 0)
    nothing = np.zeros((views, encoder.grid[0] * encoder.grid[1]), dtype=np.uint16)
    slots = _encoded(encoder, held, views, batch)
    for sample in held:
        codes = np.stack([next(slots) for _ in range(views)]) if views else nothing
        for _ in range(sample.rows):
            yield nothing if sample.removed else codes


def _encoded(encoder: Encoder, samples: Iterable[Stored], views: int, batch: int) -> Iterator[U16]:
    """Codes u16 [N] of every view of every sample, removed ones too."""
    pixels = np.zeros((batch, encoder.size, encoder.size, 3), dtype=np.uint8)
    filled = 0
    for picture in _pictures(encoder.size, samples, views):
        pixels[filled] = picture
        filled += 1
        if filled == batch:
            yield from encoder.encode(pixels)
            filled = 0
    if filled:
        pixels[filled:] = 0
        yield from encoder.encode(pixels)[:filled]


def _pictures(size: int, samples: Iterable[Stored], views: int) -> Iterator[Any]:
    for sample in samples:
        if sample.removed:
            yield from np.zeros((views, size, size, 3), dtype=np.uint8)
            continue
        rgb = decode_jpeg(sample.payloads[0])
        for view in _views(sample):
            yield render(rgb, view, size)


def _output(slab: Slab) -> Output:
    return Output(slab["path"], slab["sha256"], slab["bytes"], slab["rows"])


def _views(sample: Stored) -> U16:
    return fmt.decode_u16(sample.payloads[-1]).reshape(-1, fmt.VIEW_FIELDS)
