"""One build in a process of its own, to be killed: `python -m tests.pipeline.build_once recipe.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from imglish.engines.dask import DaskEngine
from imglish.pipeline import Pipeline
from imglish.recipe import make_recipe
from imglish.storage import SCRATCH

if __name__ == "__main__":
    recipe = make_recipe(json.loads(Path(sys.argv[1]).read_text()))
    with DaskEngine(workers=2, memory="2GB", scratch=str(Path(recipe.work, SCRATCH))) as engine:
        Pipeline(recipe, engine).build()
