"""Verbs on runs: train, export, bench."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imglish.cli.options import Overrides, RecipeArgument, app
from imglish.progress import Reporter, reporter
from imglish.recipe import Recipe, load_recipe
from imglish.storage import is_url

if TYPE_CHECKING:
    from imglish.trainer import RunResult

ManifestOption = Annotated[str | None, typer.Option(help="Corpus to train on; the recipe's own by default.")]


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="TOML recipe; see recipes/ for examples.")] = None,
    overrides: Overrides = None,
    manifest: ManifestOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; run/ in `work`.")] = None,
    from_run: Annotated[Path | None, typer.Option(help="run.json of a run to repeat, instead of a recipe.")] = None,
) -> None:
    """Train the recipe's model on its corpus; run it again to resume at the last checkpoint.

    On several devices: torchrun --nproc-per-node 8 -m imglish train RECIPE. SIGTERM or SIGUSR1 save and exit 75.
    """
    from imglish.summary import train_summary

    if (recipe is None) == (from_run is None):
        raise typer.BadParameter("give a recipe, or --from-run with the run.json of a run")
    with reporter() as report:
        if recipe is not None:
            result = train_recipe(load_recipe(recipe, overrides or ()), manifest, output, report)
        else:
            assert from_run is not None
            result = repeat(from_run, manifest, output, report)
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(train_summary(result))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or one of its checkpoints.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    average: Annotated[
        bool, typer.Option("--average", help="The moving average of the parameters (train.ema).")
    ] = False,
    released: Annotated[bool, typer.Option("--released", help="Also a .pth with the official names.")] = False,
) -> None:
    """Write a trained model for others: model.safetensors, config.json, and a card with corpus and licences."""
    from imglish.export import export as write

    for path in write(run, output, average, released):
        typer.echo(path)


@app.command()
def bench(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    manifest: ManifestOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each part.")] = 20,
) -> None:
    """Time reader, training step and both together on this machine, and say which of them is the limit."""
    from imglish.bench import bench as measure

    chosen = load_recipe(recipe, overrides or ())
    for line in measure(manifest or f"{chosen.work}/manifest.json", chosen.train, chosen.seed, steps):
        typer.echo(line)


def repeat(run: Path, manifest: str | None, output: Path | None, report: Reporter) -> RunResult:
    """Run again what a `run.json` describes, in another folder; says what here differs from there."""
    from imglish.trainer import train as start
    from imglish.trainer import watch
    from imglish.trainer.run import read_run

    if output is None:
        raise typer.BadParameter("give the repeated run a folder of its own with --output")
    facts, config, seed = read_run(run)
    with report.paused(), watch(config) as progress:
        corpus = manifest or facts["corpus"]["manifest"]
        result = start(corpus, config, seed, output, repeats=facts, progress=progress)
    for line in json.loads((output / "run.json").read_bytes())["repeats"]["differs"]:
        report.note(f"not the machine of that run, so last digits of losses may differ: {line}")
    return result


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
