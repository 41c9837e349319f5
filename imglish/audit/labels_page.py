"""The page on which decisions are labelled: one HTML file that works from disk and asks for nothing.

    write_sample(opened, "sample", each=10, seed=0)        # sample/index.html, sample/labels.csv

Its one script is named by its digest in the content security policy, so nothing that came from a caption can run;
texts are escaped, pictures drawn anew. Labels are kept in the browser until they are saved as CSV.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import replace

from imglish.audit.common import asset, require, template, write_file
from imglish.audit.labels import Item, chosen_strata, count_strata, draw
from imglish.audit.precision import COLUMNS, DIGITS, LABELS, Label, to_csv
from imglish.audit.sides import Side, shortened
from imglish.ingest.trail import Opened

PAGE, TABLE = "index.html", "labels.csv"


def write_sample(
    opened: Opened,
    folder: str,
    each: int,
    seed: int,
    rules: Collection[str] = (),
    sources: Collection[str] = (),
) -> tuple[str, list[Item]]:
    """Draw a sample and write its page, and a CSV with empty labels beside it; the page's path, and the items.

    RecipeError for a rule or source that decided nothing, ManifestError for a lost table, StorageError when the disk is
    full, ImglishError when jinja2 is not installed.
    """
    require("jinja2")
    items = draw(opened, chosen_strata(count_strata(opened), rules, sources), each, seed)
    page = render(items, opened.trail.name, opened.trail.decisions, seed)
    labels = [Label(item.occurrence, item.stratum, "") for item in items]
    write_file(f"{folder}/{TABLE}", to_csv(labels, opened.trail.decisions).encode())
    return write_file(f"{folder}/{PAGE}", page.encode("utf-8")), items


def render(items: Collection[Item], name: str, decisions: str, seed: int) -> str:
    """The page of some items."""
    script = asset("labels.js")
    facts = {"decisions": decisions[:DIGITS], "seed": seed, "columns": COLUMNS}
    return template(
        "labels.html",
        "labels.css",
        items=[replace(item, shown=_short(item.shown), other=item.other and _short(item.other)) for item in items],
        name=name,
        labels=LABELS,
        facts=json.dumps(facts),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _short(side: Side) -> Side:
    return replace(side, texts=tuple(shortened(pieces) for pieces in side.texts))
