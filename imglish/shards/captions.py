"""Captions of one pair, merged from all its occurrences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imglish.errors import StageError
from imglish.records import unpack_json
from imglish.shards.format import decode_u16, fold, split_captions
from imglish.shards.samples import U16


@dataclass
class Captions:
    """`texts` folded, `ids` beside them, `origins` the number of the occurrence that each came from; then counts."""

    texts: list[str] = field(default_factory=list)
    ids: list[U16] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    truncated: int = 0
    duplicates: int = 0
    capped: int = 0


def merge_captions(members: Sequence[Mapping[str, Any]], max_captions: int, max_ids: int) -> Captions:
    """Captions of occurrences in the order given, equal texts once, at most `max_captions`.

    A caption longer than `max_ids` ids keeps its first ones and its last, `</s>`. StageError when an occurrence has
    more or fewer runs of ids than captions.
    """
    merged = Captions()
    seen: set[str] = set()
    for origin, member in enumerate(members):
        for text, ids in _captions_of(member):
            line = fold(text)
            if line in seen:
                merged.duplicates += 1
            elif line and len(merged.texts) == max_captions:
                merged.capped += 1
            elif line:
                seen.add(line)
                merged.texts.append(line)
                merged.ids.append(_cut(ids, max_ids))
                merged.origins.append(origin)
                merged.truncated += len(ids) > max_ids
    return merged


def _captions_of(member: Mapping[str, Any]) -> list[tuple[str, U16]]:
    texts = unpack_json(member["captions"]) or []
    ids = split_captions(decode_u16(member["caption_ids"] or b""))
    if len(texts) != len(ids):
        raise StageError(
            f"pack: {member['source']} {member['row']}: {len(texts)} captions but ids of {len(ids)}; "
            "the members table is damaged, run the tokenize stage again"
        )
    return list(zip(texts, ids, strict=True))


def _cut(ids: U16, limit: int) -> U16:
    return ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])
