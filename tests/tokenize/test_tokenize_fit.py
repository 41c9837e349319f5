"""Fits select by hash, within budget, from the train split, whatever the layout of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imglish.errors import TokenizerError
from imglish.records import pack_json
from imglish.stages import Receipt, find_receipt
from imglish.storage import Store
from imglish.tokenize.fit import FitText, FitVisual, _shares, text_fit_unit, training_texts, visual_fit_unit
from imglish.tokenize.tasks import text_units, visual_units
from imglish.tokenize.text import TextTokenizer
from imglish.tokenize.visual import load_visual
from tests.tokenize.tokenize_helpers import (
    corpus,
    image,
    landing_file,
    pair,
    png,
    recipe,
    select_files,
    text,
    text_model,
)


def documents(count: int, **decided: Any) -> list[dict[str, Any]]:
    return [text(f"d{n}", f"{n} {line}", **decided) for n, line in enumerate(corpus(count))]


def selected(store: Store, files: Any, budget: int = 1 << 20, seed: int = 0) -> list[str]:
    return list(training_texts(store, [file.paths() for file in files], budget, seed))


def fit_text(store: Store, files: Any, **sections: Any) -> Receipt:
    unit = text_fit_unit(recipe(**sections), select_files(store, files))
    receipt = FitText(store)(unit)
    assert find_receipt(store, "tables", "fit-text", unit.id) == receipt
    return receipt


def test_the_text_tokenizer_is_the_same_for_any_order_place_and_layout(tmp_path: Path) -> None:
    rows = documents(300)
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two" / "deeper")
    first = fit_text(one, [landing_file(one, "a", rows)])
    halves = [landing_file(two, "a", rows[150:]), landing_file(two, "a", rows[:150])]
    second = fit_text(two, halves)
    assert first.notes == second.notes
    assert first.outputs == second.outputs
    assert first.outputs["model"].path == f"models/{first.notes['digest']}.model"
    tokenizer = TextTokenizer(one.read(first.outputs["model"].path))
    assert first.notes["digest"] == tokenizer.digest
    assert (first.notes["vocabulary"], first.notes["mask_id"]) == (332, 331)


def test_a_shrunk_vocabulary_shows_in_the_notes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    receipt = fit_text(store, [landing_file(store, "a", documents(20))], text={"vocabulary": 60_000})
    assert receipt.notes["requested"] == 60_000
    assert receipt.notes["pieces"] < 2_000
    assert receipt.notes["mask_id"] == receipt.notes["pieces"] + 1


def test_only_kept_train_rows_are_selected_with_captions_and_after_edits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [
        text("kept", "a kept document"),
        text("edited", "mail x@y.z here", edits=[[-1, 5, 10, "-"]]),
        text("dropped", "dropped", verdict="drop"),
        text("held out", "held out", split="validation"),
        pair("pair", png(1), ["first caption", "second", "bad"], edits=[[2, 0, 3, ""]]),
        pair("merged", png(1), ["merged caption"], verdict="merge"),
        image("image", png(2)),
    ]
    found = selected(store, [landing_file(store, "a", rows)])
    assert sorted(found) == sorted(["a kept document", "mail - here", "first caption", "second"])


def test_selection_keeps_to_the_budget_and_shares_it_by_source_and_language(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = [
        landing_file(store, "large", documents(300)),
        landing_file(store, "small", [text("s", "a small source")]),
        landing_file(store, "other", documents(300, language="de")),
    ]
    found = selected(store, files, budget=4000)
    sizes = sum(len(text.encode()) for text in found)
    assert 3700 < sizes <= 4000
    assert "a small source" in found
    again = selected(store, files, budget=2000)
    assert set(again) < set(found), "a smaller budget takes a part of a larger one's"
    assert set(selected(store, files, budget=4000, seed=1)) != set(found)


def test_a_record_larger_than_its_share_does_not_block_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [*documents(30), text("huge", "x" * 50_000)]
    found = selected(store, [landing_file(store, "a", rows)], budget=10_000)
    assert len(found) == 30


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12), st.integers(0, 40_000))
def test_shares_spend_the_budget_and_never_more(totals: list[int], budget: int) -> None:
    shares = _shares(np.array(totals), budget)
    assert shares.sum() <= budget
    assert np.all(shares <= totals)
    assert shares.sum() > min(budget, sum(totals)) - len(totals)


def test_a_given_model_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "my.spm").write_bytes(text_model())
    of = recipe(text={"model": "my.spm"}).model_copy(update={"root": str(tmp_path)})
    store = Store(tmp_path / "work")
    receipt = FitText(store)(text_fit_unit(of, []))
    assert receipt.notes["digest"] == TextTokenizer(text_model()).digest
    missing = recipe(text={"model": "none.spm"}).model_copy(update={"root": str(tmp_path)})
    with pytest.raises(TokenizerError, match=r"no file at .*none\.spm"):
        text_fit_unit(missing, [])


def test_a_corpus_without_text_is_refused_clearly(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for files in ([], [landing_file(store, "a", [])], [landing_file(store, "a", [image("i", png(1))])]):
        with pytest.raises(TokenizerError, match="no text to train a tokenizer on"):
            fit_text(store, files)


def test_the_codebook_is_the_same_for_any_order_and_layout(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [image(str(n), png(n)) for n in range(20)] + [pair("p", png(30), ["red"])]
    rows += [image("held out", png(40), split="validation"), image("copy", png(3))]
    receipts = []
    for files in ([rows], [rows[11:], rows[:11]]):
        landed = [landing_file(store, "a", part) for part in files]
        unit = visual_fit_unit(recipe(), select_files(store, landed))
        receipts.append(FitVisual(store)(unit))
    assert receipts[0].notes == receipts[1].notes
    assert receipts[0].counts["images"] == 21, "a copy counts once, the held out one not at all"
    notes = receipts[0].notes
    assert notes["grid"] == [4, 4]
    assert (notes["type"], notes["codes"], notes["size"], notes["patch"]) == ("codebook", 16, 32, 8)
    tokenizer = load_visual(store.path(receipts[0].outputs["model"].path), notes["digest"])
    assert tokenizer.codes == 16


def test_a_visual_fit_takes_as_many_images_as_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = [landing_file(store, "a", [image(str(n), png(n)) for n in range(15)])]
    few = FitVisual(store)(visual_fit_unit(recipe(visual={"sample_images": 6}), select_files(store, files)))
    assert few.counts["images"] == 6


def test_notes_of_the_fits_make_the_tokenize_units(tmp_path: Path) -> None:
    store, of = Store(tmp_path), recipe()
    rows = [pair(str(n), png(n), [line]) for n, line in enumerate(corpus(300)[:20])] + documents(300)
    files = [landing_file(store, "a", rows)]
    chosen = select_files(store, files)
    text_receipt = FitText(store)(text_fit_unit(of, chosen))
    visual_receipt = FitVisual(store)(visual_fit_unit(of, chosen))
    assert text_units(of, chosen, text_receipt.notes)[0].spec["model"] == text_receipt.outputs["model"].path
    assert visual_units(of, chosen, visual_receipt.notes)[0].spec["model"] == visual_receipt.outputs["model"].path
    assert pack_json(visual_receipt.notes)
