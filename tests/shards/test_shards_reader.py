"""Reading a corpus: what was written comes back, from any place, and damage is named."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from imglish.errors import ManifestError, ShardError
from imglish.shards import Corpus, open_corpus
from imglish.shards import format as fmt
from imglish.shards.manifest import Manifest
from imglish.shards.ranges import Retry
from tests.shards.corpus_helpers import document, pair, small_corpus


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    root = tmp_path_factory.mktemp("corpus")
    return root, small_corpus(root, ids=600_000)


@pytest.fixture
def corpus(built: tuple[Path, Manifest]) -> Corpus:
    return open_corpus(str(built[0] / "manifest.json"))


@pytest.fixture
def copy(built: tuple[Path, Manifest], tmp_path: Path) -> Path:
    return Path(shutil.copytree(built[0], tmp_path / "copy"))


def test_counts_and_sections_are_those_of_the_split(corpus: Corpus) -> None:
    assert corpus.counts == {"pair": 6, "image": 4, "text": 2 * 1172, "captions": 12}
    assert corpus.sections("pair") == [(0, 3), (1, 3)]
    assert {kind: len(corpus[kind]) for kind in ("pair", "image", "text")} == {"pair": 6, "image": 4, "text": 2344}


def test_every_pair_comes_back_as_written(corpus: Corpus) -> None:
    written = {sample.key: sample for sample in map(pair, range(6))}
    found = list(corpus["pair"])
    assert len({sample.key for sample in found}) == 6
    for sample in found:
        expected = pair(next(number for number in range(6) if pair(number).key == sample.key))
        assert sample.jpeg == written[sample.key].jpeg
        assert (sample.views == expected.views).all() and (sample.codes == expected.codes).all()
        assert len(sample.captions) == len(sample.ids)
        assert sample.captions[0] == expected.captions[0]
        assert sample.ids[0].dtype == np.uint16 and (sample.ids[0] == expected.ids[0]).all()


def test_images_and_blocks_come_back_by_number_slice_and_from_the_end(corpus: Corpus) -> None:
    image = corpus["image"][-1]
    assert image.key == corpus["image"][3].key == corpus["image"][2:][1].key
    assert image.codes.shape == (2, 4)
    block = corpus["text"][1172 + 5]
    assert block.key == "000001/5"
    assert block.ids.shape == (512,) and block.ids.dtype == np.uint16
    with pytest.raises(IndexError, match="image 4 of 4"):
        corpus["image"][4]
    with pytest.raises(KeyError, match="not one of"):
        corpus["video"]  # type: ignore[call-overload]


def test_blocks_come_back_in_any_order_and_with_repeats(corpus: Corpus) -> None:
    text = np.concatenate([document(100 + i, 200_002) for i in range(3)])
    rows = np.random.default_rng(0).integers(0, 1171, 300)
    blocks = corpus.read_blocks(1, rows)
    assert (blocks == text[: 1171 * 512].reshape(-1, 512)[rows]).all()
    assert corpus.read_blocks(1, []).shape == (0, 512)
    assert (corpus.read_blocks(1, range(1172)).reshape(-1)[: len(text)] == text).all()


def test_the_other_split_has_its_own_shards(built: tuple[Path, Manifest]) -> None:
    validation = open_corpus(str(built[0] / "manifest.json"), split="validation")
    assert validation.sections("pair") == [(2, 3)]
    assert validation["text"][0].key == "000002/0"
    with pytest.raises(ManifestError, match="not one of train, validation"):
        open_corpus(str(built[0] / "manifest.json"), split="test")  # type: ignore[arg-type]


def test_threads_and_unpickled_copies_read_the_same(corpus: Corpus) -> None:
    again = pickle.loads(pickle.dumps(corpus))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: again["pair"][number % 6].jpeg, range(60)))
    assert found == [corpus["pair"][number % 6].jpeg for number in range(60)]


def test_a_corpus_behind_a_url_reads_the_same(built: tuple[Path, Manifest], corpus: Corpus) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(built[0]), "/reader", recursive=True)
    remote = open_corpus("memory://reader/manifest.json")
    assert remote["pair"][3].jpeg == corpus["pair"][3].jpeg
    assert (remote.read_blocks(0, [700, 3]) == corpus.read_blocks(0, [700, 3])).all()


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("field", fmt.FIELDS["pair"])
def test_a_flipped_byte_names_shard_sample_and_field(copy: Path, field: str) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    row = corpus.index("pair", 1)[2]
    shard = corpus.manifest.shards[1].path
    flip(copy / shard, int(row[field]["offset"]) + 3)
    key = bytes(row["key"]).hex()
    with pytest.raises(ShardError, match=rf"shard 1 \(.*{shard}\): sample p/{key}, field {field}: crc32c"):
        corpus["pair"][5]
    assert corpus["pair"][4].captions


def test_a_flipped_block_is_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    flip(copy / corpus.manifest.shards[0].path, int(corpus.index("text", 0)[300]["offset"]) + 1023)
    with pytest.raises(ShardError, match="sample 000000/300, field ids"):
        corpus.read_blocks(0, np.arange(290, 310))
    assert corpus.read_blocks(0, [299, 301]).shape == (2, 512)


def test_a_damaged_index_is_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    shard = corpus.manifest.shards[0]
    flip(copy / shard.path, shard.sections["image"].index_offset + 20)
    with pytest.raises(ShardError, match="index rows of kind image"):
        corpus["image"][0]


def test_a_truncated_shard_is_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    path = copy / corpus.manifest.shards[0].path
    assert corpus["pair"][0].jpeg
    with path.open("r+b") as file:
        file.truncate(int(corpus.index("text", 0)[900]["offset"]))
    with pytest.raises(ShardError, match=rf"{path.name}.*truncated"):
        corpus.read_blocks(0, [1000])


def test_a_missing_shard_is_named(copy: Path) -> None:
    corpus = open_corpus(str(copy / "manifest.json"))
    (copy / corpus.manifest.shards[1].path).unlink()
    with pytest.raises(ShardError, match=r"tar is missing"):
        corpus["pair"][5]


def test_a_range_that_is_damaged_once_is_fetched_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imglish.shards import files

    corpus = open_corpus(str(copy / "manifest.json"))
    row = corpus.index("pair", 0)[0]
    place = int(row["jpg"]["offset"])
    fetched: list[int] = []

    def damaged_once(url: str, start: int, length: int, retry: Retry) -> bytes:
        fetched.append(start)
        data = bytearray((copy / corpus.manifest.shards[0].path).read_bytes()[start : start + length])
        if len(fetched) == 1:
            data[place - start] ^= 1
        return bytes(data)

    monkeypatch.setattr(files, "read_range", damaged_once)
    assert corpus["pair"][0].jpeg[:2] == b"\xff\xd8"
    assert len(fetched) == 2


def plain(value: object) -> object:
    """Arrays as lists, so that samples can be compared."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def everything(manifest: Path) -> list[object]:
    """All that a corpus of one train shard gives, or the error in place of a sample that it does not give."""
    corpus = open_corpus(str(manifest))
    found: list[object] = []
    for kind in ("pair", "image", "text"):
        for number in range(len(corpus[kind])):  # type: ignore[call-overload]
            try:
                found.append([plain(value) for value in vars(corpus[kind][number]).values()])  # type: ignore[call-overload]
            except ShardError as error:
                found.append(error)
    return found


def test_no_flipped_byte_ever_gives_wrong_data(tmp_path: Path) -> None:
    manifest = small_corpus(tmp_path, shards=1, pairs=2, images=1, ids=1500)
    file = tmp_path / manifest.shards[0].path
    whole = file.read_bytes()
    expected = everything(tmp_path / "manifest.json")
    stopped = 0
    for place in range(0, len(whole), 101):
        flip(file, place)
        found = everything(tmp_path / "manifest.json")
        wrong = [new for new, old in zip(found, expected, strict=True) if new != old]
        assert all(isinstance(error, ShardError) for error in wrong)
        stopped += bool(wrong)
        file.write_bytes(whole)
    assert stopped > 30
