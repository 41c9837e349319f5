"""One sample as the model sees it: the stored picture with a view's box, the view's codes, a mask of it.

boxed(pixels, view), coded(rendered, codes, font), masked(rendered, mask)       pictures of PANEL pixels a side
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PANEL = 373
BOX, MASK = "#e0582b", (88, 96, 108)
GOLDEN_RATIO = 0.618033988749895
"""Hues of neighbouring codes lie this far apart, so that they differ."""
NUMBER_CELL = 24
"""Pixels; a smaller patch has no room for its code."""


def boxed(pixels: NDArray[np.uint8], view: NDArray[np.uint16]) -> Image.Image:
    panel = Image.new("RGB", (PANEL, PANEL), "#ffffff")
    scale = min(PANEL / pixels.shape[1], PANEL / pixels.shape[0])
    size = (max(1, int(pixels.shape[1] * scale)), max(1, int(pixels.shape[0] * scale)))
    left, top = (PANEL - size[0]) // 2, (PANEL - size[1]) // 2
    panel.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), (left, top))
    x, y, width, height = (int(value) * scale for value in view[:4])
    box = (left + x, top + y, left + x + width - 1, top + y + height - 1)
    ImageDraw.Draw(panel).rectangle(box, outline=BOX, width=3)
    return panel


def coded(rendered: Image.Image, codes: NDArray[np.uint16], font: ImageFont.FreeTypeFont) -> Image.Image:
    """Every patch tinted by its code, and the code's number where there is room."""
    panel = _enlarge(rendered)
    draw = ImageDraw.Draw(panel, "RGBA")
    for (row, column), code in np.ndenumerate(codes):
        box = _cell(codes.shape, row, column)
        red, green, blue = (int(255 * part) for part in colorsys.hsv_to_rgb(int(code) * GOLDEN_RATIO % 1, 0.75, 0.9))
        draw.rectangle(box, (red, green, blue, 120), (255, 255, 255, 120))
        if min(box[2] - box[0], box[3] - box[1]) >= NUMBER_CELL - 1:
            middle = ((box[0] + box[2] + 1) / 2, (box[1] + box[3] + 1) / 2)
            draw.text(middle, str(code), "#000000", font, anchor="mm", stroke_width=1, stroke_fill="#ffffffb0")
    return panel


def masked(rendered: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    panel = _enlarge(rendered)
    draw = ImageDraw.Draw(panel, "RGBA")
    for (row, column), hidden in np.ndenumerate(mask):
        fill = (*MASK, 245) if hidden else None
        draw.rectangle(_cell(mask.shape, row, column), fill, (255, 255, 255, 90))
    return panel


def _enlarge(rendered: Image.Image) -> Image.Image:
    return rendered.resize((PANEL, PANEL), Image.Resampling.BICUBIC)


def _cell(grid: Sequence[Any], row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a patch on a panel."""
    top, bottom = row * PANEL // grid[0], (row + 1) * PANEL // grid[0] - 1
    left, right = column * PANEL // grid[1], (column + 1) * PANEL // grid[1] - 1
    return left, top, right, bottom
