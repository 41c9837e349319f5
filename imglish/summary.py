"""What a person reads at the end of a command: short tables of what came out, as plain text.

print(build_summary(result)); print(train_summary(run))
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from imglish.audit.common import clean
from imglish.records import KINDS, SPLITS

if TYPE_CHECKING:
    from imglish.audit.precision import Precision
    from imglish.ingest.changes import Changes
    from imglish.ingest.tally import Verdicts
    from imglish.results import BuildResult, DecideResult
    from imglish.trainer import RunResult

_WIDTH = 110


def build_summary(result: BuildResult) -> str:
    """Occurrences in, dropped by rule, merged, samples per kind, shards, digest, seconds per stage."""
    parts = [_verdict_table(result), _rule_table(result), _sample_table(result), _seconds_table(result.seconds)]
    manifest = result.manifest
    facts = [f"{manifest.name}@{manifest.version}  digest {manifest.digest}", f"manifest {result.path}"]
    return "\n".join([*parts, *facts])


def decide_summary(result: DecideResult) -> str:
    """Occurrences in, dropped by rule, merged, seconds per stage."""
    return "\n".join([_verdict_table(result), _rule_table(result), _seconds_table(result.seconds)])


def changes_summary(changes: Changes) -> str:
    """What changed, one row per source, kind, change and rule, with examples, and sums."""
    new = f"; {changes.appeared:,} occurrences are new, {changes.disappeared:,} gone" * bool(
        changes.appeared or changes.disappeared
    )
    total = sum(row.count for row in changes.rows)
    head = f"{total:,} of {changes.compared:,} occurrences change{new}"
    if not changes.rows:
        return head
    rows = [(row.source, row.kind, row.change, row.rule or "", f"{row.count:,}") for row in changes.rows]
    parts = [head, _table("changes", ("source", "kind", "change", "rule", "count"), rows, left=4)]
    names = dict.fromkeys(row.change for row in changes.rows)
    parts.append("; ".join(f"{name}: {changes.total(name):,}" for name in names))
    parts.append("for example, to be asked for with 'imglish why':")
    examples: dict[str, list[str]] = {}
    for row in changes.rows:
        examples.setdefault(f"{row.change} by {row.rule}" if row.rule else row.change, []).extend(row.examples[:1])
    parts += [f"  {what}: {', '.join(clean(key, 80) for key in keys[:3])}" for what, keys in examples.items()]
    return "\n".join(parts)


def precision_summary(found: Sequence[Precision]) -> str:
    """One row per rule: labels, the share that is right with its interval, and what the labels speak for."""
    heads = ("rule", "right", "wrong", "unsure", "precision", "95 %", "of decisions")
    rows = []
    for one in found:
        share = "" if one.precision is None else f"{one.precision:.1%}"
        interval = "" if one.low is None or one.high is None else f"{one.low:.1%} to {one.high:.1%}"
        spoken = f"{one.covered:,} of {one.decisions:,}"
        rows.append((one.rule, *(str(n) for n in (one.right, one.wrong, one.unsure)), share, interval, spoken))
    return _table("precision", heads, rows)


def train_summary(result: RunResult) -> str:
    """Loss and accuracy on the validation split, beside what constant guesses reach."""
    loss = "none" if result.loss_nats is None else f"{result.loss_nats:.3f} nats"
    head = f"{result.status} after step {result.step}, {result.seconds:.0f} s; last loss {loss}"
    if result.evaluation is None:
        return f"{head}\nno validation split, so nothing was evaluated\ncheckpoint {result.checkpoint}"
    rows = [
        (
            name,
            f"{score.positions:,}",
            f"{score.cross_entropy_nats:.3f}",
            f"{score.unigram_entropy_nats:.3f}",
            f"{score.below_unigram_share:.1%}",
            f"{score.accuracy:.1%}",
            f"{score.constant_accuracy:.1%}",
            f"{score.other_accuracy:.1%}",
            f"{score.other_constant_accuracy:.1%}",
            f"{score.other_ratio:.1f}x",
        )
        for name, score in result.evaluation.items()
    ]
    heads = (
        "masked",
        "positions",
        "CE, nats",
        "unigram",
        "below",
        "accuracy",
        "constant",
        "other*",
        "constant",
        "ratio",
    )
    note = "* positions whose true code or word is not the most frequent one"
    return "\n".join([head, _table("validation", heads, rows), note, f"checkpoint {result.checkpoint}"])


def _verdict_table(result: BuildResult | DecideResult) -> str:
    """One row per source."""
    rows = []
    for source in dict.fromkeys(row.source for row in result.verdicts):
        mine = [row for row in result.verdicts if row.source == source]
        rows.append((source, mine[0].kind, f"{result.landed_bytes[source] / 1e6:,.1f}", *_verdict_counts(mine)))
    whole = sum(result.landed_bytes.values())
    rows.append(("together", "", f"{whole / 1e6:,.1f}", *_verdict_counts(result.verdicts)))
    return _table("occurrences", ("source", "kind", "MB in", "in", "kept", "merged", "dropped"), rows)


def _verdict_counts(rows: Sequence[Verdicts]) -> list[str]:
    """All, kept, merged, dropped."""
    counts = [sum(row.count for row in rows if row.verdict == verdict) for verdict in ("keep", "merge", "drop")]
    return [f"{count:,}" for count in (sum(counts), *counts)]


def _rule_table(result: BuildResult | DecideResult) -> str:
    """One row per rule that dropped something."""
    rules = dict.fromkeys(row.rule for row in result.verdicts if row.verdict == "drop")
    rows = [
        (rule, *(f"{_dropped(result, rule, kind):,}" for kind in KINDS), f"{_dropped(result, rule):,}")
        for rule in sorted(rules)
    ]
    return _table("dropped by rule", ("rule", *KINDS, "together"), rows) if rows else "nothing was dropped"


def _dropped(result: BuildResult | DecideResult, rule: str, kind: str | None = None) -> int:
    mine = (row for row in result.verdicts if row.verdict == "drop" and row.rule == rule)
    return sum(row.count for row in mine if kind in (None, row.kind))


def _sample_table(result: BuildResult) -> str:
    rows = []
    for split in SPLITS:
        counts = result.manifest.counts.get(split, {})
        shards = [shard for shard in result.manifest.shards if shard.split == split]
        size = sum(shard.bytes for shard in shards)
        samples = [f"{counts.get(name, 0):,}" for name in ("pair", "captions", "image", "text")]
        rows.append((split, *samples, str(len(shards)), f"{size / 1e6:,.1f} MB"))
    columns = ("split", "pairs", "captions", "images", "text blocks", "shards", "tars")
    return _table("samples", columns, rows)


def _seconds_table(seconds: dict[str, float]) -> str:
    rows = [(stage, f"{spent:.1f}") for stage, spent in seconds.items()]
    return _table("seconds per stage", ("stage", "seconds"), [*rows, ("together", f"{sum(seconds.values()):.1f}")])


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """A table as text; all columns but the first `left` lean right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
