"""Verbs on finished corpora: verify, merge, replay, forget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from imglish.cli.options import ManifestArgument, app
from imglish.progress import Reporter, reporter


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


def verify_manifest(manifest: str, workers: int, report: Reporter) -> int:
    """Number of faults; each is shown."""
    from imglish.shards.verify import verify as check

    faults = check(manifest, workers, report.progress)
    for fault in faults:
        typer.echo(str(fault))
    return len(faults)
