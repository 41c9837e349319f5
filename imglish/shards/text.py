"""Documents into blocks: ids are laid end to end inside their shard and cut every 512.

    blocks, starts = pack_blocks(documents)     # documents in record-id order
    blocks[starts[2] // 512, starts[2] % 512]   # first id of the third document

A block may hold the end of one document and the start of the next; `<s>` and `</s>` stay. The last block is filled
with `<pad>`. Packing here means that the loader has no packing state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imglish.shards.format import BLOCK_IDS, PAD
from imglish.shards.samples import U16


def pack_blocks(documents: Sequence[U16]) -> tuple[U16, NDArray[np.int64]]:
    """Blocks u16 [n, 512] and the place of every document's first id, int64 [documents]."""
    starts = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum([len(document) for document in documents], out=starts[1:])
    blocks = np.empty(-(-int(starts[-1]) // BLOCK_IDS) * BLOCK_IDS, dtype=np.uint16)
    if documents:
        np.concatenate(documents, out=blocks[: starts[-1]])
    blocks[starts[-1] :] = PAD
    return blocks.reshape(-1, BLOCK_IDS), starts[:-1]


def unpack_document(blocks: U16, start: int, length: int) -> U16:
    """The ids of one document from its span."""
    return blocks.reshape(-1)[start : start + length]
