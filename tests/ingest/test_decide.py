"""Rules fire where they should, survivors are chosen by the rule of the design, and the split follows the content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imglish.digests import record_id, table_digest
from imglish.ingest.annotate import count_words, detect_language
from imglish.ingest.decide import decide, resolve
from imglish.ingest.judge import evidence_rows, judge
from imglish.ingest.rules import active_rules
from imglish.recipe import Recipe, make_recipe
from imglish.records import ANNOTATIONS, pack_json, table, unpack_json
from imglish.sample import InlineEngine
from imglish.storage import Store


def recipe(**decide: Any) -> Recipe:
    sources = [
        {"name": name, "format": "folder", "kind": kind, "path": name, "priority": priority}
        for name, kind, priority in [
            ("web", "pair", 1),
            ("best", "pair", 0),
            ("photos", "image", 2),
            ("prose", "text", 0),
        ]
    ]
    return make_recipe({"name": "x", "source": sources, "decide": decide})


def pair(
    row: str, source: str = "web", content: str = "a", words: tuple[int, ...] = (3,), **columns: Any
) -> dict[str, Any]:
    captions = [{"words": count, "bytes": 4 * count, "language": "en", "score": 0.9} for count in words]
    return image(row, source, content) | {"kind": "pair", "captions": pack_json(captions)} | columns


def image(row: str, source: str = "photos", content: str = "a", **columns: Any) -> dict[str, Any]:
    size = {"width": 100, "height": 80, "aspect": 1.25, "status": "ok"}
    return (
        {"source": source, "row": row, "kind": "image", "record_id": record_id("image", content.encode())}
        | size
        | columns
    )


def prose(row: str, words: int = 100, language: str = "en", score: float = 0.9) -> dict[str, Any]:
    measured = {"words": words, "language": language, "language_score": score, "status": "ok"}
    return {"source": "prose", "row": row, "kind": "text", "record_id": record_id("text", row.encode())} | measured


def decided(rows: list[dict[str, Any]], **decide: Any) -> dict[str, dict[str, Any]]:
    chosen = recipe(**decide)
    resolved = resolve(judge(table(rows, ANNOTATIONS), chosen, unit=0, buckets=4), chosen)
    return {f"{row['source']}/{row['row']}": row for row in resolved.to_pylist()}


def evidence_of(rows: list[dict[str, Any]], **decide: Any) -> list[dict[str, Any]]:
    chosen = recipe(**decide)
    return evidence_rows(resolve(judge(table(rows, ANNOTATIONS), chosen, unit=0, buckets=4), chosen)).to_pylist()


@pytest.mark.parametrize(
    ("row", "rule", "score", "threshold"),
    [
        (pair("1", status="truncated", detail="ends early"), "payload@1", None, None),
        (pair("1", width=31, height=90, aspect=90 / 31), "image_size@1", 31.0, 32.0),
        (pair("1", width=32, height=97, aspect=97 / 32), "image_aspect@1", 97 / 32, 3.0),
        (pair("1", words=(0, 300)), "caption_length@1", 300.0, 1.0),
        (prose("1", words=49), "text_length@1", 49.0, 50.0),
        (prose("1", score=0.64), "language@1", 0.64, 0.65),
        (prose("1", language="ru"), "language@1", 0.9, 0.65),
    ],
)
def test_a_rule_drops_just_beyond_its_threshold(row: dict[str, Any], rule: str, score: float, threshold: float) -> None:
    (found,) = decided([row], rule={"language": {"languages": ("en", "de")}}).values()
    assert (found["verdict"], found["rule"], found["score"], found["threshold"]) == ("drop", rule, score, threshold)
    assert found["split"] is None and found["sample_kind"] is None
    (evidence,) = evidence_of([row], rule={"language": {"languages": ("en", "de")}})
    assert (evidence["rule"], evidence["score"], evidence["threshold"]) == (rule, score, threshold)


@pytest.mark.parametrize(
    "row",
    [
        pair("1", width=32, height=96, aspect=3.0),
        pair("1", words=(1,)),
        pair("1", words=(256,)),
        prose("1", words=50),
        prose("1", score=0.65),
    ],
)
def test_a_rule_keeps_exactly_its_threshold(row: dict[str, Any]) -> None:
    (found,) = decided([row]).values()
    assert (found["verdict"], found["rule"], found["fired"]) == ("keep", None, 0)


def test_every_rule_that_fired_has_its_bit_and_evidence_but_the_first_decides() -> None:
    (found,) = decided([pair("1", width=10, height=90, aspect=9.0, words=(0,))]).values()
    names = [rule.name for rule in active_rules(recipe())]
    assert found["fired"] == sum(1 << names.index(name) for name in ("image_size", "image_aspect", "caption_length"))
    said = evidence_of([pair("0"), pair("1", content="b", width=10, height=90, aspect=9.0, words=(0,))])
    assert [(item["row"], item["rule"], item["score"]) for item in said] == [
        ("1", "image_size@1", 10.0),
        ("1", "image_aspect@1", 9.0),
        ("1", "caption_length@1", 0.0),
    ]
    assert found["rule"] == "image_size@1" and found["detail"] == "10 x 90 pixels"


def test_single_captions_are_edited_away() -> None:
    (found,) = decided([pair("1", words=(3, 0, 300))]).values()
    assert found["verdict"] == "keep"
    assert unpack_json(found["edits"]) == [[1, 0, 0, ""], [2, 0, 1200, ""]]


def test_the_survivor_has_the_lowest_priority_then_source_then_row() -> None:
    found = decided([pair("2"), pair("1"), pair("9", source="best"), image("0")])
    assert found["best/9"]["verdict"] == "keep"
    for name in ("web/1", "web/2", "photos/0"):
        row = found[name]
        assert (row["verdict"], row["rule"]) == ("merge", "exact_duplicate@1")
        assert (row["other_source"], row["other_row"], row["sample_kind"]) == ("best", "9", "pair")


def test_a_dropped_occurrence_cannot_survive() -> None:
    found = decided([pair("9", source="best", words=(0,)), pair("1"), image("0")])
    assert found["best/9"]["verdict"] == "drop"
    assert found["web/1"]["verdict"] == "keep" and found["photos/0"]["other_row"] == "1"


def test_captioned_images_may_stay_in_the_image_stream() -> None:
    rows = [pair("1"), image("0"), image("1")]
    found = decided(rows, captioned_images="both")
    assert (found["photos/0"]["verdict"], found["photos/0"]["sample_kind"]) == ("keep", "image")
    assert (found["photos/1"]["verdict"], found["photos/1"]["other_row"]) == ("merge", "0")
    assert found["photos/0"]["split"] == found["web/1"]["split"]


def test_occurrences_without_a_record_are_not_merged_with_each_other() -> None:
    gone = {"record_id": None, "status": "http_404"}
    found = decided([pair("1", **gone), pair("2", **gone)])
    assert {row["verdict"] for row in found.values()} == {"drop"}
    assert found["web/1"]["detail"] == "http_404"


def test_the_validation_share_is_kept_and_does_not_move_when_the_corpus_grows() -> None:
    rows = [image(str(n), content=str(n)) for n in range(4000)]
    small, whole = decided(rows[:2000], validation_share=0.1), decided(rows, validation_share=0.1)
    share = np.mean([row["split"] == "validation" for row in whole.values()])
    assert abs(share - 0.1) < 0.02
    assert all(whole[name]["split"] == row["split"] for name, row in small.items())


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["web", "best", "photos"]), st.sampled_from("abc"), st.booleans()),
        min_size=1,
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_verdicts_do_not_depend_on_the_order_of_rows(drawn: list[tuple[str, str, bool]], rng: Any) -> None:
    rows = []
    for number, (source, content, good) in enumerate(drawn):
        make = image if source == "photos" else pair
        rows.append(make(str(number), source, content, status="ok" if good else "truncated"))
    first = decided(rows)
    rng.shuffle(rows)
    second = decided(rows)
    ignore = ("place", "bucket")
    assert {k: {c: v for c, v in row.items() if c not in ignore} for k, row in first.items()} == {
        k: {c: v for c, v in row.items() if c not in ignore} for k, row in second.items()
    }
    for content in "abc":
        mine = [row for row in first.values() if row["record_id"] == record_id("image", content.encode())]
        kept = [row for row in mine if row["verdict"] == "keep"]
        assert len(kept) == (
            1
            if any(row["status"] == "ok" for row in rows if row["record_id"] == record_id("image", content.encode()))
            else 0
        )


def test_words_of_unspaced_scripts_count_by_characters() -> None:
    assert count_words("a coral  trout\n") == 3
    assert count_words("珊瑚鳟鱼") == 2
    assert count_words("the 珊瑚 trout") == 3
    assert count_words("") == 0


def test_language_is_told_on_sentences_and_absent_on_nothing() -> None:
    assert detect_language("Das ist ein altes Haus am Fluss mit vielen Bäumen")[0] == "de"
    assert detect_language("This is an old house beside the river with many trees")[0] == "en"
    assert detect_language(" \n ") == (None, None)


def test_decisions_have_a_digest_that_sees_every_verdict() -> None:
    chosen = recipe()
    one = resolve(judge(table([pair("1"), pair("2")], ANNOTATIONS), chosen, 0, 4), chosen)
    two = one.set_column(one.column_names.index("verdict"), "verdict", pa.array(["keep", "keep"]))
    assert table_digest(one, ["source", "row"]) != table_digest(two, ["source", "row"])


@pytest.mark.parametrize("span", [1, 5, 1000])
def test_every_annotations_file_gets_decisions_row_by_row_however_files_are_grouped(
    span: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imglish.ingest.decide.PIECE_ROWS", span)
    monkeypatch.setattr("imglish.ingest.decide.BUCKET_ROWS", 2 * span)
    store = Store(tmp_path)
    files = [
        [pair(f"{n}", content=str(n)) for n in range(4)],
        [],
        [image(f"{n}", content=str(n), width=10 + 90 * (n % 2)) for n in range(3)],
        [prose("1", words=10), prose("2")],
    ]
    annotated = [store.put_table("tables/annotate", table(rows, ANNOTATIONS)) for rows in files]
    found = decide(store, InlineEngine(), recipe(), annotated)
    rows = [store.read_table(output.path).to_pylist() for output in found.decisions]
    assert [[row["row"] for row in part] for part in rows] == [[row["row"] for row in part] for part in files]
    assert [[row["verdict"] for row in part] for part in rows] == [
        ["keep"] * 4,
        [],
        ["drop", "merge", "drop"],
        ["drop", "keep"],
    ]
    evidence = [row for output in found.evidence for row in store.read_table(output.path).to_pylist()]
    assert [(row["source"], row["row"], row["rule"]) for row in evidence] == [
        ("photos", "0", "image_size@1"),
        ("photos", "1", "exact_duplicate@1"),
        ("photos", "2", "image_size@1"),
        ("prose", "1", "text_length@1"),
    ]
    again = InlineEngine()
    assert decide(store, again, recipe(), annotated) == found
    assert not again.receipts


def test_rows_without_a_record_lie_in_no_bucket_together() -> None:
    rows = [image(f"{n:04d}", content=str(n)) for n in range(300)]
    rows += [image(f"lost{n:04d}", status="http_404", record_id=None, width=None) for n in range(1000)]
    judged = judge(table(rows, ANNOTATIONS), recipe(), unit=3, buckets=10)
    buckets, lost = judged["bucket"].to_numpy(), judged["record_id"].is_null().to_numpy()
    assert np.bincount(buckets[lost], minlength=10).tolist() == [100] * 10
    for at, (bucket, record) in enumerate(zip(buckets, judged["record_id"].to_pylist(), strict=True)):
        assert lost[at] or bucket == int.from_bytes(record[:8], "big") % 10
