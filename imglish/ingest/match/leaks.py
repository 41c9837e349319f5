"""Leaks: occurrences that copy something of an evaluation set, with what they copy.

    outputs = find_leaks(store, engine, recipe, landing, fingerprints)      # LEAKS of each landing file
    judged = drop_leaks(judged, leaks, recipe.match.leak, bit)              # `contaminated@1`

One unit for each landing file and evaluation set, keyed by the set's content: a set that is new or changed is matched
alone, and no shuffle is needed. Pictures are proposed by their hashes, and read only then; texts and captions are read
whole, because any run of 13 words may come from the set. Stored is the best hit of each occurrence and side from the
floors on. A pair leaks when either its picture or one of its captions does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.ingest.firing import fire
from imglish.ingest.match.evaluation import GRAM_WORDS, evaluation_sets
from imglish.ingest.match.fingerprints import VERSIONS
from imglish.ingest.match.looks import alike, sketch
from imglish.ingest.match.pairs import block_keys
from imglish.ingest.match.shingles import shingles_of
from imglish.ingest.match.words import normal_digest, read_words
from imglish.recipe import Recipe
from imglish.recipe_match import LeakConfig
from imglish.records import unpack_json
from imglish.shards.images import probe_with
from imglish.stages import Commit, Engine, Progress, Receipt, Unit, counts_of, run_map
from imglish.storage import Output, Store, read_rows

STAGE = "match-leaks"
VERSION = 1
FOLDER = "tables"
RULE = "contaminated@1"
FLOORS = {"image": 0.7, "text": 0.3}
"""Least stored similarity and containment; the recipe's limits may not be below them."""
_BATCH, _CHARACTERS = 256, 1 << 17
"""Texts, or characters, that are looked at together: words and runs take some twenty bytes a character."""

U64 = NDArray[np.uint64]

LEAKS = pa.schema(
    [
        pa.field("place", pa.int32(), nullable=False),  # row of the landing file
        pa.field("side", pa.string(), nullable=False),  # "image", or "text" for documents and captions
        pa.field("score", pa.float64(), nullable=False),  # similarity, or containment of the evaluation text
        pa.field("set", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Sorted by (place, side), the best hit of each."""


def find_leaks(
    store: Store,
    engine: Engine,
    recipe: Recipe,
    landing: Sequence[Output],
    prints: Sequence[Output],
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Output]:
    """LEAKS of every landing file over all sets, in their order; nothing when the recipe names no set."""
    config = recipe.match
    if not config.evaluation:
        return []
    sets = evaluation_sets(store, engine, recipe, progress)
    names = [one.name for one in config.evaluation]
    receipts = run_map(store, FOLDER, engine, LeakTask(store), _units(recipe, names, sets, landing, prints), progress)
    rows = len(landing)
    for number, name in enumerate(names):
        counts = counts_of(receipts[number * rows : (number + 1) * rows])
        note(f"evaluation set {name}: {counts['hits']} hits above the floors in {counts['occurrences']} occurrences")
    merged = [
        Unit(f"{STAGE}-join", VERSION, {}, [one.outputs["leaks"].sha256 for one in found], {"paths": _paths(found)})
        for found in ([receipts[number * rows + file] for number in range(len(names))] for file in range(rows))
    ]
    return [one.outputs["leaks"] for one in run_map(store, FOLDER, engine, JoinTask(store), merged, progress)]


def _paths(receipts: Sequence[Receipt]) -> list[str]:
    return [receipt.outputs["leaks"].path for receipt in receipts]


def _units(
    recipe: Recipe, names: Sequence[str], sets: Sequence[Output], landing: Sequence[Output], prints: Sequence[Output]
) -> list[Unit]:
    leak = recipe.match.leak
    params = {"versions": VERSIONS, "radius": leak.radius, "min_words": leak.min_words, "gram_words": GRAM_WORDS}
    spec = {"max_pixels": recipe.tokenize.stored.max_pixels}
    return [
        Unit(
            STAGE,
            VERSION,
            {**params, "set": name},
            [evaluation.sha256, landed.sha256, printed.sha256],
            {**spec, "set": evaluation.path, "landing": landed.path, "prints": printed.path},
        )
        for name, evaluation in zip(names, sets, strict=True)
        for landed, printed in zip(landing, prints, strict=True)
    ]


@dataclass(frozen=True)
class LeakTask:
    """Compares one landing file with one evaluation set."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, STAGE, unit.id)
        held = _held(self.store.root, unit.spec["set"], unit.params["radius"], unit.params["min_words"])
        prints = self.store.read_table(unit.spec["prints"], ["kind", "hash"])
        hits = [*self._pictures(unit, prints, held), *self._texts(unit, prints, held)]
        rows = [dict(zip(LEAKS.names, hit, strict=True)) for hit in hits]
        best = _best(pa.Table.from_pylist(rows, LEAKS))
        output = self.store.put_table(f"{FOLDER}/leaks", best)
        return commit({"leaks": output}, {"occurrences": prints.num_rows, "hits": best.num_rows})

    def _pictures(self, unit: Unit, prints: pa.Table, held: _Held) -> list[tuple[Any, ...]]:
        column = prints.column("hash")
        places = np.flatnonzero(column.is_valid().to_numpy())
        row, item = held.near(np.asarray(column.drop_null().to_numpy(), np.uint64), unit.params["radius"])
        wanted = np.unique(places[row])
        near: dict[int, list[int]] = {}
        for number, picture in zip(row.tolist(), item.tolist(), strict=True):
            near.setdefault(int(places[number]), []).append(picture)
        hits: list[tuple[Any, ...]] = []
        for place, payload in _column(self.store, unit.spec["landing"], wanted, "payload"):
            mine = probe_with(payload, unit.spec["max_pixels"], sketch)[1]
            for number in near[place]:
                score = alike(mine, held.sketches[number])
                if score >= FLOORS["image"]:
                    name = held.picture_names[number]
                    said = f"its picture is {name} of evaluation set {unit.params['set']}"
                    hits.append((place, "image", score, unit.params["set"], name, said))
        return hits

    def _texts(self, unit: Unit, prints: pa.Table, held: _Held) -> list[tuple[Any, ...]]:
        if not held.text_names:
            return []
        kinds = prints.column("kind").to_numpy(zero_copy_only=False)
        columns = {"text": "payload", "pair": "captions"}
        hits: list[tuple[Any, ...]] = []
        for kind, column in columns.items():
            wanted = np.flatnonzero(kinds == kind)
            texts: list[tuple[int, int, str]] = []
            size = 0
            for place, value in _column(self.store, unit.spec["landing"], wanted, column):
                said = [value.decode("utf-8")] if kind == "text" else unpack_json(value)
                texts += [(place, number, text) for number, text in enumerate(said)]
                size += sum(map(len, said))
                if len(texts) >= _BATCH or size >= _CHARACTERS:
                    hits += held.text_hits(texts, kind, unit.params["set"])
                    texts, size = [], 0
            hits += held.text_hits(texts, kind, unit.params["set"])
        return hits


@dataclass(frozen=True)
class JoinTask:
    """The best hits of one landing file over all sets."""

    store: Store

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        best = _best(pa.concat_tables([self.store.read_table(path) for path in unit.spec["paths"]]))
        return commit({"leaks": self.store.put_table(f"{FOLDER}/leaks", best)}, {"hits": best.num_rows})


def _best(rows: pa.Table) -> pa.Table:
    keys = [("place", "ascending"), ("side", "ascending"), ("score", "descending"), ("set", "ascending")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=[*keys, ("item", "ascending"), ("detail", "ascending")]))
    place, side = rows.column("place").to_numpy(), pc.equal(rows.column("side"), "image").to_numpy()
    first = np.ones(rows.num_rows, dtype=bool)
    first[1:] = (place[1:] != place[:-1]) | (side[1:] != side[:-1])
    return rows.filter(pa.array(first))


def _column(store: Store, landing: str, places: NDArray[np.int64], name: str) -> Any:
    """(place, value) of the rows that have one."""
    done = 0
    for rows in read_rows(store, landing, places, [name]):
        values = zip(places[done : done + rows.num_rows].tolist(), rows.column(name).to_pylist(), strict=True)
        yield from ((place, value) for place, value in values if value is not None)
        done += rows.num_rows


class _Held:
    """One evaluation set, ready to be asked."""

    def __init__(self, rows: pa.Table, radius: int, min_words: int) -> None:
        pictures = rows.filter(rows.column("hash").is_valid())
        self.hashes = np.asarray(pictures["hash"].to_numpy(), np.uint64)
        self.picture_names, self.sketches = pictures["item"].to_pylist(), pictures["sketch"].to_pylist()
        keys = block_keys(self.hashes, radius).ravel()
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._width = max(1, len(keys) // max(1, len(self.hashes)))
        texts = rows.filter(rows.column("normal").is_valid())
        self.text_names = texts["item"].to_pylist()
        words, normal = texts["words"].to_pylist(), texts["normal"].to_pylist()
        self._short = {
            digest: number
            for number, (count, digest) in reversed(list(enumerate(zip(words, normal, strict=True))))
            if min_words <= count < GRAM_WORDS
        }
        sets = [np.frombuffer(grams or b"", "<u8") for grams in texts["grams"].to_pylist()]
        self.sizes = np.array([len(one) for one in sets], dtype=np.int64)
        grams = np.concatenate([np.zeros(0, np.uint64), *sets])
        order = np.argsort(grams, kind="stable")
        self._grams, self._items = grams[order], np.repeat(np.arange(len(sets)), self.sizes)[order]

    def near(self, hashes: U64, radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, picture) pairs within `radius` bits, each once, in order."""
        keys = block_keys(hashes, radius)
        rows, found = [], []
        for column in range(keys.shape[1]):
            row, place = _join(keys[:, column], self._keys)
            item = self._order[place] // self._width
            close = np.bitwise_count(hashes[row] ^ self.hashes[item]) <= radius
            rows.append(row[close])
            found.append(item[close])
        pairs = np.unique(np.stack([np.concatenate(rows), np.concatenate(found)], axis=1), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def text_hits(self, texts: Sequence[tuple[int, int, str]], kind: str, name: str) -> list[tuple[Any, ...]]:
        """Hits of (place, number, text) rows."""
        words = read_words([text for _, _, text in texts])
        runs = shingles_of(words, GRAM_WORDS)
        best: dict[int, tuple[int, float] | None] = {}
        for number, count in enumerate(np.diff(words.starts).tolist()):
            if count >= GRAM_WORDS:
                best[number] = self._overlaps(np.unique(runs.of(number)))
            elif (digest := normal_digest(words.forms[number])) in self._short:
                best[number] = (self._short[digest], 1.0)
        hits = []
        for number, hit in best.items():
            if hit is not None and hit[1] >= FLOORS["text"]:
                place, caption, _ = texts[number]
                what = "it" if kind == "text" else f"caption {caption}"
                said = f"{what} holds {self.text_names[hit[0]]} of evaluation set {name}"
                hits.append((place, "text", hit[1], name, self.text_names[hit[0]], said))
        return hits

    def _overlaps(self, grams: U64) -> tuple[int, float] | None:
        """The evaluation text of which the largest share is in a text, and the share."""
        _, place = _join(grams, self._grams)
        if not len(place):
            return None
        item, count = np.unique(self._items[place], return_counts=True)
        share = count / self.sizes[item]
        first = int(np.argmax(share))
        return int(item[first]), float(share[first])


def _join(asked: U64, keys: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(number asked, place among sorted keys) of all equal pairs."""
    low, high = np.searchsorted(keys, asked, "left"), np.searchsorted(keys, asked, "right")
    counts = high - low
    row = np.repeat(np.arange(len(asked)), counts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, low[row] + step


@lru_cache(maxsize=4)
def _held(root: str, path: str, radius: int, min_words: int) -> _Held:
    """Read once in a process."""
    return _Held(Store(root).read_table(path), radius, min_words)


def drop_leaks(judged: pa.Table, leaks: pa.Table, config: LeakConfig, bit: int) -> pa.Table:
    """JUDGED rows of one landing file of which those that leak are dropped by `contaminated@1`."""
    image = pc.equal(leaks.column("side"), "image")
    least = pc.if_else(image, config.similarity, config.containment)
    leaks = leaks.filter(pc.greater_equal(leaks.column("score"), least))
    fired = np.zeros(judged.num_rows, dtype=bool)
    score, threshold = np.zeros(judged.num_rows), np.zeros(judged.num_rows)
    said: dict[int, str] = {}
    for row in reversed(leaks.to_pylist()):  # so that of two sides the picture is what is told
        place = row["place"]
        fired[place], score[place], said[place] = True, row["score"], row["detail"]
        threshold[place] = config.similarity if row["side"] == "image" else config.containment
    return fire(judged, fired, RULE, score, threshold, said, bit) if fired.any() else judged
