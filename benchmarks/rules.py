"""Gopher, C4 and FineWeb side by side with datatrove's filters, on the same real text in one run.

    python benchmarks/rules.py --peer-python ENV/bin/python        # ENV has datatrove[processing] 0.10 (it wants spaCy)

Documents come from Debian packages (linux-doc-6.1, python3.11-doc, anarchism, installation-guide-amd64), fetched with
apt-get and unpacked, not installed: their .txt, .rst and .md pages as they are, their .html pages without markup. Both
sides get the same documents in one process each: ours measures and judges, the peer runs `filter` of its four filters.
Then both verdicts are compared document by document. Writes a dated note to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from lxml import html

from imglish.demo.packages import Package, get_packages

PACKAGES = [Package(name, "apt-get", "text") for name in
            ("linux-doc-6.1", "python3.11-doc", "anarchism", "installation-guide-amd64")]  # fmt: skip
RULES = {
    "gopher_repetition@datatrove": "repetition",
    "gopher_quality@datatrove": "quality",
    "c4@datatrove": "c4",
    "fineweb@datatrove": "fineweb",
}
PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
filters = {"repetition": GopherRepetitionFilter(), "quality": GopherQualityFilter(),
           "c4": C4QualityFilter(), "fineweb": FineWebQualityFilter()}
documents = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
warm = Document(text="Warm up. It loads the tokenizer of spaCy.", id="0")
for one in filters.values():
    one.filter(warm)
verdicts = {name: [] for name in filters}
seconds = dict.fromkeys(filters, 0.0)
for text in documents:
    for name, one in filters.items():
        began = time.perf_counter()
        said = one.filter(Document(text=text, id="0"))
        seconds[name] += time.perf_counter() - began
        verdicts[name].append(None if said is True else said[1])
json.dump({"seconds": seconds, "verdicts": verdicts}, open(sys.argv[2], "w"))
"""


def documents(folder: Path) -> Iterator[str]:
    """Pages of text of at least 200 characters, in the order of their paths."""
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        if not path.is_file() or path.is_symlink() or not name.endswith((".txt", ".rst", ".md", ".html")):
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8", "replace")
        if name.endswith(".html"):
            text = html.document_fromstring(data).text_content() if data.strip() else ""
        if len(text) >= 200:
            yield text


def ours(texts: list[str], batch_bytes: int) -> tuple[dict[str, float], dict[str, list[str | None]]]:
    """Seconds of measuring and judging, and by rule the reason to drop each document."""
    import pyarrow as pa

    from imglish.ingest.measures.texts import measure_texts
    from imglish.ingest.rules import active_rules
    from imglish.recipe import make_recipe

    source = {"name": "x", "format": "text", "kind": "text", "path": "x"}
    rules = active_rules(make_recipe({"name": "x", "source": [source], "decide": {"rules": tuple(RULES)}}))
    payloads = [text.encode() for text in texts]
    measure_texts(payloads[:1])
    began = time.perf_counter()
    measured = pa.concat_tables([measure_texts(batch) for batch in batches(payloads, batch_bytes)])
    measured_at = time.perf_counter()
    kinds = pa.array(["text"] * len(texts))
    verdicts: dict[str, list[str | None]] = {}
    for rule in rules:
        finding = rule.judge(measured.append_column("kind", kinds), rule.limits)
        said = [finding.detail.get(n, "?") if fired else None for n, fired in enumerate(finding.fired.tolist())]
        verdicts[RULES[f"{rule.name}@{rule.variant}"]] = said
    return {"measure": measured_at - began, "judge": time.perf_counter() - measured_at}, verdicts


def batches(payloads: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Consecutive documents of about `size` bytes together."""
    from imglish.ingest.measures.stage import batches as cut

    return cut(payloads, size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/.rules"))
    parser.add_argument("--megabytes", type=float, default=64.0)
    parser.add_argument("--batch-bytes", type=int, default=1 << 20)
    parser.add_argument("--note", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    texts = sample(options.folder, options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    seconds, verdicts = ours(texts, options.batch_bytes)
    spent = sum(seconds.values())
    lines = [
        f"{len(texts):,} documents, {size:.1f} MB of text",
        f"imglish: {spent:.2f} s ({size / spent:.1f} MB/s): " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()),
    ]
    if options.peer_python is not None:
        lines += compare(options, texts, size, spent, verdicts)
    print("\n".join(lines))
    if options.note:
        write_note(lines, options.megabytes)


def sample(folder: Path, megabytes: float) -> list[str]:
    """Documents in the order of a hash of their text, up to the size."""
    import hashlib

    missing = get_packages(folder / "packages", lambda text: sys.stderr.write(f"{text}\n"), PACKAGES)
    if missing:
        sys.exit(f"cannot get {missing}")
    found = sorted(set(documents(folder / "packages")), key=lambda text: hashlib.sha256(text.encode()).digest())
    chosen: list[str] = []
    left = megabytes * 1e6
    for text in found:
        if left > 0:
            chosen.append(text)
            left -= len(text.encode())
    return chosen


def compare(
    options: argparse.Namespace, texts: list[str], size: float, spent: float, verdicts: dict[str, list[str | None]]
) -> list[str]:
    """The peer's time, and how often both drop or both keep."""
    given, answer, script = (options.folder / name for name in ("documents.jsonl", "peer.json", "peer.py"))
    given.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    script.write_text(PEER)
    subprocess.run([options.peer_python, script, given, answer], check=True)
    peer = json.loads(answer.read_text())
    total = sum(peer["seconds"].values())
    lines = [
        f"datatrove: {total:.2f} s ({size / total:.2f} MB/s): "
        + ", ".join(f"{k} {v:.2f}" for k, v in peer["seconds"].items()),
        f"ratio: {total / spent:.1f}",
    ]
    for name, theirs in peer["verdicts"].items():
        mine = verdicts[name]
        same = sum((a is None) == (b is None) for a, b in zip(mine, theirs, strict=True))
        dropped = [sum(v is not None for v in both) for both in (mine, theirs)]
        lines.append(
            f"{name}: same verdict on {same / len(texts):.2%}; dropped {dropped[0]:,} here, {dropped[1]:,} there"
        )
    return lines


def write_note(lines: list[str], megabytes: float) -> None:
    import numpy
    import pyarrow

    note = Path(__file__).parent / "results" / f"rules-{date.today().isoformat()}.md"
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    versions = f"Python {platform.python_version()}, numpy {numpy.__version__}, pyarrow {pyarrow.__version__}"
    body = "\n".join(f"    {line}" for line in lines)
    note.write_text(
        f"# Rules, {date.today().isoformat()}\n\n"
        f"`python benchmarks/rules.py --megabytes {megabytes:g} --peer-python ENV/bin/python --note` on {cpu}; "
        f"{versions}, datatrove 0.10; one process each, one after the other.\n\n{body}\n"
    )


if __name__ == "__main__":
    main()
