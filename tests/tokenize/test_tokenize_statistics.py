"""Fertility, unknown ids and compression by language."""

from __future__ import annotations

from pathlib import Path

from imglish.storage import Store
from imglish.tokenize.statistics import text_statistics
from imglish.tokenize.tasks import TokenizeText, model_path, text_units
from imglish.tokenize.text import TextTokenizer
from tests.tokenize.tokenize_helpers import landing_file, pair, png, recipe, select_files, text, text_model

TOKENIZER = TextTokenizer(text_model())


def test_figures_are_those_of_the_encoded_texts_by_language(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_as(model_path(TOKENIZER.digest, ".model"), text_model())
    german, english = "straße und fluss", "the red house near the river"
    file = landing_file(
        store,
        "one",
        [
            text("a", german, language="de") | {"words": 3},
            text("b", english) | {"words": 6},
            text("c", "dropped", verdict="drop"),
            pair("d", png(1), ["a red house", "blue"], language=None),
        ],
    )
    (unit,) = text_units(recipe(), select_files(store, [file]), {"digest": TOKENIZER.digest})
    found = text_statistics(TokenizeText(store)(unit).counts)
    ids = len(TOKENIZER.encode(german))
    assert found["text"]["de"] == {
        "texts": 1,
        "words": 3,
        "bytes": len(german.encode()),
        "ids": ids,
        "unknown": 0,
        "ids_per_word": round(ids / 3, 4),
        "unknown_share": 0.0,
        "bytes_per_id": round(len(german.encode()) / ids, 4),
    }
    assert found["text"]["en"]["ids"] == len(TOKENIZER.encode(english))
    assert (found["caption"]["und"]["texts"], found["caption"]["und"]["words"]) == (2, 4)
