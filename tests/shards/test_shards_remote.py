"""Corpora behind HTTP and S3: the same samples, few bytes, and no wrong ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from imglish.errors import SampleError, ShardError
from imglish.records import KINDS, Kind
from imglish.shards import Corpus, open_corpus
from imglish.shards.cache import Cache
from imglish.shards.loader import Batch, Loader
from imglish.shards.ranges import Retry, read_range
from tests.shards.remote_helpers import QUICK, Log, large_corpus, serve

BATCH: dict[Kind, int] = dict.fromkeys(KINDS, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    large_corpus(folder)
    return folder


@pytest.fixture
def local(root: Path) -> Corpus:
    return open_corpus(str(root / "manifest.json"))


@pytest.fixture
def served(root: Path) -> Iterator[tuple[str, Log]]:
    with serve(root) as (url, log):
        yield f"{url}/manifest.json", log


def take(corpus: Corpus, count: int, position: int = 0, **options: object) -> list[Batch]:
    with Loader(corpus, BATCH, **{"workers": 0, **options}) as loader:  # type: ignore[arg-type]
        loader.position = position
        return [next(loader) for _ in range(count)]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    for one, other in zip(left, right, strict=True):
        assert (one.digest, one.keys) == (other.digest, other.keys)
        for kind in KINDS:
            for name in ("images", "codes", "image_mask", "ids", "text_mask"):
                assert np.array_equal(getattr(one[kind], name), getattr(other[kind], name)), (kind, name)


def test_http_gives_the_same_samples_and_batches_as_the_disk(
    served: tuple[str, Log], local: Corpus, tmp_path: Path
) -> None:
    expected = take(local, 20)
    for cache in (None, Cache(tmp_path)):
        corpus = open_corpus(served[0], cache=cache, retry=QUICK)
        assert corpus["pair"][117].jpeg == local["pair"][117].jpeg
        assert (corpus["text"][-1].ids == local["text"][-1].ids).all()
        assert_same(take(corpus, 20), expected)


def test_s3_gives_the_same_batches_as_the_disk(
    root: Path, local: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        bucket = fsspec.filesystem("s3")
        bucket.mkdir("corpora")
        bucket.put(str(root), "corpora/large", recursive=True)
        corpus = open_corpus("s3://corpora/large/manifest.json", cache=Cache(tmp_path), retry=QUICK)
        assert_same(take(corpus, 8, workers=2), take(local, 8))
        bucket.rm_file(f"corpora/large/{corpus.manifest.shards[0].path}")
        with pytest.raises(ShardError, match=r"s3://corpora/large/shards/.*tar is missing"):
            open_corpus("s3://corpora/large/manifest.json", retry=QUICK)["pair"][0]
    finally:
        server.stop()


@pytest.mark.parametrize("position", [0, 4321])
def test_the_first_batch_after_a_cold_resume_reads_less_than_5_percent(
    served: tuple[str, Log], tmp_path: Path, position: int
) -> None:
    url, log = served
    corpus = open_corpus(url, cache=Cache(tmp_path), retry=QUICK)
    with Loader(corpus, BATCH, workers=0) as loader:
        step = loader._steps
        step.get(position)
    touched = sum(shard.bytes for shard in corpus.manifest.shards if any(shard.path in path for path in log.paths()))
    assert touched > 3 << 20
    assert 0 < log.sent() < 0.05 * touched


def test_random_access_is_one_request_for_the_index_and_one_for_the_sample(served: tuple[str, Log]) -> None:
    url, log = served
    corpus = open_corpus(url, retry=QUICK)
    for kind in KINDS:
        log.ranges.clear()
        corpus[kind][5]
        assert len(log.ranges) == 2
        corpus[kind][7]
        assert len(log.ranges) == 3
    shard = corpus.manifest.shards[0]
    assert log.ranges[0][1:] == (shard.sections["text"].index_offset, shard.sections["text"].index_bytes)
    assert log.ranges[1][2] == 1024


def test_the_blocks_of_a_batch_and_their_index_are_asked_for_once(served: tuple[str, Log]) -> None:
    url, log = served
    corpus = open_corpus(url, retry=QUICK)
    take(corpus, 1)
    assert len(log.ranges) == len(set(log.ranges))


@pytest.mark.parametrize("fault", ["503", "short", "reset", "stall"])
def test_what_passes_is_tried_again(served: tuple[str, Log], local: Corpus, fault: str) -> None:
    url, log = served
    log.fault = lambda path, attempt: fault if path.endswith(".tar") and attempt < 2 else None
    corpus = open_corpus(url, retry=QUICK)
    assert corpus["pair"][11].jpeg == local["pair"][11].jpeg


@pytest.mark.parametrize(
    ("fault", "said"),
    [("503", "503"), ("short", "Payload"), ("reset", "Payload|Disconnected"), ("stall", "no answer in time")],
)
def test_what_does_not_pass_stops_with_what_happened(served: tuple[str, Log], fault: str, said: str) -> None:
    url, log = served
    log.fault = lambda path, attempt: fault if path.endswith(".tar") else None
    corpus = open_corpus(url, retry=Retry(attempts=3, pause=0.001, timeout=0.2))
    with pytest.raises(ShardError, match=rf"\.tar: bytes \d+ to \d+ cannot be read: .*({said}).*, 3 times; see to"):
        corpus["pair"][11]


@pytest.mark.parametrize(
    ("fault", "said"), [("403", "the server answers 403"), ("whole", "bytes for a range of .*: it ignores ranges")]
)
def test_what_never_passes_is_said_at_once(served: tuple[str, Log], fault: str, said: str) -> None:
    url, log = served
    attempts: list[int] = []

    def answer(path: str, attempt: int) -> str | None:
        attempts.append(attempt)
        return fault if path.endswith(".tar") else None

    log.fault = answer
    with pytest.raises(ShardError, match=said):
        open_corpus(url, retry=QUICK)["pair"][11]
    assert set(attempts) == {0}


def test_a_missing_file_is_named(served: tuple[str, Log]) -> None:
    url = served[0].replace("manifest.json", "none.tar")
    with pytest.raises(ShardError, match=r"none\.tar is missing"):
        read_range(url, 0, 10, QUICK)


def test_a_loader_goes_through_a_storm_of_faults_unharmed(
    served: tuple[str, Log], local: Corpus, tmp_path: Path
) -> None:
    url, log = served
    faults = ("503", "short", None, "reset")  # whoever comes, one of four attempts in a row goes well
    log.fault = lambda path, attempt: faults[attempt % 4] if path.endswith(".tar") else None
    corpus = open_corpus(url, cache=Cache(tmp_path), retry=Retry(attempts=12, pause=0.001, timeout=5.0))
    assert_same(take(corpus, 12, workers=2), take(local, 12))


def fetch_first_chunk(corpus: Corpus) -> None:
    file = corpus._shards[0]
    corpus.files.fetch(file, *next(iter(corpus.files.chunks(file, 0, 1))))


@pytest.fixture
def changed(root: Path, tmp_path: Path) -> Iterator[tuple[Path, str, Log]]:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    with serve(copy) as (url, log):
        yield copy, f"{url}/manifest.json", log


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_changed_behind_the_url_is_never_served(
    changed: tuple[Path, str, Log], tmp_path: Path, cached: bool
) -> None:
    copy, url, _ = changed
    corpus = open_corpus(url, cache=Cache(tmp_path / "cache") if cached else None, retry=QUICK)
    first = corpus["pair"][0]
    shard = copy / corpus.manifest.shards[0].path
    data = bytearray(shard.read_bytes())
    jpg = corpus.index("pair", 0)[1]["jpg"]
    data[int(jpg["offset"]) + 100] ^= 1
    shard.write_bytes(data)
    if cached:
        fetch_first_chunk(corpus)
    with pytest.raises(SampleError, match=rf"sample p/{bytes(corpus.index('pair', 0)[1]['key']).hex()}, field jpg"):
        corpus["pair"][1]
    assert corpus["pair"][0].jpeg == first.jpeg
    shard.write_bytes(data[512:])
    with pytest.raises(SampleError, match=rf"the file has {len(data) - 512} bytes but the manifest says {len(data)}"):
        corpus["pair"][5]
    shard.write_bytes(data[:2048])
    with pytest.raises(ShardError, match="truncated or was replaced"):
        corpus["pair"][7]
    with pytest.raises(ShardError, match="truncated or was replaced"):
        corpus["image"][7]


def test_a_damaged_part_of_the_cache_is_dropped_and_read_again(served: tuple[str, Log], tmp_path: Path) -> None:
    corpus = open_corpus(served[0], cache=Cache(tmp_path), retry=QUICK)
    fetch_first_chunk(corpus)
    index = corpus.index("image", 0)
    offset = int(index[3]["jpg"]["offset"])
    (part,) = tmp_path.rglob("0-*")
    data = bytearray(part.read_bytes())
    data[offset + 7] ^= 255
    part.write_bytes(data)
    assert corpus.read("image", 0, 2).jpeg
    assert part.exists()
    assert corpus.read("image", 0, 3).jpeg[:2] == b"\xff\xd8"
    assert not part.exists()


def test_waits_double_with_jitter_and_repeat_exactly() -> None:
    retry = Retry(pause=1.0)
    waits = [retry.wait("s3://bucket/a.tar", 512, attempt) for attempt in range(1, 7)]
    assert waits == [retry.wait("s3://bucket/a.tar", 512, attempt) for attempt in range(1, 7)]
    assert all(2 ** (n - 1) / 2 < wait <= 2 ** (n - 1) for n, wait in enumerate(waits, start=1))
    assert len({retry.wait("s3://bucket/a.tar", start, 1) for start in range(100)}) == 100
