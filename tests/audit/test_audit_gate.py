"""Gates: conditions on figures, names that lead to them, and the schema that says what they mean."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from imglish.audit.choice import Choice, Places
from imglish.audit.findings import NAMES
from imglish.audit.gate import RequirementError, check, failures, figure, figures, parse
from imglish.audit.statistics import collect
from imglish.audit.tables import Tables
from imglish.cli import main
from imglish.errors import RecipeError
from tests.audit.audit_helpers import corpus, planted

SCHEMA = json.loads((files("imglish.audit") / "audit.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def values(manifest: Path) -> dict[str, Any]:
    found = collect(Tables(str(manifest)), Choice(0, 4), Places())
    return json.loads(json.dumps(found | {"contact_sheet": {"seed": 0, "samples": []}}))


def test_audit_json_fits_its_schema(values: dict[str, Any], tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator.validate(values)
    small = collect(Tables(str(corpus(tmp_path))), Choice(0, 4), Places())
    validator.validate(json.loads(json.dumps(small | {"contact_sheet": {"seed": 0, "samples": []}})))


def test_the_schema_refuses_a_name_that_it_does_not_know(values: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**values, "new": 1})


def test_every_number_is_reachable_by_its_name(values: dict[str, Any]) -> None:
    names = dict(figures(values))
    assert len(names) > 200
    assert all(figure(values, name) == value for name, value in names.items() if not name.startswith("findings"))


@pytest.mark.parametrize(
    "text",
    [
        "pairs.language.en.share<=0.9",
        "funnel.rule.image_size@1.alone == 7",
        "contamination.matches>=1",
        "findings.source_lost!=0",
        "findings.unknown_ids==0",
        "pairs.samples > 5.9e1",
    ],
)
def test_a_condition_that_holds_says_nothing(values: dict[str, Any], text: str) -> None:
    assert failures(values, [text]) == []


def test_a_condition_that_fails_names_the_figure_and_both_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(
        RequirementError, match=r"^pairs.language.en.share is 0.75, required is <= 0.5; codes.dead is 2"
    ):
        check(values, ["pairs.language.en.share<=0.5", "codes.dead<1", "pairs.samples>0"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pairs.langauge.en.share<1", "no figure 'pairs.langauge.en.share'; did you mean pairs.language.en.share"),
        ("findings.sauce_lost<1", "did you mean source_lost"),
        ("pairs.language.en<1", "is an object; name a number inside it, as pairs.language.en.samples"),
        ("identity.name<1", "is the text 'small'"),
        ("pairs.samples", "is no condition"),
        ("pairs.samples<__import__('os')", "is no condition"),
        ("<1", "is no condition"),
    ],
)
def test_a_condition_that_is_none_says_how_to_write_it(values: dict[str, Any], text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("(", r"\(")):
        failures(values, [text])


def test_names_with_dots_need_no_quotes() -> None:
    values = {"host": {"a.b": {"ok": 1}, "a": {"b": {"asked": 2}}}, "findings": []}
    assert [figure(values, "host.a.b.ok"), figure(values, "host.a.b.asked")] == [1, 2]


def test_signs_are_read_longest_first() -> None:
    assert [parse(f"a{sign}1")[1] for sign in ("<=", ">=", "==", "!=", "<", ">")] == ["<=", ">=", "==", "!=", "<", ">"]


def test_findings_have_known_names(values: dict[str, Any]) -> None:
    assert {finding["name"] for finding in values["findings"]} <= set(NAMES)


@pytest.mark.parametrize(
    ("condition", "status", "said"),
    [
        ("pairs.language.en.share<=0.9", 0, ""),
        ("pairs.language.en.share<=0.1", 1, "RequirementError: pairs.language.en.share is 0.75, required is <= 0.1"),
        ("pairs.language.eng.share<=0.1", 2, "did you mean"),
        ("share", 2, "is no condition"),
    ],
)
def test_the_command_exits_1_and_names_the_figure(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    condition: str,
    status: int,
    said: str,
) -> None:
    command = ["imglish", "audit", str(manifest), "-o", str(tmp_path / "r.html"), "--require", condition]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
    assert said in capsys.readouterr().err
