"""Rules on what a picture looks like and what scorers say of it."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from imglish.ingest.rules.base import Check, Family, Finding, first_failure, floats
from imglish.recipe import Section


class ImageDetail(Section):
    """Thresholds of `image_detail`; None sets no limit."""

    min_entropy: float | None = Field(default=1.0, ge=0, le=8)
    """Bits of the grey histogram: an empty picture has 0. Ours."""
    min_sharpness: float | None = Field(default=None, ge=0)
    """Variance of the Laplacian at a short side of 256 pixels; blurred photographs have little. Look at yours first."""


def image_detail(rows: pa.Table, limits: ImageDetail) -> Finding:
    """Drops pictures with nothing in them, or blurred ones (variance of the Laplacian: Pech-Pacheco et al. 2000)."""
    checks = [
        Check("entropy", floats(rows, "entropy"), "<", limits.min_entropy),
        Check("sharpness", floats(rows, "sharpness"), "<", limits.min_sharpness),
    ]
    return first_failure(rows.num_rows, checks)


class Nsfw(Section):
    """Thresholds of `nsfw`."""

    max_score: float = Field(default=0.5, ge=0, le=1)
    """Probability by the scorer (COYO, data-juicer and LAION's aesthetic sets: 0.5)."""


def nsfw(rows: pa.Table, limits: Nsfw) -> Finding:
    """Drops pictures that the scorer calls not safe for work (COYO-700M: OpenNSFW2 > 0.5)."""
    return first_failure(rows.num_rows, [Check("nsfw", floats(rows, "nsfw_score"), ">", limits.max_score)])


FAMILIES = (
    Family("image_detail", 1, ("entropy", "sharpness"), image_detail, {"": ImageDetail()}),
    Family("nsfw", 1, ("nsfw_score",), nsfw, {"": Nsfw()}),
)
