"""Phrases of a list, found in texts as runs of whole words.

    phrases = read_phrases("concepts.txt", root)       # one a line, or a JSON list of strings
    phrases.list.find("A red-haired dog in New York.")  # numbers of "dog", "new york", ... ascending, each once
    phrases.sha256                                      # of the file

Texts and phrases are read alike: Unicode NFC, case folded, marks of punctuation as blanks, and each character of
scripts written without spaces a word. So "new york" stands in "New York!" and in "new-york", not in "new yorkers".
MetaCLIP (Xu et al. 2023, `substr_matching`) minds case and wants blanks; folding both makes more of its entries match.

A dictionary of runs is looked up from every word that begins a phrase, with the lengths that its phrases have: exact,
no hash of ours, and no further package: pyahocorasick is 1.6 times as fast on a list of 500,000 as dense as it gets,
where this takes 38 us a caption (`benchmarks/results/balance-2026-11-26.md`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from imglish.errors import RecipeError
from imglish.ingest.match.words import UNSPACED
from imglish.ingest.measures.marks import PUNCTUATION, characters_of

VERSION = 1
"""Of what a word is: part of every unit that reads phrases."""
_WORD = re.compile("[^\\s" + re.escape("".join(sorted(characters_of(PUNCTUATION)))) + "]+")


def words_of(text: str) -> list[str]:
    """Words of a text or a phrase, without marks."""
    if not text.isascii():
        text = UNSPACED.sub(r" \1 ", unicodedata.normalize("NFC", text))
    return _WORD.findall(text.casefold())


class Phrases:
    """Phrases by number; of two that read alike the first counts, and one without a word is never found."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self.names: list[str] = []
        """Phrases as they are read: words with single blanks."""
        self._numbers: dict[str, int] = {}
        lengths: dict[str, set[int]] = {}
        for phrase in phrases:
            words = words_of(phrase)
            name = " ".join(words)
            if words and name not in self._numbers:
                self._numbers[name] = len(self.names)
                self.names.append(name)
                lengths.setdefault(words[0], set()).add(len(words))
        self._lengths = {word: tuple(sorted(found)) for word, found in lengths.items()}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, text: str) -> list[int]:
        """Numbers of the phrases in a text, ascending, each once."""
        words = words_of(text)
        found: set[int] = set()
        for place, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                run = word if length == 1 else " ".join(words[place : place + length])
                number = self._numbers.get(run)
                if number is not None:
                    found.add(number)
        return sorted(found)


@dataclass(frozen=True)
class PhraseFile:
    """A list of phrases and what it is known by."""

    path: str
    sha256: str

    @property
    def list(self) -> Phrases:
        """The phrases; read once in a process."""
        return _load(self.path, self.sha256)

    def facts(self) -> dict[str, str | int]:
        """What units and the manifest say of it."""
        return {"list": self.sha256, "phrases": len(self.list), "phrases_version": VERSION}


def read_phrases(path: str, root: str, key: str) -> PhraseFile:
    """The list at `path` below `root`; RecipeError names `key` when it cannot be had or holds no phrase."""
    file = Path(root, path)
    try:
        found = PhraseFile(str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    except OSError as error:
        raise RecipeError(f"{key}: no list at {file} ({error.strerror}); it is one phrase a line, or JSON") from None
    try:
        count = len(found.list)
    except ValueError as error:
        raise RecipeError(f"{key}: {file}: {error}") from None
    if not count:
        raise RecipeError(f"{key}: {file} holds no phrase at all; write one a line")
    return found


@cache
def _load(path: str, sha256: str) -> Phrases:
    text = Path(path).read_bytes().decode("utf-8")
    if not path.endswith(".json"):
        return Phrases(text.splitlines())
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("a JSON list of phrases holds strings and nothing else")
    return Phrases(values)
