"""The command itself, and the arguments that several of its verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


def beside(manifest: str, name: str) -> str:
    """Path or URL of a file in the manifest's folder."""
    folder, slash, _ = manifest.rpartition("/")
    return f"{folder}{slash}{name}"
