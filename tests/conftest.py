"""Shape annotations of the model are checked in every call that a test makes; a corpus that several rooms ask about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from imglish.recipe import Recipe

settings.register_profile("no clock", deadline=None)  # how busy the machine is decides no test
settings.load_profile("no clock")

SHAPED = ("embeddings", "layers", "pooling", "route", "transformer")
install_import_hook([f"imglish.model.{name}" for name in SHAPED], "beartype.beartype")


@pytest.fixture(scope="session")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """`tests.pipeline.decided`, built once; copy its folder before changing anything."""
    from tests.pipeline.decided import build_decided

    return build_decided(tmp_path_factory.mktemp("decided"))
