"""Fit scorers: one unit each, one process, one thread, before measure, on sources or folders that the recipe names.

    unit = scorer_unit("quality", recipe, {"books": [Output, ...], "ads": [...]})
    receipt = FitScorer(store, recipe)(unit)            # models/<sha256>.safetensors; notes: digest, AUC, ...

Of each class the records with the smallest H(seed, record id) are taken up to a budget, and used in the order of their
ids; which file, source or engine they came from does not matter, and neither does the split, which is not drawn yet. A
tenth of them, by another draw, is held out to say how well the scorer tells the classes apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imglish.digests import file_digest, record_halves, record_id
from imglish.errors import RecipeError
from imglish.ingest.measures.quality import auc, fit_quality
from imglish.ingest.measures.scored import encoders_of, fit_content, settings_of
from imglish.recipe import Recipe
from imglish.records import LANDING, pack_json, unpack_json
from imglish.seeds import stream, uniform
from imglish.stages import Commit, Receipt, Unit
from imglish.storage import Output, Store, read_rows

FOLDER = "tables"
HELD_OUT = 0.1
"""Share of the records that the fit does not see."""
FITTED = ("quality", "alignment")
_AT_ONCE = 1 << 18
"""Rows of landing, with their captions, that are held beside those chosen so far."""
_LIGHT = pa.schema(
    [LANDING.field("record_id"), LANDING.field("bytes"), pa.field("status", pa.string()), LANDING.field("captions")]
)
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Example:
    """A record to learn from: its id, payload and, of a pair, captions."""

    id: bytes
    payload: bytes
    captions: tuple[str, ...] = ()


def scorer_unit(name: str, recipe: Recipe, landed: Mapping[str, Sequence[Output]]) -> Unit:
    """The unit that fits a scorer, from landing files by source; RecipeError for what is no source and no folder."""
    settings = settings_of(name, recipe)
    spec: dict[str, Any] = {}
    inputs: list[str] = []
    for label in ("good", "bad") if name == "quality" else ("pairs",):
        kind = "pair" if label == "pairs" else "text"
        landing: list[Output] = []
        files: list[str] = []
        for entry in getattr(settings, label):
            found = _entry(entry, f"decide.measure.{name}.{label}", kind, recipe)
            landing += landed[entry] if found is None else []
            files += found or []
        spec[label] = {"landing": [output.path for output in landing], "files": files}
        digests = [*(output.sha256 for output in landing), *(file_digest(Path(file)) for file in files)]
        inputs += [hashlib.sha256(f"{label} {digest}".encode()).hexdigest() for digest in sorted(digests)]
    if name == "alignment":
        inputs.append(encoders_of(settings, recipe).weights)
    return Unit(f"fit-{name}", 1, fit_content(name, recipe), inputs, spec)


def _entry(entry: str, key: str, kind: str, recipe: Recipe) -> list[str] | None:
    """Files of a folder; None for a source."""
    kinds = {source.name: source.kind for source in recipe.source}
    if entry in kinds:
        if kinds[entry] != kind:
            raise RecipeError(f"{key}: source {entry!r} gives {kinds[entry]}; a source of {kind} is needed")
        return None
    folder = Path(recipe.root, entry)
    if not folder.is_dir():
        raise RecipeError(f"{key}: {entry!r} is neither a source of this recipe ({', '.join(kinds)}) nor a folder")
    suffixes = _PICTURES if kind == "pair" else (".txt",)
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not found:
        raise RecipeError(f"{key}: {folder} holds no {' or '.join(suffixes)} file")
    return found if kind == "text" else [file for path in found for file in (path, _beside(path, key))]


def _beside(picture: str, key: str) -> str:
    caption = Path(picture).with_suffix(".txt")
    if not caption.is_file():
        raise RecipeError(f"{key}: {picture} has no {caption.name} with its captions beside it")
    return str(caption)


@dataclass(frozen=True)
class FitScorer:
    """Fits a scorer: output `model`; notes {digest, records, held_out, auc, good, bad}, quantiles the last two, and
    `in_both` of quality."""

    store: Store
    recipe: Recipe

    def __call__(self, unit: Unit) -> Receipt:
        commit = Commit(self.store, FOLDER, unit.stage, unit.id)
        fit = self._quality if unit.stage == "fit-quality" else self._alignment
        data, notes = fit(unit.spec)
        digest = hashlib.sha256(data).hexdigest()

        def write(file: BinaryIO) -> int:
            file.write(data)
            return 1

        model = self.store.put("models", ".safetensors", write)
        return commit({"model": model}, {}, {"digest": digest, **notes})

    def _quality(self, spec: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        settings, seed = settings_of("quality", self.recipe), self.recipe.seed
        classes = [
            choose(self.store, spec[label], "text", seed, settings.sample_bytes, by_bytes=True)
            for label in ("good", "bad")
        ]
        twice = {one.id for one in classes[0]} & {one.id for one in classes[1]}
        sides = [halves([one for one in mine if one.id not in twice], seed) for mine in classes]
        for label, (learnt, held) in zip(("good", "bad"), sides, strict=True):
            _enough(f"decide.measure.quality.{label}", learnt, held)
        texts = [[[one.payload.decode() for one in part] for part in side] for side in sides]
        model = fit_quality(texts[0][0], texts[1][0])
        scores = [model.scores(side[1]) for side in texts]
        notes = _notes([*sides[0][0], *sides[1][0]], scores[0], scores[1]) | {"in_both": len(twice)}
        return model.to_bytes(), notes

    def _alignment(self, spec: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        from imglish.ingest.measures.alignment import BATCH, Alignment, encode, fit_head, squared

        settings, most = settings_of("alignment", self.recipe), self.recipe.tokenize.stored.max_pixels
        encoders = encoders_of(settings, self.recipe)
        chosen = choose(self.store, spec["pairs"], "pair", self.recipe.seed, settings.sample_pairs, by_bytes=False)
        learnt, held = halves(chosen, self.recipe.seed)
        _enough("decide.measure.alignment.pairs", learnt, held)
        parts, captions = [], []
        for first in range(0, len(learnt), BATCH):  # so that few pictures are in memory
            batch = learnt[first : first + BATCH]
            squares = [squared(one.payload, most, encoders.side) for one in batch]
            parts.append(encode(encoders.images, [square for square in squares if square is not None]))
            captions += [one.captions[0] for one, square in zip(batch, squares, strict=True) if square is not None]
        images = np.concatenate([part for part in parts if len(part)])
        texts = encode(encoders.texts, captions)
        head = fit_head(encoders.weights, images, texts, self.recipe.seed)
        scorer = Alignment(encoders, head, most)
        others = held[1:] + held[:1]
        true = _known(scorer([(one.payload, one.captions[0]) for one in held]))
        wrong = _known(scorer([(one.payload, other.captions[0]) for one, other in zip(held, others, strict=True)]))
        return head.to_bytes(), _notes(learnt, true, wrong)


def _known(scores: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([score for score in scores if score is not None], np.float64)


def _notes(learnt: Sequence[Example], good: NDArray[np.float64], bad: NDArray[np.float64]) -> dict[str, Any]:
    """What is said of a fit: on records that it did not see."""
    shares = (0.05, 0.5, 0.95)
    quantiles = {
        name: [round(float(x), 4) for x in np.quantile(scores, shares)]
        for name, scores in (("good", good), ("bad", bad))
    }
    return {"records": len(learnt), "held_out": [len(good), len(bad)], "auc": round(auc(good, bad), 4), **quantiles}


def halves(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Those to learn from, and those held out."""
    low = np.array([int.from_bytes(one.id[8:], "little") for one in examples], np.uint64)
    held = uniform(stream(seed, "fit", "held-out").keys(low)) < HELD_OUT
    parts = [[one for one, out in zip(examples, held, strict=True) if bool(out) is wanted] for wanted in (False, True)]
    return parts[0], parts[1]


def _enough(key: str, learnt: Sequence[Example], held: Sequence[Example]) -> None:
    if len(learnt) < 2 or len(held) < 2:
        raise RecipeError(
            f"{key}: {len(learnt) + len(held)} records are too few to fit on and to hold some out; name larger ones"
        )


def choose(
    store: Store, spec: Mapping[str, Sequence[str]], kind: str, seed: int, budget: int, by_bytes: bool
) -> list[Example]:
    """The records with the smallest draws up to a budget, in the order of their ids, each once.

    Of a picture that occurs with different captions those that sort first are taken, wherever they lie.
    """
    given = list(_given(spec["files"], kind))
    tables = (store.read_table(path, _LIGHT.names) for path in spec["landing"])
    held, waiting = _placed(_LIGHT.empty_table(), 0), 0
    for number, rows in enumerate(chain(tables, [_light(given)])):
        held = pa.concat_tables([held, _placed(rows.cast(_LIGHT), number)])
        waiting += rows.num_rows
        if waiting >= _AT_ONCE:
            held, waiting = _smallest(held, seed, budget, by_bytes), 0
    held = _smallest(held, seed, budget, by_bytes)
    owner, place = (held.column(name).to_numpy() for name in ("owner", "place"))
    found = [given[n] for n in place[owner == len(spec["landing"])].tolist()]
    for number, path in enumerate(spec["landing"]):
        found += _landed(store, path, np.sort(place[owner == number]))
    return sorted(found, key=lambda one: one.id)


def _placed(rows: pa.Table, owner: int) -> pa.Table:
    """Rows of a file with its number and theirs."""
    owners = np.full(rows.num_rows, owner)
    return rows.append_column("owner", pa.array(owners)).append_column("place", pa.array(np.arange(rows.num_rows)))


def _smallest(rows: pa.Table, seed: int, budget: int, by_bytes: bool) -> pa.Table:
    """Of placed rows those that `choose` would take if there were no others."""
    rows = rows.filter(pc.equal(rows.column("status"), "ok"))
    high, low = record_halves(rows.column("record_id"))
    size = np.asarray(pc.fill_null(rows.column("bytes"), 0).to_numpy(), np.int64)
    drawn = stream(seed, "fit").keys(low.byteswap())
    said = np.asarray(pc.rank(pc.fill_null(rows.column("captions"), b""), tiebreaker="dense"))
    owner, place = (rows.column(name).to_numpy() for name in ("owner", "place"))
    order = np.lexsort((place, owner, said, low, high, drawn))
    ids = np.stack([high[order], low[order]])
    order = order[np.concatenate([[True], (ids[:, 1:] != ids[:, :-1]).any(axis=0)])[: len(order)]]
    if by_bytes:
        order = order[size[order] <= budget]  # one that is too large would end the sample
    order = order[np.cumsum(size[order] if by_bytes else np.ones(len(order), np.int64)) <= budget]
    return rows.take(pa.array(order)).combine_chunks()


def _light(given: Sequence[Example]) -> pa.Table:
    """The columns of landing by which records of folders are chosen."""
    captions = [pack_json(list(one.captions)) if one.captions else None for one in given]
    columns = [[one.id for one in given], [len(one.payload) for one in given], ["ok"] * len(given), captions]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, _LIGHT, strict=True)], _LIGHT)


def _landed(store: Store, path: str, places: NDArray[np.int64]) -> Iterable[Example]:
    for rows in read_rows(store, path, places, ["record_id", "payload", "captions"]):
        for row in rows.to_pylist():
            yield Example(row["record_id"], row["payload"], tuple(unpack_json(row["captions"]) or ()))


def _given(files: Sequence[str], kind: str) -> Iterable[Example]:
    """Examples of a folder's files: texts, or pictures each followed by its captions; a damaged text is left out."""
    for number, file in enumerate(files):
        data = Path(file).read_bytes()
        if kind == "text" and data.strip() and _is_utf8(data):
            yield Example(record_id("text", data), data)
        elif kind == "pair" and number % 2 == 0:
            lines = Path(files[number + 1]).read_bytes().decode("utf-8", "replace").splitlines()
            captions = tuple(line.strip() for line in lines if line.strip())
            if captions:
                yield Example(record_id("image", data), data, captions)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
