"""The reader in docs/: short, alone, and in agreement with ours on every sample."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

from imglish.records import KINDS, SPLITS
from imglish.shards import open_corpus
from tests.shards.changed_helpers import READER, packed, reference_samples
from tests.shards.pack_helpers import recipe


def test_it_has_at_most_60_lines_and_needs_only_the_standard_library() -> None:
    source = READER.read_text()
    assert len(source.splitlines()) <= 60
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names and names <= sys.stdlib_module_names


@pytest.mark.parametrize("changes", [{}, {"layout": "by-kind"}, {"repeat": {"web": 2}}])
def test_it_yields_every_sample_of_a_corpus_as_our_reader_does(tmp_path: Path, changes: dict[str, object]) -> None:
    path = packed(tmp_path, recipe(**changes))
    found = list(reference_samples(path))
    for split in SPLITS:
        corpus = open_corpus(path, split)
        for kind in KINDS:
            mine = [(key, values) for where, which, key, values in found if (where, which) == (split, kind)]
            assert len(mine) == len(corpus[kind])
            for (key, values), sample in zip(mine, corpus[kind], strict=True):
                assert key == sample.key
                if kind == "text":
                    assert values["ids"] == tuple(sample.ids.tolist())
                    continue
                assert values["jpg"] == sample.jpeg
                assert values["codes"] == tuple(sample.codes.reshape(-1).tolist())
                assert values["views"] == tuple(sample.views.reshape(-1).tolist())
                if kind == "pair":
                    assert values["txt"] == sample.captions
                    assert values["ids"] == tuple(np.concatenate(sample.ids).tolist())


def test_it_stops_at_a_damaged_byte(tmp_path: Path) -> None:
    path = packed(tmp_path)
    shard = open_corpus(path).manifest.shards[0]
    data = bytearray((tmp_path / shard.path).read_bytes())
    data[700] ^= 1
    (tmp_path / shard.path).write_bytes(data)
    with pytest.raises(AssertionError, match="are damaged"):
        list(reference_samples(path))
