"""What the benchmarks measure is what it says; nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks import loader as loader_benchmark
from benchmarks import peers, scale
from imglish.shards.images import decode_jpeg
from imglish.shards.jpeg import plain_jpeg_size
from imglish.shards.loader import Loader, corpus_order
from imglish.shards.reader import open_corpus
from imglish.shards.replay import parse_counts, replay


def test_the_synthetic_manifest_holds_50_million_samples_and_the_keys_of_one_step(tmp_path: Path) -> None:
    manifest = scale.write_manifest(tmp_path)
    assert scale.write_index_rows(manifest) == 4096
    corpus = open_corpus(str(manifest))
    assert len(corpus.manifest.shards) >= 3000
    assert 49_000_000 < sum(corpus.counts[kind] for kind in scale.SAMPLES) < 51_000_000
    replayed = replay(corpus, corpus_order(corpus, parse_counts(scale.BATCH)), scale.STEP)
    keys = [key for kind in replayed.keys.values() for key in kind]
    assert len(set(keys)) == 6144 and None not in keys


def test_every_loader_gets_the_same_pairs(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:300, 0:420]
    photograph = np.stack([rows % 256, columns % 256, (rows * columns) % 256], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photograph.png"), photograph)
    cv2.imwrite(str(tmp_path / "icon.png"), photograph[:64, :64])
    samples = loader_benchmark.make_samples([tmp_path / "photograph.png", tmp_path / "icon.png"], 10)
    assert len({sample.jpeg for sample in samples}) == 10
    for sample in samples:
        size = plain_jpeg_size(sample.jpeg)
        assert size is not None and min(size) == 256 and max(size) <= 342
        assert min(decode_jpeg(sample.jpeg).std(axis=(0, 1))) > 5
    manifest = loader_benchmark.write_corpus(samples, tmp_path / "corpus", shards=3)
    corpus = open_corpus(str(manifest))
    assert [sample.jpeg for sample in corpus["pair"]] == [sample.jpeg for sample in samples]
    with Loader(corpus, batch={"pair": 5}, workers=0) as loader:
        images, codes = next(loader)["pair"].images, next(loader)["pair"].codes
    assert images is not None and images.shape == (5, 224, 224, 3) and codes is not None and codes.shape == (5, 196)
    loader_benchmark.save_for_peers(samples, tmp_path)
    for mine, other in zip(samples, peers.load_samples(tmp_path), strict=True):
        assert (other["key"], other["jpg"]) == (mine.key, mine.jpeg)
        assert np.array_equal(other["codes"], mine.codes[0]) and np.array_equal(other["ids"], mine.ids[0])


def test_peers_crop_inside_the_picture() -> None:
    np.random.seed(0)
    for _ in range(200):
        x, y, width, height = peers.box(342, 256)
        assert x >= 0 and x + width <= 342 and y >= 0 and y + height <= 256 and width * height > 0.15 * 342 * 256
