"""Concepts in captions, a second and core: ours, pyahocorasick, and MetaCLIP's own loop; and balance itself on columns.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    pip install pyahocorasick==2.3.1                       # the peer; left out when it is not there
    python -m benchmarks.balance wordnet/usr/share/wordnet --concepts 500000 --samples 1000000

All in one process and thread, in processor time. Captions are WordNet's 117,659 glosses, concepts its lemmas and then
the most frequent runs of two to four words of the glosses, up to the number asked for: the first entries of MetaCLIP's
list are WordNet's too, its others n-grams and titles of Wikipedia. Samples are drawn: a caption each, with the glosses'
concepts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from imglish.ingest.balance.draws import by_caps, by_concepts
from imglish.ingest.balance.limits import sum_counts
from imglish.ingest.balance.samples import ROWS, gather
from imglish.ingest.measures.concepts import measure_concepts
from imglish.ingest.measures.phrases import Phrases, words_of
from imglish.recipe import make_recipe

METACLIP_CAPTIONS = 20
"""Captions that MetaCLIP's loop gets; it is linear in the list."""


def glosses(folder: Path) -> list[str]:
    """Definitions and examples of all synsets."""
    lines = [line for name in ("noun", "verb", "adj", "adv") for line in (folder / f"data.{name}").open()]
    return [line.partition(" | ")[2].strip() for line in lines if not line.startswith("  ")]


def concepts(folder: Path, texts: Sequence[str], wanted: int) -> list[str]:
    """Lemmas, then frequent runs of words."""
    lines = [line for name in ("noun", "verb", "adj", "adv") for line in (folder / f"index.{name}").open()]
    found = dict.fromkeys(line.split(" ", 1)[0].replace("_", " ") for line in lines if not line.startswith("  "))
    runs: Counter[str] = Counter()
    for text in texts:
        words = words_of(text)
        for length in (2, 3, 4):
            runs.update(" ".join(words[n : n + length]) for n in range(len(words) - length + 1))
    found |= dict.fromkeys(run for run, _ in sorted(runs.items(), key=lambda item: (-item[1], item[0])))
    return list(found)[:wanted]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, so that a busy machine counts less, and what it gave."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def automaton(names: Sequence[str]) -> Any:
    """pyahocorasick's automaton over phrases between blanks; None where the package is not there."""
    try:
        import ahocorasick
    except ImportError:
        return None
    made = ahocorasick.Automaton()
    for number, name in enumerate(names):
        made.add_word(f" {name} ", number)
    made.make_automaton()
    return made


def metaclip(text: str, spaced: Sequence[str]) -> list[int]:
    """MetaCLIP's `substr_matching` on a caption that is read as ours."""
    padded = f" {' '.join(words_of(text))} "
    return [number for number, entry in enumerate(spaced) if entry in padded]


def matching(texts: Sequence[str], listed: Sequence[str]) -> dict[str, Any]:
    """Speeds, and whether all find the same."""
    build, phrases = timed(lambda: Phrases(listed))
    took, found = timed(lambda: [phrases.find(text) for text in texts])
    facts: dict[str, Any] = {
        "concepts": len(phrases),
        "captions": len(texts),
        "words_a_caption": round(sum(len(words_of(text)) for text in texts) / len(texts), 2),
        "concepts_a_caption": round(sum(map(len, found)) / len(texts), 2),
        "ours": {"build_seconds": round(build, 2), "captions_per_second": round(len(texts) / took)},
    }
    build, machine = timed(lambda: automaton(phrases.names))
    if machine is not None:
        padded = (f" {' '.join(words_of(text))} " for text in texts)
        took, theirs = timed(lambda: [sorted({number for _, number in machine.iter(text)}) for text in padded])
        facts["pyahocorasick"] = {"build_seconds": round(build, 2), "captions_per_second": round(len(texts) / took)}
        facts["equal"] = theirs == found
    spaced = [f" {name} " for name in phrases.names]
    took, loop = timed(lambda: [metaclip(text, spaced) for text in texts[:METACLIP_CAPTIONS]])
    facts["metaclip_loop"] = {"captions_per_second": round(METACLIP_CAPTIONS / took, 1)}
    facts["equal_loop"] = loop == found[:METACLIP_CAPTIONS]
    return facts


def balancing(texts: Sequence[str], listed: Sequence[str], file: Path, samples: int) -> dict[str, Any]:
    """Seconds of each step on one bucket of samples, and what the caps leave."""
    file.write_text(json.dumps(listed))
    sources = [{"name": name, "format": "folder", "kind": "pair", "path": "."} for name in ("a", "b")]
    caps = [{"source": "a", "samples": samples // 10}, {"language": "*", "bytes": 50 * samples}]
    wanted = {"concepts": {"path": str(file), "cap": max(1, samples // 500), "unmatched": "drop"}, "cap": caps}
    recipe = make_recipe({"name": "x", "source": sources, "balance": wanted})
    measured = measure_concepts([[text] for text in texts], Phrases(listed))
    number = np.arange(samples)
    taken = measured.take(pa.array(number % len(texts)))
    ids = np.random.default_rng(0).integers(0, 256, (samples, 16), dtype=np.uint8)  # drawn once, timed on, never kept
    fixed = {"verdict": "keep", "sample_kind": "pair", "priority": 0, "language": "en", "bytes": 100, "bucket": 0}
    columns: dict[str, Any] = {name: pa.array([value] * samples) for name, value in fixed.items()}
    columns |= {"unit": number // 2000, "place": number % 2000, "row": pa.array(number).cast(pa.string())}
    columns |= {"sample_id": [row.tobytes() for row in ids], "source": np.where(number % 3, "a", "b")}
    columns |= {name: taken.column(name) for name in taken.column_names}
    rows = pa.table([_column(columns[field.name], field.type) for field in ROWS], schema=ROWS)
    gathering, found = timed(lambda: gather(rows))
    captions = sum_counts([found.counts], len(Phrases(listed)))
    by_concepts(found.samples.slice(0, 10), recipe, captions)  # reads the list and makes its keys, once in a process
    drawing, fallen = timed(lambda: by_concepts(found.samples, recipe, captions))
    capping, _ = timed(lambda: by_caps(found.samples, recipe, {}, fallen))
    return {
        "samples": samples,
        "gather_seconds": round(gathering, 2),
        "concept_draw_seconds": round(drawing, 2),
        "cap_draw_seconds": round(capping, 2),
        "concepts_capped": int(np.count_nonzero(captions > wanted["concepts"]["cap"])),
        "kept": samples - len(fallen),
    }


def _column(values: Any, kind: pa.DataType) -> Any:
    return values.cast(kind) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("--concepts", type=int, default=500_000)
    parser.add_argument("--every", type=int, default=1, help="of the glosses, every so many-th")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--list", type=Path, default=Path("concepts.json"), help="where the list is written")
    chosen = parser.parse_args()
    texts = glosses(chosen.wordnet)
    listed = concepts(chosen.wordnet, texts, chosen.concepts)
    texts = texts[:: chosen.every]
    facts = matching(texts, listed)
    print(json.dumps({"matching": facts, "balance": balancing(texts, listed, chosen.list, chosen.samples)}, indent=1))


if __name__ == "__main__":
    main()
