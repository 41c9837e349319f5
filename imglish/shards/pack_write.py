"""The writing half of pack: all rows of one shard in, in any order; a tar, its metadata and a receipt out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imglish.digests import table_digest
from imglish.errors import StageError
from imglish.records import Kind
from imglish.shards.captions import merge_captions
from imglish.shards.format import VIEW_FIELDS, decode_u16
from imglish.shards.metadata import Metadata
from imglish.shards.pack_texts import Texts
from imglish.shards.picture_facts import picture_facts
from imglish.shards.placement import Slot
from imglish.shards.samples import U16, ImageSample, PairSample
from imglish.shards.writer import ShardFacts, write_shard
from imglish.stages import Commit, Receipt
from imglish.storage import Store

FOLDER = "shards"


@dataclass(frozen=True)
class ShardUnit:
    """A shard that has to be written: its receipt's id, its slot, and how many rows it must get."""

    unit: str
    slot: Slot
    rows: int


@dataclass(frozen=True)
class WriteShard:
    """A reduce: sorts the rows of a shard, merges captions, writes `shards/<sha256>.tar` and `.parquet`."""

    store: Store
    receipts: str
    units: Mapping[int, ShardUnit]
    max_captions: int
    max_caption_ids: int
    repeat: Mapping[str, int]
    stage: str = "pack"

    def __call__(self, bucket: int, rows: pa.Table) -> Receipt:
        todo = self.units[bucket]
        if rows.num_rows != todo.rows:
            raise StageError(
                f"pack: shard {bucket} got {rows.num_rows} rows of {todo.rows}; the engine lost or repeated some, "
                "run the same command again"
            )
        commit = Commit(self.store, self.receipts, "pack", todo.unit)
        content = _Content(rows, self.max_captions, self.max_caption_ids)
        written: list[ShardFacts] = []

        def write(file: BinaryIO) -> int:
            repeats = content.repeats(self.repeat)
            written.append(write_shard(file, content.pairs(), content.images(), content.texts.documents, repeats))
            return sum(written[0].counts[kind] for kind in ("pair", "image", "text"))

        shard = self.store.put(FOLDER, ".tar", write)
        facts = written[0]
        content.metadata.add_documents(content.texts.occurrences(facts.starts), content.texts.values())
        metadata = content.metadata.table()
        table = self.store.put_table(FOLDER, metadata)
        slot = todo.slot
        notes = {
            "bucket": bucket,
            "split": slot.split,
            "kind": slot.kind,
            "number": slot.number,
            "of": slot.of,
            "distinct": facts.distinct,
            "sections": facts.sections,
            "metadata_digest": table_digest(metadata),  # of rows that stand in the order of KEYS already
        }
        return commit({"shard": shard, "metadata": table}, {**content.counts, **facts.counts}, notes)


class _Content:
    """The samples of a shard in key order, and the metadata that arises while they are made."""

    def __init__(self, rows: pa.Table, max_captions: int, max_caption_ids: int) -> None:
        self.max_captions, self.max_caption_ids = max_captions, max_caption_ids
        self.metadata = Metadata()
        names = (
            "truncated_captions",
            "duplicate_captions",
            "capped_captions",
            "documents",
            "document_ids",
            "occurrences",
        )
        self.counts = Counter(dict.fromkeys(names, 0))
        is_text = pc.equal(rows.column("kind"), "text")
        self.texts = Texts(rows if pc.all(is_text).as_py() else rows.drop_columns(["jpeg"]).filter(is_text))
        self._jpegs = rows.column("jpeg")
        self._images: dict[tuple[str, bytes], dict[str, Any]] = {}
        self._members: dict[tuple[str, bytes], list[dict[str, Any]]] = defaultdict(list)
        light = rows.drop_columns(["jpeg", "ids"]).append_column("number", pa.array(np.arange(rows.num_rows)))
        for row in light.filter(pc.invert(is_text)).to_pylist():
            self._place(row)
        for members in self._members.values():
            members.sort(key=lambda member: (member["priority"], member["source"], member["row"]))
        self.counts["occurrences"] = sum(map(len, self._members.values())) + self.texts.members.num_rows
        self.counts["documents"] = len(self.texts.documents)
        self.counts["document_ids"] = int(self.texts.lengths.sum())
        self._check()

    def repeats(self, factors: Mapping[str, int]) -> dict[tuple[Kind, str], int]:
        """Index rows of every pair and image that has more than one: the largest factor of its kind and its
        occurrences' sources and languages (`PackConfig.repeat`)."""
        found: dict[tuple[Kind, str], int] = {}
        for (kind, record_id), members in self._members.items():
            names = {f"kind={kind}", *(member["source"] for member in members)}
            names |= {f"language={member['language']}" for member in members}
            factor = max(factors.get(name, 1) for name in names)
            if factor > 1:
                found[cast(Kind, kind), record_id.hex()] = factor
        return found

    def pairs(self) -> Iterator[PairSample]:
        for key, image, members in self._samples("pair"):
            captions = merge_captions(members, self.max_captions, self.max_caption_ids)
            if not captions.texts:
                raise StageError(f"pack: pair {key} has no caption; its occurrences should have been dropped")
            self.counts["truncated_captions"] += captions.truncated
            self.counts["duplicate_captions"] += captions.duplicates
            self.counts["capped_captions"] += captions.capped
            views, codes = _arrays("pair", key, image)
            jpeg = self._jpeg(image)
            origins, facts = captions.origins, picture_facts(jpeg)
            self.metadata.add_pair(key, members, origins, captions.ids, codes, captions.texts, facts)
            yield PairSample(key, jpeg, captions.texts, captions.ids, views, codes)

    def images(self) -> Iterator[ImageSample]:
        for key, image, members in self._samples("image"):
            views, codes = _arrays("image", key, image)
            jpeg = self._jpeg(image)
            self.metadata.add_image(key, members, codes, picture_facts(jpeg))
            yield ImageSample(key, jpeg, views, codes)

    def _place(self, row: dict[str, Any]) -> None:
        place = (row["kind"], row["record_id"])
        if row["part"] == "members":
            self._members[place].append(row)
            return
        if place in self._images:
            raise StageError(f"pack: {place[0]} {place[1].hex()} stands twice in the {row['part']} tables")
        self._images[place] = row

    def _check(self) -> None:
        """Every record has occurrences, and every occurrence has its record."""
        for kind, record_id in sorted(set(self._images) ^ set(self._members)):
            known = (kind, record_id) in self._images
            has = "codes or ids but no occurrence" if known else "occurrences but no codes or ids"
            raise StageError(f"pack: {kind} {record_id.hex()} has {has}; run the tokenize stage again")

    def _samples(self, kind: Kind) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
        for place, image in sorted(self._images.items()):
            if place[0] == kind:
                yield place[1].hex(), image, self._members[place]

    def _jpeg(self, image: dict[str, Any]) -> bytes:
        return bytes(self._jpegs[image["number"]].as_py())


def _arrays(kind: Kind, key: str, image: Mapping[str, Any]) -> tuple[U16, U16]:
    """Views u16 [K, 5] and codes u16 [K, N]."""
    views = decode_u16(image["views"]).reshape(-1, VIEW_FIELDS)
    codes = decode_u16(image["codes"])
    if not len(views) or len(codes) % len(views):
        raise StageError(f"pack: {kind} {key}: {len(codes)} codes do not divide among {len(views)} views")
    return views, codes.reshape(len(views), -1)
