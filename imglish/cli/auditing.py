"""Verbs for auditors: audit, diff, look, croissant."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Annotated

import typer

from imglish.cli.options import ManifestArgument, app, beside
from imglish.progress import reporter


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
    run: Annotated[
        str | None, typer.Option(help="Audit this run instead: its folder, or its run.json; writes run-audit.html.")
    ] = None,
    index: Annotated[bool, typer.Option("--index", help="Make the index of words for `imglish look` instead.")] = False,
    step: Annotated[int | None, typer.Option(min=1, help="With --run: whose samples to show; the last.")] = None,
) -> None:
    """Write a self-contained HTML report on a corpus, and audit.json with its numbers.

    With --index: makes the index by which `imglish look` finds words, and nothing else. With --run: which data a run
    saw, checked against its manifest, and a statement that others can check.
    """
    if require and (index or run is not None):
        raise typer.BadParameter("--require is about the report of a corpus; leave --run and --index out")
    if step is not None and run is None:
        raise typer.BadParameter("--step belongs to --run; add it")
    if index:
        from imglish.audit.words import build_index

        typer.echo(build_index(manifest))
        return
    if run is not None:
        audit_run(manifest, run, output or beside(manifest, "run-audit.html"), step)
        return
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


def audit_run(manifest: str, run: str, target: str, step: int | None) -> None:
    """The audit of a run; its statement is shown."""
    from imglish.audit.run import run_report

    with reporter() as report:
        values = run_report(manifest, run, target, step, report.progress)
    for line in values["statement"]:
        typer.echo(line)
    typer.echo(target)


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
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Draw a contact sheet into this PNG instead; needs no browser.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows other samples on the sheet.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; a free one when left out.")] = 0,
) -> None:
    """Search and leaf through a corpus in the browser, on this machine only; or draw a contact sheet with --output."""
    if output is not None:
        from imglish.audit.look import contact_sheet

        contact_sheet(manifest, output, seed=seed)
        typer.echo(output)
        return
    from imglish.audit.browse import LookServer

    with LookServer(manifest, port) as server:
        typer.echo(f"{server.url}  (only from this machine; stop with Ctrl-C)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@app.command()
def croissant(
    manifest: ManifestArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="croissant.json beside it.")] = None,
    card: Annotated[str | None, typer.Option(help="Also write a dataset card in Markdown here.")] = None,
    date: Annotated[str | None, typer.Option(help="Day of publication, YYYY-MM-DD; a corpus has none itself.")] = None,
    url: Annotated[str | None, typer.Option(help="Where the manifest's folder is published.")] = None,
) -> None:
    """Describe a corpus in Croissant 1.1 for other tools, and write a dataset card."""
    from imglish.audit.card import card as write_card
    from imglish.audit.common import write_file
    from imglish.audit.croissant import DATE
    from imglish.audit.croissant import croissant as describe_corpus

    if date is not None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        raise typer.BadParameter(f"{date}: write the day as 2026-11-26")
    texts = {output or beside(manifest, "croissant.json"): describe_corpus(manifest, date or DATE, url)}
    texts |= {} if card is None else {card: write_card(manifest)}
    for path, text in texts.items():
        typer.echo(write_file(path, text.encode("utf-8")))


def draw(manifest: str) -> list[str]:
    """Report and contact sheet beside a manifest; the paths of all three."""
    from imglish.audit.look import contact_sheet
    from imglish.audit.report import report as write_report

    targets = [manifest, beside(manifest, "report.html"), beside(manifest, "look.png")]
    write_report(manifest, targets[1])
    contact_sheet(manifest, targets[2])
    return targets
