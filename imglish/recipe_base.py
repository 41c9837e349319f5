"""What every part of a recipe is built on: frozen sections, and the mark of fields that never change bytes.

    class FetchConfig(Section):
        threads: Annotated[int, RUN] = 32

    content_fields(FetchConfig())           # {...} without `threads`

Every section is a frozen model that refuses unknown keys.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B")
RUN = Field(json_schema_extra={"affects": "run"})
"""Marks a field that changes how a build runs, never its bytes."""


def parse_size(text: str) -> int:
    """Bytes of a size such as "4GB" or "512MiB"; ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size; write it like 4GB or 512MiB")
    return int(float(found.group(1)) * (1024 if found.group(3) else 1000) ** ("KMGT".index(found.group(2)) + 1))


def format_size(count: float) -> str:
    """Bytes for people: "68 B", "1.5 kB", "67.7 GB"."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next((f"{count / size:,.1f} {name}" for size, name in units if count >= size), f"{count:,.0f} B")


class Section(BaseModel):
    """Base of every part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def content_fields(section: BaseModel) -> dict[str, Any]:
    """The fields that change bytes, nested, as plain JSON values."""
    kept: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        if _is_run(info):
            continue
        kept[name] = _plain(getattr(section, name))
    return kept


def _is_run(info: Any) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("affects") == "run"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return content_fields(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
