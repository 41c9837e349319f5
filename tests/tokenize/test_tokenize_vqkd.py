"""VQ-KD tokenizers: the published layout, codes against a plain implementation, files that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imglish.errors import TokenizerError
from imglish.shards.recode import Encoder
from imglish.tokenize.visual import VisualTokenizer, read_visual
from imglish.tokenize.vqkd import Vqkd, adopt
from imglish.tokenize.vqkd_file import read_published
from tests.tokenize.plain_vqkd import photographs, plain_distances, published, write_published


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_published(tmp_path / "vqkd.pth", published())


def small(file: Path, size: int = 224, precision: str = "fp32") -> Vqkd:
    return Vqkd.read(adopt(file, size, precision), "test")


@pytest.mark.parametrize("size", [224, 256])
def test_codes_equal_a_plain_implementation_on_real_photographs(tmp_path: Path, size: int) -> None:
    state = published(width=768, depth=3, codes=8192, dimension=32)
    tokenizer = small(write_published(tmp_path / "base.pth", state), size)
    images = photographs(1, size)
    codes = tokenizer.encode(images)
    side = size // 16
    assert (tokenizer.grid, tokenizer.codes, codes.shape) == ((side, side), 8192, (1, side * side))
    distances = plain_distances(state, images)
    best = distances.argmin(axis=-1)
    ties = codes != best
    gap = np.take_along_axis(distances, codes[..., None].astype(np.int64), -1)[..., 0] - distances.min(-1)
    assert gap.max() < 1e-4, "a code that differs is as near, within float32"
    assert ties.sum() <= 2, f"{ties.sum()} of {ties.size} codes differ in near-ties"
    assert len(np.unique(best)) > 20


def test_every_published_name_is_read_and_bookkeeping_is_dropped(file: Path) -> None:
    tensors, shape = read_published(file)
    wanted = {
        key for key in published() if "cluster_size" not in key and "embed_avg" not in key and "initted" not in key
    }
    assert set(tensors) == wanted
    assert (shape.patch, shape.width, shape.depth, shape.decoder_depth, shape.grid) == (16, 64, 2, 1, 14)
    assert (shape.codes, shape.dimension, shape.features) == (32, 8, 512)


def test_a_file_may_keep_its_tensors_under_state_dict(tmp_path: Path, file: Path) -> None:
    other = write_published(tmp_path / "other.pth", published(), top="state_dict")
    assert small(other).digest == small(file).digest


def test_black_images_have_the_same_codes_in_dark_and_in_bright_company(file: Path) -> None:
    tokenizer = small(file)
    dark = np.ones((2, 224, 224, 3), np.uint8)
    bright = dark.copy()
    bright[1] = 255
    assert (tokenizer.encode(dark)[0] == tokenizer.encode(bright)[0]).all()
    state = published()
    guessed = plain_distances(state, np.full((1, 224, 224, 3), 255, np.uint8)).argmin(-1)
    assert (tokenizer.encode(dark)[0] != guessed[0]).any(), "what the published code makes of a dark batch of floats"


def test_codes_do_not_depend_on_the_other_images_of_a_batch_or_on_earlier_calls(file: Path) -> None:
    tokenizer = small(file)
    images = photographs(4, 224)
    alone = np.zeros_like(images)
    alone[2] = images[2]
    first = tokenizer.encode(images)
    assert (tokenizer.encode(alone)[2] == first[2]).all()
    assert (tokenizer.encode(images) == first).all()


def test_size_and_precision_make_digests_of_their_own_and_the_decoder_does_not(tmp_path: Path, file: Path) -> None:
    deeper = write_published(tmp_path / "deeper.pth", {**published(), **_decoder(published(decoder_depth=2, seed=1))})
    without = write_published(tmp_path / "without.pth", {k: v for k, v in published().items() if "decode" not in k})
    digests = [small(file).digest, small(file, 256).digest, small(file, precision="bf16").digest]
    assert len(set(digests)) == 3
    assert small(deeper).digest == small(without).digest == digests[0]
    assert small(without).features(np.zeros((1, 196), np.uint16)) is None
    assert small(file).features(np.zeros((1, 196), np.uint16)).shape == (1, 196, 512)  # type: ignore[union-attr]


def _decoder(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key.startswith(("decoder.", "decode_task_layer."))}


def test_bf16_codes_are_mostly_those_of_fp32(file: Path) -> None:
    images = photographs(4, 224)
    equal = small(file).encode(images) == small(file, precision="bf16").encode(images)
    assert 0.8 < equal.mean() < 1


def test_our_file_of_a_tokenizer_reads_back_and_can_be_adopted_again(tmp_path: Path, file: Path) -> None:
    data = adopt(file, 224, "fp32")
    ours = tmp_path / "ours.safetensors"
    ours.write_bytes(data)
    assert adopt(ours, 224, "fp32") == data
    read = read_visual(data, "ours")
    images = photographs(2, 224)
    assert (read.encode(images) == small(file).encode(images)).all()
    protocol: VisualTokenizer = read
    encoder: Encoder = pickle.loads(pickle.dumps(read))
    assert protocol.digest == encoder.digest
    assert Vqkd.read(adopt(ours, 256, "bf16"), "again").digest == small(file, 256, "bf16").digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder.blocks.1.attn.q_bias": None}, r"lacks encoder\.blocks\.1\.attn\.q_bias"),
        ({"decode_task_layer.2.weight": None}, r"lacks decode_task_layer\.2\.weight"),
        ({"quantize.embedding.weight": None}, r"lacks quantize\.embedding\.weight"),
        ({"encoder.blocks.0.gamma_1": torch.ones(64)}, r"has encoder\.blocks\.0\.gamma_1, which"),
        ({"encoder.fc_norm.bias": torch.ones(63)}, r"encoder\.fc_norm\.bias is \[63\].* ask for \[64\]"),
        ({"encoder.pos_embed": torch.ones(1, 200, 64)}, r"encoder\.pos_embed has 199 patches, which is no square"),
        (
            {"encoder.cls_token": torch.full((1, 1, 64), torch.nan)},
            r"encoder\.cls_token has values that are not finite",
        ),
        ({"encoder.cls_token": "text"}, r"encoder\.cls_token is no tensor"),
        ({"quantize.embedding.weight": torch.ones(32)}, r"quantize\.embedding\.weight is \[32\], not of 2 dimensions"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_its_key(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    state = {**published(), **change}
    path = write_published(tmp_path / "wrong.pth", {key: value for key, value in state.items() if value is not None})
    with pytest.raises(TokenizerError, match=rf"wrong\.pth: .*{said}"):
        adopt(path, 224, "fp32")


def test_cut_and_foreign_files_are_refused(tmp_path: Path, file: Path) -> None:
    data = file.read_bytes()
    for number, broken in enumerate([data[: len(data) // 2], data[:10], b"", b"<html>not found</html>"]):
        path = tmp_path / f"broken-{number}.pth"
        path.write_bytes(broken)
        with pytest.raises(TokenizerError, match=rf"broken-{number}\.pth: cannot be read as a VQ-KD file"):
            adopt(path, 224, "fp32")
    with pytest.raises(TokenizerError, match="no file at"):
        adopt(tmp_path / "missing.pth", 224, "fp32")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    with pytest.raises(TokenizerError, match="neither the key 'model' nor 'state_dict'"):
        adopt(tmp_path / "other.pth", 224, "fp32")
    ours = adopt(file, 224, "fp32")
    with pytest.raises(TokenizerError, match=r"not a whole imglish-vqkd/1 file"):
        read_visual(ours[:-100], "cut")


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    torch.save({"model": {"encoder.cls_token": Program()}}, tmp_path / "program.pth")
    with pytest.raises(TokenizerError, match=r"program\.pth: cannot be read"):
        adopt(tmp_path / "program.pth", 224, "fp32")
    assert not marker.exists()


def test_a_view_that_patches_do_not_fill_is_refused(file: Path) -> None:
    with pytest.raises(TokenizerError, match="patches of 16 do not fill a view of 230 pixels"):
        small(file, 230)


def test_encoding_leaves_the_threads_of_the_process_alone(file: Path) -> None:
    before = torch.get_num_threads()
    small(file).run_on("cpu", before + 1).encode(photographs(1, 224))
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_so(file: Path) -> None:
    with pytest.raises(TokenizerError, match="torch finds no GPU here"):
        small(file).run_on("cuda", None)
