"""Each variant of the text rules against cases computed by hand, just beyond each threshold and just within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imglish.ingest.edits import compose
from imglish.ingest.measures.texts import measure_texts
from imglish.ingest.rules import FAMILIES, PRESETS, Finding, active_rules
from imglish.recipe import content_fields, make_recipe
from imglish.tokenize.rows import edited_document

SOURCE = {"name": "prose", "format": "text", "kind": "text", "path": "x"}


def judged(rule: str, texts: list[str], **limits: Any) -> Finding:
    name = rule.partition("@")[0]
    recipe = make_recipe({"name": "x", "source": [SOURCE], "decide": {"rules": (rule,), "rule": {name: limits}}})
    (made,) = active_rules(recipe)
    return made.judge(measure_texts([text.encode() for text in texts]), made.limits)


def reason(rule: str, text: str, **limits: Any) -> str | None:
    """Name of the check that failed."""
    found = judged(rule, [text], **limits)
    assert bool(found.fired[0]) == (0 in found.detail)
    return found.detail[0].split()[0] if found.fired[0] else None


def prose(words: int = 60) -> str:
    """Different words of six letters with two stop words, in one line."""
    return " ".join(["the", "and", *(f"w{chr(97 + n // 26)}{chr(97 + n % 26)}rds" for n in range(words - 2))])


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (prose(50), {}),
        (prose(49), {"rae2021": "words", "dolma": "words", "datatrove": "words"}),
        # 50 words and 10 punctuation marks: marks that stand alone are words to str.split only
        (prose(40) + " , . ; : ! ? , . ; :", {"datatrove": "words"}),
        # half the words have one letter, the others nine: mean 5, median between
        (" ".join(["the", "and", *["a"] * 30, *["lengthier"] * 20]), {"dolma": "median_word_length"}),
        # one long word of 600 letters moves the mean and not the median
        (prose(50) + " " + "x" * 600, {"rae2021": "mean_word_length", "datatrove": "mean_word_length"}),
        # 6 hash signs in one word of 51: 0.118 a word by characters, 0.02 by words that hold one
        (prose(50) + " w######", {"rae2021": "hashes_per_word", "datatrove": "hashes_per_word"}),
        # three dots are an ellipsis to all but dolma
        (prose(50) + " so..." * 8, {"rae2021": "ellipses_per_word", "datatrove": "ellipses_per_word"}),
        # 12 of 60 words are numbers: exactly 0.8 have a letter; 13 of 61 are too many
        (prose(48) + " 123456" * 12, {}),
        (prose(48) + " 123456" * 13, {"rae2021": "alpha_words", "dolma": "alpha_words", "datatrove": "alpha_words"}),
        # one stop word three times: three occurrences, one distinct
        (prose(60).replace("and", "the") + " the", {"rae2021": "stop_words", "datatrove": "stop_words"}),
    ],
)
def test_gopher_quality(text: str, failed: dict[str, str]) -> None:
    said = {variant: reason(f"gopher_quality@{variant}", text) for variant in ("rae2021", "dolma", "datatrove")}
    assert {variant: name for variant, name in said.items() if name} == failed


def test_gopher_quality_looks_at_lines() -> None:
    bullets = "\n".join(f"• {prose(8)}" for _ in range(10))
    assert reason("gopher_quality", bullets, min_stop_words=0) == "bullet_lines"
    assert reason("gopher_quality@dolma", bullets) is None  # its bullets are * and -
    assert reason("gopher_quality@dolma", bullets.replace("•", "*")) == "bullet_lines"
    trailing = "\n".join(f"{prose(8)} …" for _ in range(7)) + f"\n{prose(50)}" * 12
    assert reason("gopher_quality", trailing, max_symbols=None) == "ellipsis_lines"


def lines(*parts: tuple[str, int]) -> str:
    return "\n".join(line for line, count in parts for _ in range(count))


def unlike(count: int, size: int = 4) -> str:
    return "\n".join(" ".join(f"{chr(97 + n % 26)}{n}{k}" for k in range(size)) for n in range(count))


def test_gopher_repetition_of_lines_counts_repeats_or_all_copies() -> None:
    # 10 lines, one of them three times: 2 repeats (0.2), 3 copies (0.3); a fourth makes 3 and 4 of 11
    limits = {"top": (1.0, 1.0, 1.0), "duplicate": (1.0,) * 6, "line_characters": None}
    three, four = lines(("same old", 3)) + "\n" + unlike(7), lines(("same old", 4)) + "\n" + unlike(7)
    assert reason("gopher_repetition@rae2021", three, lines=0.2, **limits) is None
    assert reason("gopher_repetition@rae2021", four, lines=0.2, **limits) == "duplicate_lines"
    assert reason("gopher_repetition@dolma", three, lines=0.3, **limits) is None
    assert reason("gopher_repetition@dolma", three, lines=0.29, **limits) == "duplicate_lines"


def test_gopher_repetition_of_paragraphs() -> None:
    text = "\n\n".join(["a paragraph that comes twice", "a paragraph that comes twice", "another one"])
    off = {"lines": None, "line_characters": None, "top": (9.0, 9.0, 9.0), "duplicate": (9.0,) * 6}
    assert reason("gopher_repetition", text, paragraphs=0.3, paragraph_characters=None, **off) == "duplicate_paragraphs"
    assert reason("gopher_repetition", text, paragraphs=0.34, paragraph_characters=None, **off) is None
    # 28 of 71 characters
    said = judged("gopher_repetition", [text], paragraphs=None, paragraph_characters=0.2, **off)
    assert said.score[0] == 28 / 71 and said.threshold is not None and said.thresholds()[0] == 0.2
    assert reason("gopher_repetition@dolma", text, **off) is None  # it has no rule for paragraphs


def test_the_three_readings_of_duplicate_n_grams() -> None:
    # ten words aa .. jj, then the first six again: two 5-grams occur twice each and overlap
    words = [chr(97 + n) * 2 for n in range(10)]
    text = " ".join([*words, *words[:6]])
    off = {"lines": None, "line_characters": None, "top": (9.0, 9.0, 9.0)}
    high = (0.0, 9.0, 9.0, 9.0, 9.0, 9.0)
    found = {
        variant: judged(f"gopher_repetition@{variant}", [text], duplicate=high, **off).score[0]
        for variant in ("rae2021", "dolma", "datatrove")
    }
    assert found["rae2021"] == 24 / 32  # both runs of six words, each character once
    assert found["dolma"] == 40 / 120  # four copies of ten characters, of twelve 5-grams
    assert found["datatrove"] == 10 / 47  # one repeat, then its four words are passed over


def test_the_most_frequent_n_gram() -> None:
    # "xx yy" three times in 24 characters of words; datatrove counts blanks: 15 of 35
    text = "xx yy aa xx yy bb xx yy cc dd ee ff"
    off = {"lines": None, "line_characters": None, "duplicate": (9.0,) * 6}
    assert judged("gopher_repetition", [text], top=(0.0, 9.0, 9.0), **off).score[0] == 12 / 24
    assert judged("gopher_repetition@datatrove", [text], top=(0.0, 9.0, 9.0), **off).score[0] == 15 / 35


PAGE = """\
This line has more than five words in it.
Menu
Three word line.
You need to enable JavaScript to see this page.
Here we say another thing about it. And yet another sentence follows here!
By going on you accept our cookie policy in all its parts.
This line just stops without any mark
This one trails off into the distance...
Who would have thought of that one?[1] [edit]
He said 'this is the end of it all.'"""


def after(rule: str, text: str, **limits: Any) -> str | None:
    found = judged(rule, [text], **limits)
    if found.fired[0]:
        return None
    return edited_document(text.encode(), compose(found.edits.get(0, ())))


def test_c4_keeps_lines_that_are_sentences() -> None:
    kept = PAGE.split("\n")
    reference = [kept[0], kept[4], "Who would have thought of that one? "]
    assert after("c4@reference", PAGE) == "\n".join(reference[:2])  # the blank between citations hides its mark
    datatrove = [kept[0], kept[2], kept[4], kept[9]]
    assert after("c4@datatrove", PAGE) == "\n".join(datatrove)
    fineweb = [kept[0], kept[2], *kept[4:5], kept[6], kept[7], reference[2], kept[9]]
    assert after("c4@fineweb", PAGE) == "\n".join(fineweb)


def test_c4_removes_citations_and_finds_the_mark_before_them() -> None:
    text = "One two three four five.[1][23]\nOne two [citation needed] three four five.\nOne two three four [4] five."
    cleaned = "One two three four five.\nOne two  three four five.\nOne two three four  five."
    assert after("c4", text) == cleaned
    assert after("c4", text, remove_citations=False) == text
    assert after("c4", "One two three four [5].\n" + text, min_sentences=1) == "One two three four .\n" + cleaned


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("One two three four five. Six seven.\nAnd here is a third one.", None),
        ("One two three four five.\nAnd here is a second one.", "sentences"),
        ("One two three four five. A b.\nLorem ipsum dolor sit amet now. So.", "lorem_ipsum"),
        ("One two three four five. A b.\nint main() { return 0; } is code.", "curly_brackets"),
        ("Lorem ipsum menu\nOne two three four five. Six.\nAnd here is a third one.", None),  # its line goes anyway
        ("nothing here\nends in a mark", "sentences"),
        ("x" * 1001 + " one two three four.\nOne two three four five.", "sentences"),
        ("", "sentences"),
    ],
)
def test_c4_drops_pages(text: str, failed: str | None) -> None:
    assert reason("c4", text) == failed


def test_c4_counts_sentences_past_abbreviations() -> None:
    found = measure_texts([b'Dr. Smith of the U.S. met J. Doe. "They talked." It was 3.14 p.m. then! Why?'])
    limits = {"min_words_per_line": 0, "min_sentences": 99}
    text = 'Dr. Smith of the U.S. met J. Doe. "They talked." It was 3.14 p.m. then! Why?'
    assert found.num_rows == 1 and judged("c4", [text], **limits).score[0] == 4


@pytest.mark.parametrize(
    ("text", "paper", "datatrove"),
    [
        (
            lines(("A line that is long enough to count as such.", 1)) + "\n" + unlike(7, 9),
            "",
            "",
        ),  # 1 of 8 lines ends in a mark
        (unlike(9, 9), "marked_lines", "marked_lines"),
        (lines(("Short.", 1)) + "\n" + "\n".join(f"{n} words." for n in range(5)), "short_lines", "short_lines"),
        ('He said "this is a line that ends in a quote"', "", "marked_lines"),
    ],
)
def test_fineweb(text: str, paper: str, datatrove: str) -> None:
    assert (reason("fineweb@paper", text) or "") == paper
    assert (reason("fineweb@datatrove", text) or "") == datatrove


def test_fineweb_counts_line_feeds_in_the_code_only() -> None:
    text = "\n".join(f"Antidisestablishmentarianism{n} incomprehensibilities." for n in range(9))
    assert reason("fineweb@datatrove", text) is None  # 8 of 27 tokens
    assert reason("fineweb@datatrove", text, max_newlines=0.29) == "newlines_per_word"
    assert reason("fineweb@paper", text) is None


def test_fineweb_variants_part_at_repeated_lines() -> None:
    # 45 characters again in 495 without line feeds: 0.0909
    text = lines(("This is a sentence of exactly forty-five letr.", 1))
    assert len(text) == 46
    text += "\n" + "\n".join(f"{n:02d} is a sentence of as many letters as those." for n in range(9)) + "\n" + text
    found = judged("fineweb@paper", [text], max_repeated=0.01).score[0]
    assert found == 46 / (len(text) - 10)
    assert reason("fineweb@paper", text) is None and reason("fineweb@datatrove", text) == "repeated_characters"
    exact = 46 / (len(text) - 10)
    assert reason("fineweb@paper", text, max_repeated=exact) == "repeated_characters"
    assert reason("fineweb@datatrove", text, max_repeated=exact) is None


def test_every_preset_names_rules_that_there_are() -> None:
    for name in PRESETS:
        recipe = make_recipe({"name": "x", "source": [SOURCE], "decide": {"rules": (f"preset:{name}",)}})
        assert [rule.name for rule in active_rules(recipe)] == [entry.partition("@")[0] for entry in PRESETS[name]]


def test_the_page_on_rules_names_every_rule_variant_threshold_and_preset() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{family.name}` |")]
        named = [f"`@{variant}`" for variant in family.variants if variant]
        named += [f"`{threshold}`" for limits in family.variants.values() for threshold in content_fields(limits)]
        assert not [name for name in named if name not in line]
    assert all(f"`preset:{name}`" in page for name in PRESETS)
