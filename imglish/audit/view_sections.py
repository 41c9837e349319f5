"""The tables of the report: which figures stand where; the template only lays them out.

view = tables(values)
view["funnel"][0].title, view["funnel"][0].rows[0][1].text
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from imglish.audit.balance import PLURAL, unit
from imglish.audit.common import number
from imglish.audit.view import Cell, Table, f, n, p, s, table
from imglish.records import KINDS


def tables(values: Mapping[str, Any]) -> dict[str, list[Table]]:
    """Every table by section; those without rows are left out."""
    makers: dict[str, Callable[[Mapping[str, Any]], Iterable[Table]]] = {
        "identity": _identity,
        "funnel": _funnel,
        "balance": _balance,
        "images": _images,
        "text": _text,
        "codes": _codes,
        "privacy": _privacy,
        "contamination": _contamination,
        "fetch": _fetch,
        "rebuild": _rebuild,
    }
    return {name: [table for table in make(values) if table.rows] for name, make in makers.items()}


def _largest(cells: Mapping[str, Mapping[str, Any]], figure: str) -> list[tuple[str, Any]]:
    return sorted(cells.items(), key=lambda item: (-item[1][figure], item[0]))


def _identity(v: Mapping[str, Any]) -> Iterable[Table]:
    total = sum(v["identity"]["licences"].values())
    rows = [[s(name), n(count), p(count / total if total else 0)] for name, count in v["identity"]["licences"].items()]
    yield table("Licences", ["licence", "samples and documents", "share"], rows)


def _funnel(v: Mapping[str, Any]) -> Iterable[Table]:
    flow = v["funnel"]
    figures = ("occurrences", "kept", "merged", "dropped", "edited")
    yield table(
        "Occurrences by source and kind",
        ["source", "kind", *figures, "dropped by"],
        (
            [
                s(source, 60),
                s(kind),
                *(n(cell[name]) for name in figures),
                s(", ".join(f"{rule} {number(count)}" for rule, count in cell["rule"].items()), 400),
            ]
            for source, kinds in flow["source"].items()
            for kind, cell in kinds.items()
        ),
    )
    names = ("dropped", "merged", "fired", "alone")
    yield table(
        "Rules",
        ["rule", *names],
        ([s(rule, 60), *(n(cell[name]) for name in names)] for rule, cell in flow["rule"].items()),
        "“Dropped” and “merged” count the rule that decided. “Fired” is what it would have taken had it been the only "
        "rule, “alone” what no other rule would have taken.",
    )
    yield table(
        "Rules by source and kind",
        ["rule", "source", "kind", *names],
        (
            [s(rule, 60), s(source, 60), s(kind), *(n(cell[name]) for name in names)]
            for rule, whole in flow["rule"].items()
            for source, kinds in whole["source"].items()
            for kind, cell in kinds.items()
        ),
    )
    yield table(
        "Evidence: some of what each rule dropped",
        ["rule", "source", "row", "score", "threshold", "detail"],
        (
            [
                s(rule, 60),
                s(one["source"], 40),
                s(one["row"]),
                f(one["score"]),
                f(one["threshold"]),
                s(one["detail"], 160),
            ]
            for rule, cell in flow["rule"].items()
            for one in cell["examples"]
        ),
    )
    yield table(
        "Why payloads were unusable", ["status", "occurrences"], ([s(k), n(c)] for k, c in flow["payload"].items())
    )


def _balance(v: Mapping[str, Any]) -> Iterable[Table]:
    names = (*KINDS, "captions")
    yield table(
        "Index rows by split (text in blocks of 512 ids)",
        ["split", *names],
        ([s(split), *(n(counts[name]) for name in names)] for split, counts in v["samples"].items()),
    )
    heads = ("batch", "samples", "epochs", "masked patches", "masked ids")
    yield table(
        f"A planned run of {number(v['plan']['steps'])} steps over the train split",
        ["kind", *heads],
        (
            [
                s(kind),
                n(one["batch"]),
                n(one["samples"]),
                f(one["epochs"]),
                n(one["masked_patches"]),
                n(one["masked_ids"]),
            ]
            for kind, one in v["plan"]["kind"].items()
        ),
        "Another run with --batch and --steps; the default is that of the paper. Ids are expectations.",
    )
    for kind in KINDS:
        for axis in ("source", "language", "licence"):
            yield _axis(v, kind, axis)
        cells = v[PLURAL[kind]]["domain"]
        found = table(
            f"{PLURAL[kind].capitalize()} by host",
            ["host", unit(kind), "occurrences"],
            ([s(host), n(cell[unit(kind)]), n(cell["occurrences"])] for host, cell in cells.items()),
        )
        yield Table(found.title, found.heads, found.rows, max(0, v[PLURAL[kind]]["domains"] - len(found.rows)))


def _axis(v: Mapping[str, Any], kind: str, axis: str) -> Table:
    cells = v[PLURAL[kind]][axis]  # type: ignore[index]
    names = [name for name in next(iter(cells.values()), {}) if name not in ("share", "languages")]
    rows = [
        [s(name, 60), *(n(cell[figure]) for figure in names), p(cell["share"])]
        for name, cell in _largest(cells, unit(kind))
    ]
    return table(f"{PLURAL[kind].capitalize()} by {axis}", [axis, *names, "share"], rows)  # type: ignore[index]


def _spread(title: str, rows: Sequence[tuple[str, Mapping[str, Any], int]]) -> Table:
    quantiles = ("min", "p05", "p25", "p50", "p75", "p95", "max")
    return table(
        title,
        ["measure", "counted", "smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"],
        (
            [s(name), n(item["count"]), *(n(item[q]) if scale == 1 else f(item[q] / scale) for q in quantiles)]
            for name, item, scale in rows
            if "count" in item
        ),
    )


def _images(v: Mapping[str, Any]) -> Iterable[Table]:
    seen = v["pictures"]
    yield _spread(
        "Sizes of the originals, and what is stored",
        [
            ("short side, pixels", seen["short_side"], 1),
            ("long side, pixels", seen["long_side"], 1),
            ("width over height", seen["aspect_thousandths"], 1000),
            ("bytes of the stored JPEG", seen["stored_bytes"], 1),
            ("brightness, mean luma of 255", seen["brightness"], 1),
            ("sharpness, variance of the Laplacian", seen["sharpness"], 1),
        ],
    )
    names = {"nearly_black": "nearly black", "nearly_white": "nearly white", "blurred": "sharpness below 100"}
    yield table("Suspicious pictures", ["what", "pictures"], ([s(said), n(seen[name])] for name, said in names.items()))
    yield table(
        "Groups of equal or nearly equal content",
        ["found by", "groups", "gave way", "median size", "95 %", "largest"],
        (
            [s(rule), n(one["groups"]), n(one["occurrences"]), *(n(one["sizes"][q]) for q in ("p50", "p95", "max"))]
            for rule, one in v["duplicates"].items()
        ),
    )


def _text(v: Mapping[str, Any]) -> Iterable[Table]:
    said = v["captions"]
    yield _spread(
        "Lengths",
        [
            ("captions of a pair", v["lengths"]["captions"], 1),
            ("words of a caption", said["words"], 1),
            ("characters of a caption", said["characters"], 1),
            ("ids of a caption", v["lengths"]["caption_ids"], 1),
            ("ids of a document", v["lengths"]["document_ids"], 1),
        ],
    )
    yield table(
        "Captions that repeat most",
        ["caption", "times"],
        ([s(one["text"], 160), n(one["count"])] for one in said["repeated"]),
        f"{number(said['different'])} different captions among {number(said['count'])}; "
        f"{number(said['repeated_different'])} of them stand at more than one place.",
    )
    runs = said["word_runs"]
    columns = [runs[length] for length in ("1", "2", "3")]
    blank: dict[str, Any] = {"words": "", "count": None}
    lines = [[column[k] if k < len(column) else blank for column in columns] for k in range(max(map(len, columns)))]
    yield table(
        "Frequent word runs in captions",
        ["one word", "times", "two words", "times", "three words", "times"],
        (
            [cell for one in line for cell in (s(one["words"], 60), s("") if one["count"] is None else n(one["count"]))]
            for line in lines
        ),
        f"In the captions of {number(runs['occurrences'])} occurrences, without regard to case.",
    )
    heads = ("count", "used", "vocabulary", "unknown")
    yield table(
        "Text ids",
        ["where", "ids", "different", "of vocabulary", "unknown", "share"],
        ([s(where), *(n(one[name]) for name in heads), p(one["unknown_share"])] for where, one in v["ids"].items()),
    )
    for name, title in (("text", "documents"), ("caption", "captions")):
        cells = v["fertility"].get(name, {})
        yield table(
            f"What the tokenizer does to {title}, by language",
            ["language", title, "words", "ids", "ids per word", "bytes per id", "unknown"],
            (
                [
                    s(language),
                    *(n(one[k]) for k in ("texts", "words", "ids")),
                    f(one["ids_per_word"]),
                    f(one["bytes_per_id"]),
                    p(one["unknown_share"]),
                ]
                for language, one in _largest(cells, "texts")
            ),
        )
    packing = v["packing"]
    yield table(
        "Packing of documents into blocks",
        ["blocks", "places", "ids", "efficiency"],
        [[Cell(number(packing["blocks"])), n(packing["places"]), n(packing["ids"]), p(packing["efficiency"])]],
    )


def _codes(v: Mapping[str, Any]) -> Iterable[Table]:
    yield table(
        "Code usage by source",
        ["source", "patches", "used codes", "unused codes", "unused share", "perplexity"],
        (
            [s(name, 60), n(one["count"]), n(one["used"]), n(one["dead"]), p(one["dead_share"]), f(one["perplexity"])]
            for name, one in _largest(v["codes"]["source"], "count")
        ),
    )


def _privacy(v: Mapping[str, Any]) -> Iterable[Table]:
    found = v["privacy"]
    pieces = found["redacted"]["pieces"]
    yield table(
        "Personal data that was redacted", ["class", "pieces"], ([s(name), n(count)] for name, count in pieces.items())
    )
    yield table(
        "Where something was redacted; what stood there is masked",
        ["source", "row", "kind", "caption", "bytes", "stood", "stands"],
        (
            [
                s(one["source"], 40),
                s(one["row"]),
                s(one["kind"]),
                s("" if one["caption"] < 0 else one["caption"] + 1),
                s(f"{one['start']} to {one['end']}"),
                s(one["masked"]),
                s(one["replacement"]),
            ]
            for one in found["examples"]
        ),
    )
    yield table(
        "Rules on personal data and safety",
        ["rule", "dropped", "fired"],
        ([s(r), n(c["dropped"]), n(c["fired"])] for r, c in found["rule"].items()),
    )
    names = {
        "opted_out": "answers that reserve their rights (X-Robots-Tag, TDM-Reservation)",
        "robots_disallowed": "robots.txt says no",
        "robots_unreachable": "robots.txt cannot be had, taken as no",
        "forgotten": "removed on request before this build",
    }
    rows = [[s(said, 120), n(found["wishes"][name])] for name, said in names.items()]
    yield table(
        "Wishes that were honoured",
        ["wish", "occurrences"],
        [*rows, [s("removed from the finished corpus (tombstones)"), n(found["tombstones"])]],
    )


def _contamination(v: Mapping[str, Any]) -> Iterable[Table]:
    found = v["contamination"]
    rows = [
        [s(one["name"]), s(one["path"]), *(n(found["set"][one["name"]].get(kind, 0)) for kind in KINDS)]
        for one in found["checked"]
    ]
    yield table(
        "Evaluation sets that were looked for", ["set", "read from", *(f"{kind}s dropped" for kind in KINDS)], rows
    )
    yield table(
        "Matches, side by side",
        ["source", "row", "kind", "this copies", "of set", "score", "limit"],
        (
            [
                s(one["source"], 40),
                s(one["row"]),
                s(one["kind"]),
                s(one["detail"], 160),
                s(one["set"]),
                f(one["score"]),
                f(one["threshold"]),
            ]
            for one in found["matches"]
        ),
    )


def _fetch(v: Mapping[str, Any]) -> Iterable[Table]:
    found = v["fetch"]
    total = max(1, found["urls"])
    yield table(
        "Outcomes of URLs",
        ["status", "URLs", "share"],
        ([s(k), n(c), p(c / total)] for k, c in found["status"].items()),
    )
    for name, title, head in (("host", "Success by host", "host"), ("year", "Success by the year in the URL", "year")):
        yield table(
            title,
            [head, "asked", "good", "share"],
            ([s(k), n(one["asked"]), n(one["ok"]), p(one["share"])] for k, one in found[name].items()),
        )


def _rebuild(v: Mapping[str, Any]) -> Iterable[Table]:
    yield table(
        "What a rebuild needs",
        ["what", "parts", "state", "how we know", "digest"],
        (
            [s(one["what"]), n(one["count"]), s(one["state"]), s(one["how"], 400), s((one["digest"] or "")[:16])]
            for one in v["rebuild"]
        ),
    )
