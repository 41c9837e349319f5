"""The alarm: who takes most of a source, what is said about it, and how it is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from imglish.errors import RecipeError
from imglish.ingest.alarm import check_accepted, wiped_out
from imglish.ingest.tally import Verdicts, verdicts
from imglish.recipe import DecideConfig, content_fields, make_recipe

COUNTS = {
    "web|pair|drop|image_size@1": 95,
    "web|pair|keep|": 5,
    "best|pair|drop|image_size@1": 9,
    "best|pair|keep|": 1,
    "news|text|drop|c4@fineweb.1": 10,
    "copies|image|merge|exact_duplicate@1": 10,
}


def test_a_rule_that_drops_more_than_the_share_of_a_source_is_found() -> None:
    rows = verdicts(COUNTS)
    assert rows[0] == Verdicts("best", "pair", "drop", "image_size@1", 9)
    found = wiped_out(rows, DecideConfig(alarm_share=0.9))
    assert [(one.rule, one.source, one.count, one.total) for one in found] == [
        ("c4@fineweb.1", "news", 10, 10),
        ("image_size@1", "web", 95, 100),
    ]
    assert [one.source for one in wiped_out(rows, DecideConfig(alarm_share=0.89))] == ["news", "best", "web"]
    assert wiped_out(rows, DecideConfig(alarm_share=1.0)) == []
    capped = verdicts({"web|pair|drop|balance_cap@1": 99, "web|pair|keep|": 1})
    assert wiped_out(capped, DecideConfig(alarm_share=0.9)) == []


def test_what_is_accepted_is_a_rule_on_a_source_whatever_its_version() -> None:
    rows = verdicts(COUNTS)
    accepted = DecideConfig(alarm_accept={"c4": ("news",), "image_size": ("best",)})
    assert [one.source for one in wiped_out(rows, accepted)] == ["web"]
    assert "alarm_accept" not in content_fields(accepted) and "alarm_share" not in content_fields(accepted)


@pytest.mark.parametrize(
    ("accept", "said"),
    [
        (
            {"image_size": ("wbe",)},
            "decide.alarm_accept.image_size names 'wbe', .* did you mean 'web'",
        ),
        ({"image_sise": ("web",)}, "unknown key decide.alarm_accept.image_sise; did you mean .*image_size?"),
        ({"zzz": ("web",)}, "unknown key decide.alarm_accept.zzz; rules here are payload, image_size, "),
    ],
)
def test_accepting_what_is_not_there_is_refused(accept: dict[str, tuple[str, ...]], said: str, tmp_path: Path) -> None:
    source = {"name": "web", "format": "folder", "kind": "pair", "path": "."}
    with pytest.raises(RecipeError, match=said):
        check_accepted(make_recipe({"name": "x", "source": [source], "decide": {"alarm_accept": accept}}))


def test_rules_that_look_beyond_one_occurrence_can_be_accepted() -> None:
    source = {"name": "web", "format": "folder", "kind": "pair", "path": "."}
    accept = dict.fromkeys(("placeholder", "contaminated", "near_image", "near_text", "pixels"), ("web",))
    check_accepted(make_recipe({"name": "x", "source": [source], "decide": {"alarm_accept": accept}}))
