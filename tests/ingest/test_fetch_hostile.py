"""The hostile web, whole: each trick gives exactly the receipt that docs/fetch.md promises; nobody private hears."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imglish.ingest.annotate import AnnotateTask, annotate_units
from imglish.ingest.land import land, landing_files
from imglish.recipe import make_recipe
from imglish.records import unpack_json
from imglish.storage import Store
from tests.ingest.engine_helpers import Inline
from tests.ingest.hostile_helpers import MAX_BYTES, Case, Hostile, cases

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "fetch.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hostile, dict[str, dict[str, object]]]:
    """The whole list, landed and annotated once: the servers, and (landing row | annotated status) by case."""
    root = tmp_path_factory.mktemp("hostile")
    with Hostile() as web, web.disguised():
        tricks = web.cases
        (root / "list.csv").write_text("url,caption\n" + "".join(f"{case.url},a trick\n" for case in tricks))
        source = {"name": "list", "format": "csv", "kind": "pair", "path": "list.csv"}
        made = make_recipe({
            "name": "hostile", "root": str(root), "work": str(root / "work"),
            "source": [source | {"format": "url-list"}], "fetch": web.config().model_dump(),
        })  # fmt: skip
        store, engine = Store(made.work), Inline()
        landed = landing_files(land(store, engine, made)["list"])
    rows = [row for output in landed for row in store.read_table(output.path).to_pylist()]
    units = annotate_units(landed, made.tokenize.stored.max_pixels, {})
    annotated = [receipt.outputs["rows"] for receipt in engine.map(AnnotateTask(store), units)]
    words = {row["row"]: row["status"] for output in annotated for row in store.read_table(output.path).to_pylist()}
    in_order = sorted((row["row"] for row in rows), key=lambda name: int(name.partition("#")[2]))
    names = {name: case.name for name, case in zip(in_order, tricks, strict=True)}
    return web, {names[row["row"]]: row | {"annotated": words[row["row"]]} for row in rows}


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_trick_gives_exactly_the_documented_receipt(
    ran: tuple[Hostile, dict[str, dict[str, object]]], case: Case
) -> None:
    row = ran[1][case.name]
    said = (row["status"], row["annotated"] if case.annotated else None, row["attempts"])
    assert said == (case.status, case.annotated, case.attempts), row["detail"]
    receipt = unpack_json(row["receipt"])  # type: ignore[arg-type]
    assert (receipt is None) == (case.attempts == 0)
    assert receipt is None or receipt["sent"] <= MAX_BYTES + 1
    assert (row["payload"] is not None) == (case.status == "ok")


def test_the_sentinel_on_a_private_address_sees_no_connection(
    ran: tuple[Hostile, dict[str, dict[str, object]]],
) -> None:
    web, rows = ran
    assert len(rows) == len(web.cases)
    assert web.sentinel.connections == 0
    assert web.lookups == 2  # one for robots.txt, one for both attempts; a third would have been private


def test_the_header_that_decided_is_in_the_receipt(ran: tuple[Hostile, dict[str, dict[str, object]]]) -> None:
    rows = ran[1]
    receipts = {name: unpack_json(row["receipt"]) for name, row in rows.items() if row["receipt"]}  # type: ignore[arg-type]
    headers = {name: receipt["headers"] for name, receipt in receipts.items()}
    assert headers["X-Robots-Tag: noai"]["x-robots-tag"] == "noai"
    assert headers["TDM-Reservation: 1"]["tdm-reservation"] == "1"
    assert headers["HTML as JPEG"]["content-type"] == "image/jpeg"
    assert headers["gzip bomb"]["content-encoding"] == "gzip"
    assert receipts["redirect to 10.x"]["url"].startswith("http://10.0.0.7:")


def test_the_document_promises_what_is_tested() -> None:
    table = re.findall(r"^\| ([^|]+) \| `([a-z0-9_]+)` \| ([^|]+) \| (\d) \|", DOCUMENT.read_text(), re.M)
    promised = {name.strip(): (word, annotated.strip(" `"), int(attempts)) for name, word, annotated, attempts in table}
    assert promised == {case.name: (case.status, case.annotated or "", case.attempts) for case in CASES}
