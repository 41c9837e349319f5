"""Balance keeps what draws of ids say, counts whole numbers over the corpus, and says why a sample went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imglish.digests import record_id
from imglish.errors import RecipeError
from imglish.ingest.balance import CAP, CONCEPT, UNMATCHED, check_balance
from imglish.ingest.balance.draws import sample_draws
from imglish.ingest.balance.limits import _Kept
from imglish.ingest.decide import Decided, decide
from imglish.ingest.measures.phrases import Phrases, words_of
from imglish.ingest.measures.registry import make_measure, needed_names
from imglish.ingest.rules import MAX_RULES, active_rules
from imglish.recipe import Recipe, make_recipe
from imglish.records import ANNOTATIONS, pack_json, table
from imglish.sample import InlineEngine
from imglish.seeds import draw, mix, stream, uniform
from imglish.storage import Output, Store

CONCEPTS = ["dog", "red dog", "coral trout", "Zebra", "never seen"]


Caps = tuple[dict[str, Any], ...]


def recipe(
    root: Path, concepts: dict[str, Any] | None = None, cap: Caps = (), listed: Sequence[str] = CONCEPTS
) -> Recipe:
    (root / "concepts.json").write_text(json.dumps(listed))
    sources = [
        {"name": name, "format": "folder", "kind": kind, "path": name, "priority": priority}
        for name, kind, priority in [
            ("web", "pair", 1),
            ("best", "pair", 0),
            ("photos", "image", 2),
            ("prose", "text", 0),
        ]
    ]
    balance = {"cap": cap} | ({} if concepts is None else {"concepts": {"path": "concepts.json"} | concepts})
    values = {"name": "x", "root": str(root), "work": str(root / "work"), "source": sources, "balance": balance}
    return make_recipe(values | {"decide": {"rules": ("payload", "caption_length")}})


def pair(number: int, captions: list[str], source: str = "web", row: str | None = None) -> dict[str, Any]:
    about = [
        {"words": len(text.split()), "bytes": len(text.encode()), "language": "en", "score": 0.9} for text in captions
    ]
    return {
        "source": source, "row": row or f"{number:06d}", "kind": "pair", "status": "ok", "bytes": 1000 + number,
        "record_id": record_id("image", str(number).encode()), "language": "en", "texts": captions,
        "captions": pack_json(about),
    }  # fmt: skip


def prose(number: int, language: str, size: int = 100) -> dict[str, Any]:
    identity = record_id("text", f"{number}".encode())
    return {
        "source": "prose", "row": f"{number:06d}", "kind": "text", "status": "ok", "bytes": size, "language": language,
        "record_id": identity, "texts": [],
    }  # fmt: skip


def decided(chosen: Recipe, files: list[list[dict[str, Any]]]) -> tuple[Store, Decided]:
    store = Store(chosen.work)
    annotations = [store.put_table("tables/annotate", table(rows, ANNOTATIONS)) for rows in files]
    measures: list[list[Output]] = [[] for _ in files]
    if needed_names(chosen):
        measure = make_measure("concepts", chosen)
        for rows, mine in zip(files, measures, strict=True):
            if rows and rows[0]["kind"] == "pair":
                found = measure.call([{"captions": pack_json(row["texts"])} for row in rows])
                mine.append(store.put_table("tables/measure", found))
    return store, decide(store, InlineEngine(), chosen, annotations, None, measures)


def rows_of(store: Store, outputs: list[Output]) -> list[dict[str, Any]]:
    return [row for output in outputs for row in store.read_table(output.path).to_pylist()]


def verdicts(chosen: Recipe, files: list[list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    store, found = decided(chosen, files)
    return {f"{row['source']}/{row['row']}": row for row in rows_of(store, found.decisions)}


def kept(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in found.items() if row["verdict"] == "keep"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A red dog.", ["dog", "red dog"]),
        ("DOG-house", ["dog"]),
        ("dogs and hotdog", []),
        ("red, dog!", ["dog", "red dog"]),
        ("Coral  trout\nand zebra", ["coral trout", "zebra"]),
        ("", []),
    ],
)
def test_phrases_are_runs_of_whole_words(text: str, names: list[str]) -> None:
    phrases = Phrases(CONCEPTS)
    assert [phrases.names[number] for number in phrases.find(text)] == names


def test_phrases_read_alike_count_once_and_characters_without_spaces_are_words() -> None:
    phrases = Phrases(["New York", "new-york", "...", "珊瑚", "trout"])
    assert phrases.names == ["new york", "珊 瑚", "trout"]
    assert phrases.find("In NEW  YORK: 珊瑚鳟鱼 trout") == [0, 1, 2]
    assert words_of("It's naïve") == ["it", "s", "naïve"]


def test_a_phrase_is_found_where_a_search_between_blanks_finds_it() -> None:
    words = "a b c d e".split()  # noqa: SIM905
    drawn = stream(7, "words").bits(4000)
    texts = [" ".join(words[int(x) % 5] for x in drawn[n : n + 8]) for n in range(0, 2000, 8)]
    listed = sorted({" ".join(words[int(x) % 5] for x in drawn[n : n + 1 + n % 4]) for n in range(2000, 2060, 4)})
    phrases = Phrases(listed)
    for text in texts:
        expected = [number for number, name in enumerate(phrases.names) if f" {name} " in f" {text} "]
        assert phrases.find(text) == expected


def test_concepts_are_kept_by_draws_of_seed_concept_and_record(tmp_path: Path) -> None:
    """Four in five captions of "dog" go; the rare concept stays whole; the rest is not touched."""
    rows = [pair(n, ["a red dog" if n % 10 == 0 else "a dog" if n % 2 else "a zebra crossing"]) for n in range(1000)]
    rows += [pair(n, ["nothing of the list"]) for n in range(1000, 1010)]
    chosen = recipe(tmp_path, {"cap": 100})
    found = verdicts(chosen, [rows])
    count = {"dog": 600, "zebra": 400, "red dog": 100}
    for row in rows:
        mine = found[f"web/{row['row']}"]
        words = row["texts"][0]
        names = [name for name in count if f" {name} " in f" {words} "]
        low = np.frombuffer(row["record_id"][8:], "<u8")
        drawn = {n: float(uniform(draw(stream(0, "balance", "concept", n).key, mix(low)))[0]) for n in names}
        stays = not names or any(drawn[name] < min(1, 100 / count[name]) for name in names)
        assert (mine["verdict"] == "keep") == stays
        if not stays:
            assert mine["rule"] == CONCEPT and mine["fired"] == 1 << (len(active_rules(chosen)) + 3)
            assert mine["score"] >= mine["threshold"] and mine["sample_id"] is None and mine["split"] is None
            assert mine["detail"] == f"concept {names[0]!r}: {count[names[0]]} captions, cap 100"
    survivors = [row for row in rows if found[f"web/{row['row']}"]["verdict"] == "keep"]
    dogs, zebras = ([row for row in survivors if name in row["texts"][0]] for name in ("a dog", "zebra"))
    assert 60 <= len(dogs) <= 130 and 70 <= len(zebras) <= 135
    assert all(found[f"web/{row['row']}"]["verdict"] == "keep" for row in rows if row["texts"][0] == "a red dog")


def test_another_rule_moves_the_bit_of_what_balance_drops(tmp_path: Path) -> None:
    rows = [pair(n, ["a dog"]) for n in range(50)]
    chosen = recipe(tmp_path, {"cap": 10})
    rules = (*chosen.decide.rules, "image_size")
    more = chosen.model_copy(update={"decide": chosen.decide.model_copy(update={"rules": rules})})
    fired = [{row["fired"] for row in verdicts(one, [rows]).values()} for one in (chosen, more)]
    bits = [1 << (len(active_rules(one)) + 3) for one in (chosen, more)]
    assert fired == [{0, bits[0]}, {0, bits[1]}] and bits[0] != bits[1]


def test_draws_depend_neither_on_files_nor_on_buckets_nor_on_other_concepts(tmp_path: Path) -> None:
    rows = [pair(n, ["a dog", f"zebra {n}"] if n % 3 else ["a coral trout"]) for n in range(300)]
    rows += [pair(n, ["one dog more"], "best") for n in range(0, 300, 7)]
    balance: Any = ({"cap": 40, "unmatched": "drop"}, ({"source": "*", "samples": 50},))
    chosen = recipe(tmp_path, *balance)
    one = verdicts(chosen, [rows])
    many = chosen.model_copy(update={"decide": chosen.decide.model_copy(update={"buckets": 7})})
    order = stream(3, "order").permutation(len(rows)).tolist()
    shuffled = [rows[n] for n in order]
    files = [shuffled[a:b] for a, b in ((0, 100), (100, 101), (101, len(rows)))]
    assert verdicts(many, files) == one
    longer = recipe(tmp_path, *balance, ["aardvark", *CONCEPTS])
    assert kept(verdicts(longer, files)) == kept(one)
    other = recipe(tmp_path, *balance)
    assert kept(verdicts(other.model_copy(update={"seed": 1}), [rows])) != kept(one)


def test_all_occurrences_of_a_sample_go_together_and_equal_captions_count_once(tmp_path: Path) -> None:
    rows = [pair(n, ["a dog"]) for n in range(60)]
    again = [pair(n, ["a  dog", "its zebra"] if n < 5 else ["a dog"], "best") for n in range(60)]
    found = verdicts(recipe(tmp_path, {"cap": 20}), [rows, again])
    for n in range(60):
        pairs = [found[f"{source}/{n:06d}"]["verdict"] for source in ("web", "best")]
        assert pairs in (["merge", "keep"], ["drop", "drop"])
        assert n >= 5 or pairs == ["merge", "keep"], "a rare concept of one occurrence keeps both"
    details = {row["detail"] for row in found.values() if row["rule"] == CONCEPT}
    assert details == {"concept 'dog': 60 captions, cap 20"}


def test_captions_that_rules_remove_count_for_no_concept(tmp_path: Path) -> None:
    long = "dog " * 300
    rows = [pair(n, ["a zebra", long]) for n in range(30)] + [pair(99, ["a dog"])]
    found = verdicts(recipe(tmp_path, {"cap": 10, "unmatched": "drop"}), [rows])
    assert found["web/000099"]["verdict"] == "keep"
    assert {row["detail"] for row in found.values() if row["rule"] == CONCEPT} == {
        "concept 'zebra': 30 captions, cap 10"
    }


def test_unmatched_pairs_go_only_when_asked(tmp_path: Path) -> None:
    rows = [pair(0, ["a dog"]), pair(1, ["something else"])]
    assert kept(verdicts(recipe(tmp_path, {}), [rows])) == {"web/000000", "web/000001"}
    found = verdicts(recipe(tmp_path, {"unmatched": "drop"}), [rows, [prose(1, "en")]])
    assert kept(found) == {"web/000000", "prose/000001"}
    assert found["web/000001"]["rule"] == UNMATCHED


def test_a_cap_keeps_exactly_so_many_samples_with_the_smallest_draws(tmp_path: Path) -> None:
    web = [pair(n, ["a dog"]) for n in range(100)]
    best = [pair(n, ["a dog"], "best") for n in range(90, 130)]
    chosen = recipe(tmp_path, None, ({"source": "web", "samples": 30},))
    store, outcome = decided(chosen, [web, best])
    found = {f"{row['source']}/{row['row']}": row for row in rows_of(store, outcome.decisions)}
    mine = [row for row in web if int(row["row"]) < 90]  # the ten others are samples of "best"
    drawn = sample_draws(table(mine, ANNOTATIONS).rename_columns({"record_id": "sample_id"}), 0)
    smallest = {f"web/{mine[n]['row']}" for n in np.argsort(drawn)[:30]}
    assert kept(found) == smallest | {f"best/{n:06d}" for n in range(90, 130)}
    (dropped, *_) = [row for row in found.values() if row["verdict"] == "drop"]
    assert dropped["rule"] == CAP and dropped["detail"] == "source web: 90 samples, cap 30"
    assert dropped["score"] > dropped["threshold"] > 0
    evidence = rows_of(store, outcome.evidence)
    assert len([row for row in evidence if row["rule"] == CAP]) == 60
    places = {f"{row['source']}/{row['row']}": n for n, row in enumerate(rows_of(store, outcome.decisions))}
    order = [places[f"{row['source']}/{row['row']}"] for row in evidence]
    assert order == sorted(order)


def test_each_language_has_its_quota_of_bytes_and_caps_count_what_others_left(tmp_path: Path) -> None:
    rows = [prose(n, "de" if n % 4 == 0 else "en", 50 + n) for n in range(200)]
    caps = ({"kind": "text", "language": "*", "bytes": 6000}, {"kind": "text", "samples": 40})
    found = verdicts(recipe(tmp_path, None, caps[:1]), [rows])
    for language in ("de", "en"):
        mine = [row for row in rows if row["language"] == language]
        size = sum(row["bytes"] for row in mine if f"prose/{row['row']}" in kept(found))
        assert min(6000, sum(row["bytes"] for row in mine)) - 250 < size <= 6000
    both = verdicts(recipe(tmp_path, None, caps), [rows])
    assert len(kept(both)) == 40 and kept(both) < kept(found)
    ample = verdicts(recipe(tmp_path, None, ({"kind": "*", "samples": 200},)), [rows])
    assert len(kept(ample)) == 200


def test_a_cut_is_the_same_however_the_samples_come() -> None:
    draws, sizes = stream(1, "d").bits(1000), (stream(1, "s").bits(1000) % np.uint64(50)).astype(np.int64)
    cuts = set()
    for parts in (1, 3, 17):
        group = _Kept(5000)
        for mine in np.array_split(np.arange(1000), parts):
            group.add(draws[mine], sizes[mine])
        cuts.add(group.limit())
    (cut,) = cuts
    assert cut.members == 1000 and sizes[draws <= cut.last].sum() <= 5000
    tiny = _Kept(3)
    tiny.add(np.array([5, 9], np.uint64), np.array([4, 1]))
    assert tiny.limit().last == 0, "the first alone is too large, and none behind it is taken instead"


def test_without_balance_decisions_are_those_of_decide(tmp_path: Path) -> None:
    rows = [pair(n, ["a dog"]) for n in range(5)]
    plain = decided(recipe(tmp_path), [rows])[1]
    ample = decided(recipe(tmp_path, {"cap": 1000}, ({"source": "web", "samples": 5},)), [rows])[1]
    assert ample == plain


@pytest.mark.parametrize(
    ("concepts", "cap", "said"),
    [
        ({"cap": 0}, (), "balance.concepts.cap = 0: Input should be greater than or equal to 1"),
        ({"cap": -5}, (), "balance.concepts.cap = -5"),
        ({"caps": 5}, (), "unknown key balance.concepts.caps; did you mean balance.concepts.cap?"),
        ({"path": "none.txt"}, (), r"balance.concepts.path: no list at .*none.txt"),
        ({"path": "empty.txt"}, (), r"empty.txt holds no phrase at all; write one a line"),
        ({"path": "object.json"}, (), "a JSON list of phrases holds strings"),
        ({"path": "latin.txt"}, (), "latin.txt: 'utf-8' codec can't decode"),
        (None, ({"source": "web", "samples": -1},), "balance.cap.0.samples = -1: Input should be greater"),
        (None, ({"source": "web"},), "a cap says either `samples` or `bytes`"),
        (None, ({"samples": 5},), "a cap names a source, a kind or a language"),
        (None, ({"source": "wbe", "samples": 5},), "balance.cap.0.source = 'wbe' is no source; did you mean 'web'"),
        (None, ({"source": "web", "kind": "text", "samples": 5},), "source 'web' gives pair, never text"),
        (None, ({"language": "english", "samples": 5},), "balance.cap.0.language = 'english' is no language"),
    ],
)
def test_a_wrong_balance_is_named(tmp_path: Path, concepts: dict[str, Any] | None, cap: Caps, said: str) -> None:
    (tmp_path / "empty.txt").write_text("\n...\n")
    (tmp_path / "object.json").write_text('{"a": 1}')
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=said):
        check_balance(recipe(tmp_path, concepts, cap))


def test_every_rule_that_may_fire_has_a_bit_of_an_int64() -> None:
    from imglish.ingest.balance import balance_bit
    from imglish.ingest.match.join import leak_bit, near_bit

    rules = [None] * MAX_RULES
    bits = [*range(MAX_RULES + 1), leak_bit(rules), near_bit(rules), balance_bit(rules)]
    assert len(set(bits)) == len(bits) and max(bits) == 62
