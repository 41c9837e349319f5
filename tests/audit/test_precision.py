"""Precision of rules from labels: by hand, against scipy, and every wrong CSV named by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binomtest

from imglish.audit.labels import Stratum
from imglish.audit.precision import Label, precision, read_labels, to_csv, wilson
from imglish.errors import RecipeError

DIGEST = "0123456789abcdef" * 4
BOOK, WEB, KEPT = (
    Stratum("book", "language@1", "drop"),
    Stratum("web", "language@1", "drop"),
    Stratum("web", "(kept)", "keep"),
)
STRATA = {BOOK: 100, WEB: 900, KEPT: 5000}


def labels(stratum: Stratum, said: str) -> list[Label]:
    words = {"r": "right", "w": "wrong", "u": "unsure", "-": ""}
    return [Label(f"{stratum.source}/{stratum.rule}{n}", stratum, words[one]) for n, one in enumerate(said)]


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (7, 10), (97, 100)])
def test_the_interval_of_whole_counts_is_scipys(right: int, count: int) -> None:
    oracle = binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right / count, count) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_strata_count_by_their_decisions_not_by_their_labels() -> None:
    found = precision(labels(BOOK, "rrrrrrrrrr") + labels(WEB, "rrrrrwwwwwu-"), STRATA)
    kept, language = found
    assert (kept.rule, kept.precision, kept.covered, kept.decisions) == ("(kept)", None, 0, 5000)
    assert (language.right, language.wrong, language.unsure) == (15, 5, 1)
    assert language.precision == pytest.approx((100 * 1.0 + 900 * 0.5) / 1000)
    assert language.covered == language.decisions == 1000
    effective = 1000**2 / (100**2 / 10 + 900**2 / 10)
    assert (language.low, language.high) == pytest.approx(wilson(0.55, effective))
    assert 12 < effective < 13  # of 20 labels: the small stratum has as many as the large one


def test_a_stratum_without_a_label_is_not_spoken_for() -> None:
    (_, language) = precision(labels(BOOK, "rw") + labels(WEB, "uu"), STRATA)
    assert (language.precision, language.covered, language.decisions) == (0.5, 100, 1000)


def test_labels_survive_the_csv_with_names_that_spreadsheets_would_run(tmp_path: Path) -> None:
    odd = [Label('web/=1+1,"x"\n', WEB, "right"), Label("book/ä", BOOK, "")]
    path = tmp_path / "labels.csv"
    path.write_text("\ufeff" + to_csv(odd, DIGEST), encoding="utf-8", newline="")
    assert [one.label for one in read_labels(str(path), DIGEST, STRATA)] == ["right", ""]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in path.read_text().replace('"', "").split(","))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column 'decisions'; it needs decisions, occurrence, rule"),
        ('{head}"{digest}","web/1","language@1","drop","rigth"\n', "line 2: label 'rigth' is not one of right, wrong"),
        (
            '{head}"ffff","web/1","language@1","drop","right"\n',
            "line 2: labels of decisions 'ffff', but these are 0123",
        ),
        (
            '{head}"{digest}","web/1","nsfw@1","drop","right"\n',
            "line 2: nothing of 'web' was decided 'drop' by 'nsfw@1'",
        ),
        (
            '{head}"{digest}","web/1","language@1","drop","right"\n"{digest}","web/1","language@1","drop","wrong"\n',
            "line 3: 'web/1' has another label above",
        ),
    ],
)
def test_a_wrong_csv_is_named_by_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text.replace("{head}", to_csv([], DIGEST)).replace("{digest}", DIGEST[:16]))
    with pytest.raises(RecipeError, match=said):
        read_labels(str(path), DIGEST, STRATA)


def test_a_missing_or_binary_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no labels at .*; save them from the page"):
        read_labels(str(tmp_path / "none.csv"), DIGEST, STRATA)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        read_labels(str(tmp_path / "x.csv"), DIGEST, STRATA)
