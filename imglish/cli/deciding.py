"""Verbs on decisions: why, decide, sample-decisions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imglish.cli.options import Address, EngineName, Memory, Overrides, RecipeArgument, Workers, app
from imglish.engines import on_engine, open_engine
from imglish.errors import AlarmError
from imglish.progress import reporter
from imglish.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from imglish.ingest.changes import Changes
    from imglish.pipeline import DecideResult

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

    With --dry-run nothing is written, in seconds and in this process. A threshold is tried with --set, by its key below
    decide (rule.text_length.min_words=100), or a rule's own (text_length.min_words=100); whole keys of decide and match
    work too.
    """
    from imglish.rehearse import tried

    if tries and not dry_run:
        raise typer.BadParameter("--set belongs to --dry-run; to decide so, give it as an override: decide.KEY=VALUE")
    before = on_engine(load_recipe(recipe, overrides or ()), engine, address, workers, memory)
    if dry_run:
        after = load_recipe(recipe, [*(overrides or ()), *(tried(text, before) for text in tries or ())])
        result, changed = _rehearsed(before, after)
    else:
        result, changed = _decided(before)
    if as_json:
        typer.echo(json.dumps(_facts(result, changed, dry_run), ensure_ascii=False))
    else:
        _show(result, changed, dry_run)
    if result.alarm is not None and not dry_run:
        raise AlarmError(result.alarm)


def _rehearsed(before: Recipe, after: Recipe) -> tuple[DecideResult, Changes | None]:
    from imglish.rehearse import rehearse

    found = rehearse(before, after)
    return found.result, found.changes


def _decided(recipe: Recipe) -> tuple[DecideResult, Changes | None]:
    from imglish.ingest.changes import changes
    from imglish.pipeline import Pipeline
    from imglish.rehearse import corpus_trail

    with reporter() as report, open_engine(recipe) as engine:
        pipeline = Pipeline(recipe, engine, report.progress, report.note)
        result = pipeline.decide()
        for warning in result.warnings:
            report.note(f"WARNING: {warning}")
    old = corpus_trail(pipeline.store)
    return result, None if old is None else changes(pipeline.store, old, result.trail)


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
        same = changed is not None and not changed.rows and not changed.appeared and not changed.disappeared
        typer.echo("the corpus is as decided" if same else "shards and manifest follow with 'imglish build'")
    elif result.alarm is not None:
        typer.echo(f"a build would stop: {result.alarm}")
