"""One picture behind many URLs: of one host it is a placeholder, of many hosts it is popular."""

from __future__ import annotations

from pathlib import Path

import pytest

from imglish.ingest.annotate import AnnotateTask, annotate_units
from imglish.ingest.decide import decide
from imglish.ingest.land import land, landing_files
from imglish.recipe import make_recipe
from imglish.storage import Store
from tests.ingest.engine_helpers import Inline
from tests.ingest.source_helpers import write
from tests.ingest.web_helpers import Web, body, image_bytes

GONE, POPULAR = image_bytes(colour=(128, 128, 128)), image_bytes(colour=(9, 99, 199))


@pytest.mark.parametrize(("limit", "dropped"), [(3, 5), (4, 5), (5, 0), (0, 0)])
def test_the_same_bytes_from_many_urls_of_one_host_are_dropped(tmp_path: Path, limit: int, dropped: int) -> None:
    answers = {f"/{n}.jpg": body(GONE) for n in range(5)} | {"/popular.jpg": body(POPULAR)}
    with Web(answers) as first, Web(answers, address="127.0.0.2") as second:
        urls = (
            [first.url(f"/{n}.jpg") for n in range(5)] + [first.url("/popular.jpg")] * 6 + [second.url("/popular.jpg")]
        )
        write(tmp_path, {"list.csv": "url,caption\n" + "".join(f"{url},words\n" for url in urls)})
        source = {"name": "list", "format": "url-list", "kind": "pair", "path": "data/list.csv"}
        made = make_recipe({
            "name": "p", "root": str(tmp_path), "work": str(tmp_path / "work"), "source": [source],
            "fetch": {"allow_private": [first.host, second.host], "host_delay": 0.0},
            "decide": {"placeholder_urls": limit, "buckets": 1},
        })  # fmt: skip
        store, engine = Store(made.work), Inline()
        landed = landing_files(land(store, engine, made)["list"])
    annotated = list(engine.map(AnnotateTask(store), annotate_units(landed, 10**8, {})))
    decided = decide(store, engine, made, [receipt.outputs["rows"] for receipt in annotated])
    rows = [row for file in decided.decisions for row in store.read_table(file.path).to_pylist()]
    gone = [row for row in rows if row["verdict"] == "drop"]
    assert len(gone) == dropped
    assert {(row["rule"], row["score"], row["threshold"], row["detail"]) for row in gone} <= {
        ("placeholder@1", 5.0, float(limit), "the same bytes behind 5 URLs of one host")
    }
    evidence = [row for file in decided.evidence for row in store.read_table(file.path).to_pylist()]
    assert sum(row["rule"] == "placeholder@1" for row in evidence) == dropped
    assert sum(row["verdict"] == "keep" for row in rows) == (1 if dropped else 2)
