"""Verbs on decisions: why, decide, sample-decisions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from imglish.cli.options import app

StoryArgument = Annotated[
    str, typer.Argument(help="manifest.json of a corpus, or a trail of decisions that an alarm names; path or URL.")
]


@app.command()
def why(
    manifest: StoryArgument,
    key: Annotated[
        str, typer.Argument(help="Record id in hex or its first digits, source/row, or a URL (* and ? list candidates).")
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
