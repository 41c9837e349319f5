"""A small corpus with everything that decisions are about: fetched pairs and a dead URL, pictures that are the same,
documents that are nearly the same, edits, and captions that want to be a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, load_recipe
from imglish.sample import InlineEngine
from tests.ingest.web_helpers import Web, body
from tests.pipeline.corpora import DEUTSCH, drawing, plant_faults, sentence, write_sources

FETCHED = 4
HOSTILE = "<script>document.title='owned'</script> \u202e\x1b[31m =cmd|' /C calc'!A0 \"quoted\""
RECIPE = """
name = "decided"
work = "../work"

[[source]]
name = "web"
format = "url-list"
kind = "pair"
path = "pairs.csv"
licence = "CC0-1.0"

[[source]]
name = "pairs"
format = "folder"
kind = "pair"
path = "pairs"
priority = 1

[[source]]
name = "images"
format = "folder"
kind = "image"
path = "images"
priority = 2

[[source]]
name = "texts"
format = "text"
kind = "text"
path = "texts"

[[source]]
name = "lines"
format = "jsonl"
kind = "text"
path = "lines.jsonl"
priority = 1
options = { text = "text", url = "url" }

[fetch]
host_delay = 0.0
robots = false
retries = 0

[match.text]
threshold = 0.75

[decide]
rules = ["preset:basic", "pii@redact"]
validation_share = 0.2
rule = { language = { min_score = 0.1 }, pii = { placeholder = "class" } }

[tokenize]
batch = 16
text = { vocabulary = 400 }
visual = { size = 64, patch = 16, codes = 32, iterations = 5 }
stored = { short_side = 96 }
views = { count = 2 }

[pack]
train_shards = 3
"""


def decided_sources(root: Path, web: Web) -> Path:
    """Write the sources below `root`, and the recipe; its path. `web` serves drawings 0, 1, ... as /0.jpg, /1.jpg."""
    write_sources(root, pairs=10, images=8, texts=10)
    plant_faults(root)
    (root / "pairs" / "hostile.jpg").write_bytes(drawing(77))
    (root / "pairs" / "hostile.txt").write_text(HOSTILE, encoding="utf-8")
    urls = [web.url(f"/{n}.jpg?size=large") for n in range(FETCHED)] + [web.url("/gone.jpg")]
    (root / "pairs.csv").write_text("url,caption\n" + "".join(f"{url},{sentence(n)}\n" for n, url in enumerate(urls)))
    lines = [{"text": text, "url": f"https://example.org/{name}.html"} for name, text in texts().items()]
    (root / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (root / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return root / "recipe.toml"


def pages(numbers: int = FETCHED) -> dict[str, Any]:
    """What the web serves."""
    return {f"/{n}.jpg?size=large": body(drawing(n)) for n in range(numbers)}


def texts() -> dict[str, str]:
    """Documents by the name in their URL: a page, nearly the same page, and one with an address."""
    page = [f"{sentence(5000 + n, length=14)}." for n in range(16)]
    other = [*page[:15], f"{sentence(6000, length=14)}."]
    mail = [f"{sentence(7000 + n, DEUTSCH, 14)}." for n in range(10)]
    mail[4] = "Schreiben Sie an ann@example.org und warten Sie auf eine Antwort."
    return {"page": "\n".join(page), "near": "\n".join(other), "mail": "\n".join(mail)}


def decided_recipe(path: Path, host: str, *overrides: str) -> Recipe:
    """The recipe of `decided_sources`."""
    return load_recipe(path, [f'fetch.allow_private=["{host}"]', *overrides])


def build_decided(folder: Path) -> Recipe:
    """The corpus, built in this process below `folder`."""
    with Web(pages()) as web:
        made = decided_recipe(decided_sources(folder / "sources", web), web.host)
        Pipeline(made, InlineEngine()).build()
    return made
