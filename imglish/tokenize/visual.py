"""What a visual tokenizer is, and how to open one.

    tokenizer = load_visual("corpus/models/41aa….safetensors", expected="41aa…")
    codes = tokenizer.encode(images)      uint8 [B, S, S, 3] -> uint16 [B, N]

A tokenizer is a file whose header names its format; `digest` covers what decides on codes, and a corpus made with
one digest refuses codes of another. There are three: `codebook` (k-means), `vqkd` (BEiT v2's network), and any
package's own, registered as an entry point:

    [project.entry-points."imglish.visual_tokenizers"]      # in the package's pyproject.toml
    dalle = "my_package:DalleTokenizer"                     # called with tokenize.visual.options

`encode` must give an image the same codes in the same slot of a batch of the same shape, every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from imglish.digests import canonical_json
from imglish.errors import TokenizerError
from imglish.tokenize.codebook import Codebook, safetensors_facts

ENTRY_POINTS = "imglish.visual_tokenizers"
PLUGIN_FORMAT = "imglish-plugin/1"
VQKD_FORMAT = "imglish-vqkd/1"


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
    tokenizer = _read(data, origin)
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


def placed(tokenizer: VisualTokenizer, device: str, threads: int | None) -> VisualTokenizer:
    """The tokenizer on a device ("cpu" or "cuda") with so many threads, where it has a say in that."""
    run_on = getattr(tokenizer, "run_on", None)
    if run_on is not None:
        run_on(device, threads)
    return tokenizer


def device_name(tokenizer: VisualTokenizer) -> str | None:
    """The accelerator that a tokenizer works on, None on a CPU: codes of unlike ones may differ in near-ties."""
    found = getattr(tokenizer, "accelerator", None)
    return None if found is None else str(found)


def open_plugin(name: str, options: Mapping[str, Any]) -> VisualTokenizer:
    """A package's tokenizer, by the name of its entry point in the group `imglish.visual_tokenizers`.

    Raises TokenizerError when no installed package has it, or what it makes is no visual tokenizer.
    """
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise TokenizerError(f"tokenize.visual.plugin = {name!r}: no such entry point of {ENTRY_POINTS} ({known})")
    tokenizer = found[name].load()(**options)
    lacking = [part for part in ("digest", "grid", "codes", "size", "patch", "encode") if not hasattr(tokenizer, part)]
    if lacking:
        raise TokenizerError(f"tokenize.visual.plugin = {name!r}: what it returns lacks {', '.join(lacking)}")
    checked: VisualTokenizer = tokenizer
    return checked


def write_plugin(name: str, options: Mapping[str, Any]) -> bytes:
    """The file that stands for a plug-in in a store: a safetensors header without tensors."""
    facts = {"format": PLUGIN_FORMAT, "plugin": name, "options": dict(options)}
    return bytes(save({}, {"imglish": canonical_json(facts).decode()}))


def _read(data: bytes, origin: str) -> VisualTokenizer:
    facts = safetensors_facts(data, origin)
    if facts["format"] == PLUGIN_FORMAT:
        return open_plugin(facts["plugin"], facts["options"])
    if facts["format"] == VQKD_FORMAT:
        from imglish.tokenize.vqkd import Vqkd  # torch is loaded only where it is needed

        return Vqkd.read(data, origin)
    return Codebook.read(data, origin)
