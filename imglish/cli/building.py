"""Verbs on recipes: plan, build, fit, retry, gc."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from imglish.cli.options import Address, EngineName, Memory, Overrides, RecipeArgument, Workers, app
from imglish.engines import on_engine, open_engine
from imglish.progress import Reporter, reporter
from imglish.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from imglish.results import BuildResult


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    train: Annotated[bool, typer.Option("--train", help="The training run instead of the build.")] = False,
    manifest: Annotated[str | None, typer.Option(help="With --train: corpus; the recipe's own by default.")] = None,
    world_size: Annotated[int, typer.Option(min=1, help="With --train: number of ranks, a device each.")] = 1,
    device: Annotated[str, typer.Option(help="With --train: a100-40gb, a100-80gb, h100, ...")] = "a100-40gb",
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="With --train: share of the device's peak.")] = 0.4,
    workers: Workers = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of one worker for an hour, 0.04; with --train of one device, 1.5.")
    ] = None,
    download: Annotated[float, typer.Option(min=0.001, help="MB/s that all workers together may fetch.")] = 100.0,
    sample: Annotated[bool, typer.Option(help="Read and build a little of the sources that are here.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Say what a build takes by stage (units, requests, bytes, hours, cost), and what of it is done; change nothing.

    Works before anything is here: a source then counts as its expected_rows and expected_bytes say. With --train:
    memory of a device, operations, time and cost of the recipe's run; and what it will read from its corpus, what it
    has to cache, and how well it is shuffled.
    """
    from imglish import plan as planner

    if not train and (manifest is not None or world_size != 1):
        raise typer.BadParameter("--manifest and --world-size belong to --train; add it")
    chosen = load_recipe(recipe, overrides or ())
    if train:
        from imglish.plan_training import plan_training
        from imglish.training_budget import Terms

        for line in plan_training(chosen, manifest, Terms(device, world_size, mfu, 1.5 if price is None else price)):
            typer.echo(line)
        return
    made = planner.plan(chosen, planner.Terms(workers, 0.04 if price is None else price, download, sample))
    if as_json:
        typer.echo(json.dumps(made.to_json(), ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        for line in made.lines():
            typer.echo(line)
        return
    for text in (*made.sources(), made.table(), *made.notes()):
        console.print(text, markup=False, highlight=False) if isinstance(text, str) else console.print(text)


@app.command()
def build(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    engine: EngineName = None,
    address: Address = None,
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Build a corpus, or finish one: only units without a receipt are run.

    Kill it whenever you like and run it again. The recipe's `work` folder gets landing, tables, shards and
    manifest.json; the digest that is printed is the same on either engine and any number of workers.
    """
    from imglish.summary import build_summary

    chosen = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    with reporter() as report:
        result = build_recipe(chosen, report)
    typer.echo(build_summary(result))


@app.command()
def fit(
    what: Annotated[
        str, typer.Argument(metavar="text|visual|both|quality|alignment", help="Which tokenizer or scorer.")
    ],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    engine: EngineName = None,
    address: Address = None,
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Fit tokenizers anew on the corpus as decided now, and write the lock; a later build encodes with them.

    The scorers "quality" and "alignment" are fitted on what decide.measure names, and say how well they tell good from
    bad on records that were held out; a later build measures with them.

    A visual tokenizer of type "vqkd" without given weights is trained here, for hours or days, on a GPU if there is
    one; kill it and run the same command to go on. Nothing else trains it: a build asks for this command.
    """
    from imglish.pipeline import Pipeline

    if what not in ("text", "visual", "both", "quality", "alignment"):
        raise typer.BadParameter(f"{what}: use text, visual, both, quality or alignment")
    names = ("text", "visual") if what == "both" else (what,)
    chosen = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    with reporter() as report, open_engine(chosen) as chosen_engine:
        models = Pipeline(chosen, chosen_engine, report.progress, report.note).fit(names)
    for name in names:
        typer.echo(f"{name}: {models[name]['digest']} at {models[name]['path']}")
        if "auc" in models[name]:
            typer.echo(_separation(models[name]))


def _separation(model: Mapping[str, Any]) -> str:
    """What a scorer does on records that its fit did not see."""
    good, bad = model["held_out"]
    return (
        f"fitted on {model['records']} records; ROC AUC {model['auc']:.3f} on {good} good and {bad} bad ones held out\n"
        f"scores at 5, 50 and 95 %: good {model['good']}, bad {model['bad']}; a threshold of {model['good'][0]} drops "
        "5 % of the good ones"
    )


@app.command()
def retry(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    classes: Annotated[
        str,
        typer.Option("--class", help="Failures to fetch again: timeout,5xx,404,all; or what may have passed."),
    ] = "transient",
    engine: EngineName = None,
    address: Address = None,
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Fetch again what failed, by class, and update landing; what succeeded is neither asked for nor changed."""
    from imglish.ingest.retries import parse_classes
    from imglish.pipeline import Pipeline

    names = parse_classes(classes)
    chosen = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    with reporter() as report, open_engine(chosen) as chosen_engine:
        counts = Pipeline(chosen, chosen_engine, report.progress, report.note).retry(names)
    for name, count in sorted(counts.items()):
        if name.startswith("status/"):
            typer.echo(f"{name.removeprefix('status/'):<20} {count:>12,}")


@app.command()
def gc(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> None:
    """Remove files that neither the manifest nor a unit of this recipe names, and those of killed builds."""
    from imglish.gc import collect

    sizes, pending = collect(load_recipe(recipe, overrides or ()), dry_run)
    for path, size in sorted(sizes.items()):
        typer.echo(f"{size:>12} {path}")
    done = "would remove" if dry_run else "removed"
    typer.echo(f"{done} {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB")
    if pending is not None:
        typer.echo(f"the build is unfinished ({pending}), so its tables were kept; build it and collect again")


def build_recipe(recipe: Recipe, report: Reporter) -> BuildResult:
    """Build with the engine that the recipe names; warnings are shown."""
    from imglish.pipeline import Pipeline

    with open_engine(recipe) as engine:
        result = Pipeline(recipe, engine, report.progress, report.note).build()
    for warning in result.warnings:
        report.note(f"WARNING: {warning}")
    return result
