"""The report: self-contained, readable by everybody, harmless, the same bytes every time, and right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from imglish.audit.report import report
from imglish.errors import ImglishError, ManifestError, StorageError
from imglish.shards.manifest import load_manifest, reissue
from imglish.storage import Store
from tests.audit.audit_helpers import HOSTILE, corpus, planted

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and text; fails on a tag that closes another."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: Counter[str] = Counter()
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside.update(f"{parent}>{tag}" for parent in self._open[-1:])
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    result = report(str(manifest), str(folder / "report.html"))
    values = json.loads(Path(result.json).read_text(encoding="utf-8"))
    assert values == result.values
    assert sorted(path.name for path in folder.iterdir()) == ["audit.json", "report.html"]
    return Path(result.report).read_text(encoding="utf-8"), values


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return corpus(tmp_path / "corpus", shards=1, pairs=6, images=2, texts=2)


def test_the_page_asks_for_nothing_from_outside(made: tuple[str, Any]) -> None:
    page = Page(made[0])
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert re.match(r"(#|data:|$)", attributes.get(name, "")), attributes
    assert not re.search(r"url\((?!#)|@import", made[0])
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy


def test_the_page_is_usable_by_keyboard_and_screen_reader(made: tuple[str, Any]) -> None:
    page = Page(made[0])
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert len(page.all("table")) == page.inside["table>caption"] == len(page.all("caption"))
    drawings = [element for element in page.all("div") if element.get("role") == "img"]
    assert len(drawings) == len(page.all("svg")) > 5
    assert all(re.search(r"\d", drawing["aria-label"]) for drawing in drawings)
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    scrolling = [element for element in page.all("div") if element.get("class") == "wide"]
    assert all(element["tabindex"] == "0" and element["aria-label"] for element in scrolling)


def test_ids_are_unique_and_links_inside_lead_somewhere(made: tuple[str, Any]) -> None:
    page = Page(made[0])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {link["href"][1:] for link in page.all("a")} | {use["xlink:href"][1:] for use in page.all("use")}
    assert links <= set(ids)


def test_both_themes_and_paper_are_styled(made: tuple[str, Any]) -> None:
    assert "prefers-color-scheme: dark" in made[0]
    assert "@media print" in made[0]
    assert not re.search(r"(fill|stroke): #0", made[0]), "a plot's colour does not follow the theme"


def test_hostile_captions_are_shown_harmlessly(made: tuple[str, Any]) -> None:
    text, _ = made
    page = Page(text)
    assert not page.all("script")
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert HOSTILE[0] in page.words
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert "x" * 200 not in text
    assert "<b>8 x 30</b>" in page.words


def test_the_same_corpus_gives_the_same_bytes(manifest: Path, made: tuple[str, Any], tmp_path: Path) -> None:
    again = report(str(manifest), str(tmp_path / "other.html"))
    assert Path(again.report).read_text(encoding="utf-8") == made[0]
    assert json.loads(Path(again.json).read_bytes()) == made[1]


def test_another_seed_changes_the_contact_sheet_and_no_number(copied: Path, tmp_path: Path) -> None:
    first, second = (dict(report(str(copied), str(tmp_path / f"{n}.html"), seed=n).values) for n in (0, 1))
    assert first.pop("contact_sheet") != second.pop("contact_sheet")
    assert first == second


def test_numbers_do_not_depend_on_the_number_of_shards(made: tuple[str, Any], tmp_path: Path) -> None:
    other = dict(report(str(corpus(tmp_path / "five", shards=5)), str(tmp_path / "report.html")).values)
    moved = ("identity", "samples", "contact_sheet", "plan", "packing", "rebuild")
    assert {name: value for name, value in made[1].items() if name not in moved} == {
        name: value for name, value in other.items() if name not in moved
    }
    sheets = [sorted(item["key"] for item in values["contact_sheet"]["samples"]) for values in (made[1], other)]
    assert sheets[0] == sheets[1]


def test_the_funnel_counts_what_was_decided(made: tuple[str, Any]) -> None:
    funnel = made[1]["funnel"]
    assert {name: funnel[name] for name in ("occurrences", "kept", "merged", "dropped", "edited")} == {
        "occurrences": 69,
        "kept": 35,
        "merged": 24,
        "dropped": 10,
        "edited": 1,
    }
    assert funnel["source"]["tiny"]["image"]["rule"] == {"image_size@1": 8, "payload@1": 2}
    figures = {rule: [cell[name] for name in ("dropped", "fired", "alone")] for rule, cell in funnel["rule"].items()}
    assert figures == {
        "exact_duplicate@1": [0, 0, 0],
        "image_aspect@1": [0, 1, 0],
        "image_size@1": [8, 8, 7],
        "payload@1": [2, 2, 2],
    }
    assert funnel["payload"] == {"truncated": 2}
    assert len(funnel["rule"]["image_size@1"]["examples"]) == 3


def test_the_balance_counts_survivors_captions_and_ids(made: tuple[str, Any]) -> None:
    values = made[1]
    assert values["pairs"]["source"]["drawn"]["samples"] == 18
    assert values["pairs"]["source"]["images"] == {
        "samples": 0, "occurrences": 24, "captions": 0, "ids": 0, "codes": 0, "share": 0.0,
        "languages": {},
    }  # fmt: skip
    assert values["pairs"]["captions"] == 24 + len(HOSTILE)
    assert values["pairs"]["ids"] == 24 * 3 + len(HOSTILE) * 4
    assert values["pairs"]["language"]["fr"]["share"] == round(1 / 24, 6)
    assert values["pairs"]["licence"]["not stated"]["samples"] == 6
    assert values["images"]["codes"] == 6 * 2 * 4
    assert values["texts"]["language"]["de"] == {"documents": 2, "occurrences": 2, "ids": 600, "share": 0.4}
    assert values["lengths"]["document_ids"]["p50"] == 300
    assert values["pictures"]["short_side"]["count"] == 30
    assert [values["pictures"]["aspect_thousandths"][name] for name in ("min", "max")] == [333, 1500]
    assert values["codes"]["count"] == 30 * 2 * 4
    assert values["codes"]["used"] + values["codes"]["dead"] == 64


def test_a_source_that_the_rules_wiped_out_is_a_finding(made: tuple[str, Any]) -> None:
    found = {finding["name"]: finding["text"] for finding in made[1]["findings"]}
    assert found["source_lost"] == ("Source tiny lost 100.0% of its 10 image occurrences, 8 of them to image_size@1.")
    assert found["one_language"] == "95.8% of kind pair is in one language, en."
    assert found["source_lost"] in Page(made[0]).words


@pytest.mark.parametrize("pattern", ["shards/*.parquet", "tables/*.parquet"])
def test_a_missing_table_is_named_and_nothing_is_written(copied: Path, tmp_path: Path, pattern: str) -> None:
    victim = sorted(copied.parent.glob(pattern))[0]
    victim.unlink()
    with pytest.raises(ManifestError, match=rf"{victim.name}\) is missing; .*imglish build"):
        report(str(copied), str(tmp_path / "out" / "report.html"))
    assert not (tmp_path / "out").exists()


def test_a_changed_table_is_refused(copied: Path, tmp_path: Path) -> None:
    victim = sorted(copied.parent.glob("shards/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="sha256"):
        report(str(copied), str(tmp_path / "report.html"))


def test_an_output_that_cannot_be_written_is_a_storage_error(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write under"):
        report(str(copied), str(tmp_path / "file" / "report.html"))


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_names_the_extra(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImglishError, match=rf"{library} .* pip install 'imglish\[audit\]'"):
        report(str(copied), str(tmp_path / "report.html"))
    assert not (tmp_path / "audit.json").exists()


def test_planted_faults_are_findings(tmp_path: Path) -> None:
    values = report(str(planted(tmp_path)), str(tmp_path / "report.html")).values
    assert {finding["name"]: finding["text"] for finding in values["findings"]} == {
        "source_lost": "Source tiny lost 100.0% of its 10 image occurrences, 8 of them to image_size@1.",
        "contaminated": "Copies of evaluation set coco-test were in the sources: 1 pair occurrences were dropped.",
        "repeated_captions": "Captions that repeat: “Image” (500).",
        "dead_codes": "2 of 64 codes (3.1%) are never used.",
        "source_one_language": "Sources of kind pair all in one language: drawn (en).",
        "licence_unknown": "No licence is stated for 30 of kind pair, 8 of kind image, 30 of kind text.",
    }
    assert values["contamination"]["matches"] == [
        {
            "source": "web", "row": "9000", "kind": "pair", "score": 0.97, "threshold": 0.8, "set": "coco-test",
            "detail": "its picture is 000123.jpg",
        }
    ]  # fmt: skip
    assert len(values["contamination"]["unchecked"]) == 5


def test_a_manifest_of_a_newer_format_is_refused(copied: Path, tmp_path: Path) -> None:
    copied.write_text(copied.read_text().replace('"format_version":1', '"format_version":2'))
    with pytest.raises(ManifestError, match=r"format_version 2 is newer than 1.*update imglish"):
        report(str(copied), str(tmp_path / "out" / "report.html"))
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_release_is_named(copied: Path, tmp_path: Path) -> None:
    store, manifest = Store(copied.parent), load_manifest(str(copied))
    entries = [shard.model_dump(mode="json") for shard in manifest.shards]
    for entry in entries:
        rows = store.read_table(entry["metadata"]["path"]).drop_columns(["text"])
        output = store.put_table("shards", rows)
        entry["metadata"] |= {"path": output.path, "sha256": output.sha256, "bytes": output.bytes}
    store.put_as("manifest.json", reissue(manifest, shards=entries).to_json())
    with pytest.raises(ManifestError, match=r"metadata of shard 0.* has no column 'text': another release wrote it"):
        report(str(copied), str(tmp_path / "report.html"))


def test_a_disk_that_fills_up_leaves_no_half_report(copied: Path, tmp_path: Path) -> None:
    """A real limit of the operating system, in a process of its own: audit.json fits, the page does not."""
    script = (
        "import resource, signal, sys; from imglish.audit.report import report\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "report(sys.argv[1], sys.argv[2])"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("{}")
    command = [sys.executable, "-c", script, str(copied), str(tmp_path / "out" / "report.html")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "StorageError: cannot write under" in ran.stderr
    assert "File too large" in ran.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]
    assert (tmp_path / "out" / "audit.json").read_text() == "{}"
