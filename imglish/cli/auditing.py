"""Verbs for auditors: audit, diff, look."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from imglish.cli.options import ManifestArgument, app, beside


@app.command()
def audit(
    manifest: ManifestArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="HTML file; report.html beside it.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="Condition on audit.json, as pairs.language.en.share<=0.9; exits 1 when one fails."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows other samples.")] = 0,
    batch: Annotated[
        str | None, typer.Option(help="Planned run: global batch; pair=2048,image=2048,text=2048 when left out.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Planned run: steps.")] = 1_000_000,
) -> None:
    """Write a self-contained HTML report on a corpus, and audit.json with its numbers."""
    from imglish.audit.gate import check, parse
    from imglish.audit.report import report as write_report
    from imglish.audit.tokens import PAPER_BATCH
    from imglish.shards.replay import parse_counts

    for condition in require or ():
        parse(condition)  # a mistake is said before the work is done
    target = output or beside(manifest, "report.html")
    planned = PAPER_BATCH if batch is None else parse_counts(batch)
    result = write_report(manifest, target, seed, planned, steps)
    typer.echo(target)
    check(result.values, require or ())


@app.command()
def diff(
    old: ManifestArgument,
    new: Annotated[str, typer.Argument(help="manifest.json of the corpus to compare with it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
    html: Annotated[
        str | None, typer.Option(help="Page to write: both side by side, distances of distributions, examples.")
    ] = None,
) -> None:
    """Say what changed from one corpus to another: samples by source and reason, decisions, tokenizers, recipe."""
    from imglish.audit.diff import describe
    from imglish.audit.diff import diff as compare
    from imglish.audit.diff_page import diff_page

    found = compare(old, new) if html is None else diff_page(old, new, html)
    typer.echo(json.dumps(found, ensure_ascii=False, sort_keys=True) if as_json else describe(found))


@app.command()
def look(
    manifest: ManifestArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="PNG file; look.png beside it.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows other samples.")] = 0,
) -> None:
    """Draw a contact sheet: images with captions, a view with its code grid, a view with its mask."""
    from imglish.audit.look import contact_sheet

    target = output or beside(manifest, "look.png")
    contact_sheet(manifest, target, seed=seed)
    typer.echo(target)


def draw(manifest: str) -> list[str]:
    """Report and contact sheet beside a manifest; the paths of all three."""
    from imglish.audit.look import contact_sheet
    from imglish.audit.report import report as write_report

    targets = [manifest, beside(manifest, "report.html"), beside(manifest, "look.png")]
    write_report(manifest, targets[1])
    contact_sheet(manifest, targets[2])
    return targets
