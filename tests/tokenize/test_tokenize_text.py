"""Text ids: the layout of the released checkpoints, digests, hostile strings, training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from imglish.errors import TokenizerError
from imglish.model.config import RELEASED_VOCABULARY
from imglish.recipe import TextTokenizerConfig
from imglish.tokenize.text import BOS, EOS, PAD, UNKNOWN, TextTokenizer, nfc, train_text
from tests.tokenize.tokenize_helpers import corpus, sentencepiece_model, text_model


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(text_model())


def test_ids_follow_the_released_layout(tokenizer: TextTokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=text_model())
    assert (BOS, PAD, EOS, UNKNOWN) == (0, 1, 2, 3)
    assert tokenizer.pieces == len(processor) == 330
    assert (tokenizer.mask_id, tokenizer.vocabulary) == (331, 332)
    ids = tokenizer.encode("the red house near the river")
    assert ids.dtype == np.uint16
    assert ids.tolist() == [0, *(piece + 1 for piece in processor.encode("the red house near the river")), 2]


def test_a_model_of_64000_pieces_has_its_mask_at_64001() -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(text_model())
    for number in range(64_000 - len(proto.pieces)):
        proto.pieces.add(piece=f"filler{number}", score=-100.0)
    big = TextTokenizer(proto.SerializeToString())
    assert (big.pieces, big.mask_id, big.vocabulary) == (64_000, 64_001, 64_002)
    ids = big.encode("filler63669")
    assert ids.max() <= 64_000
    assert big.decode(np.array([64_000])) == proto.pieces[63_999].piece


def test_every_id_of_a_64000_piece_model_is_that_of_the_xlm_r_table() -> None:
    """The table as fairseq has it: four specials, then the pieces after SentencePiece's own three, shifted by one, then
    `<mask>`. `transformers` 4.57.6 (slow XLMRobertaTokenizer) gave the same ids for such a file, compared by hand."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(text_model())
    for number in range(64_000 - len(proto.pieces)):
        proto.pieces.add(piece=f"filler{number}", score=-100.0)
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id(), len(processor)) == (0, 1, 2, 64_000)
    table = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    table |= {piece.piece: number for number, piece in enumerate(proto.pieces[3:], 4)}
    table["<mask>"] = len(table)
    ours = TextTokenizer(proto.SerializeToString())
    assert (len(table), table["<mask>"], ours.vocabulary, ours.mask_id) == (64_002, 64_001, 64_002, 64_001)
    assert RELEASED_VOCABULARY == 64_010, "rows of the released embedding; those from 64,002 are never used"
    texts = [*corpus(50), "filler7 filler63000", "Ω 😀 unseen", ""]
    for text, ids in zip(texts, ours.encode_many(texts), strict=True):
        pieces = processor.encode(nfc(text), out_type=str)
        assert ids.tolist() == [table["<s>"], *(table.get(piece, table["<unk>"]) for piece in pieces), table["</s>"]]


def test_more_pieces_than_u16_ids_are_refused() -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(text_model())
    for number in range(65_535 - len(proto.pieces)):
        proto.pieces.add(piece=f"filler{number}", score=-100.0)
    with pytest.raises(TokenizerError, match="65535 pieces, but ids are u16: at most 65534"):
        TextTokenizer(proto.SerializeToString())


def test_unknown_characters_become_unk_without_byte_fallback() -> None:
    plain = TextTokenizer(train_text(corpus(), TextTokenizerConfig(vocabulary=100, byte_fallback=False)))
    ids = plain.encode("red Ω")
    assert UNKNOWN in ids.tolist()
    assert "⁇" in plain.decode(ids)


@pytest.mark.parametrize(
    ("special", "found"),
    [
        ({"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}, "unk=1, bos=2, eos=3"),
        ({"bos_id": -1}, "unk=0, bos=-1, eos=2"),
    ],
)
def test_a_model_with_other_special_ids_is_refused_with_what_was_found(special: dict[str, int], found: str) -> None:
    with pytest.raises(TokenizerError, match=f"my.model: special ids are {found}.*--unk_id=0 --bos_id=1 --eos_id=2"):
        TextTokenizer(sentencepiece_model(**special), "my.model")


def test_the_default_sentencepiece_ids_are_accepted() -> None:
    assert TextTokenizer(sentencepiece_model()).encode("red").tolist()[0] == BOS


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a model", text_model()[:-1000]], ids=["empty", "nul", "text", "cut"]
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"broken\.spm: not a SentencePiece model"):
        TextTokenizer(data, "broken.spm")


def test_training_twice_gives_the_same_bytes_and_digest() -> None:
    config = TextTokenizerConfig(vocabulary=330)
    assert train_text(iter(corpus()), config) == text_model()
    other = train_text(corpus()[::-1][:-50], config)
    assert TextTokenizer(other).digest != TextTokenizer(text_model()).digest


def test_the_digest_does_not_depend_on_where_or_when_a_model_was_trained(tmp_path: Path) -> None:
    script = (
        "import sentencepiece, sys; sentencepiece.SentencePieceTrainer.train("
        "input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=60, minloglevel=2, num_threads=1)"
    )
    files = []
    for name in ("here", "elsewhere/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "text.txt").write_text("\n".join(corpus()), encoding="utf-8")
        command = [sys.executable, "-c", script, str(folder / "text.txt"), str(folder / "model")]
        subprocess.run(command, check=True, cwd=folder, env=os.environ | {"TZ": "Asia/Tokyo"})
        files.append((folder / "model.model").read_bytes())
    assert files[0] != files[1], "the files hold their input paths"
    assert TextTokenizer(files[0]).digest == TextTokenizer(files[1]).digest


@pytest.mark.parametrize("change", ["score", "type", "piece", "normaliser", "algorithm"])
def test_the_digest_covers_everything_that_decides_on_ids(change: str) -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(text_model())
    if change == "score":
        proto.pieces[300].score -= 1e-3
    elif change == "type":
        proto.pieces[300].type = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    elif change == "piece":
        proto.pieces[300].piece += "x"
    elif change == "normaliser":
        proto.normalizer_spec.remove_extra_whitespaces = False
    else:
        proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    assert TextTokenizer(proto.SerializeToString()).digest != TextTokenizer(text_model()).digest


def test_a_small_corpus_gives_fewer_pieces_than_asked_for() -> None:
    pieces = TextTokenizer(train_text(["a tiny text"], TextTokenizerConfig(vocabulary=64_000))).pieces
    assert 259 < pieces < 300


def test_a_vocabulary_too_small_for_the_characters_says_what_is_needed() -> None:
    with pytest.raises(
        TokenizerError, match=r"vocabulary of 270 pieces.*set tokenize\.text\.vocabulary to at least \d+"
    ):
        train_text(corpus(), TextTokenizerConfig(vocabulary=270))


@pytest.mark.parametrize("texts", [[], [""], [" \n\t\n"]])
def test_training_without_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text to train a tokenizer on"):
        train_text(texts, TextTokenizerConfig(vocabulary=330))


def test_a_line_of_100_kb_is_trained_on_and_encoded() -> None:
    line = " ".join(corpus(2200))
    assert len(line.encode()) > 100_000
    tokenizer = TextTokenizer(train_text([line], TextTokenizerConfig(vocabulary=320)))
    assert tokenizer.pieces == 320
    assert tokenizer.decode(tokenizer.encode(line)) == line
    endless = "猫" * 40_000
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


def test_bpe_can_be_trained_too() -> None:
    tokenizer = TextTokenizer(train_text(corpus(), TextTokenizerConfig(vocabulary=400, type="bpe")))
    assert tokenizer.decode(tokenizer.encode("small red house")) == "small red house"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "a\0b",
        "\U0001f469\u200d\U0001f467",
        "שלום",
        "\u202eabc",
        "\ufeffx",
        "\U0001d518",
        "e\u0301",
        "\U0010ffff",
    ],
)
def test_hostile_strings_have_ids(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == BOS
    assert ids[-1] == EOS
    assert ids.max() < tokenizer.mask_id
    assert not set(ids[1:-1].tolist()) & {BOS, PAD, EOS}


def test_special_pieces_in_a_text_are_only_characters(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("<s> </s> <pad> <mask> <unk>")
    assert not set(ids[1:-1].tolist()) & {BOS, PAD, EOS, tokenizer.mask_id}


def test_composed_and_decomposed_spellings_have_equal_ids(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("école").tolist() == tokenizer.encode("e\u0301cole").tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(corpus(20)) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=6)
)
def test_many_texts_have_the_ids_of_each_alone(texts: list[str]) -> None:
    tokenizer = TextTokenizer(text_model())
    together = tokenizer.encode_many(texts)
    assert [ids.tolist() for ids in together] == [tokenizer.encode(text).tolist() for text in texts]


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(categories=["Ll", "Lu", "Lo", "So"]), min_size=1, max_size=60))
def test_decoding_gives_back_the_normalised_text(text: str) -> None:
    tokenizer = TextTokenizer(text_model())
    once = tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(once)) == once
    assert tokenizer.encode(once).tolist() == tokenizer.encode(text).tolist()


def test_decoding_skips_specials_and_refuses_foreign_ids(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("red house")
    padded = [*ids.tolist(), PAD, PAD, tokenizer.mask_id]
    assert tokenizer.decode(padded) == "red house"
    with pytest.raises(TokenizerError, match=r"id 332 is not in 0\.\.331"):
        tokenizer.decode([332])


def test_training_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    train_text(corpus(), TextTokenizerConfig(vocabulary=330))
    assert capfd.readouterr() == ("", "")
