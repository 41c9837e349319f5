"""Look: one PNG of what a corpus holds: samples with captions, one view with its codes and mask, what codes stand for.

    contact_sheet("corpus/manifest.json", "corpus/look.png", seed=0, count=12)

The samples are `choice.choose` of the seed, so another seed shows others. The text is set in DejaVu Sans, which
matplotlib brings: a pair is shown with its first caption, or, when the font lacks letters of that one, with the first
that it can write, and says which one of how many it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imglish.audit.choice import Chosen, choose
from imglish.audit.common import clean, number, require, write_file
from imglish.audit.look_codes import cut, decoded, feature_picture, frequent, patches_by_code, tokenizer_of
from imglish.audit.look_panels import PANEL, boxed, coded, masked
from imglish.audit.tables import Tables
from imglish.errors import ImglishError
from imglish.seeds import stream
from imglish.shards import ImageSample, PairSample, open_corpus, render
from imglish.shards.images import decode_jpeg
from imglish.shards.manifest import VisualTokenizer
from imglish.shards.masks import Masks, block_masks
from imglish.storage import Store

COLUMNS = 4
_WIDTH, _EDGE, _GAP, _PAD = 1240, 40, 20, 12
_CARD = (_WIDTH - 2 * _EDGE - (COLUMNS - 1) * _GAP) // COLUMNS
_PICTURE = 190  # height of a card's picture
_CARD_HEIGHT = _PICTURE + 118
_PANEL = PANEL
_PAPER, _WHITE, _INK, _MUTED, _LINE = "#f6f7f8", "#ffffff", "#1b1f24", "#59626d", "#d9dde2"
_CODE_ROWS, _CODE_PATCHES = 6, 10


@dataclass(frozen=True)
class _Shown:
    chosen: Chosen
    sample: PairSample | ImageSample


def contact_sheet(manifest_path: str, output_png: str, seed: int = 0, count: int = 12) -> list[Chosen]:
    """Write the PNG and return the samples that it shows.

    Below them is the sample with the lowest rank (a pair if there is one): its stored image with the box of view 0,
    that view with the code of every patch, and with one block-wise mask of the default share. The last row shows what
    some of those codes stand for: patches of all shown views that have them; and, of a VQ-KD tokenizer that lies in the
    corpus with its decoder, the decoder's features as colours. ImglishError when the corpus has no image or matplotlib
    is not installed; ManifestError and ShardError as for the report.
    """
    tables = Tables(str(manifest_path))
    chosen = choose(tables, seed, count)
    if not chosen:
        raise ImglishError(f"{manifest_path}: the corpus has no pair and no image to look at")
    corpus = open_corpus(str(manifest_path))
    shown = [_Shown(one, one.read(corpus)) for one in chosen]
    manifest = tables.manifest
    sheet = _Sheet(f"{manifest.name}@{manifest.version}", f"{manifest.digest[:16]} · seed {seed}", len(shown))
    for place, one in enumerate(shown):
        sheet.card(place, one)
    main = min(shown, key=lambda one: (one.chosen.kind != "pair", one.chosen.rank))
    visual = manifest.tokenizers.visual
    sheet.detail(main, visual, seed)
    tokenizer = tokenizer_of(Store(str(manifest_path).rpartition("/")[0] or "."), visual)
    sheet.codes(main, shown, visual, decoded(tokenizer, main.sample.codes[0]))
    write_file(str(output_png), sheet.png())
    return chosen


class Font:
    """DejaVu Sans in the sizes asked for, and which characters it has."""

    @cached_property
    def folder(self) -> Path:
        return Path(require("matplotlib").get_data_path(), "fonts", "ttf")

    def __call__(self, points: int, bold: bool = False) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), points)

    @cached_property
    def characters(self) -> frozenset[int]:
        with require("fontTools.ttLib").TTFont(self.folder / "DejaVuSans.ttf") as font:
            return frozenset(font.getBestCmap())

    def covers(self, text: str) -> bool:
        return all(ord(character) in self.characters for character in text)


class _Sheet:
    """The picture while it is drawn."""

    def __init__(self, title: str, subtitle: str, cards: int) -> None:
        self.font = Font()
        rows = -(-cards // COLUMNS)
        self.top = _EDGE + 76
        self.bottom = self.top + rows * (_CARD_HEIGHT + _GAP)
        self.image = Image.new("RGB", (_WIDTH, self.bottom + 2 * _PANEL + 330), _PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self._text((_EDGE, _EDGE - 6), clean(title, 60), self.font(30, bold=True), _INK)
        note = f"{subtitle} · {cards} samples, evenly over the sources; captions are the first that the font can write"
        self._text((_EDGE, _EDGE + 38), note, self.font(14), _MUTED)

    def card(self, place: int, one: _Shown) -> None:
        """One sample: picture, caption, where it is from."""
        x = _EDGE + place % COLUMNS * (_CARD + _GAP)
        y = self.top + place // COLUMNS * (_CARD_HEIGHT + _GAP)
        self.draw.rounded_rectangle((x, y, x + _CARD, y + _CARD_HEIGHT), 8, _WHITE, _LINE)
        picture = Image.fromarray(decode_jpeg(one.sample.jpeg))
        picture.thumbnail((_CARD - 2 * _PAD, _PICTURE - _PAD), Image.Resampling.LANCZOS)
        left, top = x + (_CARD - picture.width) // 2, y + _PAD + (_PICTURE - _PAD - picture.height) // 2
        self.image.paste(picture, (left, top))
        caption, which = self._caption(one.sample)
        lines = self._wrap(caption, self.font(14), _CARD - 2 * _PAD, 3)
        for line, text in enumerate(lines):
            self._text((x + _PAD, y + _PICTURE + 10 + 19 * line), text, self.font(14), _INK)
        origin = f"{one.chosen.kind} · {clean(one.chosen.source, 18)} · {one.chosen.key[:8]}"
        self._text((x + _PAD, y + _CARD_HEIGHT - 40), which, self.font(11), _MUTED)
        self._text((x + _PAD, y + _CARD_HEIGHT - 23), origin, self.font(11), _MUTED)

    def detail(self, one: _Shown, visual: VisualTokenizer, seed: int) -> None:
        """Stored image with the box of view 0, that view's codes, one mask."""
        view, codes = one.sample.views[0], one.sample.codes[0]
        pixels = decode_jpeg(one.sample.jpeg)
        rendered = Image.fromarray(render(pixels, view, visual.size))
        rank = stream(seed, "look", "mask").keys([one.chosen.rank])
        wanted = Masks().patches(visual.grid)
        mask = block_masks(rank, visual.grid, wanted)[0]
        width, height, flip = (int(value) for value in view[2:])
        seen = f"{width} x {height} of {pixels.shape[1]} x {pixels.shape[0]} pixels"
        panels = [
            ("Stored image and view 0", f"{seen}{', mirrored' if flip else ''}", boxed(pixels, view)),
            (
                "Codes of the view",
                f"{len(codes)} patches, {len(set(codes.tolist()))} different codes of {number(visual.codes)}",
                coded(rendered, codes.reshape(visual.grid), self.font(9)),
            ),
            (
                "A mask of the view",
                f"{wanted} of {len(mask)} patches, block-wise",
                masked(rendered, mask.reshape(visual.grid)),
            ),
        ]
        self._text((_EDGE, self.bottom + 14), "What the model sees", self.font(20, bold=True), _INK)
        caption, _ = self._caption(one.sample)
        origin = f"{one.chosen.kind} · {clean(one.chosen.source, 30)} · {one.chosen.key}"
        self._text((_EDGE, self.bottom + 44), origin, self.font(13), _MUTED)
        for line, text in enumerate(self._wrap(caption, self.font(15), _WIDTH - 2 * _EDGE, 2)):
            self._text((_EDGE, self.bottom + 66 + 20 * line), text, self.font(15), _INK)
        for place, (title, said, picture) in enumerate(panels):
            left, top = _EDGE + place * (_PANEL + _GAP), self.bottom + 118
            self.image.paste(picture, (left, top))
            self._text((left, top + _PANEL + 10), title, self.font(14, bold=True), _INK)
            self._text((left, top + _PANEL + 32), said, self.font(13), _MUTED)

    def codes(
        self, one: _Shown, shown: Sequence[_Shown], visual: VisualTokenizer, features: NDArray[np.float32] | None
    ) -> None:
        """Patches with the same code as some of the view's, from all shown views, and the decoder's features."""
        top = self.bottom + _PANEL + 190
        views = [(other.sample, number) for other in shown for number in range(len(other.sample.views))]
        patches = np.concatenate(
            [cut(render(sample.jpeg, sample.views[n], visual.size), visual.grid) for sample, n in views]
        )
        codes = np.concatenate([sample.codes[n] for sample, n in views])
        wanted = frequent(one.sample.codes[0], codes, _CODE_ROWS)
        found = patches_by_code(patches, codes, wanted, _CODE_PATCHES)
        self._text((_EDGE, top), "What codes stand for", self.font(20, bold=True), _INK)
        said = f"patches of the {len(views)} views on this sheet with a code of the view above, the most typical first"
        self._text((_EDGE, top + 30), said, self.font(13), _MUTED)
        height = _PANEL // _CODE_ROWS
        for row, (code, mine) in enumerate(found.items()):
            y = top + 58 + row * height
            self._text((_EDGE, y + 10), f"{code}", self.font(13, bold=True), _INK)
            self._text((_EDGE, y + 28), f"{int((codes == code).sum())} patches", self.font(11), _MUTED)
            for column, patch in enumerate(mine):
                tile = Image.fromarray(patch).resize((height - 6, height - 6), Image.Resampling.BICUBIC)
                self.image.paste(tile, (_EDGE + 100 + column * height, y))
        if features is not None:
            left = _EDGE + 2 * (_PANEL + _GAP)
            picture = Image.fromarray(feature_picture(features, visual.grid))
            self.image.paste(picture.resize((_PANEL, _PANEL), Image.Resampling.NEAREST), (left, top + 58))
            self._text(
                (left, top + 30), "The decoder's features of the codes, three main directions", self.font(13), _MUTED
            )

    def png(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG", optimize=True)
        return file.getvalue()

    def _caption(self, sample: PairSample | ImageSample) -> tuple[str, str]:
        """The caption to show and which one it is."""
        if isinstance(sample, ImageSample):
            return "", "no caption"
        shown = [clean(caption, 400) for caption in sample.captions]
        place = next((n for n, caption in enumerate(shown) if self.font.covers(caption)), 0)
        return shown[place], f"caption {place + 1} of {len(shown)}"

    def _wrap(self, text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
        """At most `most` lines that fit; the last one ends in … when something is left out."""
        lines: list[str] = []
        rest = text
        while rest and len(lines) < most:
            line = _fitting(rest, font, width)
            rest = rest[len(line) :].lstrip()
            lines.append(line.rstrip())
        if rest and lines:
            lines[-1] = _fitting(lines[-1], font, width - int(font.getlength("…"))).rstrip() + "…"
        return lines

    def _text(self, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, colour: str) -> None:
        self.draw.text(place, text, colour, font)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The longest beginning that fits, cut at a space where there is one; at least one character."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    if low == len(text):
        return text
    space = text.rfind(" ", 0, low + 1)
    return text[:space] if space > 0 else text[:low]
