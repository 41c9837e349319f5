"""The contact sheet in PNG and the seeded choice behind it."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from imglish.audit.choice import choose
from imglish.audit.look import Font, _Sheet, contact_sheet
from imglish.audit.tables import Tables
from imglish.errors import ImglishError
from imglish.shards import open_corpus
from tests.audit.audit_helpers import HOSTILE, corpus, pair


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(corpus(tmp_path_factory.mktemp("corpus")))


def test_the_sheet_is_a_png_with_the_same_bytes_every_time(manifest: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    chosen = contact_sheet(manifest, str(first), seed=3, count=6)
    assert contact_sheet(manifest, str(second), seed=3, count=6) == chosen
    assert first.read_bytes() == second.read_bytes()
    with Image.open(io.BytesIO(first.read_bytes())) as image:
        assert image.format == "PNG"
        assert image.width == 1240


def test_sources_take_turns_and_seeds_differ(manifest: str) -> None:
    tables = Tables(manifest)
    chosen = choose(tables, seed=0, count=9)
    assert Counter(one.source for one in chosen) == {"drawn": 3, "images": 3, "rare": 3}
    assert choose(tables, seed=1, count=9) != chosen
    assert len({one.key for one in choose(tables, seed=0, count=1000)}) == 30


def test_a_chosen_sample_is_read_by_its_key(manifest: str) -> None:
    corpus_read = open_corpus(manifest)
    for one in choose(Tables(manifest), seed=0, count=30):
        assert one.read(corpus_read).key == one.key


def test_hostile_captions_are_drawn(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus", shards=1, pairs=len(HOSTILE), images=0, texts=0)
    assert len(contact_sheet(str(manifest), str(tmp_path / "look.png"))) == len(HOSTILE)


def test_the_first_caption_that_the_font_covers_is_shown() -> None:
    sheet = _Sheet("title", "subtitle", 4)
    assert sheet._caption(pair(0, ["ภาษาไทย", "漢字", "Ελληνικά", "English"])) == ("Ελληνικά", "caption 3 of 4")
    assert sheet._caption(pair(0, ["漢字"])) == ("漢字", "caption 1 of 1")


def test_long_captions_are_cut_to_their_lines() -> None:
    sheet, font = _Sheet("title", "subtitle", 4), Font()(14)
    for text in ("word " * 200, "x" * 1000, "two words"):
        lines = sheet._wrap(text, font, 200, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 200 for line in lines)
        assert lines[-1].endswith("…") == (len(text) > 100)


def test_a_corpus_without_images_says_so(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus", pairs=0, images=0)
    with pytest.raises(ImglishError, match="no pair and no image"):
        contact_sheet(str(manifest), str(tmp_path / "look.png"))
    assert not (tmp_path / "look.png").exists()


def test_without_matplotlib_the_extra_is_named(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImglishError, match=r"pip install 'imglish\[audit\]'"):
        contact_sheet(manifest, str(tmp_path / "look.png"))
