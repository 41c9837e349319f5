"""The report: one HTML file that says what a corpus holds and why, and `audit.json` with its numbers.

    result = report("corpus/manifest.json", "corpus/report.html")
    result.values["codes"]["perplexity"]

The file opens from disk: no script, no request (a content security policy forbids both), pictures and plots inside.
Whatever came from outside is escaped, and stripped of control characters. The same corpus and seed give the same
bytes. Both files are complete or not there.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

from PIL import Image

from imglish.audit.choice import Choice, Chosen
from imglish.audit.common import clean, number, require, write_file
from imglish.audit.plots import Plot, bars, histogram, ranks, stacked
from imglish.audit.statistics import collect
from imglish.audit.tables import Tables
from imglish.digests import canonical_json
from imglish.records import KINDS
from imglish.shards import PairSample, open_corpus
from imglish.shards.images import decode_jpeg
from imglish.shards.manifest import Manifest

THUMBNAILS = 36
"""Samples on the contact sheet."""
THUMBNAIL_SIDE = 144
"""Longest side in pixels, about 4 kB each."""
TABLE_ROWS = 40
"""Rows of a table; the rest is counted and stands in audit.json."""
JSON_NAME = "audit.json"


@dataclass(frozen=True)
class AuditResult:
    """Where the two files are, and the numbers of `audit.json`."""

    report: str
    json: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the contact sheet."""

    uri: str
    width: int
    height: int
    caption: str | None
    more: int
    chosen: Chosen


def report(manifest_path: str, output_path: str, seed: int = 0) -> AuditResult:
    """Write the report to `output_path` and `audit.json` beside it; both are replaced in one step each.

    `seed` chooses the pictures of the contact sheet. ManifestError when the manifest or a table that it names is
    missing or damaged, ShardError for a damaged picture, StorageError when the disk is full, ImglishError when jinja2
    or matplotlib is not installed. Nothing is written then.
    """
    require("jinja2")
    tables = Tables(str(manifest_path))
    choice = Choice(seed, THUMBNAILS)
    values = collect(tables, choice)
    sheet = thumbnails(str(manifest_path), choice.chosen())
    values["contact_sheet"] = {"seed": seed, "samples": [_named(one.chosen) for one in sheet]}
    page = render_page(tables.manifest, values, sheet)
    output = str(output_path)
    json_path = write_file(output[: output.rfind("/") + 1] + JSON_NAME, canonical_json(values) + b"\n")
    return AuditResult(write_file(output, page.encode("utf-8")), json_path, values)


def thumbnails(manifest_path: str, chosen: Sequence[Chosen]) -> list[Thumbnail]:
    """The chosen samples as small JPEGs in data URIs; the only reading of tars in an audit."""
    corpus = open_corpus(manifest_path)
    found = []
    for one in chosen:
        sample = one.read(corpus)
        image = Image.fromarray(decode_jpeg(sample.jpeg))
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        captions = sample.captions if isinstance(sample, PairSample) else []
        found.append(Thumbnail(uri, *image.size, captions[0] if captions else None, len(captions[1:]), one))
    return found


def _named(chosen: Chosen) -> dict[str, str | int]:
    return {"key": chosen.key, "kind": chosen.kind, "shard": chosen.ordinal, "source": chosen.source}


def render_page(manifest: Manifest, values: Mapping[str, Any], sheet: Sequence[Thumbnail]) -> str:
    """The HTML of the report."""
    jinja2 = require("jinja2")
    room = resources.files("imglish.audit")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "clean": clean, "bytes": size, "value": plain}
    environment.globals |= {"top": partial(top, rows=TABLE_ROWS), "kinds": KINDS}
    style = (room / "audit.css").read_text(encoding="utf-8")
    template = environment.from_string((room / "report.html").read_text(encoding="utf-8"))
    return str(
        template.render(
            v=values, manifest=manifest, plots=plots(values), sheet=sheet, style=style, rebuild=rebuild(manifest)
        )
    )


def plots(values: Mapping[str, Any]) -> dict[str, Plot]:
    """Every plot by name; those without data are left out."""
    found: list[Plot] = []
    by_source = values["funnel"]["source"]
    if by_source:
        found.append(stacked("funnel", "Occurrences by source", ("kept", "merged", "dropped"), _verdicts(by_source)))
    for kind in KINDS:
        unit = "documents" if kind == "text" else "samples"
        for axis in ("source", "language"):
            rows = [(name, cell[unit]) for name, cell in values[kind][axis].items()]
            if rows and (axis == "source" or kind != "image"):
                found.append(bars(f"{kind}-{axis}", f"{kind.capitalize()} {unit} by {axis}", rows))
    images, lengths, codes = values["images"], values["lengths"], values["codes"]
    drawn = [
        ("short-side", "Short side of the originals", "pixels", images["short_side"]["bins"], 1),
        ("aspect", "Width over height", "width / height", images["aspect_thousandths"]["bins"], 1000),
        ("captions", "Captions of a pair", "captions", lengths["captions"]["bins"], 1),
        ("caption-ids", "Length of captions", "ids, <s> and </s> included", lengths["caption_ids"]["bins"], 1),
        ("document-ids", "Length of documents", "ids, <s> and </s> included", lengths["document_ids"]["bins"], 1),
    ]
    found += [histogram(name, title, unit, bins, scale) for name, title, unit, bins, scale in drawn if bins]
    if codes["ranks"]:
        found.append(ranks("codes", "Code frequency by rank", codes["ranks"]))
    return {plot.name: plot for plot in found}


def _verdicts(by_source: Mapping[str, Any]) -> dict[str, list[int]]:
    """Kept, merged and dropped per source, largest source first, as many as a plot holds."""
    rows = {
        name: [sum(cell[verdict] for cell in kinds.values()) for verdict in ("kept", "merged", "dropped")]
        for name, kinds in by_source.items()
    }
    return dict(sorted(rows.items(), key=lambda row: (-sum(row[1]), row[0]))[:16])


def rebuild(manifest: Manifest) -> dict[str, str]:
    """What a rebuild needs, as text: sources, recipe and libraries in readable JSON."""
    import json

    parts = {"sources": manifest.sources, "recipe": manifest.recipe, "libraries": manifest.libraries}
    return {name: json.dumps(dict(part), indent=2, sort_keys=True, ensure_ascii=True) for name, part in parts.items()}


def top(cells: Mapping[str, Mapping[str, Any]], figure: str, rows: int) -> tuple[list[tuple[str, Any]], int]:
    """The cells with the largest `figure`, and how many are left out."""
    ordered = sorted(cells.items(), key=lambda item: (-item[1][figure], item[0]))
    return ordered[:rows], max(0, len(ordered) - rows)


def percent(value: float) -> str:
    """A share for people; a small one is not shown as nothing."""
    return f"{value:.1%}" if value == 0 or value >= 0.001 else "<0.1%"


def plain(value: float | None) -> str:
    """A score or threshold, at most four significant digits; empty when there is none."""
    return "" if value is None else f"{value:.4g}"


def size(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, word in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {word}"
    return f"{count} bytes"
