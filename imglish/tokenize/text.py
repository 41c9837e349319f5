"""Text ids: a SentencePiece model behind the id layout of the released BEiT-3 checkpoints.

    tokenizer = TextTokenizer(Path("beit3.spm").read_bytes(), "beit3.spm")
    tokenizer.encode("a red house")       uint16 [n]: 0 ... 2, that is <s> pieces </s>
    tokenizer.mask_id                     64001 for a model of 64,000 pieces

Layout (`XLMRobertaTokenizer`, slow class): `<s>` = 0, `<pad>` = 1, `</s>` = 2, `<unk>` = 3, any other piece =
SentencePiece id + 1, `<mask>` = pieces + 1, so there are pieces + 2 ids. This only works for a model with
unk, bos, eos = 0, 1, 2; any other is refused. Text is brought to NFC first, then the model's own
normaliser runs. `train_text` fits such a model on a corpus, the same one each time.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import ArrayLike, NDArray
from sentencepiece import sentencepiece_model_pb2

from imglish.digests import json_digest
from imglish.errors import TokenizerError
from imglish.recipe import TextTokenizerConfig

BOS, PAD, EOS, UNKNOWN = 0, 1, 2, 3
"""Ids of `<s>`, `<pad>`, `</s>`, `<unk>` in every text tokenizer."""

_SPECIAL = np.array([UNKNOWN, BOS, EOS], np.uint16)
"""Ids of SentencePiece's first three pieces; that of any other is one more than the piece."""

_NONE = np.zeros(0, np.uint16)

MAX_PIECES = (1 << 16) - 2
"""Ids travel as u16, and `<pad>` and `<mask>` come on top of the pieces."""

VERSIONS = {"sentencepiece": sentencepiece.__version__, "unicode": unicodedata.unidata_version}
"""What ids depend on besides the model."""

_AT_ONCE = 512
"""Texts in one call to SentencePiece, whose ids come back as 32-bit integers."""

_SENTENCE_CHARACTERS = 1048
"""SentencePiece skips training sentences over 4192 bytes (its `max_sentence_length`); 4 bytes a character."""

_MIN_LOG_LEVEL = 2
"""SentencePiece's log level at which only errors are printed, and those arrive as exceptions anyway."""


class TextTokenizer:
    """Strings to ids and back.

    `model` holds the bytes of a SentencePiece file and `origin` names it in errors. `digest` covers what decides
    on ids (pieces in order, score bits, types, normaliser, algorithm), not the file, which holds paths.
    Raises TokenizerError for bytes that are no model, other special ids, or more than `MAX_PIECES` pieces.
    """

    def __init__(self, model: bytes, origin: str = "text tokenizer") -> None:
        self._processor = _load(model, origin)
        self.pieces = int(self._processor.get_piece_size())
        self.vocabulary = self.pieces + 2
        self.mask_id = self.pieces + 1
        self.digest = _digest(model)

    def encode(self, text: str) -> NDArray[np.uint16]:
        """uint16 [n + 2]: `<s>`, the n pieces of the text, `</s>`."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
        """`encode` of each text; views of one array."""
        ids, edges = self.encode_flat(texts)
        return [ids[start:end] for start, end in pairwise(edges.tolist())]

    def encode_flat(
        self, texts: Sequence[str | bytes], order: Sequence[int] | None = None
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """`encode` of each text (bytes are UTF-8), end to end, and the edges between them, int64 [texts + 1].

        `order` names every place once: texts are done in that order, whatever the order of the result.
        """
        places = range(len(texts)) if order is None else order
        found: list[NDArray[np.uint16]] = [_NONE] * len(texts)
        for start in range(0, len(texts), _AT_ONCE):
            chosen = places[start : start + _AT_ONCE]
            for place, ids in zip(chosen, self._encode([texts[place] for place in chosen]), strict=True):
                found[place] = ids
        edges = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=edges[1:])
        return np.concatenate([_NONE, *found]), edges

    def _encode(self, texts: Sequence[str | bytes]) -> list[NDArray[np.uint16]]:
        """`encode` of a few texts; views of one array."""
        composed = [_composed(text) for text in texts]
        found = self._processor.encode(composed, return_type="numpy", num_threads=1, add_bos=True, add_eos=True)
        pieces = np.concatenate(found)
        ids = (pieces + 1).astype(np.uint16)
        special = np.flatnonzero(pieces < len(_SPECIAL))
        ids[special] = _SPECIAL[pieces[special]]
        edges = np.cumsum([0, *map(len, found)]).tolist()
        return [ids[start:end] for start, end in pairwise(edges)]

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids [n]; `<s>`, `<pad>`, `</s>` and `<mask>` are skipped, `<unk>` shows as U+2047.

        Raises TokenizerError for an id outside the vocabulary.
        """
        values = np.asarray(ids, dtype=np.int64).reshape(-1)
        outside = values[(values < 0) | (values >= self.vocabulary)]
        if outside.size:
            raise TokenizerError(f"id {outside[0]} is not in 0..{self.vocabulary - 1}; another tokenizer made it")
        kept = values[(values >= UNKNOWN) & (values != self.mask_id)]
        return str(self._processor.decode(np.where(kept == UNKNOWN, 0, kept - 1).tolist()))


def nfc(text: str) -> str:
    """Unicode normalisation form C, so that composed and decomposed spellings get the same ids."""
    return unicodedata.normalize("NFC", text)


def _composed(text: str | bytes) -> str | bytes:
    """A text in NFC; UTF-8 that is in NFC already stays as it is, so that SentencePiece need not encode it."""
    if text.isascii():
        return text
    read = text if isinstance(text, str) else text.decode()
    normal = nfc(read)
    return text if normal is read else normal


def train_text(texts: Iterable[str], config: TextTokenizerConfig) -> bytes:
    """Fit a SentencePiece model; the same texts in the same order give the same bytes.

    Texts are cut into lines first. `config.vocabulary` is an upper limit: a small corpus gives as many pieces as
    it supports (compare `TextTokenizer.pieces`). One thread, because SentencePiece gives other pieces at another
    number. Raises TokenizerError when there is no text or the vocabulary cannot even hold the characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=config.type,
            vocab_size=config.vocabulary,
            hard_vocab_limit=False,
            byte_fallback=config.byte_fallback,
            num_threads=1,
            shuffle_input_sentence=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=_MIN_LOG_LEVEL,
        )
    except RuntimeError as error:
        raise _explain(str(error), config) from None
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of NFC text; longer ones are cut, at a blank where there is one."""
    for text in texts:
        for line in nfc(text).splitlines():
            rest = line.strip()
            while len(rest) > _SENTENCE_CHARACTERS:
                cut = rest.rfind(" ", 0, _SENTENCE_CHARACTERS)
                cut = cut if cut > 0 else _SENTENCE_CHARACTERS
                yield rest[:cut]
                rest = rest[cut:].lstrip()
            if rest:
                yield rest


def _explain(message: str, config: TextTokenizerConfig) -> TokenizerError:
    if "sentences_.empty()" in message:
        return TokenizerError("no text to train a tokenizer on: no kept document or caption in the train split")
    needed = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if needed:
        return TokenizerError(
            f"a vocabulary of {config.vocabulary} pieces cannot hold the characters of the corpus, which need "
            f"{needed[1]}; set tokenize.text.vocabulary to at least {needed[1]}"
        )
    return TokenizerError(f"SentencePiece could not train {config.vocabulary} {config.type} pieces: {message}")


def _load(model: bytes, origin: str) -> Any:
    try:
        processor = sentencepiece.SentencePieceProcessor.from_proto(model)
    except (RuntimeError, ValueError):
        message = f"{origin}: not a SentencePiece model ({len(model)} bytes); give the .model or .spm file"
        raise TokenizerError(message) from None
    special = {"unk": processor.unk_id(), "bos": processor.bos_id(), "eos": processor.eos_id()}
    if list(special.values()) != [0, 1, 2]:
        found = ", ".join(f"{name}={value}" for name, value in special.items())
        raise TokenizerError(
            f"{origin}: special ids are {found}, but the id layout needs unk=0, bos=1, eos=2; "
            "train the model with --unk_id=0 --bos_id=1 --eos_id=2, or leave tokenize.text.model out to fit one"
        )
    if processor.get_piece_size() > MAX_PIECES:
        raise TokenizerError(f"{origin}: {processor.get_piece_size()} pieces, but ids are u16: at most {MAX_PIECES}")
    return processor


def _digest(model: bytes) -> str:
    """SHA-256 (hex) over the parts of a model that decide on ids; paths and training settings are left out."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    rows = hashlib.sha256()
    for number, row in enumerate(proto.pieces):
        piece = row.piece.encode()
        rows.update(struct.pack("<iifi", number, len(piece), row.score, row.type) + piece)
    return json_digest(
        {
            "format": "imglish-text/1",
            "before": "NFC",
            "normaliser": {
                "charsmap": hashlib.sha256(spec.precompiled_charsmap).hexdigest(),
                "add_dummy_prefix": spec.add_dummy_prefix,
                "remove_extra_whitespaces": spec.remove_extra_whitespaces,
                "escape_whitespaces": spec.escape_whitespaces,
            },
            "model_type": trainer.model_type,
            "byte_fallback": trainer.byte_fallback,
            "whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
            "rows": rows.hexdigest(),
        }
    )
