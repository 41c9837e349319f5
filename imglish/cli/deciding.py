"""Verbs on decisions: why, decide, sample-decisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imglish.cli.options import Address, EngineName, Memory, Overrides, RecipeArgument, Workers, app
from imglish.engines import on_engine, open_engine
from imglish.errors import AlarmError
from imglish.progress import reporter
from imglish.recipe import Recipe, load_recipe
from imglish.storage import Store

if TYPE_CHECKING:
    from imglish.ingest.changes import Changes
    from imglish.ingest.trail import Opened
    from imglish.results import DecideResult

StoryArgument = Annotated[
    str, typer.Argument(help="manifest.json of a corpus, or a trail of decisions that an alarm names; path or URL.")
]


@app.command()
def why(
    manifest: StoryArgument,
    key: Annotated[
        str,
        typer.Argument(help="Record id in hex or its first digits, source/row, or a URL (* and ? list candidates)."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Tell a record's whole story: where it came from, what was measured, what decided, where it is in the corpus.

    With every occurrence of the record, every rule that fired with its score, and every verified match.
    """
    from imglish.audit.keys import UnknownKeyError
    from imglish.audit.why import open_all, tell
    from imglish.audit.why_text import story_lines

    stories, unknown = [], None
    for opened in open_all(manifest):
        try:
            stories.append(tell(opened, key))
        except UnknownKeyError as error:
            unknown = unknown or error
    if not stories and unknown is not None:
        raise unknown
    if as_json:
        typer.echo(json.dumps(stories[0] if len(stories) == 1 else stories, ensure_ascii=False))
        return
    typer.echo("\n\n".join("\n".join(story_lines(story)) for story in stories))


@app.command()
def decide(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change; reads no payload.")] = False,
    tries: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --dry-run: another value, as text_length.min_words=100; once per value."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
    engine: EngineName = None,
    address: Address = None,
    workers: Workers = None,
    memory: Memory = None,
) -> None:
    """Decide anew, without tokenizing or packing, and say what changed against the corpus as it was built.

    In this process when nothing but deciding is left, of at most a million occurrences, and no engine or workers are
    named. With --dry-run nothing is written, in seconds and in this process (with --workers in as many). A threshold
    is tried with --set, by its key below decide (rule.text_length.min_words=100), or a rule's own
    (text_length.min_words=100); whole keys of decide and match work too.
    """
    from imglish.rehearse import tried

    if tries and not dry_run:
        raise typer.BadParameter("--set belongs to --dry-run; to decide so, give it as an override: decide.KEY=VALUE")
    before = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    on_workers = any(given is not None for given in (engine, workers, before.run.address))
    if dry_run:
        after = load_recipe(recipe, [*(overrides or ()), *(tried(text, before) for text in tries or ())])
        result, changed = _rehearsed(before, after, on_workers)
    else:
        result, changed = _decided(before, on_workers)
    if as_json:
        typer.echo(json.dumps(_facts(result, changed, dry_run), ensure_ascii=False))
    else:
        _show(result, changed, dry_run)
    if result.alarm is not None and not dry_run:
        raise AlarmError(result.alarm)


def _rehearsed(before: Recipe, after: Recipe, on_workers: bool) -> tuple[DecideResult, Changes | None]:
    from imglish.rehearse import rehearse

    if on_workers and before.run.address is not None:
        raise typer.BadParameter("a dry run works on this machine; leave --address out")
    with open_engine(before) if on_workers else nullcontext() as engine:
        found = rehearse(before, after, engine)
    return found.result, found.changes


def _decided(recipe: Recipe, on_workers: bool) -> tuple[DecideResult, Changes | None]:
    from imglish.ingest.changes import changes
    from imglish.pipeline import Pipeline
    from imglish.rehearse import corpus_trail, decide_here

    with reporter() as report:
        result = None if on_workers else decide_here(recipe, report.note)
        if result is None:
            with open_engine(recipe) as engine:
                result = Pipeline(recipe, engine, report.progress, report.note).decide()
        for warning in result.warnings:
            report.note(f"WARNING: {warning}")
    store = Store(recipe.work)
    old = corpus_trail(store)
    return result, None if old is None else changes(store, old, result.trail)


def _facts(result: DecideResult, changed: Changes | None, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "trail": None if dry_run else result.path,
        "decisions": result.trail.decisions,
        "counts": dict(result.trail.counts),
        "changes": None if changed is None else changed.to_json(),
        "alarm": result.alarm,
        "warnings": result.warnings,
        "seconds": result.seconds,
    }


def _show(result: DecideResult, changed: Changes | None, dry_run: bool) -> None:
    from imglish.summary import changes_summary, decide_summary

    if not dry_run:
        typer.echo(decide_summary(result))
    if changed is not None:
        typer.echo(changes_summary(changed))
    if not dry_run:
        typer.echo(f"decisions {result.trail.decisions}")
        typer.echo(f"trail {result.path}")
        typer.echo(
            "the corpus is as decided"
            if changed is not None and changed.same
            else "shards and manifest follow with 'imglish build'"
        )
    elif result.alarm is not None:
        typer.echo(f"a build would stop: {result.alarm}")


@app.command()
def sample_decisions(
    manifest: StoryArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder for index.html and labels.csv.")] = None,
    labels: Annotated[str | None, typer.Option(help="CSV that the page saved: compute precision by rule.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Most decisions of one source, rule and verdict.")] = 10,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
    rule: Annotated[list[str] | None, typer.Option(help="Only of this rule, with or without version.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only of this source.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Draw decisions to label by source, rule and verdict, as a page that works from disk; or read the labels back.

    The page shows pictures, captions or texts beside the record that they were compared with, takes right, wrong or
    unsure, and saves labels.csv. With --labels the precision of every rule is computed, weighted by the strata.
    """
    from imglish.ingest.trail import open_trail

    if (output is None) == (labels is None):
        raise typer.BadParameter("give -o FOLDER to draw a sample, or --labels CSV to read its labels")
    opened = open_trail(manifest)
    if labels is None:
        assert output is not None
        _draw(opened, output, each, seed, rule or (), source or (), as_json)
    else:
        _measure(opened, labels, as_json)


def _draw(
    opened: Opened, folder: str, each: int, seed: int, rules: Sequence[str], sources: Sequence[str], as_json: bool
) -> None:
    from imglish.audit.labels_page import write_sample

    page, items = write_sample(opened, folder, each, seed, rules, sources)
    strata = {item.stratum: item.of for item in items}
    if as_json:
        rows = [{**stratum._asdict(), "decisions": size} for stratum, size in strata.items()]
        typer.echo(json.dumps({"page": page, "items": len(items), "strata": rows}, ensure_ascii=False))
        return
    typer.echo(f"{len(items)} of {sum(strata.values()):,} decisions, in {len(strata)} strata")
    typer.echo(page)


def _measure(opened: Opened, labels: str, as_json: bool) -> None:
    from imglish.audit.labels import count_strata
    from imglish.audit.precision import precision, read_labels
    from imglish.summary import precision_summary

    strata = count_strata(opened)
    found = precision(read_labels(labels, opened.trail.decisions, strata), strata)
    if as_json:
        typer.echo(json.dumps({"decisions": opened.trail.decisions, "rules": [one.to_json() for one in found]}))
    else:
        typer.echo(precision_summary(found))
