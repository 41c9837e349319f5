"""The audit of a run: which data it saw, proved from manifest and `run.json`, and how its curves went.

    values = run_report("corpus/manifest.json", "corpus/run", "run.html")
    values["chain"]["digest"], values["statement"]

Reads run.json and metrics.jsonl of the run's folder, the manifest and its metadata, and the shards for the pictures of
one step. Without metrics.jsonl there is nothing to hold the chain against; the statement then says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imglish.audit.chain import Chain, follow, seen
from imglish.audit.choice import Chosen
from imglish.audit.common import clean, number, require, template, write_files
from imglish.audit.plots import Plot, curves
from imglish.audit.tables import Tables
from imglish.audit.thumbnails import Thumbnail, thumbnail
from imglish.audit.view import Table, f, n, s, table
from imglish.digests import canonical_json
from imglish.errors import ImglishError, OrderError
from imglish.records import KINDS
from imglish.shards import Corpus, open_corpus
from imglish.shards.replay import ReplayedStep, order_of_run, replay
from imglish.stages import Progress

RUN_VERSION = 1
"""Version of the names in the JSON beside the page."""
PICTURES = 24
"""Samples of the shown step with their picture."""
WRONG = 20
"""Steps named whose digest differs."""
POINTS = 300
"""Points of a curve; a longer one shows means."""
CURVES = {
    "loss": ("Loss", re.compile(r"loss_nats(/.*)?"), "nats"),
    "accuracy": ("Accuracy of masked predictions", re.compile(r"accuracy/.*"), "share"),
    "gradient": ("Gradient norm", re.compile(r"gradient_norm"), "norm"),
    "rate": ("Learning rate", re.compile(r"learning_rate"), "rate"),
    "speed": ("Samples per second", re.compile(r"samples_per_second"), "samples/s"),
}


class ChainError(ImglishError):
    """A run logged other batches than its manifest and `run.json` give."""


def run_report(
    manifest_path: str, run: str, output_path: str, step: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the page, and its values as JSON beside it (`.audit.json` for `.html`); the samples are those of `step`.

    OrderError when the folder holds no run, or one on another corpus, or for a step that it has not done; errors of the
    report otherwise, and nothing is written then. ChainError after writing when a logged digest differs.
    """
    require("jinja2")
    tables, corpus = Tables(str(manifest_path)), open_corpus(str(manifest_path))
    facts_path = Path(run) / "run.json" if Path(run).is_dir() else Path(run)
    order = order_of_run(facts_path, corpus)
    facts, records = json.loads(facts_path.read_bytes()), _records(facts_path.parent / "metrics.jsonl")
    logged = {int(record["step"]): str(record["batch_digest"]) for record in records if "batch_digest" in record}
    steps = max([_steps(facts), *logged])
    shown = steps if step is None else step
    if not steps or not 1 <= shown <= steps:
        raise OrderError(f"{facts_path}: the run has done {steps} steps; there are no samples of step {shown}")
    chain = follow(corpus, order, logged, steps, progress)
    values = _values(tables, corpus, facts, chain, shown)
    replayed = replay(corpus, order, shown, details=True)
    page = template(
        "run.html",
        v=values,
        tables=_tables(values, replayed),
        plots=list(_plots(records)),
        pictures=list(_pictures(corpus, replayed)),
        facts=json.dumps(
            {name: facts.get(name) for name in ("train", "environment", "result")}, indent=2, sort_keys=True
        ),
    )
    output = str(output_path)
    write_files(
        {output.removesuffix(".html") + ".audit.json": canonical_json(values) + b"\n", output: page.encode("utf-8")}
    )
    if chain.wrong:
        first = chain.wrong[0]
        raise ChainError(
            f"{facts_path}: {len(chain.wrong)} of {chain.checked} steps saw other data than the manifest gives, first "
            f"step {first['step']}: logged {first['logged']}, expected {first['expected']}; see {output}"
        )
    return values


def _values(tables: Tables, corpus: Corpus, facts: Mapping[str, Any], chain: Chain, step: int) -> dict[str, Any]:
    manifest = tables.manifest
    result = facts.get("result") or {}
    values = {
        "run_audit": RUN_VERSION,
        "corpus": {
            "name": manifest.name,
            "version": manifest.version,
            "digest": manifest.digest,
            "data_digest": manifest.data_digest,
        },
        "run": {
            "seed": facts["identity"]["seed"],
            "status": result.get("status"),
            "checkpoint": result.get("checkpoint"),
            "starts": list(facts.get("starts", ())),
        },
        "chain": {
            "steps": chain.steps,
            "digest": chain.digest,
            "checked": chain.checked,
            "wrong": len(chain.wrong),
            "wrong_steps": chain.wrong[:WRONG],
        },
        "seen": seen(tables, corpus, chain),
        "step": step,
    }
    return values | {"statement": _statement(values)}


def _statement(values: Mapping[str, Any]) -> list[str]:
    """What may be said of the run, as sentences that a third party can check."""
    chain, corpus, run = values["chain"], values["corpus"], values["run"]
    what = f"The checkpoint {run['checkpoint']}" if run["checkpoint"] else "The run's state after its last step"
    if chain["wrong"]:
        return [
            f"{number(chain['wrong'])} of {number(chain['checked'])} logged steps saw other data than manifest and "
            "run.json give: nothing can be said of what this run was trained on."
        ]
    proof = (
        f"The run logged the digest of {number(chain['checked'])} of these steps, and every one is the expected one."
        if chain["checked"]
        else "The run's metrics.jsonl is not here, so nothing that it logged was held against this."
    )
    whole = chain["checked"] == chain["steps"]
    premise = "" if whole else "If it ran as run.json says: "
    return [
        f"{premise}{what} was trained on exactly the samples that the corpus with data digest "
        f"{corpus['data_digest']} gives in "
        f"steps 1 to {number(chain['steps'])} under seed {run['seed']} and the batch of run.json.",
        f"The digests of these steps, one behind the other, have SHA-256 {chain['digest']}.",
        proof,
        "Who has manifest.json and run.json can check it without data: imglish audit manifest.json --run run.json"
        " gives the same SHA-256, imglish replay manifest.json --run run.json --step T the samples of any step.",
    ]


def _records(path: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl, none when it is missing; OrderError names a line that is none."""
    if not path.exists():
        return []
    found = []
    for place, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            found.append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            raise OrderError(
                f"{path}, line {place}: not a record of a step; restore the file, or move it away"
            ) from None
    return found


def _steps(facts: Mapping[str, Any]) -> int:
    result = facts.get("result") or {}
    return int(result.get("step", 0))


def _plots(records: Sequence[Mapping[str, Any]]) -> Iterator[Plot]:
    for name, (title, pattern, unit) in CURVES.items():
        names = sorted({key for record in records for key in record if pattern.fullmatch(key)})
        lines = {
            key: _thinned([(r["step"], float(r[key])) for r in records if r.get(key) is not None]) for key in names[:6]
        }
        if lines:
            yield curves(name, title, unit, lines)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of its neighbours; what is no number is left out."""
    whole = [point for point in points if np.isfinite(point[1])]
    size = max(1, -(-len(whole) // POINTS))
    parts = [whole[k : k + size] for k in range(0, len(whole), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _pictures(corpus: Corpus, replayed: ReplayedStep) -> Iterator[tuple[Thumbnail, str]]:
    """Pictures of the step with what was seen of each."""
    left = PICTURES
    for kind in ("pair", "image"):
        rows, visits = replayed.rows.get(kind), (replayed.visits or {}).get(kind, ())
        for place, key in enumerate(replayed.keys.get(kind, ())):
            visit = visits[place]
            if left and key is not None and visit.view is not None and rows is not None:
                left -= 1
                source = visit.occurrences[0].source if visit.occurrences else ""
                said = f"view {visit.view.number + 1}" + (
                    f", caption {visit.caption.number + 1}" if visit.caption else ""
                )
                yield thumbnail(corpus, Chosen(0, int(rows.ordinal[place]), kind, key, source)), said


def _tables(values: Mapping[str, Any], replayed: ReplayedStep) -> dict[str, list[Table]]:
    heads = ("rows", "visits", "epochs", "rows_seen", "most_visits", "replaced")
    whole = table(
        "What the run saw of the train split",
        ["kind", "index rows", "visits", "epochs", "rows seen", "most visits", "in place of excluded"],
        (
            [s(kind), *(f(one[k]) if k == "epochs" else n(one[k]) for k in heads)]
            for kind, one in values["seen"].items()
        ),
    )
    by_source = table(
        "Epochs by source",
        ["source", "kind", "rows or ids", "visits", "epochs"],
        (
            [s(name), s(kind), n(cell["ids" if kind == "text" else "rows"]), n(cell["visits"]), f(cell["epochs"])]
            for kind, one in values["seen"].items()
            for name, cell in one["source"].items()
        ),
        "Rows of pictures count for the source of their surviving occurrence, ids of text for that of their document.",
    )
    wrong = table(
        "Steps that logged another digest",
        ["step", "logged", "expected"],
        ([n(one["step"]), s(one["logged"]), s(one["expected"])] for one in values["chain"]["wrong_steps"]),
    )
    sampled = table(
        f"Samples of step {number(replayed.step)}, batch digest {replayed.digest}",
        ["kind", "place", "epoch", "shard", "row", "key", "source", "caption"],
        (
            [
                s(kind),
                *(
                    n(int(getattr(replayed.rows[kind], name)[k])) if name else n(k)
                    for name in ("", "epoch", "ordinal", "row")
                ),
                s(replayed.keys[kind][k], 40),
                s(
                    ", ".join(sorted({one.source for one in replayed.visits[kind][k].occurrences}))
                    if replayed.visits
                    else ""
                ),
                s(_caption(replayed, kind, k), 120),
            ]
            for kind in KINDS
            if kind in replayed.rows
            for k in range(len(replayed.rows[kind]))
        ),
    )
    return {"seen": [t for t in (wrong, whole, by_source) if t.rows], "step": [sampled]}


def _caption(replayed: ReplayedStep, kind: Any, place: int) -> str:
    visit = replayed.visits[kind][place] if replayed.visits else None
    return clean(visit.caption.text, 120) if visit is not None and visit.caption is not None else ""
