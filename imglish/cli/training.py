"""Verbs on runs: train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imglish.cli.options import Overrides, RecipeArgument, app
from imglish.progress import Reporter, reporter
from imglish.recipe import Recipe, load_recipe
from imglish.storage import is_url

if TYPE_CHECKING:
    from imglish.trainer import RunResult


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    manifest: Annotated[str | None, typer.Option(help="Corpus to train on; the recipe's own by default.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; run/ in `work`.")] = None,
) -> None:
    """Train the recipe's model on its corpus; run it again to resume at the last checkpoint."""
    from imglish.summary import train_summary

    chosen = load_recipe(recipe, overrides or ())
    with reporter() as report:
        result = train_recipe(chosen, manifest, output, report)
    typer.echo(train_summary(result))


def train_recipe(recipe: Recipe, manifest: str | None, output: Path | None, report: Reporter) -> RunResult:
    """Train as the recipe says, showing every few steps. A corpus elsewhere needs a local folder for its run."""
    from imglish.trainer import train as run
    from imglish.trainer import watch

    corpus = manifest or f"{recipe.work}/manifest.json"
    if output is None and is_url(recipe.work):
        raise typer.BadParameter(f"the corpus is at {recipe.work}; give the run a folder of this machine with --output")
    folder = output or Path(recipe.work) / "run"
    with report.paused(), watch(recipe.train) as progress:
        return run(corpus, recipe.train, recipe.seed, folder, progress=progress)
