"""Personal data is found only where its kind's check agrees; measures have units of their own; scorers a digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from imglish.digests import canonical_json
from imglish.errors import LockError, RecipeError
from imglish.ingest.edits import compose
from imglish.ingest.measures.personal import find_personal
from imglish.ingest.measures.pictures import measure_pictures
from imglish.ingest.measures.registry import make_measure, needed_names
from imglish.ingest.measures.stage import MeasureTask, measure_units
from imglish.ingest.rules import active_rules
from imglish.pipeline import Pipeline
from imglish.recipe import Recipe, make_recipe
from imglish.records import LANDING, pack_json, table
from imglish.sample import InlineEngine
from imglish.storage import Store
from imglish.tokenize.rows import edited_captions, edited_document


def recipe(work: Path | str = "corpus", **decide: Any) -> Recipe:
    source = {"name": "prose", "format": "text", "kind": "text", "path": "x"}
    return make_recipe({"name": "x", "work": str(work), "source": [source], "decide": decide})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to Ann.Lee+x@mail.example.org.", [("email", "Ann.Lee+x@mail.example.org")]),
        ("user@localhost, @handle, a@b, x@@y.org", []),
        ("naïve: é@example.com, 日本ann@example.com", [("email", "ann@example.com")]),
        ("8.8.8.8. and 192.168.0.1, 10.0.0.1, 256.1.1.1, v1.2.3.4.5, 127.0.0.1", [("ip", "8.8.8.8")]),
        ("2001:4860:4860::8888 or fe80::1 or ::1, at 12:30:45", [("ip", "2001:4860:4860::8888")]),
        ("Call +49 30 901820 or +44 (20) 7946 0958!", [("phone", "+49 30 901820"), ("phone", "+44 (20) 7946 0958")]),
        ("+1 111 111 1111 and +12", []),
        ("Card 4111 1111 1111 1111, not 4111 1111 1111 1112", [("card", "4111 1111 1111 1111")]),
        ("378282246310005 6011-1111-1111-1117", [("card", "378282246310005"), ("card", "6011-1111-1111-1117")]),
        ("255 500 255 0 0 500 0 0 and 2 4096 4096 204800 1 are tables", []),
        ("std::be::x, be::, a::b", []),
        ("9999999999999995 has Luhn's digit and no issuer", []),
        ("DE89 3704 0044 0532 0130 00; DE89 3704 0044 0532 0130 01", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
    ],
)
def test_personal_data_is_found_where_its_check_agrees(text: str, found: list[tuple[str, str]]) -> None:
    (before, hits) = find_personal([b"ann@example.org", text.encode()], ())
    assert [(hit.kind, text.encode()[hit.start : hit.end].decode()) for hit in hits] == found
    assert [(hit.start, hit.end) for hit in before] == [(0, 15)]


def test_national_numbers_count_in_the_regions_that_are_named() -> None:
    text = "naïve: call (212) 736-5000 today".encode()
    assert find_personal([text], ()) == [[]]
    ((hit,),) = find_personal([text], ("US",))
    assert text[hit.start : hit.end] == b"(212) 736-5000"


def measured(rule: str, rows: list[dict[str, Any]], **limits: Any) -> Any:
    chosen = recipe(rules=(rule,), rule={"pii": limits} if limits else {})
    (made,) = active_rules(chosen)
    return made.judge(make_measure("pii", chosen).call(rows), made.limits)


def text_row(text: str) -> dict[str, Any]:
    return {"kind": "text", "payload": text.encode(), "captions": None}


def redacted(text: str, **limits: Any) -> str:
    found = measured("pii@redact", [text_row(text)], **limits)
    assert not found.fired.any()
    return edited_document(text.encode(), compose(found.edits.get(0, ())))


def test_redaction_makes_the_same_placeholder_of_the_same_address_wherever_it_stands() -> None:
    one = redacted("From a@x.org to b@x.org, cc A@X.org")
    first, second, third = (word.strip(",") for word in one.split() if word.startswith("<"))
    assert first == third != second and first.startswith("<email-")
    assert redacted("b@x.org").strip() == second
    assert redacted("a@x.org", key="secret") not in (first, redacted("a@x.org", key="other"))
    assert redacted("a@x.org at 8.8.8.8", placeholder="class") == "<email> at <ip>"
    assert redacted("a@x.org at 8.8.8.8", classes=("ip",), placeholder="class") == "a@x.org at <ip>"


def test_captions_are_redacted_by_number_and_records_dropped_when_asked() -> None:
    captions = ["a cat", "ask é a@x.org"]
    row = {"kind": "pair", "payload": b"", "captions": pack_json(captions)}
    found = measured("pii@redact", [row], placeholder="class")
    assert edited_captions(captions, compose(found.edits[0])) == ["a cat", "ask é <email>"]
    dropped = measured("pii@drop", [row, text_row("nothing")], max_hits=0)
    assert dropped.fired.tolist() == [True, False] and dropped.score[0] == 1
    assert not measured("pii@drop", [row], max_hits=1).fired.any()


def png(picture: Image.Image) -> bytes:
    import io

    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_a_blurred_photograph_is_less_sharp_and_an_empty_picture_has_no_entropy() -> None:
    photo = Image.fromarray(skimage.data.astronaut())
    blurred = photo.filter(ImageFilter.GaussianBlur(4))
    sharp, soft, empty, broken = measure_pictures(
        [png(photo), png(blurred), png(Image.new("RGB", (64, 64), "red")), b"no image"], 10**8
    )
    assert sharp is not None and soft is not None and broken is None
    assert sharp[1] > 10 * soft[1] and 7 < sharp[0] < 8
    assert empty == (0.0, 0.0)
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 255
    (two,) = measure_pictures([png(Image.fromarray(half))], 10**8)
    assert two is not None and two[0] == 1.0


def landed(store: Store, rows: list[tuple[str, bytes | None]]) -> Any:
    made = [
        {"source": "prose", "row": str(n), "kind": kind, "payload": payload, "status": "ok" if payload else "empty"}
        for n, (kind, payload) in enumerate(rows)
    ]
    return store.put_table("landing", table(made, LANDING))


def test_a_measure_has_one_row_per_occurrence_and_a_unit_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    file = landed(store, [("text", b"one two"), ("text", None), ("text", b"a@x.org")])
    gopher, both = recipe(rules=("gopher_quality",)), recipe(rules=("gopher_quality", "pii"))
    assert (needed_names(gopher), needed_names(both)) == (["text"], ["text", "pii"])
    assert needed_names(recipe()) == []
    (alone,), (together,) = measure_units(gopher, [file], ["text"]), measure_units(both, [file], ["text"])
    assert together[0].id == alone[0].id  # another rule's measure leaves this one as it is
    assert measure_units(both, [file], ["image"]) == [[]]
    words, personal = [
        store.read_table(MeasureTask(store, both)(unit).outputs["rows"].path).to_pylist() for unit in together
    ]
    assert [row["text_words"] for row in words] == [2, None, 1]
    assert [row["pii"] is None for row in personal] == [True, True, False]
    other = recipe(rules=("gopher_quality", "pii"), measure={"pii": {"regions": ("US",)}})
    ((_, changed),) = measure_units(other, [file], ["text"])
    assert changed.id != together[1].id


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ({"pi": {}}, "unknown key decide.measure.pi; known are text, pii"),
        ({"pii": {"region": ()}}, "decide.measure.pii.region: Extra inputs"),
        ({"nsfw": {"sha256": "0" * 64}}, "decide.measure.nsfw.sha256 is 0000"),
    ],
)
def test_wrong_settings_of_a_measure_are_named(measure: dict[str, Any], said: str) -> None:
    chosen = recipe(rules=("pii", "nsfw"), measure=measure)
    with pytest.raises(RecipeError, match=said):
        [make_measure(name, chosen) for name in needed_names(chosen)]


def test_open_nsfw_scores_photographs_low_and_its_weights_are_held_by_the_lock(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, rules=("nsfw",))
    measure = make_measure("nsfw", chosen)
    rows = [{"payload": png(Image.fromarray(skimage.data.astronaut()))}, {"payload": b"no image"}]
    score, nothing = measure.call(rows).column("nsfw_score").to_pylist()
    assert nothing is None and 0 <= score < 0.5
    pipeline = Pipeline(chosen, InlineEngine())
    pipeline._hold_weights([measure])
    pipeline._hold_weights([measure])
    lock = pipeline.store.read("lock.json")
    pipeline.store.put_as("lock.json", canonical_json({**_lock(lock)}))
    with pytest.raises(LockError, match=r"weights of measure nsfw are locked as 000000000000.*decide\.measure\.nsfw"):
        pipeline._hold_weights([measure])


def _lock(data: bytes) -> dict[str, Any]:
    import json

    return {name: entry | {"digest": "0" * 64} for name, entry in json.loads(data).items()}
