"""What a visual tokenizer is, and how to open one.

    tokenizer = load_visual("corpus/models/41aa….safetensors", expected="41aa…")
    codes = tokenizer.encode(images)      uint8 [B, S, S, 3] -> uint16 [B, N]

A tokenizer is a file whose header names its format; `digest` covers what decides on codes, and a corpus made with
one digest refuses codes of another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imglish.errors import TokenizerError
from imglish.tokenize.codebook import Codebook


class VisualTokenizer(Protocol):
    """Turns rendered views into codes, one for each patch, row by row from the top left."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides on codes."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes; N is their product."""
        ...

    @property
    def codes(self) -> int:
        """Number of different codes."""
        ...

    @property
    def size(self) -> int:
        """Side S of the square view, pixels."""
        ...

    @property
    def patch(self) -> int:
        """Side of the patch behind one code, pixels."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """RGB uint8 [B, S, S, 3] -> uint16 [B, N]; TokenizerError for another shape or dtype."""
        ...


def read_visual(data: bytes, origin: str, expected: str | None = None) -> VisualTokenizer:
    """A tokenizer from the bytes of its file; `origin` names it in errors.

    Raises TokenizerError when the file is damaged or unknown, or its digest is not the expected one.
    """
    tokenizer = Codebook.read(data, origin)
    if expected is not None and tokenizer.digest != expected:
        raise TokenizerError(
            f"{origin}: visual tokenizer {tokenizer.digest[:16]}…, but {expected[:16]}… is asked for; "
            "give the tokenizer that the corpus was made with, or build the corpus again"
        )
    return tokenizer


def load_visual(path: str | Path, expected: str | None = None) -> VisualTokenizer:
    """`read_visual` of a local file; TokenizerError also when it is missing."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); fit a visual tokenizer first") from None
    return read_visual(data, str(path), expected)
