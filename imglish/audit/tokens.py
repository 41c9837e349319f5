"""Tokens: text ids, how well blocks are filled, visual codes, and what a planned run would make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.audit.histograms import add, perplexity, share
from imglish.audit.pictures import described
from imglish.errors import ManifestError
from imglish.records import KINDS, Kind
from imglish.shards.format import BLOCK_IDS
from imglish.shards.manifest import Manifest
from imglish.shards.masks import Masks

UNKNOWN_ID = 3
"""Id of `<unk>` (released vocabulary: `<s> <pad> </s> <unk>` are 0 to 3)."""
ENDS = 2
"""`<s>` and `</s>` of a caption, which are never masked."""
TOP_CODES = 12
LENGTHS = ("captions", "caption_ids", "document_ids")
COLUMNS = ("kind", "source", "name", "value", "count")
PAPER_BATCH: Mapping[Kind, int] = dict.fromkeys(KINDS, 2048)
PAPER_STEPS = 1_000_000
"""BEiT-3, section 3: 1 M steps of 2048 pairs, 2048 images and 2048 texts."""

Counts = NDArray[np.int64]


class Tokens:
    """Histograms over shards."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.lengths: dict[str, Counter[int]] = {name: Counter() for name in LENGTHS}
        self._ids: dict[tuple[str, str], Counts] = {}  # by kind and source
        self._codes: dict[tuple[str, str], Counts] = {}

    def add(self, histograms: pa.Table) -> None:
        """The histogram rows of one shard; ManifestError for an id or code that its tokenizer has not."""
        for name in LENGTHS:
            mine = histograms.filter(pc.equal(histograms.column("name"), name))
            add(self.lengths[name], mine.column("value").to_pylist(), mine.column("count").to_pylist())
        tokenizers = self.manifest.tokenizers
        _add_values(histograms, "ids", self._ids, tokenizers.text.vocabulary)
        _add_values(histograms, "codes", self._codes, tokenizers.visual.codes)

    def values(self) -> dict[str, Any]:
        """The finished numbers."""
        return {
            "lengths": {name: described(self.lengths[name]) for name in LENGTHS},
            "ids": {name: self._ids_of(kind) for name, kind in (("captions", "pair"), ("documents", "text"))},
            "packing": self._packing(),
            "codes": self._codes_of(),
        }

    def planned(self, batch: Mapping[Kind, int], steps: int) -> dict[str, Any]:
        """Epochs and masked tokens of a run over the train split with the default shares of masks.

        Ids are expectations: the mean caption, and all ids of a block but padding and the ends of documents.
        """
        masks, visual = Masks(), self.manifest.tokenizers.visual
        rows = self.manifest.counts.get("train", {})
        captions = self.lengths["caption_ids"]
        inner = sum((length - ENDS) * count for length, count in captions.items())
        ids = {"pair": (inner, captions.total(), masks.caption), "text": (*self._inner_ids(), masks.text)}
        kinds: dict[str, Any] = {}
        for kind in KINDS:
            samples = batch.get(kind, 0) * steps
            found: dict[str, Any] = {"batch": batch.get(kind, 0), "rows": rows.get(kind, 0), "samples": samples}
            found["epochs"] = share(samples, found["rows"])
            patches = samples * masks.patches(visual.grid) if kind != "text" else 0
            total, count, masked = ids.get(kind, (0, 0, 0.0))
            found |= {"masked_patches": patches, "masked_ids": round(masked * total * samples / count) if count else 0}
            kinds[kind] = found
        return {"steps": steps, "kind": kinds}

    def usage(self) -> dict[str, dict[int, int]]:
        """How often each code and each id of captions and documents is used."""
        size = self.manifest.tokenizers.text.vocabulary
        found = {"codes": _sum_of(self._codes.values(), self.manifest.tokenizers.visual.codes)}
        for name, kind in (("ids.captions", "pair"), ("ids.documents", "text")):
            found[name] = _sum_of((array for (k, _), array in self._ids.items() if k == kind), size)
        return {
            name: {int(place): int(counts[place]) for place in np.flatnonzero(counts)} for name, counts in found.items()
        }

    def _inner_ids(self) -> tuple[int, int]:
        """Ids of all blocks that may be masked, and the number of blocks."""
        lengths = self.lengths["document_ids"]
        return sum((length - ENDS) * count for length, count in lengths.items()), self._blocks()

    def _blocks(self) -> int:
        return sum(shard.distinct["text"] for shard in self.manifest.shards)

    def _packing(self) -> dict[str, Any]:
        """How much of the text blocks is ids and not padding."""
        ids = sum(length * count for length, count in self.lengths["document_ids"].items())
        places = self._blocks() * BLOCK_IDS
        return {"blocks": self._blocks(), "places": places, "ids": ids, "efficiency": share(ids, places)}

    def _ids_of(self, kind: str) -> dict[str, Any]:
        size = self.manifest.tokenizers.text.vocabulary
        counts = _sum_of((array for (k, _), array in sorted(self._ids.items()) if k == kind), size)
        total = int(counts.sum())
        return {
            "count": total,
            "vocabulary": size,
            "used": int(np.count_nonzero(counts)),
            "unknown": int(counts[UNKNOWN_ID]),
            "unknown_share": share(int(counts[UNKNOWN_ID]), total),
        }

    def _codes_of(self) -> dict[str, Any]:
        size = self.manifest.tokenizers.visual.codes
        sources = sorted({source for _, source in self._codes})
        by_source = {
            name: _sum_of((array for (_, s), array in sorted(self._codes.items()) if s == name), size)
            for name in sources
        }
        counts = _sum_of(by_source.values(), size)
        total = int(counts.sum())
        order = np.argsort(-counts, kind="stable")
        ranked = counts[order]
        top = [
            {"code": int(code), "count": int(counts[code]), "share": share(int(counts[code]), total)}
            for code in order[:TOP_CODES].tolist()
            if counts[code]
        ]
        ranks = [rank for rank in _ranks(size) if rank <= np.count_nonzero(counts)]
        return {
            "size": size,
            **_usage(counts),
            "top": top,
            "ranks": [{"rank": rank, "count": int(ranked[rank - 1])} for rank in ranks],
            "source": {name: _usage(array) for name, array in by_source.items()},
        }


def _add_values(histograms: pa.Table, name: str, into: dict[tuple[str, str], Counts], size: int) -> None:
    """Counts per id or code, an int64 [size] for every kind and source."""
    mine = histograms.filter(pc.equal(histograms.column("name"), name))
    value = mine.column("value").to_numpy()
    if not len(value):
        return
    if not 0 <= value.min() <= value.max() < size:
        raise ManifestError(f"metadata counts {name} up to {value.max()}, but the tokenizer has only {size}")
    pairs = pc.binary_join_element_wise(mine.column("kind"), mine.column("source"), "\0").combine_chunks()
    encoded = pairs.dictionary_encode()
    cells = encoded.indices.to_numpy() * np.int64(size) + value
    names = encoded.dictionary.to_pylist()
    summed = np.bincount(cells, mine.column("count").to_numpy(), len(names) * size)  # whole numbers below 2^53: exact
    for place, pair in enumerate(names):
        kind, _, source = pair.partition("\0")
        counts = into.setdefault((kind, source), np.zeros(size, dtype=np.int64))
        counts += summed[place * size : (place + 1) * size].astype(np.int64)


def _usage(counts: Counts) -> dict[str, Any]:
    used = int(np.count_nonzero(counts))
    return {
        "count": int(counts.sum()),
        "used": used,
        "dead": len(counts) - used,
        "dead_share": share(len(counts) - used, len(counts)),
        "perplexity": perplexity(counts.tolist()),
    }


def _sum_of(arrays: Iterable[Counts], size: int) -> Counts:
    total = np.zeros(size, dtype=np.int64)
    for array in arrays:
        total += array
    return total


def _ranks(size: int) -> list[int]:
    """Ranks at which the sorted code counts are given: 1, 2, 5, 10, 20, 50, ... and the last."""
    steps = [factor * 10**power for power in range(len(str(size))) for factor in (1, 2, 5)]
    return sorted({*(step for step in steps if step < size), size})
