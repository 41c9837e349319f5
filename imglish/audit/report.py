"""The report: one HTML file that says what a corpus holds and why, and `audit.json` with its numbers.

    result = report("corpus/manifest.json", "corpus/report.html")
    result.values["codes"]["perplexity"]

The file opens from disk: no script, no request (a content security policy forbids both), pictures and plots inside.
Whatever came from outside is escaped, and stripped of control characters. The same corpus and seed give the same
bytes. Both files are complete or not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from imglish.audit.balance import PLURAL, unit
from imglish.audit.choice import Choice, Chosen, Places
from imglish.audit.common import require, template, write_files
from imglish.audit.plots import Plot, bars, histogram, ranks, stacked
from imglish.audit.statistics import collect
from imglish.audit.tables import Tables
from imglish.audit.thumbnails import Thumbnail, code_strips, thumbnail
from imglish.audit.tokens import PAPER_BATCH, PAPER_STEPS
from imglish.audit.view_sections import tables as view_tables
from imglish.digests import canonical_json
from imglish.records import KINDS, Kind
from imglish.shards import open_corpus
from imglish.shards.manifest import Manifest

THUMBNAILS = 36
"""Samples on the contact sheet."""
CLUSTERS = 8
"""Largest groups of duplicates whose survivor is shown."""
JSON_NAME = "audit.json"
SECTIONS = (
    ("identity", "Identity"),
    ("funnel", "Funnel: from occurrences to samples"),
    ("balance", "Balance"),
    ("images", "Images"),
    ("text", "Captions and text"),
    ("codes", "Codes"),
    ("privacy", "Privacy and safety"),
    ("contamination", "Contamination"),
    ("fetch", "Fetch health"),
    ("rebuild", "Reproducibility"),
)


@dataclass(frozen=True)
class AuditResult:
    """Where the two files are, and the numbers of `audit.json`."""

    report: str
    json: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A large group of equal or nearly equal pictures: the rule that found it, its size, and its survivor."""

    rule: str
    size: int
    picture: Thumbnail


def report(
    manifest_path: str,
    output_path: str,
    seed: int = 0,
    batch: Mapping[Kind, int] = PAPER_BATCH,
    steps: int = PAPER_STEPS,
) -> AuditResult:
    """Write the report to `output_path` and `audit.json` beside it; both are replaced in one step each.

    `seed` chooses the pictures of the contact sheet; those whose shards are here are shown. `batch` and `steps` are
    those of a planned run. ManifestError when the manifest or a table that it names is missing or damaged, ShardError
    for a damaged picture, StorageError when the disk is full, ImglishError when jinja2 or matplotlib is not installed.
    Nothing is written then.
    """
    require("jinja2")
    require("matplotlib")
    tables = Tables(str(manifest_path))
    choice, places = Choice(seed, THUMBNAILS), Places()
    values = collect(tables, choice, places, batch, steps)
    corpus = open_corpus(str(manifest_path))
    here = cache(lambda ordinal: tables.store.exists(tables.manifest.shards[ordinal].path))
    sheet = [thumbnail(corpus, one) for one in choice.chosen() if here(one.ordinal)]
    values["contact_sheet"] = {"seed": seed, "samples": [_named(one.chosen) for one in sheet]}
    shown = [
        (rule, one["size"], place)
        for rule, one in _largest(values)
        if (place := places.found.get((one["source"], one["row"]))) is not None and here(place.ordinal)
    ]
    clusters = [Cluster(rule, count, thumbnail(corpus, place)) for rule, count, place in shown[:CLUSTERS]]
    page = render_page(tables.manifest, values, sheet, clusters)
    output = str(output_path)
    beside = output[: output.rfind("/") + 1] + JSON_NAME
    json_path, path = write_files({beside: canonical_json(values) + b"\n", output: page.encode("utf-8")})
    return AuditResult(path, json_path, values)


def _largest(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The largest groups of duplicates of all rules."""
    found = [(rule, one) for rule, cell in values["duplicates"].items() for one in cell["largest"]]
    return sorted(found, key=lambda item: (-item[1]["size"], item[0], item[1]["source"], item[1]["row"]))


def _named(chosen: Chosen) -> dict[str, str | int]:
    return {"key": chosen.key, "kind": chosen.kind, "shard": chosen.ordinal, "source": chosen.source}


def render_page(
    manifest: Manifest, values: Mapping[str, Any], sheet: Sequence[Thumbnail], clusters: Sequence[Cluster]
) -> str:
    """The HTML of the report."""
    codes = [item["code"] for item in values["codes"]["top"]]
    return template(
        "report.html",
        v=values,
        sections=SECTIONS,
        tables=view_tables(values),
        plots=plots(values),
        sheet=sheet,
        clusters=clusters,
        strips=code_strips([one.sample for one in sheet], codes, manifest.tokenizers.visual),
        rebuild=rebuild(manifest),
    )


def plots(values: Mapping[str, Any]) -> dict[str, list[Plot]]:
    """Every plot by section; those without data are left out."""
    by_source = values["funnel"]["source"]
    funnel = [stacked("funnel", "Occurrences by source", ("kept", "merged", "dropped"), _verdicts(by_source))]
    codes = values["codes"]
    found: dict[str, Sequence[Any]] = {
        "funnel": funnel if by_source else [],
        "balance": _balance_plots(values),
        "images": [
            ("short-side", "Short side of the originals", "pixels", values["pictures"]["short_side"], 1),
            ("aspect", "Width over height", "width / height", values["pictures"]["aspect_thousandths"], 1000),
            ("stored-bytes", "Size of stored pictures", "bytes", values["pictures"]["stored_bytes"], 1),
            ("brightness", "Brightness", "mean luma, 0 black to 255 white", values["pictures"]["brightness"], 1),
            ("sharpness", "Sharpness", "variance of the Laplacian; blurred is low", values["pictures"]["sharpness"], 1),
            *(
                (f"sizes-{place}", f"Sizes of groups, {rule}", "occurrences", one["sizes"], 1)
                for place, (rule, one) in enumerate(values["duplicates"].items())
            ),
        ],
        "text": [
            ("captions", "Captions of a pair", "captions", values["lengths"]["captions"], 1),
            ("caption-words", "Words of a caption", "words", values["captions"]["words"], 1),
            ("caption-ids", "Ids of a caption", "ids, <s> and </s> included", values["lengths"]["caption_ids"], 1),
            ("document-ids", "Ids of a document", "ids, <s> and </s> included", values["lengths"]["document_ids"], 1),
        ],
        "codes": [ranks("codes", "Code frequency by rank", codes["ranks"])] if codes["ranks"] else [],
        "fetch": _fetch_plots(values["fetch"]),
    }
    return {
        section: [
            one if isinstance(one, Plot) else _histogram(*one)
            for one in mine
            if isinstance(one, Plot) or one[3]["bins"]
        ]
        for section, mine in found.items()
    }


def _histogram(name: str, title: str, unit_of: str, distribution: Mapping[str, Any], scale: int) -> Plot:
    return histogram(name, title, unit_of, distribution["bins"], scale)


def _balance_plots(values: Mapping[str, Any]) -> list[Plot]:
    found = []
    for kind in KINDS:
        for axis in ("source", "language"):
            rows = [(name, cell[unit(kind)]) for name, cell in values[PLURAL[kind]][axis].items()]
            if rows and (axis == "source" or kind != "image"):
                found.append(bars(f"{kind}-{axis}", f"{PLURAL[kind].capitalize()}: {unit(kind)} by {axis}", rows))
    return found


def _fetch_plots(fetch: Mapping[str, Any]) -> list[Plot]:
    failed = [(status, count) for status, count in fetch["status"].items() if status != "ok"]
    return [bars("failures", "Failures by class", failed)] if failed else []


def _verdicts(by_source: Mapping[str, Any]) -> dict[str, list[int]]:
    """Kept, merged and dropped per source, largest source first, as many as a plot holds."""
    rows = {
        name: [sum(cell[verdict] for cell in kinds.values()) for verdict in ("kept", "merged", "dropped")]
        for name, kinds in by_source.items()
    }
    return dict(sorted(rows.items(), key=lambda row: (-sum(row[1]), row[0]))[:16])


def rebuild(manifest: Manifest) -> dict[str, str]:
    """What a rebuild needs, as text: sources, recipe and libraries in readable JSON."""
    parts = {"sources": manifest.sources, "recipe": manifest.recipe, "libraries": manifest.libraries}
    return {name: json.dumps(dict(part), indent=2, sort_keys=True, ensure_ascii=True) for name, part in parts.items()}
