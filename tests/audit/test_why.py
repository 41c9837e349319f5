"""Why: every fact of a record's story, by every name of it, and clear words for names of nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from imglish.audit.keys import UnknownKeyError
from imglish.audit.lookup import Between, Like, OneOf, find_rows
from imglish.audit.why import open_all, tell
from imglish.audit.why_text import story_lines
from imglish.digests import record_id
from imglish.errors import ManifestError
from imglish.forget import forget
from imglish.ingest.trail import Opened, open_trail, trail_path
from imglish.recipe import Recipe
from imglish.shards.merge import merge
from imglish.storage import Store
from tests.pipeline.corpora import drawing
from tests.pipeline.decided import FETCHED, HOSTILE, texts


@pytest.fixture(scope="module")
def opened(decided: Recipe) -> Opened:
    return open_trail(f"{decided.work}/manifest.json")


def page(story: dict[str, Any]) -> str:
    return "\n".join(story_lines(story))


def test_a_record_is_told_with_every_occurrence_from_fetch_to_shard(opened: Opened) -> None:
    key = record_id("image", drawing(0)).hex()
    story = tell(opened, key[:12])
    web, folder = story["occurrences"]
    assert (web["source"], folder["occurrence"]) == ("web", "pairs/0000.jpg")
    landed = web["landed"]
    assert landed["url"].endswith("/0.jpg?size=large") and landed["licence"] == "CC0-1.0" and landed["status"] == "ok"
    assert landed["receipt"]["code"] == 200 and landed["bytes"] == len(drawing(0))
    assert web["measured"]["width"] == 160 and web["measured"]["format"] == "JPEG" and web["verdict"] == "keep"
    assert (folder["verdict"], folder["rule"]) == ("merge", "exact_duplicate@1")
    assert folder["survivor"] == {"occurrence": web["occurrence"], "record": key}
    (sample,) = story["samples"]
    assert (sample["kind"], sample["key"], sample["tombstone"]) == ("pair", key, False)
    assert [member["merged"] for member in sample["occurrences"]].count(False) == 1
    assert sorted(sample["captions"]) == sorted({*landed["captions"], *folder["landed"]["captions"]})
    said = page(story)
    for part in (
        "fetched       200 from http://",
        f"record {key} of decided@1",
        "in the corpus: ",
        "merge by exact_dup",
    ):
        assert part in said


def test_a_near_duplicate_names_score_threshold_survivor_and_the_match(opened: Opened) -> None:
    story = tell(opened, "https://example.org/near.html")
    (one,), (match,) = story["occurrences"], story["matches"]
    other = record_id("text", texts()["page"].encode()).hex()
    assert (one["verdict"], one["rule"], one["threshold"]) == ("drop", "near_text@1", 0.75)
    assert one["score"] == match["score"] > 0.75 and one["fired"] == ["near duplicate"]
    assert match["record"] == other == one["survivor"]["record"]
    assert match["occurrences"] == [{"occurrence": "lines/lines.jsonl#0", "verdict": "keep", "rule": None}]
    assert story["samples"] == [] and "not in the corpus" in page(story)


def test_edits_and_measures_of_rules_are_told(opened: Opened) -> None:
    story = tell(opened, "https://example.org/mail.html")
    (one,) = story["occurrences"]
    ((place, first, last, put),) = one["edits"]
    assert (place, put) == (-1, "<email>")
    assert texts()["mail"].encode()[first:last] == b"ann@example.org"
    assert "words" in one["measured"] and one["measured"]["pii"]
    assert f"edited        the text, bytes {first} to {last}: <email>" in page(story)
    (sample,) = story["samples"]
    assert sample["kind"] == "text" and sample["rows"]


def test_a_dead_url_has_a_story_without_a_record(opened: Opened) -> None:
    url = next(one["url"] for one in tell(opened, "*://*gone.jpg")["candidates"])
    story = tell(opened, url)
    (one,) = story["occurrences"]
    assert story["record"] is None and one["landed"]["status"] == "http_404" and one["rule"] == "payload@1"
    assert one["fired"] == ["payload@1", "caption_length@1"] and "(no payload)" in page(story)


def test_a_pattern_lists_candidates(opened: Opened) -> None:
    found = tell(opened, "http://*/?.jpg*")["candidates"]
    assert len(found) == FETCHED and all(one["record"] for one in found)
    assert f"{FETCHED} occurrences match" in page({"candidates": found})
    assert "and 50 more; --json has all" in page({"candidates": [found[0]] * 150})


def test_what_came_from_outside_reaches_the_terminal_harmless(opened: Opened) -> None:
    story = tell(opened, "pairs/hostile.jpg")
    assert story["occurrences"][0]["landed"]["captions"] == [HOSTILE]
    said = page(story)
    assert "\x1b" not in said and "\u202e" not in said and "<script>" in said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("pairs/none.jpg", r"looked for as an occurrence, in vain.*such as 'pairs/"),
        ("none/0001.jpg", r"none of the three names of a record; give a record id .*sources are web, pairs, images"),
        ("https://example.org/none", "looked for as a URL, in vain"),
        ("https://example.org/none*", "looked for as URLs of this pattern, in vain"),
        ("ffff" * 8, "looked for as an id, in vain"),
        ("abc", "at least its first 4"),
        ("", "none of the three names"),
        ("\x1b[2J", "none of the three names"),
    ],
)
def test_a_name_of_nothing_says_what_names_there_are(opened: Opened, key: str, said: str) -> None:
    with pytest.raises(UnknownKeyError, match=said) as raised:
        tell(opened, key)
    assert "\x1b" not in str(raised.value)


def test_first_digits_of_several_records_list_them(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imglish.audit.keys.LEAST_DIGITS", 1)
    with pytest.raises(UnknownKeyError, match=r"names \d+ records; give one of them:\n  [0-9a-f]{32}  "):
        for digit in "0123456789abcdef":
            tell(opened, digit)


def test_a_forgotten_record_is_told_as_a_tombstone(decided: Recipe, tmp_path: Path) -> None:
    work = shutil.copytree(decided.work, tmp_path / "work")
    pair, text = record_id("image", drawing(1)).hex(), record_id("text", texts()["page"].encode()).hex()
    forget(f"{work}/manifest.json", keys=[pair, text])
    opened = open_trail(f"{work}/manifest.json")
    for key in (pair, text):
        story = tell(opened, key)
        assert story["samples"][0]["tombstone"] and "removed by a tombstone" in page(story)
        assert {one["landed"]["status"] for one in story["occurrences"]} == {"forgotten"}


def test_a_corpus_behind_a_url_tells_the_same(decided: Recipe, opened: Opened) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(decided.work), "/why", recursive=True)
    try:
        remote = open_trail("memory://why/manifest.json")
        here, there = tell(opened, "pairs/0000.jpg"), tell(remote, "pairs/0000.jpg")
        assert {**here, "manifest": None} == {**there, "manifest": None}
    finally:
        fs.rm("/why", recursive=True)


def test_a_merged_corpus_asks_its_parts(decided: Recipe, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(decided.work, tmp_path / name)
    forget(str(tmp_path / "b" / "manifest.json"), keys=[record_id("image", drawing(3)).hex()])
    whole = str(tmp_path / "all.json")
    merge(whole, [str(tmp_path / name / "manifest.json") for name in ("a", "b")], "all", "1")
    parts = open_all(whole)
    assert [tell(part, "pairs/0000.jpg")["record"] for part in parts] == [record_id("image", drawing(0)).hex()] * 2


def test_lost_tables_are_named_with_the_way_out(decided: Recipe, tmp_path: Path) -> None:
    work = shutil.copytree(decided.work, tmp_path / "work")
    opened = open_trail(f"{work}/manifest.json")
    Path(work, opened.trail.files[0].decisions).unlink()
    with pytest.raises(ManifestError, match=r"cannot be read .*run 'imglish build' once more"):
        tell(opened, "abcd")
    Path(work, trail_path(opened.trail.decisions)).write_text('{"format":"imglish-trail"}')
    with pytest.raises(ManifestError, match="is no trail of decisions"):
        open_all(f"{work}/manifest.json")
    Path(work, trail_path(opened.trail.decisions)).unlink()
    with pytest.raises(ManifestError, match="its tables are not beside it"):
        open_all(f"{work}/manifest.json")
    with pytest.raises(ManifestError, match="no manifest at"):
        open_all(f"{work}/none.json")


class Counted(Store):
    """Counts bytes that Parquet readers take from files."""

    taken = 0

    def open(self, path: str) -> Any:
        file = super().open(path)
        read = file.read

        def counted(size: int = -1) -> bytes:
            data = read(size)
            self.taken += len(data)
            return data

        file.read = counted  # type: ignore[method-assign]
        return file


@pytest.fixture
def sorted_table(tmp_path: Path) -> Iterator[tuple[Counted, str, int]]:
    store = Counted(tmp_path)
    rows = 64_000
    ids = pa.array([n.to_bytes(16, "big") for n in range(rows)], pa.binary())
    columns = {
        "record_id": ids,
        "row": [f"{n:09d}" for n in range(rows)],
        "bulk": [f"{n * 7919:064d}" for n in range(rows)],
    }
    output = store.put_table("t", pa.table(columns), group_rows=4_000)
    yield store, output.path, output.bytes


def test_an_id_costs_one_row_group_and_a_row_one_column(sorted_table: tuple[Counted, str, int]) -> None:
    store, path, size = sorted_table
    low = (31_000).to_bytes(16, "big")
    found = find_rows(store, path, "record_id", Between(low, low), ["row", "bulk"])
    assert found.to_pylist() == [{"row": "000031000", "bulk": f"{31_000 * 7919:064d}", "place": 31_000}]
    assert store.taken < size / 4
    store.taken = 0
    found = find_rows(store, path, "row", OneOf(["000031000", "nothing"]), ["bulk"])
    assert found.column("place").to_pylist() == [31_000] and store.taken < size / 2  # half is footer and names
    assert find_rows(store, path, "row", Like("00006399?"), ["row"]).num_rows == 10
    assert find_rows(store, path, "row", Like("00006399."), ["row"]).num_rows == 0
