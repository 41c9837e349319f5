"""One shard as bytes: reproducible, readable by others, and never half written."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import tarfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from imglish.shards import format as fmt
from imglish.shards.samples import ImageSample, PairSample
from imglish.shards.webdataset import as_webdataset
from imglish.shards.writer import write_shard
from tests.shards.corpus_helpers import document, key, numbers, samples, small_corpus


def drain(dataset: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All samples; webdataset leaves its files to the garbage collector, which complains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(dataset)
        gc.collect()
    return found


def golden_sample(number: int) -> PairSample:
    views = np.arange(10, dtype=np.uint16).reshape(2, 5)
    ids = [np.array([0, 7, 2], np.uint16), np.array([0, 9, 9, 2], np.uint16)]
    return PairSample(key(number), b"\xff\xd8jpeg" * number, ["a cat", "eine  Katze"], ids, views, views[:, :4])


def test_the_format_of_version_1_never_changes() -> None:
    pairs = sorted((golden_sample(number) for number in range(1, 4)), key=lambda sample: sample.key)
    images = [ImageSample(sample.key, sample.jpeg, sample.views, sample.codes) for sample in pairs]
    file = io.BytesIO()
    write_shard(file, pairs, images, [np.arange(2, 1500, dtype=np.uint16)])
    assert hashlib.sha256(file.getvalue()).hexdigest()[:16] == "f50d551773a506af"


def test_unmodified_webdataset_reads_every_member_of_a_mixed_shard(tmp_path: Path) -> None:
    pairs, images = samples(4, 3)
    documents = [document(1, 100_000), document(2, 100_000)]
    with (tmp_path / "mixed.tar").open("wb") as file:
        facts = write_shard(file, pairs, images, documents)
    found = drain(webdataset.WebDataset(str(tmp_path / "mixed.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found[:7]] == [
        *(f"p/{sample.key}" for sample in pairs),
        *(f"i/{sample.key}" for sample in images),
    ]
    for sample, raw in zip(pairs, found, strict=False):
        assert raw["jpg"] == sample.jpeg
        assert raw["txt"].decode().split("\n") == sample.captions
        assert raw["ids"] == np.concatenate(sample.ids).astype("<u2").tobytes()
        assert raw["codes"] == sample.codes.astype("<u2").tobytes()
        assert raw["views"] == sample.views.astype("<u2").tobytes()
    for image, raw in zip(images, found[4:], strict=False):
        assert {name for name in raw if not name.startswith("__")} == {"jpg", "codes", "views"}
        assert raw["jpg"] == image.jpeg
    assert [sample["__key__"] for sample in found[7:]] == ["t000000", "t000001"]
    text = np.frombuffer(b"".join(sample["ids"] for sample in found[7:]), "<u2")
    assert (text[:200_000] == np.concatenate(documents)).all()
    assert len(text) == 512 * facts.counts["text"]


def test_as_webdataset_decodes_our_fields(tmp_path: Path) -> None:
    small_corpus(tmp_path)
    found = drain(as_webdataset(str(tmp_path / "manifest.json")))
    pairs = [sample for sample in found if sample["__key__"].startswith("p/")]
    assert len(pairs) == 6
    assert pairs[0]["jpg"].shape == (32, 48, 3)
    assert pairs[0]["codes"].shape == (2, 4) and pairs[0]["views"].shape == (2, 5)
    assert len(pairs[0]["ids"]) == len(pairs[0]["txt"])
    assert [sample["ids"].shape for sample in found if sample["__key__"].startswith("t")] == [(6, 512), (6, 512)]


def test_python_tarfile_sees_plain_members_and_nothing_behind_the_end(tmp_path: Path) -> None:
    pairs, images = samples(2, 1)
    file = io.BytesIO()
    facts = write_shard(file, pairs, images, [document(1, 1000)])
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[-2:]] == ["t000000.ids", "__meta__/index"]
    assert {(member.mode, member.uid, member.mtime, member.uname) for member in members} == {(0o644, 0, 0, "")}
    assert file.getvalue().endswith(fmt.END)
    assert len(file.getvalue()) % fmt.RECORD == 0
    assert facts.counts == {"pair": 2, "image": 1, "text": 2, "captions": 3}
    assert [facts.sections[kind]["offset"] for kind in ("pair", "image", "text")] == [
        members[0].offset,
        members[10].offset,
        members[13].offset,
    ]


def test_an_empty_shard_is_a_tar_with_an_empty_index() -> None:
    file = io.BytesIO()
    facts = write_shard(file, [], [], [])
    assert facts.counts == {"pair": 0, "image": 0, "text": 0, "captions": 0}
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert tar.getnames() == [fmt.INDEX_NAME]


def test_the_last_text_member_is_short() -> None:
    file = io.BytesIO()
    facts = write_shard(file, [], [], [numbers(512 * 300)])
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert [member.size for member in tar if member.name.startswith("t")] == [256 * 1024, 44 * 1024]
    assert facts.counts["text"] == 300


@pytest.mark.parametrize("order", [(0, 1), (1, 1)])
def test_keys_that_do_not_ascend_are_refused(order: tuple[int, int]) -> None:
    pairs = sorted((golden_sample(number) for number in (1, 2)), key=lambda sample: sample.key, reverse=True)
    with pytest.raises(ValueError, match="keys must ascend"):
        write_shard(io.BytesIO(), [pairs[place] for place in order], [], [])


def test_a_blank_caption_never_reaches_a_shard() -> None:
    with pytest.raises(ValueError, match="blank"):
        write_shard(io.BytesIO(), [dataclasses.replace(golden_sample(1), captions=["a", " "])], [], [])
